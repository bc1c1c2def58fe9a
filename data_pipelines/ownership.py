"""Lets one process at a time work in a folder.

On a disk the system holds a lock until the process ends for any reason. A bucket has none. There the owner writes an
object again and again, each time only if nobody else has. An object that is not written any more belongs to a dead
process.
"""

from collections.abc import Iterator
import contextlib
import errno
import os
from pathlib import Path
import re
import socket
import sys
import threading
import time

import filelock

from data_pipelines import byte_ranges, storage
from data_pipelines.errors import USAGE_ERROR, UserError

SIGN_SECONDS = 15.0
"""How often the owner of a folder in a bucket writes its object."""
SILENT_SECONDS = 60.0
"""An owner whose object was not written for so long counts as dead."""


@contextlib.contextmanager
def owned(folder: str | os.PathLike, name: str = '', wait: bool = False) -> Iterator[None]:
  """Makes the folder, and gives it, or what has this name in it, to this process for as long as the context lasts.

  Args:
    folder: a folder on a disk or in a bucket.
    name: the name of a file in it, or of a purpose; empty for the folder.
    wait: whether to wait until another process has left it.

  Raises:
    UserError: another process has it; the message says which, and since when.
  """
  me = f'process {os.getpid()} on {socket.gethostname()}, since {time.strftime("%Y-%m-%d %H:%M:%S")}'
  take = _in_bucket if storage.is_remote(folder) else _on_disk
  with take(folder, name, me, wait):
    yield


def disown(folder: str | os.PathLike) -> None:
  """Takes a folder away from its owner, who must be dead: two processes would damage what lies in it."""
  for kind in ('lock', 'owner'):
    storage.remove(_file(folder, '', kind))


def _file(folder: str | os.PathLike, name: str, kind: str) -> str:
  return os.path.join(folder, f'.{name}.{kind}' if name else f'.{kind}')


def _in_use(folder: str | os.PathLike, name: str, owner: str) -> UserError:
  if name:  # Commands that own a file have no --steal.
    return UserError(f'{os.path.join(folder, name)} is in use by {owner}: wait for its end, or choose another place')
  return UserError(
      f'{folder} is in use by {owner}: wait for its end, choose another place, or add --steal if that process is dead')


@contextlib.contextmanager
def _on_disk(folder: str | os.PathLike, name: str, me: str, wait: bool) -> Iterator[None]:
  lock, owner = Path(_file(folder, name, 'lock')), Path(_file(folder, name, 'owner'))
  lock.parent.mkdir(parents=True, exist_ok=True)
  held = filelock.FileLock(lock)
  try:
    held.acquire(timeout=0)
  except filelock.Timeout:
    if not lock.parent.exists():
      raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(folder)) from None
    if not lock.exists():
      try:
        lock.touch()
      except OSError as error:
        raise UserError(f'{folder} takes no files ({error.strerror}): choose another place') from error
    other = owner.read_text(encoding='utf-8', errors='replace') if owner.exists() else 'another process'
    if not wait:
      raise _in_use(folder, name, other) from None
    print(f'{other} works in {folder}: waiting for its end', flush=True)
    held.acquire()
  try:
    storage.write_text(owner, me)
    yield
  finally:
    for file in (owner, lock):
      storage.remove(file)
    held.release()


@contextlib.contextmanager
def _in_bucket(folder: str | os.PathLike, name: str, me: str, wait: bool) -> Iterator[None]:
  sign = _Sign(_file(folder, name, 'owner'), me)
  while (other := sign.taken()) and not _died_here(other):
    print(
        f'{folder} was in use by {other}: looking for {SILENT_SECONDS:.0f} s whether it still is', file=sys.stderr,
        flush=True)
    if sign.is_silent():
      break
    if not wait:
      raise _in_use(folder, name, other)
  if not sign.write():
    raise _in_use(folder, name, 'a process that began in the same moment')
  sign.start()
  try:
    yield
  finally:
    sign.remove()


def _died_here(owner: str) -> bool:
  """Whether the owner was a process of this machine that has ended."""
  match = re.match(r'process (\d+) on (.*), since', owner)
  if not match or match[2] != socket.gethostname():
    return False
  try:
    os.kill(int(match[1]), 0)
  except ProcessLookupError:
    return True
  except (PermissionError, OverflowError):
    pass
  return False


class _Sign(threading.Thread):
  """The object that says who works in a folder of a bucket, and the thread that keeps it fresh."""

  def __init__(self, path: str, me: str):
    super().__init__(daemon=True, name='owner')
    folder, self._key = os.path.split(path)
    self._store, self._path, self._me = byte_ranges.key_value_store(folder), path, me
    self._generation, self._done = b'', threading.Event()

  def taken(self) -> str | None:
    """Who is named in the object; None if there is none."""
    found = self._store.read(self._key).result()
    self._generation = found.stamp.generation
    return found.value.decode(errors='replace') if found.state == 'value' else None

  def is_silent(self) -> bool:
    """Waits whether the one that is named writes again."""
    before = self._generation
    time.sleep(SILENT_SECONDS)
    self.taken()
    return self._generation == before

  def write(self) -> bool:
    """Writes this process into the object; False if another has written it since it was read."""
    written = self._store.write(self._key, self._me, if_equal=self._generation).result().generation
    if not written:  # Or it was this process, and the answer was lost on the way.
      return self.taken() == self._me
    self._generation = written
    return True

  def run(self) -> None:
    """Ends this process, with a line, if another has taken its place."""
    while not self._done.wait(SIGN_SECONDS):
      with contextlib.suppress(ValueError):  # The bucket cannot be reached: perhaps the next time.
        if not self.write():
          print(f'error: another process has taken {self._path}: this one ends', file=sys.stderr, flush=True)
          os._exit(USAGE_ERROR)

  def remove(self) -> None:
    """Ends the thread, and removes the object."""
    self._done.set()
    self.join()
    self._store.write(self._key, None, if_equal=self._generation).result()
