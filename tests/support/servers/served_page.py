"""A page, served by a thread of this process or by its command, and requests to it as they are written."""

from collections.abc import Iterator, Sequence
import contextlib
import http.client
import os
from pathlib import Path
import re
import subprocess
import sys
import threading
import time
from typing import Any

import pytest

ROOT = Path(__file__).parents[3]


class Client:
  """Requests to a server in this process, sent as they are written: clients of HTTP would tidy paths."""

  def __init__(self, port: int):
    self.port = port

  def send(self, method: str, path: str, body: Any = None,
           headers: dict[str, str] | None = None) -> tuple[int, bytes, http.client.HTTPMessage]:
    connection = http.client.HTTPConnection('127.0.0.1', self.port, timeout=20)
    with contextlib.closing(connection):
      connection.request(method, path, body, headers or {})
      answer = connection.getresponse()
      return answer.status, answer.read(), answer.headers


def assert_loads_nothing_from_elsewhere(client: Client, allowed: bytes = b'', forbidden: Sequence[bytes] = ()) -> None:
  """A page's files name no address, run no text of others, and tell the browser so.

  Args:
    client: of the server.
    allowed: an address that stands for something else, and is never fetched.
    forbidden: words that they must not hold besides.
  """
  for path in ('/', '/page.js', '/page.css'):
    status, content, headers = client.send('GET', path)
    assert status == 200 and not re.search(rb'["\'`(]//', content)
    content = content.replace(allowed, b'') if allowed else content
    assert not [
        word for word in (
            b'http', b'@import', b'innerHTML', b'outerHTML', b'insertAdjacent', b'eval(', b'document.write', b'{{',
            *forbidden) if word in content]
    policy = headers['Content-Security-Policy']
    assert "default-src 'none'" in policy and 'unsafe' not in policy and 'http' not in policy


@contextlib.contextmanager
def serving(application: Any) -> Iterator[int]:
  """The port at which it is served."""
  uvicorn = pytest.importorskip('uvicorn')
  from data_pipelines.local_page.page_server import bound_socket

  listening = bound_socket('127.0.0.1', 0)
  server = uvicorn.Server(uvicorn.Config(application, log_level='error', lifespan='off'))
  thread = threading.Thread(target=server.run, kwargs={'sockets': [listening]}, daemon=True)
  thread.start()
  while not server.started:
    time.sleep(0.01)
  try:
    yield listening.getsockname()[1]
  finally:
    server.should_exit = True
    thread.join()
    listening.close()


@contextlib.contextmanager
def started(module: str, *arguments: object) -> Iterator[tuple[subprocess.Popen, list[str]]]:
  """A command with a page, in a process of its own, and the lines that it prints until it has one."""
  environment = os.environ | {'XLA_FLAGS': '--xla_backend_optimization_level=0', 'JAX_PLATFORMS': 'cpu'}
  process = subprocess.Popen([sys.executable, '-m', module, '--port=0', *map(str, arguments)], stdout=subprocess.PIPE,
                             stderr=subprocess.PIPE, text=True, cwd=ROOT, env=environment)
  assert process.stdout and process.stderr
  try:
    lines: list[str] = []
    while not lines or not lines[-1].startswith('Open http'):
      lines.append(process.stdout.readline())
      assert lines[-1], process.stderr.read()
    yield process, lines
  finally:
    process.kill()
    process.communicate()
