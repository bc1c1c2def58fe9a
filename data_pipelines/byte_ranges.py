"""Reads byte ranges of files on a disk or in a bucket, many at once, and no other bytes."""

from collections.abc import Sequence
import os
from typing import Any

from data_pipelines.errors import UserError, first_line
from data_pipelines.storage import BUCKET, absolute, is_remote

IN_FLIGHT = 256
"""The number of requests to a bucket that wait at the same time: at 30 ms each, some 5,000 records a second
(docs/buckets.md)."""
_RETRIES = {'max_retries': 8, 'initial_delay': '500ms', 'max_delay': '16s'}
"""A bucket that refuses for a minute is given up."""


def key_value_store(folder: str | os.PathLike) -> Any:
  """Opens a tensorstore.KvStore of the files in a folder, on a disk or in a bucket."""
  import tensorstore
  if not is_remote(folder):
    return tensorstore.KvStore.open({'driver': 'file', 'path': f'{absolute(folder)}/'}).result()
  bucket, _, path = os.fspath(folder).removeprefix(BUCKET).partition('/')
  return tensorstore.KvStore.open({
      'driver': 'gcs', 'bucket': bucket, 'path': f'{path}/' if path else '',
      'context': {'gcs_request_concurrency': {'limit': IN_FLIGHT}, 'gcs_request_retries': _RETRIES}}).result()


class MissingBytes(UserError):
  """A file is not there, or ends before the bytes that were asked for. `path` names it, `what` says which."""

  def __init__(self, path: str, what: str):
    super().__init__(f'{path}: {what}')
    self.path, self.what = path, what


class Ranges:
  """Reads byte ranges of the files in one folder, many at once, on a disk or in a bucket.

  Only the bytes asked for are read, and no file stays open. So neither the number of files nor that of readers meets a
  limit.
  """

  def __init__(self, folder: str | os.PathLike):
    self._folder, self._store = os.fspath(folder), key_value_store(folder)

  def read(self, ranges: Sequence[tuple[str, int, int]]) -> list[bytes]:
    """Reads the bytes of each (file name, offset, length). Many threads may call it.

    Raises:
      MissingBytes: a file is missing or shorter.
      UserError: the storage fails.
    """
    waiting = [self._store.read(name, byte_range=slice(start, start + length)) for name, start, length in ranges]
    return [self._result(future, name, start + length).value for (name, start, length), future in zip(ranges, waiting)]

  def generations(self, names: Sequence[str]) -> list[bytes]:
    """The generation of each file, which changes when it is written again. Raises as `read`."""
    waiting = [self._store.read(name, byte_range=slice(0, 0)) for name in names]
    return [self._result(future, name, 0).stamp.generation for name, future in zip(names, waiting)]

  def names(self) -> list[str]:
    """The paths in the folder of all files below it, sorted, without the objects that only stand for a folder.

    Raises:
      UserError: the storage fails.
    """
    try:
      found = self._store.list().result()
    except ValueError as error:
      raise UserError(f'{self._folder} cannot be listed: {first_line(error)}') from error
    return sorted(name.decode() for name in found if name and not name.endswith(b'/'))

  def _result(self, future: Any, name: str, end: int) -> Any:
    path = f'{self._folder}/{name}'
    try:
      result = future.result()
    except ValueError as error:
      if 'OUT_OF_RANGE' in str(error):
        raise MissingBytes(path, f'it ends before byte {end}') from error
      raise UserError(f'{path} cannot be read: {first_line(error)}') from error
    if result.state == 'missing':
      raise MissingBytes(path, 'it is missing')
    return result
