"""Evaluation views of a user's images and videos: read ahead by threads, in order, a bounded number at a time."""

from collections.abc import Callable, Collection, Generator, Iterator, Sequence
from concurrent import futures
import dataclasses
import functools
import os
import pathlib
from typing import NamedTuple

import numpy as np
from PIL import Image

from data_pipelines import images
from data_pipelines.person_boxes.person_finder import Person, PersonFinder
from data_pipelines.plain_text import visible
from data_pipelines.read_ahead import THREADS, read_ahead
from data_pipelines.user_files import video


class ImageView(NamedTuple):
  """The view of an image or video frame.

  name: as `printable`, a frame's with `#t=SECONDS`; pixels: uint8 (S, S, 3), or None if it cannot be read; error: why
  not, else empty; person: the one found in it, or None; repair: what the file had to be read without, else empty.
  """

  name: str
  pixels: np.ndarray | None
  error: str = ''
  person: Person | None = None
  repair: str = ''


def printable(path: str) -> str:
  """A path on one line of UTF-8: other bytes, and characters that `visible` replaces, become backslash codes."""
  return visible(os.fsencode(path).decode(errors='backslashreplace'))


def views(
    paths: Sequence[str], size: int, *, ahead: int, view: Callable[[Image.Image], np.ndarray] | None = None,
    per_second: float = 1.0, done: Collection[str] = (), finder: PersonFinder | None = None) -> Generator[ImageView]:
  """One view an image, and `per_second` a second of video, in the order of the paths.

  A file that cannot be read becomes a view without pixels.

  Args:
    size: side S of the views, pixels.
    ahead: views that are made ahead of the caller, and so kept in memory.
    view: how the model wants an RGB image, uint8 (S, S, 3); None is `images.evaluation_view`.
    per_second: frames taken of a second of video.
    done: names that are left out; such images are not opened.
    finder: of persons, None if no person view is wanted.
  """
  view = view or functools.partial(images.evaluation_view, size=size)
  pool = futures.ThreadPoolExecutor(THREADS)
  try:
    for future in read_ahead(_Reader(size, view, per_second, done, finder).submit(pool, paths), ahead):
      yield future.result()
  finally:
    pool.shutdown(cancel_futures=True)


@dataclasses.dataclass(frozen=True)
class _Reader:
  """Makes views, with the settings of `views`."""

  size: int
  view: Callable[[Image.Image], np.ndarray]
  per_second: float
  done: Collection[str]
  finder: PersonFinder | None

  def submit(self, pool: futures.Executor, paths: Sequence[str]) -> Iterator[futures.Future[ImageView]]:
    """Images are read by the pool, frames one after the other by the caller."""
    for path in paths:
      if printable(path) in self.done:
        continue
      if video.is_video(path):
        yield from (pool.submit(lambda ready: ready, view) for view in self._read_frames(path))
      else:
        yield pool.submit(self._read_image, path)

  def _read_image(self, path: str) -> ImageView:
    try:
      with images.open_image(pathlib.Path(path)) as image:
        return self._view(path, image.original)._replace(repair=image.repair)
    except images.RejectedError as error:
      return _unreadable(path, error)

  def _read_frames(self, path: str) -> Iterator[ImageView]:
    try:
      for seconds, frame in video.frames(path, self.per_second):
        name = f'{path}#t={seconds}'
        if printable(name) not in self.done:
          yield self._view(name, frame)
    except images.RejectedError as error:
      yield _unreadable(path, error)

  def _view(self, name: str, image: Image.Image) -> ImageView:
    person = self.finder(name, image, self.size) if self.finder else None
    return ImageView(printable(name), self.view(image), person=person)


def _unreadable(path: str, error: images.RejectedError) -> ImageView:
  return ImageView(printable(path), None, ' '.join(str(error).split()))
