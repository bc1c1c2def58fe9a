"""Reads images in zip and tar archives one by one into memory: nothing is unpacked onto a disk.

A member's name is text that is shown, and never a path that is opened.
"""

import collections
from collections.abc import Callable, Iterator
import contextlib
import functools
import gzip
import pathlib
import posixpath
import re
import stat
import tarfile
from typing import Any, NamedTuple
import zipfile

from data_pipelines import images, storage

SUFFIXES = ('.zip', '.tar', '.tar.gz', '.tgz')
OTHERS = ('.7z', '.rar', '.tar.xz', '.txz', '.tar.bz2', '.tbz', '.tbz2', '.tar.zst')
MAX_BYTES = 2**28
"""The most bytes of a member, which is read whole."""
_INSIDE = re.compile(f'({"|".join(map(re.escape, SUFFIXES))})/', re.IGNORECASE)
_GZIP = b'\x1f\x8b'
_END_OF_TAR = bytes(tarfile.BLOCKSIZE)


class ArchiveListing(NamedTuple):
  """What an archive holds.

  places: by the name of an image, in the archive's order, its first byte (0 in a zip) and its size. passed_over: kind
  -> number of the other members. problem: why the archive, or its rest, cannot be read, else empty.
  """

  places: dict[str, tuple[int, int]]
  passed_over: dict[str, int]
  problem: str


def is_archive(path: str) -> bool:
  """Whether this is a file with an archive's suffix, and no image."""
  file = pathlib.Path(path)
  return path.lower().endswith(SUFFIXES) and file.is_file() and not images.is_image(file)


def archive_of(path: str) -> str | None:
  """The archive in which `ARCHIVE/NAME` lies, or which the path is; None for any other path."""
  inside = (path[:match.end() - 1] for match in _INSIDE.finditer(path))
  return next((archive for archive in (*inside, path) if is_archive(archive)), None)


def list_archive(path: str) -> ArchiveListing:
  """Lists the images of an archive. Other members are counted by kind, and archives in it are passed over too."""
  found = pathlib.Path(path).stat()
  return _list_once(path, (found.st_mtime_ns, found.st_size))


@functools.cache
def _list_once(path: str, version: tuple[int, int]) -> ArchiveListing:
  """A compressed tar is decompressed for it from end to end."""
  del version  # Of the file: another one is another listing.
  places: dict[str, tuple[int, int]] = {}
  passed_over: collections.Counter[str] = collections.Counter()
  problem = ''
  try:
    with storage.open_local(path) as file:
      members = _zip_members(file) if path.lower().endswith('.zip') else _tar_members(file)
      for name, kind, place in members:
        if kind := kind or _other_kind(name) or ('name that is there twice' if name in places else ''):
          passed_over[kind] += 1
        else:
          places[name] = place
  except Exception as error:  # Malformed archives raise nearly anything.
    problem = f'damaged archive: {error or type(error).__name__}'
  return ArchiveListing(places, dict(passed_over), problem)


def _zip_members(file: Any) -> Iterator[tuple[str, str, tuple[int, int]]]:
  """(name, kind if it is no plain file, (0, size)) of each that is no folder."""
  for info in zipfile.ZipFile(file).infolist():
    if not info.is_dir():
      mode = info.external_attr >> 16  # Of Unix; 0 where another system made it.
      plain = not mode or stat.S_IFMT(mode) in (0, stat.S_IFREG)
      yield _tidy(info.filename), '' if plain else 'link or device in an archive', (0, info.file_size)


def _tar_members(file: Any) -> Iterator[tuple[str, str, tuple[int, int]]]:
  """Yields the same, with the place in the decompressed tar. Raises an exception where it breaks off."""
  decompressed: Any = _Decompressed(file)
  with tarfile.open(fileobj=decompressed, mode='r:') as archive:
    for info in archive:
      if info.size < 0:  # It would lead back, and tarfile around in a circle.
        raise tarfile.ReadError('a member of negative size')
      if not info.isdir():
        plain = info.isreg() and not info.issparse()
        yield _tidy(info.name), '' if plain else 'link or device in an archive', (info.offset_data, info.size)
    # tarfile takes a damaged header for the end.
    decompressed.seek(archive.offset)
    if decompressed.read(tarfile.BLOCKSIZE) != _END_OF_TAR:
      raise tarfile.ReadError('it breaks off')


class _Decompressed:
  """A tar, of which no read takes more than MAX_BYTES: tarfile reads headers whole, whatever length they declare."""

  def __init__(self, file: Any):
    compressed = file.read(len(_GZIP)) == _GZIP
    file.seek(0)
    self._file = gzip.GzipFile(fileobj=file) if compressed else file
    self.seek, self.tell = self._file.seek, self._file.tell

  def read(self, size: int) -> bytes:
    if not 0 <= size <= MAX_BYTES:
      raise tarfile.ReadError(f'a header of {size} bytes')
    return self._file.read(size)


def _tidy(name: str) -> str:
  """Some programs write backslashes, or begin with `./`."""
  return name.replace('\\', '/').removeprefix('./')


def _other_kind(name: str) -> str:
  """What a member is that is passed over; empty for an image."""
  parts, suffix = name.split('/'), posixpath.splitext(name)[1]
  if name.startswith('/') or '..' in parts:
    return 'name that leads out of its archive'
  if '__MACOSX' in parts:
    return '__MACOSX'
  if any(part.startswith('.') for part in parts):
    return '.*'
  if suffix.lower() in images.SUFFIXES:
    return ''
  return f'*{suffix}' if suffix else parts[-1]


@contextlib.contextmanager
def open_archive(path: str) -> Iterator[Callable[[str], bytes]]:
  """Gives a function that reads an image of the archive by its name, quickest in the archive's order.

  It raises `images.RejectedError` if the image cannot be read: it is not there, too large, encrypted or damaged.
  """
  with contextlib.ExitStack() as stack:
    read: Callable[[str, int, int], bytes] | None = None

    def read_image(name: str) -> bytes:
      nonlocal read
      listing = list_archive(path)
      start, size = listing.places.get(name, (0, -1))
      if size < 0:
        raise images.RejectedError(listing.problem or 'not an image of this archive')
      if size > MAX_BYTES:
        raise images.RejectedError(f'{size} bytes in its archive, over {MAX_BYTES >> 20} MiB: unpack the archive')
      try:
        read = read or stack.enter_context(_opened_zip(path) if path.lower().endswith('.zip') else _opened_tar(path))
        content = read(name, start, size)
      except images.RejectedError:
        raise
      except Exception as error:  # As above.
        raise images.RejectedError(f'damaged in its archive: {error or type(error).__name__}') from error
      if len(content) != size:
        raise images.RejectedError(f'truncated in its archive: {len(content)} of {size} bytes')
      return content

    yield read_image


@contextlib.contextmanager
def _opened_zip(path: str) -> Iterator[Callable[[str, int, int], bytes]]:
  with storage.open_local(path) as file, zipfile.ZipFile(file) as archive:
    members = {_tidy(info.filename): info for info in reversed(archive.infolist())}  # The first of two of a name.

    def read(name: str, start: int, size: int) -> bytes:
      del start
      if members[name].flag_bits & 1:
        raise images.RejectedError('encrypted: unpack the archive with its password')
      with archive.open(members[name]) as member:
        return member.read(size + 1)  # zipfile gives no more than the size, whatever the data would inflate to.

    yield read


@contextlib.contextmanager
def _opened_tar(path: str) -> Iterator[Callable[[str, int, int], bytes]]:
  with storage.open_local(path) as file:
    decompressed = _Decompressed(file)

    def read(name: str, start: int, size: int) -> bytes:
      del name
      decompressed.seek(start)
      return decompressed.read(size)

    yield read
