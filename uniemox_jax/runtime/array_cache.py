"""Keeps arrays that are computed once on disk, with a key that says what they are."""

import os

import numpy as np

from data_pipelines import storage
from data_pipelines.host_copies import copied

_KEY = 'key'


def write_arrays(path: str | os.PathLike, key: str, **arrays: np.ndarray) -> None:
  """Writes an .npz file, whole or not at all. `key` says what the arrays are."""
  with storage.new_file(path) as file:
    np.savez(file, **arrays, **{_KEY: np.array(key)})  # type: ignore[arg-type]  # which takes any names


def read_arrays(
    path: str | os.PathLike, key: str, *, remedy: str = 'delete the file, and it is made again',
    **shapes: tuple[int | None, ...]) -> tuple[np.ndarray, ...]:
  """Reads the arrays of these names. The format holds their checksums.

  Args:
    path: the file.
    key: the key that was written; files of an earlier version have none.
    remedy: what a message says to do with a damaged file.
    **shapes: the shape of each array; None is any length.

  Raises:
    UserError: the file is damaged, or holds something else, or other shapes.
  """
  folder, name = os.path.split(path)
  with storage.parsing(path, remedy), copied(folder, [name]) as local, storage.open_local(local / name) as file:
    loaded = np.load(file, allow_pickle=False)
    if _KEY in loaded and str(loaded[_KEY]) != key:
      raise ValueError('it is of something else than its name says')
    found = tuple(loaded[name] for name in shapes)
    for array, (name, shape) in zip(found, shapes.items()):
      if len(shape) != array.ndim or any(want not in (None, have) for want, have in zip(shape, array.shape)):
        raise ValueError(f'{name} has the shape {array.shape} instead of {shape}')
    return found
