"""Copies a bucket's files to this host: one copy of each file serves all of the host's processes.

A copy lies in a folder of its own, named by a hash of the object's path and generation, so it is never of another
version. A process that uses it holds a shared lock in that folder, and one that fetches it an exclusive lock. The last
user removes the folder. What killed processes left is removed when another one copies something.
"""

import atexit
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


def host_copy(path: str) -> Path:
  """Returns `path` itself on a disk; for a file in a bucket, a copy that stays at least until this process ends.

  The content is not compared with the bucket's: the files that are read so have a checksum, which their readers check.

  Raises:
    UserError: the file is missing, or the storage fails.
  """
  if not storage.is_remote(path):
    return Path(path)
  folder, name = os.path.split(path)
  return _held(path, byte_ranges.Ranges(folder).generation(name))


@functools.cache
def _held(path: str, generation: bytes) -> Path:
  """The copy of this version of a file, fetched by the process that comes first."""
  root = _root()
  place = root / hashlib.sha256(path.encode() + b' ' + generation).hexdigest()[:32]
  for other in root.iterdir():
    if other != place:
      with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        _let_go(other, storage.open_local(other / _LOCK, 'ab'))
  copy = place / os.path.basename(path)
  while True:
    lock = _lock(place)
    if copy.exists():
      atexit.register(_let_go, place, lock)
      return copy
    try:
      fcntl.flock(lock, fcntl.LOCK_EX)
      if not copy.exists():
        _fetch(path, copy)
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


def _fetch(path: str, copy: Path) -> None:
  folder, name = os.path.split(path)
  size, ranges = storage.size(path), byte_ranges.Ranges(folder)
  with storage.new_file(copy) as file:
    for first in range(0, size, _TOGETHER):
      end = min(first + _TOGETHER, size)
      for part in ranges.read([(name, start, min(_PART, end - start)) for start in range(first, end, _PART)]):
        file.write(part)
