"""The finished items of a long job, on disk line by line, so that a killed job goes on where it was."""

import json
import pathlib


class ProgressFile:
  """One JSON object per finished item, in a file that is removed once the whole result is written.

  Args:
    path: the file; its folder exists.
    job: what the results depend on; the items of another job are discarded.

  Attributes:
    items: the objects written so far, by earlier runs too.

  Raises:
    OSError: the file cannot be written.
  """

  def __init__(self, path: pathlib.Path, job: str):
    self._path = path
    header = json.dumps({'job': job}).encode() + b'\n'
    self._file = path.open('a+b')
    self._file.seek(0)
    written = self._file.read()
    written = written[:written.rfind(b'\n') + 1]  # A kill may leave half a line.
    if not written.startswith(header):
      written = b''
    self._file.truncate(len(written))
    if not written:
      self._file.write(header)
    self.items: list[dict] = [json.loads(line) for line in written.splitlines()[1:]]

  def add(self, items: list[dict]) -> None:
    """Appends finished items; from here on they survive a kill."""
    self._file.write(b''.join(json.dumps(item).encode() + b'\n' for item in items))
    self._file.flush()
    self.items += items

  def close(self) -> None:
    """Closes the file and keeps it for a later run."""
    self._file.close()

  def remove(self) -> None:
    """Removes the file: the whole result is written."""
    self.close()
    self._path.unlink()
