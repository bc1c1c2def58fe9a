"""An emulator of Google Cloud Storage's JSON API for tests, in a process of its own.

It keeps objects in memory, adds latency, and fails on demand. One port serves plain HTTP, for libraries that can be
pointed at an address, and is an HTTPS proxy for those that cannot (TensorFlow): a CONNECT to any host ends here, behind
a certificate of our own. `tests/support/servers/bucket.py` starts it.
"""

import argparse
import asyncio
import base64
import collections
import hashlib
import itertools
import json
import random
import re
import ssl
import sys
import time
from typing import Any, NamedTuple
from urllib import parse

import google_crc32c

REASONS = {
    200: 'OK', 204: 'No Content', 206: 'Partial Content', 304: 'Not Modified', 308: 'Resume Incomplete',
    401: 'Unauthorized', 403: 'Forbidden', 404: 'Not Found', 412: 'Precondition Failed', 416: 'Range Not Satisfiable',
    429: 'Too Many Requests', 503: 'Service Unavailable'}
UPDATED = '2026-01-01T00:00:00.000Z'


class Request(NamedTuple):
  """One HTTP request; `query` holds the last value of each parameter."""

  method: str
  path: str
  query: dict[str, str]
  headers: dict[str, str]
  body: bytes

  @property
  def kind(self) -> str:
    """What the request does, in a word."""
    if self.method == 'DELETE':
      return 'delete'
    if self.path.startswith('/upload/'):
      return 'write'
    if re.search('/(rewriteTo|copyTo)/', self.path):
      return 'copy'
    if self.query.get('alt') == 'media' or not re.match('/(download/)?storage/', self.path):
      return 'read'
    if re.search('/o/.', self.path):
      return 'look up'
    return 'list' if re.search('/o/?$', self.path) else 'bucket'


class Answer(NamedTuple):
  """Status, body, and headers beside Content-Length."""

  status: int
  body: bytes = b''
  headers: dict[str, str] = {}


def as_json(value: Any, status: int = 200, **headers: str) -> Answer:
  """An answer that holds JSON."""
  return Answer(status, json.dumps(value).encode(), {'Content-Type': 'application/json', **headers})


class Failure(Exception):
  """Ends a request with an HTTP error."""

  def __init__(self, status: int):
    super().__init__(status)
    self.answer = as_json({'error': {'code': status, 'message': REASONS[status], 'errors': []}}, status)


class Stored(NamedTuple):
  """An object's bytes, a number that grows with every write, and the checksums of the bytes."""

  content: bytes
  generation: int
  crc32c: str
  md5: str


class Store:
  """Buckets, their objects and unfinished uploads; `handle` maps a request to its answer."""

  def __init__(self, buckets: list[str]):
    self.objects: dict[str, dict[str, Stored]] = {name: {} for name in buckets}
    self._generations = itertools.count(time.time_ns())  # no two servers give the same
    self._uploads: dict[str, tuple[str, str, dict[str, str], bytearray]] = {}

  def handle(self, request: Request) -> Answer:
    path = parse.unquote(request.path)
    routes = ((r'(?:/download)?/storage/v1/b/([^/]+)/o/(.+)/(?:rewriteTo|copyTo)/b/([^/]+)/o/(.+)',
               self._copy), (r'/upload/storage/v1/b/([^/]+)/o',
                             self._upload), (r'(?:/download)?/storage/v1/b/([^/]+)/o/(.+)', self._object),
              (r'/storage/v1/b/([^/]+)/o/?', self._list), (r'/storage/v1/b/([^/]+)(?:/storageLayout)?/?', self._bucket),
              (r'/(?!storage/|upload/)([^/]+)/(.+)', self._download))
    for pattern, answer in routes:
      # An object's name is one quoted segment of the path: where the path has it, match before unquoting.
      if match := re.fullmatch(pattern, request.path):
        names = [parse.unquote(group) for group in match.groups()]
        self._contents(names[0])
        return answer(request, *names)
    print(f'no such request: {request.method} {path} {request.query}', file=sys.stderr, flush=True)
    raise Failure(404)

  def _contents(self, bucket: str) -> dict[str, Stored]:
    if bucket not in self.objects:
      raise Failure(404)
    return self.objects[bucket]

  def _bucket(self, request: Request, bucket: str) -> Answer:
    return as_json({'kind': 'storage#bucket', 'id': bucket, 'name': bucket, 'location': 'US', 'updated': UPDATED})

  def _list(self, request: Request, bucket: str) -> Answer:
    """Objects below a prefix in the order of their names, paged; with a delimiter, folders as prefixes."""
    prefix, delimiter = request.query.get('prefix', ''), request.query.get('delimiter')
    first, end = request.query.get('startOffset', ''), request.query.get('endOffset')
    entries: dict[str, str | None] = {}
    for name in sorted(self._contents(bucket)):
      if not name.startswith(prefix) or name < first or (end is not None and name >= end):
        continue
      folder, found, _ = name[len(prefix):].partition(delimiter) if delimiter else ('', '', '')
      if found and not (request.query.get('includeTrailingDelimiter') == 'true' and name == prefix + folder + found):
        entries.setdefault(prefix + folder + found, None)
      else:
        entries[name] = name
    after, most = request.query.get('pageToken', ''), int(request.query.get('maxResults', 1000))
    names = [entry for entry in entries if entry > after]
    page = names[:most]
    listed = {
        'kind': 'storage#objects', 'prefixes': [entry for entry in page if entries[entry] is None],
        'items': [self._metadata(bucket, entry) for entry in page if entries[entry] is not None]}
    return as_json(listed | ({'nextPageToken': page[-1]} if len(names) > most else {}))

  def _object(self, request: Request, bucket: str, name: str) -> Answer:
    if request.method == 'DELETE':
      self._check(request, bucket, name)
      if self._contents(bucket).pop(name, None) is None:
        raise Failure(404)
      return Answer(204)
    if request.method == 'GET' and request.query.get('alt') == 'media':
      return self._download(request, bucket, name)
    if name not in self._contents(bucket):
      raise Failure(404)
    self._check(request, bucket, name)
    return as_json(self._metadata(bucket, name))

  def _download(self, request: Request, bucket: str, name: str) -> Answer:
    if name not in self._contents(bucket):
      raise Failure(404)
    self._check(request, bucket, name)
    content, generation, crc32c, md5 = self._contents(bucket)[name]
    headers = {
        'Content-Type': 'application/octet-stream', 'X-Goog-Generation': str(generation),
        'X-Goog-Hash': f'crc32c={crc32c},md5={md5}', 'ETag': f'"{generation}"'}
    wanted = re.fullmatch(r'bytes=(\d*)-(\d*)', request.headers.get('range', ''))
    if not wanted:
      return Answer(200, content, headers)
    first, last = wanted.groups()
    start = int(first) if first else max(len(content) - int(last), 0)
    end = min(int(last) + 1, len(content)) if first and last else len(content)
    if start >= len(content):
      raise Failure(416)
    return Answer(206, content[start:end], headers | {'Content-Range': f'bytes {start}-{end - 1}/{len(content)}'})

  def _upload(self, request: Request, bucket: str) -> Answer:
    """Simple, multipart and resumable uploads."""
    kind = request.query.get('uploadType')
    if kind == 'media':
      return self._write(request.query, bucket, request.query['name'], request.body)
    if kind == 'multipart':
      described, content = _multipart(request)
      return self._write(request.query, bucket, described.get('name') or request.query['name'], content)
    if upload := request.query.get('upload_id'):
      return self._resume(request, upload)
    name = request.query.get('name') or json.loads(request.body or b'{}')['name']
    upload = f'upload{next(self._generations)}'
    self._uploads[upload] = (bucket, name, request.query, bytearray())
    where = f"{request.headers['x-scheme']}://{request.headers['host']}{request.path}?uploadType=resumable&upload_id={upload}"
    return Answer(200, b'', {'Location': where})

  def _resume(self, request: Request, upload: str) -> Answer:
    if upload not in self._uploads:
      raise Failure(404)
    bucket, name, query, received = self._uploads[upload]
    sent = re.fullmatch(
        r'bytes (?:(\d+)-(\d+)|\*)/(\d+|\*)', request.headers.get('content-range', f'bytes 0-0/{len(request.body)}'))
    if not sent:
      raise Failure(416)
    if sent[1] is not None:
      del received[int(sent[1]):]
      received += request.body
    if sent[3] != '*' and len(received) >= int(sent[3]):
      del self._uploads[upload]
      return self._write(query, bucket, name, bytes(received))
    return Answer(308, b'', {'Range': f'bytes=0-{len(received) - 1}'} if received else {})

  def _copy(self, request: Request, bucket: str, name: str, to_bucket: str, to_name: str) -> Answer:
    if name not in self._contents(bucket):
      raise Failure(404)
    content = self._contents(bucket)[name].content
    self._write(request.query, to_bucket, to_name, content)
    copied = self._metadata(to_bucket, to_name)
    if '/rewriteTo/' not in request.path:
      return as_json(copied)
    size = str(len(content))
    return as_json({
        'kind': 'storage#rewriteResponse', 'totalBytesRewritten': size, 'objectSize': size, 'done': True,
        'resource': copied})

  def _write(self, query: dict[str, str], bucket: str, name: str, content: bytes) -> Answer:
    self._check(Request('POST', '', query, {}, b''), bucket, name)
    self._contents(bucket)[name] = Stored(
        content, next(self._generations), _base64(google_crc32c.value(content).to_bytes(4, 'big')),
        _base64(hashlib.md5(content).digest()))
    return as_json(self._metadata(bucket, name))

  def _check(self, request: Request, bucket: str, name: str) -> None:
    """The preconditions that make a write safe between processes."""
    stored = self._contents(bucket).get(name)
    generation = stored.generation if stored else 0
    wanted, refused = request.query.get('ifGenerationMatch'), request.query.get('ifGenerationNotMatch')
    if wanted is not None and int(wanted) != generation:
      raise Failure(412)
    if refused is not None and int(refused) == generation:
      raise Failure(304)

  def _metadata(self, bucket: str, name: str) -> dict[str, Any]:
    content, generation, crc32c, md5 = self._contents(bucket)[name]
    return {
        'kind': 'storage#object', 'id': f'{bucket}/{name}/{generation}', 'name': name, 'bucket': bucket,
        'generation': str(generation), 'metageneration': '1', 'contentType': 'application/octet-stream',
        'timeCreated': UPDATED, 'updated': UPDATED, 'size': str(len(content)), 'crc32c': crc32c, 'md5Hash': md5,
        'etag': str(generation)}


def _base64(digest: bytes) -> str:
  return base64.b64encode(digest).decode()


def _multipart(request: Request) -> tuple[dict[str, Any], bytes]:
  """Metadata and content of a multipart upload."""
  boundary = re.search(r'boundary="?([^";]+)', request.headers['content-type'])[1].encode()
  parts = request.body.split(b'--' + boundary)
  described, content = (part.partition(b'\r\n\r\n')[2].removesuffix(b'\r\n') for part in parts[1:3])
  return json.loads(described), content


class Server:
  """Connections, latency, faults and counts around a `Store`.

  `PUT /_settings` with JSON sets: latency (seconds), unavailable and cut (shares of all requests), status (answers
  every request) and hold (seconds of 429). `GET /_counts` gives requests, also by kind, and bytes sent since the last
  `PUT`.
  """

  def __init__(self, store: Store, context: ssl.SSLContext | None):
    self.store, self.context = store, context
    self.settings: dict[str, Any] = {}
    self.counts: collections.Counter[str] = collections.Counter()
    self._random = random.Random(0)
    self._held_until = 0.0

  async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
      scheme = 'http'
      while request := await _read_request(reader, writer, scheme):
        if request.method == 'CONNECT':
          writer.write(b'HTTP/1.1 200 Connection established\r\n\r\n')
          await writer.drain()
          await writer.start_tls(self.context)
          scheme = 'https'
          continue
        if request.path.startswith('/_'):
          await _send(writer, self._control(request))
          continue
        if self.settings.get('latency'):
          await asyncio.sleep(self.settings['latency'])
        answer, cut = self._answer(request)
        self.counts['requests'] += 1
        self.counts[f'{request.method} {answer.status}'] += 1
        self.counts[request.kind] += 1
        self.counts['bytes'] += len(answer.body)
        await _send(writer, answer, cut)
        if cut:
          break
    except (ConnectionError, asyncio.IncompleteReadError, ssl.SSLError):
      pass  # The other side was killed or hung up, which tests do.
    finally:
      writer.close()

  def _answer(self, request: Request) -> tuple[Answer, bool]:
    """The answer, and whether to hang up in the middle of it."""
    drawn = self._random.random()
    try:
      if time.monotonic() < self._held_until:
        raise Failure(429)
      if status := self.settings.get('status'):
        raise Failure(status)
      if drawn < self.settings.get('unavailable', 0):
        raise Failure(503)
      return self.store.handle(request), drawn > 1 - self.settings.get('cut', 0)
    except Failure as failure:
      return failure.answer, False

  def _control(self, request: Request) -> Answer:
    if request.method == 'PUT':
      self.settings, self.counts = json.loads(request.body), collections.Counter()
      self._held_until = time.monotonic() + self.settings.get('hold', 0)
    return as_json(self.counts)


async def _read_request(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, scheme: str) -> Request | None:
  """The next request of a connection; None once the other side has ended it."""
  try:
    head = (await reader.readuntil(b'\r\n\r\n')).decode('latin-1').split('\r\n')
  except asyncio.IncompleteReadError:
    return None
  method, target, _ = head[0].split(' ', 2)
  headers = {name.lower(): value.strip() for name, _, value in (line.partition(':') for line in head[1:] if line)}
  if headers.get('expect', '').lower() == '100-continue':  # curl, in TensorFlow, would wait a second for it
    writer.write(b'HTTP/1.1 100 Continue\r\n\r\n')
    await writer.drain()
  if headers.get('transfer-encoding') == 'chunked':
    body = b''
    while size := int(await reader.readline(), 16):
      body += await reader.readexactly(size)
      await reader.readline()
    await reader.readline()
  else:
    body = await reader.readexactly(int(headers.get('content-length', 0)))
  path, _, query = target.partition('?')
  return Request(
      method, path, dict(parse.parse_qsl(query, keep_blank_values=True)), headers | {'x-scheme': scheme}, body)


async def _send(writer: asyncio.StreamWriter, answer: Answer, cut: bool = False) -> None:
  headers = {'Content-Length': str(len(answer.body)), **answer.headers}
  head = f'HTTP/1.1 {answer.status} {REASONS[answer.status]}\r\n'
  head += ''.join(f'{name}: {value}\r\n' for name, value in headers.items())
  writer.write(head.encode() + b'\r\n' + (answer.body[:len(answer.body) // 2] if cut else answer.body))
  await writer.drain()


async def main() -> None:
  """Serves until it is killed; prints the port first."""
  parser = argparse.ArgumentParser()
  parser.add_argument('--bucket', action='append', required=True)
  parser.add_argument('--certificate', help='PEM file with key and certificate')
  values = parser.parse_args()
  context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
  context.load_cert_chain(values.certificate)
  serving = await asyncio.start_server(Server(Store(values.bucket), context).serve, '127.0.0.1', 0, limit=2**26)
  print(serving.sockets[0].getsockname()[1], flush=True)
  await serving.serve_forever()


if __name__ == '__main__':
  asyncio.run(main())
