"""Evaluation views of files that are no records: read ahead by threads, in order, a bounded number at a time."""

import collections
from collections.abc import Collection, Iterator, Sequence
from concurrent import futures
import itertools
import os
import pathlib
from typing import NamedTuple

import numpy as np
from PIL import Image

from data_pipelines import images
from data_pipelines.person_boxes.person_finder import Person, PersonFinder
from data_pipelines.user_files import video

_THREADS = min(32, (os.cpu_count() or 1) + 4)  # Pillow decodes and resizes without holding Python's lock.


class View(NamedTuple):
  """A picture or frame. name: as `printable`, a frame's with `#t=SECONDS`; pixels: uint8 (S, S, 3), None where there
  are none; error: why there are none, else empty; person: who was found in it, None for nobody, or not looked for."""

  name: str
  pixels: np.ndarray | None
  error: str = ''
  person: Person | None = None


def printable(path: str) -> str:
  """A path on one line of UTF-8: bytes that are not, and line ends, as backslash codes."""
  text = os.fsencode(path).decode(errors='backslashreplace')
  return text.replace('\r', r'\r').replace('\n', r'\n')


def views(
    paths: Sequence[str], size: int, *, ahead: int, per_second: float = 1.0, done: Collection[str] = (),
    finder: PersonFinder | None = None) -> Iterator[View]:
  """One view a picture, and `per_second` a second of video, in the order of the paths.

  What cannot be read is a view without pixels; the rest goes on.

  Args:
    paths: of pictures and videos.
    size: side S of the views, pixels.
    ahead: views that are made before they are asked for, and so kept in memory.
    per_second: frames taken of a second of video.
    done: names that are left out; such pictures are not opened.
    finder: of persons, None where no person view is wanted.
  """
  pool = futures.ThreadPoolExecutor(_THREADS)
  try:
    jobs = _jobs(pool, paths, size, per_second, done, finder)
    waiting = collections.deque(itertools.islice(jobs, ahead))
    while waiting:
      yield waiting.popleft().result()
      waiting.extend(itertools.islice(jobs, 1))
  finally:
    pool.shutdown(cancel_futures=True)


def _jobs(
    pool: futures.Executor, paths: Sequence[str], size: int, per_second: float, done: Collection[str],
    finder: PersonFinder | None) -> Iterator[futures.Future[View]]:
  for path in paths:
    if printable(path) in done:
      continue
    if not video.is_video(path):
      yield pool.submit(_picture, path, size, finder)
      continue
    for view in _frames(path, size, per_second, done, finder):
      finished = futures.Future()
      finished.set_result(view)
      yield finished


def _picture(path: str, size: int, finder: PersonFinder | None) -> View:
  try:
    with images.opened_original(pathlib.Path(path)) as picture:
      return _view(path, picture, size, finder)
  except images.RejectedError as error:
    return _unreadable(path, error)


def _frames(path: str, size: int, per_second: float, done: Collection[str],
            finder: PersonFinder | None) -> Iterator[View]:
  try:
    for seconds, frame in video.frames(path, per_second):
      name = f'{path}#t={seconds}'
      if printable(name) not in done:
        yield _view(name, frame, size, finder)
  except images.RejectedError as error:
    yield _unreadable(path, error)


def _view(name: str, picture: Image.Image, size: int, finder: PersonFinder | None) -> View:
  person = finder(name, picture, size) if finder else None
  return View(printable(name), images.evaluation_view(picture, size), person=person)


def _unreadable(path: str, error: images.RejectedError) -> View:
  return View(printable(path), None, ' '.join(str(error).split()))
