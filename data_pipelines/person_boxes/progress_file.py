"""Keeps the finished items of a long job on disk, line by line, so that a killed job goes on where it was."""

import pathlib

from data_pipelines import seals, storage


class ProgressFile:
  """One JSON object per finished item, in a file that is removed once the whole result is written.

  Args:
    path: the file; its folder exists.
    job: what the results depend on; items of another job, or of an earlier version, are discarded.

  Attributes:
    items: the objects written so far, by earlier runs too.

  Raises:
    OSError: the file cannot be written.
    UserError: a line is not what was written.
  """

  def __init__(self, path: pathlib.Path, job: str):
    self._path = path
    self._file = storage.open_local(path, 'a+b')
    self._file.seek(0)
    written = self._file.read()
    written = written[:written.rfind(b'\n') + 1]  # A kill may leave half a line.
    self.items: list[dict] = []
    self._seal = ''
    with storage.parsing(path, 'delete it to begin anew'):
      found, seal = seals.read_lines(written)
    if found and seal and found[0] == {'job': job}:
      self.items, self._seal = found[1:], seal
    else:
      self._file.truncate(0)
      self._write([{'job': job}])
      return
    self._file.truncate(len(written))

  def add(self, items: list[dict]) -> None:
    """Appends finished items; from here on they survive a kill."""
    self._write(items)
    self.items += items

  def _write(self, objects: list[dict]) -> None:
    for line, seal in seals.seal_lines(objects, self._seal):
      self._file.write(line.encode())
      self._seal = seal
    self._file.flush()

  def close(self) -> None:
    """Closes the file and keeps it for a later run."""
    self._file.close()

  def remove(self) -> None:
    """Removes the file: the whole result is written."""
    self.close()
    self._path.unlink()
