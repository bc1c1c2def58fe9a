"""Makes evaluation views of a user's images and videos: threads read ahead, in order, a bounded number at a time."""

from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Sequence
from concurrent import futures
import dataclasses
import functools
import itertools
import os
import pathlib
import re
import threading
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from data_pipelines import images
from data_pipelines.media import archives, video
from data_pipelines.media.sampling import sampled
from data_pipelines.person_boxes.person_finder import Person, PersonFinder
from data_pipelines.plain_text import visible
from data_pipelines.read_ahead import THREADS, read_ahead


class ReadImage(NamedTuple):
  """The view of an image or video frame.

  name: that of `printable`, a frame's with `#t=SECONDS`. pixels: uint8 (S, S, 3), or None if it cannot be read. error:
  why not, else empty. person: the one found in it, or None. repair: what the file was read without, else empty.
  """

  name: str
  pixels: np.ndarray | None
  error: str = ''
  person: Person | None = None
  repair: str = ''


def printable(path: str) -> str:
  """Puts a path on one line of UTF-8, another line for every path.

  Backslashes are doubled; other bytes, characters that `visible` replaces, and the # of a file that is named like a
  frame become backslash codes.
  """
  text = os.fsencode(path).replace(b'\\', rb'\\').decode(errors='backslashreplace')
  text = re.sub(r'#(?=t=[\d.]+$)', r'\\x23', text)
  return visible(re.sub(r'[\x80-\xa0\xad]', lambda found: f'\\u{ord(found[0]):04x}', text))  # \x80 is a byte.


def read_media(
    paths: Sequence[str], size: int, *, ahead: int, view: Callable[[Image.Image], np.ndarray] | None = None,
    per_second: float = 1.0, done: Collection[str] = (), finder: PersonFinder | None = None,
    max_megapixels: float = images.MAX_MEGAPIXELS) -> Generator[ReadImage]:
  """Yields a view of each image, and `per_second` a second of a video or animated image, in the order of the paths.

  A file that cannot be read becomes a view without pixels.

  Args:
    size: the side S of the views, pixels.
    ahead: views that are made ahead of the caller, and so kept in memory.
    view: how the model wants an RGB image, uint8 (S, S, 3); None is `images.evaluation_view`.
    per_second: frames taken of a second of a video or an animated image.
    done: names that are left out; such images are not opened.
    finder: the finder of persons, None if no person view is wanted.
    max_megapixels: larger images are not decoded.
  """
  view = view or functools.partial(images.evaluation_view, size=size)
  pool = futures.ThreadPoolExecutor(THREADS)
  try:
    reader = _Reader(size, view, per_second, done, finder, max_megapixels)
    for future in read_ahead(reader.submit(pool, paths), ahead):
      yield from future.result()
  finally:
    pool.shutdown(cancel_futures=True)


@dataclasses.dataclass(frozen=True)
class _Reader:
  """Makes views, with the settings of `read_media`."""

  size: int
  view: Callable[[Image.Image], np.ndarray]
  per_second: float
  done: Collection[str]
  finder: PersonFinder | None
  max_megapixels: float
  _room: threading.Semaphore = dataclasses.field(default_factory=lambda: threading.Semaphore(THREADS))
  """Images of archives that are in memory and not decoded yet."""

  def submit(self, pool: futures.Executor, paths: Sequence[str]) -> Iterator[futures.Future[Iterable[ReadImage]]]:
    """Images are decoded by the pool, frames one after the other by whoever takes the views; archives are read here."""
    new = (path for path in paths if printable(path) not in self.done)
    for archive, some in itertools.groupby(new, archives.archive_of):
      if archive is None:
        for path in some:
          yield pool.submit(self._read_video if video.is_video(path) else self._read_image, path)
      else:
        yield from self._submit_members(pool, archive, some)

  def _submit_members(self, pool: futures.Executor, archive: str,
                      paths: Iterable[str]) -> Iterator[futures.Future[Iterable[ReadImage]]]:
    with archives.open_archive(archive) as read:
      for path in paths:
        try:
          content = read(path.removeprefix(archive)[1:])
        except images.RejectedError as error:
          yield pool.submit(_unreadable, path, error)
        else:
          self._room.acquire()
          yield pool.submit(self._read_member, path, content)

  def _read_member(self, path: str, content: bytes) -> Iterable[ReadImage]:
    try:
      return self._read_image(path, content)
    finally:
      self._room.release()

  def _read_image(self, path: str, content: bytes | None = None) -> Iterable[ReadImage]:
    opened = images.open_image if content is None else images.open_bytes
    source: Any = pathlib.Path(path) if content is None else content
    try:
      with opened(source, self.max_megapixels) as image:
        if image.animated:
          return self._views_of(path, sampled(images.animation_frames(source, self.max_megapixels), self.per_second))
        return (self._view(path, image.original)._replace(repair=image.repair),)
    except images.RejectedError as error:
      return _unreadable(path, error)

  def _read_video(self, path: str) -> Iterable[ReadImage]:
    return self._views_of(path, video.frames(path, self.per_second, self.max_megapixels))

  def _views_of(self, path: str, frames: Iterator[tuple[float, Image.Image]]) -> Iterator[ReadImage]:
    try:
      for seconds, frame in frames:
        if f'{printable(path)}#t={seconds}' not in self.done:
          yield self._view(path, frame, f'#t={seconds}')
    except images.RejectedError as error:
      yield from _unreadable(path, error)

  def _view(self, path: str, image: Image.Image, frame: str = '') -> ReadImage:
    person = self.finder(path + frame, image, self.size) if self.finder else None
    return ReadImage(printable(path) + frame, self.view(image), person=person)


def _unreadable(path: str, error: images.RejectedError) -> tuple[ReadImage]:
  return (ReadImage(printable(path), None, ' '.join(str(error).split())),)
