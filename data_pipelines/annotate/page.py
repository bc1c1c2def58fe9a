"""Serves the page over HTTP: three files of this folder and the images of the list, and nothing that a path names.

Import it once its libraries are known to be installed: the command says which are missing.
"""

from collections.abc import Awaitable, Callable
import json
import pathlib
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from data_pipelines import images, storage
from data_pipelines.annotate.session import Session
from data_pipelines.errors import UserError
from data_pipelines.local_page.page_server import HEADERS, LOCAL, make_application
from data_pipelines.plain_text import single_line

_MAX_BODY = 2**16  # bytes


def make_app(session: Session, host: str = LOCAL[0]) -> Starlette:
  """Makes the application for `uvicorn`.

  Args:
    session: the open session.
    host: the address that it listens on.
  """
  routes = [
      Route('/image/{key}', _image_route(session)),
      Route('/begin', _json_route(lambda request: session.begin(request.get('annotator'))), methods=['POST']),
      Route('/act', _json_route(session.act), methods=['POST']),
      Route('/finish', _json_route(lambda request: {'said': session.write_tables()}), methods=['POST'])]
  return make_application(pathlib.Path(__file__).with_name('page.html'), ['page.js', 'page.css'], routes, host)


def _image_route(session: Session) -> Callable[[Request], Awaitable[Response]]:

  async def answer(request: Request) -> Response:
    try:
      content = await run_in_threadpool(session.jpeg, request.path_params['key'])
    except (UserError, images.RejectedError) as error:
      return JSONResponse({'error': single_line(str(error))}, 404, HEADERS)
    return Response(content, headers=HEADERS, media_type='image/jpeg')

  return answer


def _json_route(work: Callable[[dict[str, Any]], dict[str, Any]]) -> Callable[[Request], Awaitable[Response]]:
  """An endpoint that takes and gives a JSON object. The work is done by a thread, since it waits for the disk."""

  async def answer(request: Request) -> Response:
    try:
      return JSONResponse(await run_in_threadpool(work, await _json_of(request)), headers=HEADERS)
    except UserError as error:
      return JSONResponse({'error': single_line(str(error))}, 400, HEADERS)
    except OSError as error:
      return JSONResponse({'error': f'not saved: {single_line(storage.explain(error) or str(error))}'}, 507, HEADERS)

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
