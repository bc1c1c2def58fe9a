"""A stand-in of the Hugging Face hub on the loopback: what huggingface_hub asks of a repository of data or a model."""

from collections.abc import Iterator
import contextlib
import hashlib
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
import json
from pathlib import Path
import threading
from typing import Any
from urllib.parse import unquote, urlsplit

COMMIT = '0123456789abcdef0123456789abcdef01234567'


class _Handler(BaseHTTPRequestHandler):
  """Serves the files of `server.folders`, by repository; `server.cut` ends that many downloads in their middle."""

  protocol_version = 'HTTP/1.1'
  server: Any

  def _answer(self, body: bytes, headers: dict[str, str], status: int = 200) -> None:
    self.send_response(status)
    for name, value in {'Content-Length': str(len(body)), **headers}.items():
      self.send_header(name, value)
    self.end_headers()
    if self.command == 'GET':
      if self.server.cut and 'ETag' in headers:
        self.server.cut -= 1
        body, self.close_connection = body[:len(body) // 2], True
      self.wfile.write(body)

  def _fail(self, status: int, code: str) -> None:
    self._answer(b'', {'X-Error-Code': code, 'X-Error-Message': code}, status)

  def do_GET(self) -> None:  # noqa: N802
    path = unquote(urlsplit(self.path).path)
    self.server.asked.append((self.command, path, self.headers.get('Range')))
    kind = '/datasets' if path.removeprefix('/api').startswith('/datasets') else '/models'
    repository = '/'.join(path.removeprefix('/api').removeprefix(kind).split('/')[1:3])
    folder = self.server.folders.get(repository)
    if folder is None:
      return self._fail(401, 'RepoNotFound')
    if repository in self.server.gated:
      return self._fail(403, 'GatedRepo')
    files = {file.relative_to(folder).as_posix(): file for file in sorted(folder.rglob('*')) if file.is_file()}
    if path.startswith('/api/'):
      rest = path.removeprefix(f'/api{kind}/{repository}')
      if rest.startswith('/revision/') and rest.split('/')[2] not in ('main', COMMIT):
        return self._fail(404, 'RevisionNotFound')
      if rest.startswith('/tree/'):
        found: Any = [{
            'type': 'file', 'path': name, 'size': file.stat().st_size,
            'oid': hashlib.sha1(file.read_bytes()).hexdigest()} for name, file in files.items()]  # fmt: skip
      else:
        found = {
            'id': repository, 'sha': COMMIT, 'private': False, 'disabled': False, 'downloads': 0, 'likes': 0,
            'tags': [], 'siblings': [{'rfilename': name} for name in files]}  # fmt: skip
      return self._answer(json.dumps(found).encode(), {'Content-Type': 'application/json'})
    name = path.removeprefix('/datasets').removeprefix(f'/{repository}/resolve/{COMMIT}/')
    if name not in files:
      return self._fail(404, 'EntryNotFound')
    content = files[name].read_bytes()
    headers = {'ETag': f'"{hashlib.sha1(content).hexdigest()}"', 'X-Repo-Commit': COMMIT, 'Accept-Ranges': 'bytes'}
    if asked := self.headers.get('Range'):
      start = int(asked.removeprefix('bytes=').split('-')[0])
      headers['Content-Range'] = f'bytes {start}-{len(content) - 1}/{len(content)}'
      return self._answer(content[start:], headers, 206)
    return self._answer(content, headers)

  do_HEAD = do_GET  # noqa: N815

  def log_message(self, format: str, *args: Any) -> None:
    del format, args


class Hub(ThreadingHTTPServer):
  """The server. folders: repository -> folder; gated: repositories whose terms were not accepted; cut: how many
  downloads are to end half-way; asked: (method, path, range) of every request."""

  def __init__(self, folders: dict[str, Path]):
    super().__init__(('127.0.0.1', 0), _Handler)
    self.folders, self.gated, self.cut = folders, set[str](), 0
    self.asked: list[tuple[str, str, str | None]] = []

  @property
  def address(self) -> str:
    return f'http://127.0.0.1:{self.server_port}'


@contextlib.contextmanager
def serving(folders: dict[str, Path]) -> Iterator[Hub]:
  """A running hub of these repositories."""
  hub = Hub(folders)
  thread = threading.Thread(target=hub.serve_forever, daemon=True)
  thread.start()
  try:
    yield hub
  finally:
    hub.shutdown()
    thread.join()
    hub.server_close()
