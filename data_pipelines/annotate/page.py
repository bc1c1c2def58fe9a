"""The page over HTTP. It serves four files of this folder and the images of the list, and nothing that a path names.

Import it once its libraries are known to be installed: the command says which are missing.
"""

from collections.abc import Awaitable, Callable
import json
import pathlib
import socket
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
import uvicorn

from data_pipelines import images, storage
from data_pipelines.annotate.session import Session
from data_pipelines.errors import UserError
from data_pipelines.plain_text import single_line

LOCAL = ('127.0.0.1', 'localhost', '::1')
"""Hosts that nobody on another machine reaches."""
_FILES = {'/': 'page.html', '/page.js': 'page.js', '/page.css': 'page.css'}
_TYPES = {'page.html': 'text/html', 'page.js': 'text/javascript', 'page.css': 'text/css'}
_MAX_BODY = 2**16  # bytes
_HEADERS = {
    # Nothing from elsewhere is loaded, and nothing runs that is not in page.js.
    'Content-Security-Policy':
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src blob:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'", 'X-Content-Type-Options': 'nosniff',
    'Referrer-Policy': 'no-referrer', 'Cross-Origin-Resource-Policy': 'same-origin',
    # Neither images nor votes stay in a browser's cache.
    'Cache-Control': 'no-store'}  # fmt: skip


def make_app(session: Session, host: str = LOCAL[0]) -> Starlette:
  """The application for `uvicorn`.

  Args:
    session: the opened one.
    host: that it listens on. If others cannot reach it, requests must name it: a page from elsewhere that has its own
      name lead here (DNS rebinding) gets no answer.
  """
  routes = [Route(path, _file_route(name)) for path, name in _FILES.items()]
  routes += [
      Route('/image/{key}', _image_route(session)),
      Route('/begin', _json_route(lambda request: session.begin(request.get('annotator'))), methods=['POST']),
      Route('/act', _json_route(session.act), methods=['POST']),
      Route('/finish', _json_route(lambda request: {'said': session.write_tables()}), methods=['POST'])]
  names = list(LOCAL[:2]) if host in LOCAL[:2] else ['*']
  return Starlette(routes=routes, middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=names)])


def _file_route(name: str) -> Callable[[Request], Awaitable[Response]]:
  content = storage.read_bytes(pathlib.Path(__file__).with_name(name))

  async def answer(request: Request) -> Response:
    return Response(content, headers=_HEADERS, media_type=_TYPES[name])

  return answer


def _image_route(session: Session) -> Callable[[Request], Awaitable[Response]]:

  async def answer(request: Request) -> Response:
    try:
      content = await run_in_threadpool(session.jpeg, request.path_params['key'])
    except (UserError, images.RejectedError) as error:
      return JSONResponse({'error': single_line(str(error))}, 404, _HEADERS)
    return Response(content, headers=_HEADERS, media_type='image/jpeg')

  return answer


def _json_route(work: Callable[[dict[str, Any]], dict[str, Any]]) -> Callable[[Request], Awaitable[Response]]:
  """An endpoint that takes and gives a JSON object. The work is done by a thread, since it waits for the disk."""

  async def answer(request: Request) -> Response:
    try:
      return JSONResponse(await run_in_threadpool(work, await _json_of(request)), headers=_HEADERS)
    except UserError as error:
      return JSONResponse({'error': single_line(str(error))}, 400, _HEADERS)
    except OSError as error:
      return JSONResponse({'error': f'not saved: {single_line(storage.explain(error) or str(error))}'}, 507, _HEADERS)

  return answer


async def _json_of(request: Request) -> dict[str, Any]:
  """The object that was sent. Other sites cannot send this content type without asking, and are never answered."""
  if request.headers.get('content-type', '').partition(';')[0].strip().lower() != 'application/json':
    raise UserError('the request must be application/json')
  content = b''
  async for part in request.stream():
    content += part
    if len(content) > _MAX_BODY:
      raise UserError('the request is too long')
  try:
    value = json.loads(content)
  except (ValueError, RecursionError) as error:
    raise UserError('the request is no JSON') from error
  if not isinstance(value, dict):
    raise UserError('the request is no JSON object')
  return value


def bound_socket(host: str, port: int) -> socket.socket:
  """A socket that listens there; port 0 takes a free one.

  Raises:
    UserError: it cannot; says why.
  """
  listening = socket.socket(socket.AF_INET6 if ':' in host else socket.AF_INET)
  listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
  try:
    listening.bind((host, port))
  except (OSError, OverflowError) as error:
    listening.close()
    raise UserError(f'{host}, port {port} cannot be used ({error}): choose another --port or --host') from error
  return listening


def serve(session: Session, listening: socket.socket, host: str) -> None:
  """Answers until Ctrl-C or SIGTERM."""
  config = uvicorn.Config(
      make_app(session, host), log_level='warning', access_log=False, server_header=False, lifespan='off',
      timeout_graceful_shutdown=5)
  uvicorn.Server(config).run(sockets=[listening])
