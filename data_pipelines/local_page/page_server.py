"""What the pages of this project share: a socket, a server, files of their own folder, and no answer to other sites.

Import it once its libraries are known to be installed: `command.require_libraries` says which are missing.
"""

from collections.abc import Awaitable, Callable, Sequence
import pathlib
import signal
import socket
from urllib.parse import urlsplit

from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Receive, Scope, Send
import uvicorn

from data_pipelines import storage
from data_pipelines.errors import UserError

LOCAL = ('127.0.0.1', 'localhost', '::1')
"""The hosts that nobody on another machine reaches."""
HEADERS = {
    # Nothing from elsewhere is loaded, and nothing runs that is not in a file of the page.
    'Content-Security-Policy':
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src blob: data:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'", 'X-Content-Type-Options': 'nosniff',
    'Referrer-Policy': 'no-referrer', 'Cross-Origin-Resource-Policy': 'same-origin',
    # What people send and see does not stay in a browser's cache.
    'Cache-Control': 'no-store'}  # fmt: skip
_TYPES = {'.html': 'text/html', '.js': 'text/javascript', '.css': 'text/css'}


class SameSite:
  """An ASGI application that refuses requests that other sites send through a visitor's browser.

  A page from elsewhere can have its own name lead here (DNS rebinding). So if others cannot reach the host that is
  listened on, requests must name it. A page can also send here under its own name, which browsers put in the request.
  """

  def __init__(self, app: ASGIApp, host: str):
    self._app, self._local = app, host in LOCAL

  async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
    """Answers a request as ASGI asks for."""
    if scope['type'] == 'http' and self._is_foreign(Headers(scope=scope)):
      answer = PlainTextResponse('this page answers only itself', 400, HEADERS)
      await answer(scope, receive, send)
    else:
      await self._app(scope, receive, send)

  def _is_foreign(self, headers: Headers) -> bool:
    host, origin = headers.get('host', ''), headers.get('origin')
    try:
      if self._local and urlsplit(f'//{host}').hostname not in LOCAL:
        return True
      return origin is not None and urlsplit(origin).netloc != host
    except ValueError:  # brackets that are no address
      return True


def make_application(
    page: str | pathlib.Path, files: Sequence[str], routes: Sequence[BaseRoute], host: str) -> Starlette:
  """Makes an application that answers by these files and routes alone.

  Args:
    page: the file at '/'.
    files: the names of others in its folder, each served under its name. All are read now, and none later.
    routes: the further routes.
    host: the host that is listened on.
  """
  folder = pathlib.Path(page).parent
  served = [
      Route('/', _file_route(pathlib.Path(page))), *(Route(f'/{name}', _file_route(folder / name)) for name in files)]
  return Starlette(routes=[*served, *routes], middleware=[Middleware(SameSite, host=host)])


def _file_route(path: pathlib.Path) -> Callable[[Request], Awaitable[Response]]:
  content = storage.read_bytes(path)

  async def answer(request: Request) -> Response:
    return Response(content, headers=HEADERS, media_type=_TYPES[path.suffix])

  return answer


def bound_socket(host: str, port: int) -> socket.socket:
  """Binds a socket to a host and port, on which it can then listen; port 0 takes a free one.

  Raises:
    UserError: it cannot be bound; the message says why.
  """
  listening = socket.socket(socket.AF_INET6 if ':' in host else socket.AF_INET)
  listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
  try:
    listening.bind((host, port))
  except (OSError, OverflowError) as error:
    listening.close()
    raise UserError(f'{host}, port {port} cannot be used ({error}): choose another --port or --host') from error
  return listening


def address(host: str, listening: socket.socket) -> str:
  """The address to open in a browser."""
  name = socket.gethostname() if host in ('', '0.0.0.0', '::') else host
  return f'http://{f"[{name}]" if ":" in name else name}:{listening.getsockname()[1]}/'


def serve(application: Starlette, host: str, listening: socket.socket, others: str) -> None:
  """Says where the page is, and answers until Ctrl-C or SIGTERM.

  Args:
    application: what answers.
    host: the host that the socket is bound to.
    listening: the socket; from here on it listens.
    others: what whoever reaches the page does or can do, for the warning where others reach it.
  """
  if host not in LOCAL:
    print(
        f'Others can reach this page: whoever reaches {host} {others}, and what they send is not encrypted. Use it in '
        'a network that you trust.')
  config = uvicorn.Config(
      application, log_config=None, log_level='warning', access_log=False, server_header=False, lifespan='off',
      timeout_graceful_shutdown=5)
  server = uvicorn.Server(config)
  # Before the address is shown: without a handler, Ctrl-C raises an error wherever Python is, which a destructor drops.
  before = {number: signal.signal(number, server.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)}
  try:
    listening.listen()  # From here on a browser is answered, if a moment later.
    print(f'Open {address(host, listening)} in a browser; Ctrl-C here ends it.', flush=True)
    server.run(sockets=[listening])
  finally:
    for number, handler in before.items():
      signal.signal(number, handler)
