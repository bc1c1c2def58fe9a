"""Serves the page over HTTP: three files of this folder, what the models are, and an answer to each image that is sent.

An image is the body of a request. It is decoded in memory, answered, and forgotten: nothing of it is written to a disk
or kept here, so a visitor cannot get at what another one sent.

Import it once its libraries are known to be installed, as the command does.
"""

import asyncio
import pathlib
from typing import Any, NamedTuple

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from data_pipelines.errors import UserError
from data_pipelines.images import RejectedError
from data_pipelines.local_page.page_server import HEADERS, make_application
from data_pipelines.plain_text import single_line
from uniemox_jax.app.answer import Answerer

IMAGE_TYPE = 'application/octet-stream'
"""The content type that a request must have; other sites cannot send it without asking first."""
MAX_NAME, MAX_TYPED = 500, 3000
"""The most characters of a file's name, of which the first are kept, and of a visitor's words."""
RETRY_SECONDS = 2
UPLOAD_SECONDS = 60.0
"""The time in which an image must be sent, so that a slow visitor does not keep a place in the queue."""


class Limits(NamedTuple):
  """The limits of a page. megabytes, megapixels: of an image. files: how many a page takes at a time. waiting: how many
  images may be in the queue."""

  megabytes: float = 20.0
  megapixels: float = 64.0
  files: int = 200
  waiting: int = 8


class _Refused(Exception):
  """A request without an answer: the message, and the status."""

  def __init__(self, message: str, status: int):
    super().__init__(message)
    self.status = status


class _Desk:
  """Takes images one at a time, in the order in which they come; so many wait, and more are asked to come again."""

  def __init__(self, answerer: Answerer, limits: Limits):
    self._answerer, self._limits = answerer, limits
    self._taken, self._turn = 0, asyncio.Lock()

  async def answer(self, request: Request) -> Response:
    """The endpoint."""
    if self._taken > self._limits.waiting:
      said = f'busy: {self._limits.waiting} images wait already'
      return _json({'error': said}, 503, {'Retry-After': str(RETRY_SECONDS)})
    self._taken += 1
    try:
      return await self._take(request)
    finally:
      self._taken -= 1

  async def _take(self, request: Request) -> Response:
    name, typed = request.query_params.get('name', '')[:MAX_NAME], request.query_params.get('words', '')
    try:
      if len(typed) > MAX_TYPED:
        raise UserError(f'these words are too long: give at most {MAX_TYPED} letters')
      try:
        content = await self._body(request)
      except _Refused as refusal:
        found = await run_in_threadpool(self._answerer.refused, name, typed, str(refusal))
        return _json(found, refusal.status, {'Connection': 'close'})
      async with self._turn:
        if await request.is_disconnected():
          return Response(status_code=499)
        try:
          return _json(await run_in_threadpool(self._answerer.answer, content, name, typed))
        except RejectedError as error:
          return _json(await run_in_threadpool(self._answerer.refused, name, typed, str(error)), 422)
    except UserError as error:
      return _json({'error': single_line(str(error))}, 400)
    except ClientDisconnect:
      return Response(status_code=499)

  async def _body(self, request: Request) -> bytes:
    """The image that was sent. The page says the size of one that is too large in place of sending it."""
    if request.headers.get('content-type', '') != IMAGE_TYPE:
      raise _Refused(f'the request must be {IMAGE_TYPE}', 415)
    most = int(self._limits.megabytes * 1e6)
    too_large = _Refused(f'larger than {self._limits.megabytes:g} MB', 413)
    announced = (request.query_params.get('bytes', '0'), request.headers.get('content-length', '0'))
    if any(not size.isdecimal() or len(size) > 18 or int(size) > most for size in announced):
      raise too_large
    content = bytearray()
    try:
      async with asyncio.timeout(UPLOAD_SECONDS):
        async for part in request.stream():
          content += part
          if len(content) > most:
            raise too_large
    except TimeoutError as error:
      raise _Refused(f'not received within {UPLOAD_SECONDS:g} seconds', 408) from error
    return bytes(content)


def _json(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
  return JSONResponse(value, status, HEADERS | (headers or {}))


def trial_page(answerer: Answerer, limits: Limits, host: str = '127.0.0.1') -> Starlette:
  """Makes the application for `uvicorn`; `host` is the address it listens on."""
  settings = {'models': answerer.describe(), **limits._asdict()}

  async def describe(request: Request) -> Response:
    return _json(settings)

  routes = [Route('/settings', describe), Route('/answer', _Desk(answerer, limits).answer, methods=['POST'])]
  return make_application(pathlib.Path(__file__).with_name('page.html'), ['page.js', 'page.css'], routes, host)
