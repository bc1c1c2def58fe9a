"""Copies files of a bucket to this host: one copy serves all of the host's processes.

A copy lies in a folder of its own, named by a hash of its files' paths and generations, so it is never of another
version. A process that uses it holds a shared lock in that folder, and one that fetches it an exclusive lock. The last
user removes the folder. What killed processes left is removed when another one copies something.
"""

import atexit
from collections.abc import Iterator, Sequence
import contextlib
import fcntl
import functools
import hashlib
import os
from pathlib import Path
import tempfile
from typing import IO

from data_pipelines import byte_ranges, storage
from data_pipelines.errors import UserError

_PART, _TOGETHER = 2**22, 2**26  # bytes of one request, and of those that wait at the same time
_LOCK = '.lock'
_until_the_end = contextlib.ExitStack()
atexit.register(_until_the_end.close)


def host_copy(path: str, *beside: str) -> Path:
  """Returns `path` itself on a disk; for a file or folder in a bucket, a copy that stays until this process ends.

  Of the names `beside`, the files that lie beside a file are copied with it. The content is not compared with the
  bucket's: what is read so has checksums, which its readers check.

  Raises:
    UserError: there is nothing, or the storage fails.
  """
  if not storage.is_remote(path):
    return Path(path)
  path = path.rstrip('/')
  if names := byte_ranges.Ranges(path).names():
    return _kept(path, _versions(path, names))
  folder, name = os.path.split(path)
  there = [other for other in beside if storage.exists(f'{folder}/{other}')]
  return _kept(folder, _versions(folder, [name, *there])) / name


@contextlib.contextmanager
def copied(folder: str, names: Sequence[str]) -> Iterator[Path]:
  """Gives `folder` itself on a disk; of one in a bucket, a copy of these files for as long as the context lasts.

  Raises as `host_copy`.
  """
  if not storage.is_remote(folder):
    yield Path(folder)
    return
  copy, lock = _held(folder, _versions(folder, names))
  try:
    yield copy
  finally:
    _let_go(copy.parent, lock)


def _versions(folder: str, names: Sequence[str]) -> tuple[tuple[str, bytes], ...]:
  """Name and generation of each file. Raises UserError if the name of one would lead out of a folder."""
  for name in names:
    if {'', '.', '..'} & set(name.split('/')):
      raise UserError(f'{folder}/{name} has a name that no file on a disk has: rename it, or remove it')
  return tuple(zip(names, byte_ranges.Ranges(folder).generations(names)))


@functools.cache
def _kept(folder: str, versions: tuple[tuple[str, bytes], ...]) -> Path:
  copy, lock = _held(folder, versions)
  _until_the_end.callback(_let_go, copy.parent, lock)
  return copy


def _held(folder: str, versions: tuple[tuple[str, bytes], ...]) -> tuple[Path, IO[bytes]]:
  """The copy of these versions of files, fetched by the process that comes first, and the lock that keeps it."""
  root = _root()
  place = root / hashlib.sha256(repr((folder, versions)).encode()).hexdigest()[:32]
  for other in root.iterdir():
    if other != place:
      with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        _let_go(other, storage.open_local(other / _LOCK, 'ab'))
  copy = place / os.path.basename(folder)
  while True:
    lock = _lock(place)
    if copy.exists():
      return copy, lock
    try:
      fcntl.flock(lock, fcntl.LOCK_EX)
      if not copy.exists():
        _fetch(folder, [name for name, _ in versions], copy)
    except BaseException:
      _let_go(place, lock)
      raise
    lock.close()  # An exclusive lock does not become a shared one in one step: look again.


def _root() -> Path:
  """The folder of this user's copies."""
  root = Path(tempfile.gettempdir(), f'uniemox_jax-{os.getuid()}')
  root.mkdir(mode=0o700, exist_ok=True)
  if root.is_symlink() or root.stat().st_uid != os.getuid():
    raise UserError(f'{root} belongs to another user: remove it, or set TMPDIR to a folder of your own')
  return root


def _lock(place: Path) -> IO[bytes]:
  """The open lock file of a folder, which is made if need be, with a shared lock."""
  while True:
    place.mkdir(exist_ok=True)
    with contextlib.suppress(FileNotFoundError):  # another process removes the folder in this moment
      lock = storage.open_local(place / _LOCK, 'ab')
      fcntl.flock(lock, fcntl.LOCK_SH)
      if os.path.samestat(os.fstat(lock.fileno()), os.stat(place / _LOCK)):
        return lock


def _let_go(place: Path, lock: IO[bytes]) -> None:
  """Ends the use of a copy, and removes it if no other process uses it."""
  with lock, contextlib.suppress(BlockingIOError):
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    storage.remove_folder(place)


def _fetch(folder: str, names: Sequence[str], copy: Path) -> None:
  ranges = byte_ranges.Ranges(folder)
  with storage.whole_folder(copy) as partial:
    for name in names:
      size = storage.size(f'{folder}/{name}')
      (partial / name).parent.mkdir(parents=True, exist_ok=True)
      with storage.open_local(partial / name, 'wb') as file:
        for first in range(0, size, _TOGETHER):
          end = min(first + _TOGETHER, size)
          for part in ranges.read([(name, start, min(_PART, end - start)) for start in range(first, end, _PART)]):
            file.write(part)
