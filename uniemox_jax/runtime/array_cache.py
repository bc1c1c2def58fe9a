"""Arrays that are computed once and kept on disk, with the key of what they are."""

import os

import numpy as np

from data_pipelines import storage

_KEY = 'key'


def write_arrays(path: str | os.PathLike, key: str, **arrays: np.ndarray) -> None:
  """Writes an .npz file, whole or not at all. `key` says what the arrays are of."""
  with storage.new_file(path) as file:
    np.savez(file, **arrays, **{_KEY: np.array(key)})  # type: ignore[arg-type]  # which takes any names


def read_arrays(
    path: str | os.PathLike, key: str, *, remedy: str = 'delete the file, and it is made again',
    **shapes: tuple[int | None, ...]) -> tuple[np.ndarray, ...]:
  """The arrays of these names, whose checksums the format has.

  Args:
    path: the file.
    key: as it was written; files of an earlier version have none.
    remedy: of a damaged file.
    **shapes: of each; None is any length.

  Raises:
    UserError: damaged, of something else, or of other shapes.
  """
  with storage.parsing(path, remedy), storage.local_copy(path) as local, storage.open_local(local) as file:
    loaded = np.load(file, allow_pickle=False)
    if _KEY in loaded and str(loaded[_KEY]) != key:
      raise ValueError('it is of something else than its name says')
    found = tuple(loaded[name] for name in shapes)
    for array, (name, shape) in zip(found, shapes.items()):
      if len(shape) != array.ndim or any(want not in (None, have) for want, have in zip(shape, array.shape)):
        raise ValueError(f'{name} has the shape {array.shape} instead of {shape}')
    return found
