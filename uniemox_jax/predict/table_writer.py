"""A table that grows on disk by whole rows, as CSV or JSON lines, and that a later run can continue."""

from collections.abc import Iterable, Mapping, Sequence
import csv
import io
import json
import os
from pathlib import Path
import sys
import time
from typing import Any

import google_crc32c

from data_pipelines.errors import UserError
from data_pipelines.images import MAX_MEGAPIXELS
from data_pipelines.plain_text import csv_cell, csv_text
from data_pipelines.storage import exists, open_local, read_json_object, write_sealed

FORMATS = ('csv', 'jsonl')
DESCRIPTION = '.made_by.json'
"""The ending of the file beside the table that describes what its rows were made with."""
DECIMALS = 6
DESCRIBE_SECONDS = 60.0
CHECKSUMS = 'rows_crc32c'
"""The key of the description with the CRC-32C of the table up to each row, 8 hexadecimal digits each. By it a table
that was cut is known from one that is damaged."""

_BEFORE = {'max_megapixels': MAX_MEGAPIXELS}
"""The settings of a table whose description does not have them, since an earlier version wrote it."""

_CALLED = {'weights_sha256': 'other weights, words or prompts'}

Value = str | float | None


def format_of(path: str | None) -> str:
  """Finds the format by a file's ending; CSV without one. Raises UserError if it is that of another kind of file."""
  ending = os.path.splitext(path or '')[1].lower()
  if ending in ('.jsonl', '.json', '.ndjson'):
    return 'jsonl'
  if ending not in ('', '.csv'):
    raise UserError(f'{path}: a table is CSV or JSON lines: name it .csv or .jsonl, or add --format')
  return 'csv'


def check_append(path: str | None, made_by: Mapping[str, Any], append: bool) -> dict[str, Any] | None:
  """Reads the description of the table that this run continues; None if it makes a new one.

  Args:
    path: the table, None for standard output.
    made_by: what this run makes rows with; the table's description must agree in these keys.
    append: whether an existing table may be continued.

  Raises:
    UserError: the table has no folder, exists and may not be continued, or was made with something else.
  """
  if path is None:
    if append:
      raise UserError('--append needs a file to continue: add --out=FILE')
    return None
  if not Path(path).parent.is_dir():
    raise UserError(f'{path} cannot be written, its folder is not there: make it, or choose another --out')
  if not (exists(path) or Path(path).is_symlink()):
    return None
  if not append:
    raise UserError(f'{path} exists already: continue it with --append, or choose another --out')
  try:
    found = read_json_object(path + DESCRIPTION)
  except (OSError, ValueError) as error:
    raise UserError(
        f'{path} is of unknown origin, for {path}{DESCRIPTION} is missing or damaged: choose another --out') from error
  for key, value in made_by.items():
    if found.get(key, _BEFORE.get(key)) != value:
      what = _CALLED.get(key, f"another {key.replace('_', ' ')}")
      raise UserError(
          f'{path} was made with {what} ({_shorten(found.get(key))}, now '
          f'{_shorten(value)}): use the same, or choose another --out')
  return found


def csv_lines(rows: Iterable[Sequence[Value]]) -> str:
  """Writes rows as lines of CSV: a number keeps 6 decimals, None is an empty cell, and no cell is a formula."""
  buffer = io.StringIO(newline='')
  csv.writer(buffer, lineterminator='\n').writerows(
      [f'{value:.{DECIMALS}f}' if isinstance(value, float) else csv_cell(value) for value in row] for row in rows)
  return buffer.getvalue()


class PredictionTable:
  """Appends rows to a table.

  Attributes:
    names: the first values of the rows from an earlier run.
    rows: the number of these rows.
  """

  def __init__(
      self, path: str | None, file_format: str, columns: Sequence[str], made_by: Mapping[str, Any],
      headed: bool = True):
    """Opens a table that `check_append` allows: removes a half-written last row, or writes the header.

    Args:
      path: of the table, None for standard output.
      file_format: one of FORMATS.
      columns: names in order.
      made_by: written beside the table.
      headed: whether a CSV begins with the columns' names.

    Raises:
      UserError: the table cannot be written, or has another header.
    """
    self._path, self._format, self._columns = path, file_format, list(columns)
    self._headed = headed and file_format == 'csv'
    self.names: set[str] = set()
    self.rows = 0
    self._made_by, self._bytes, self._crc, self._checksums, self._described = dict(made_by), 0, 0, '', 0.0
    self._file = sys.stdout.buffer if path is None else self._open(path)
    if self._headed and (path is None or not self._file.tell()):
      self._append([self._columns])

  def _open(self, path: str) -> io.BufferedRandom:
    promised = ''
    if exists(path) and exists(path + DESCRIPTION):
      promised = read_json_object(path + DESCRIPTION).get(CHECKSUMS, '')
    try:
      file = open_local(path, 'a+b')
    except OSError as error:
      raise UserError(f'{path} cannot be written ({error.strerror}): choose another --out') from error
    file.seek(0)
    for line in file:
      if line.endswith(b'\n'):
        self._read_row(line, is_header=self._headed and not self._checksums)
        self._count([line])
    if not (self._checksums.startswith(promised) or promised.startswith(self._checksums)):
      raise UserError(f'{path} has other rows than were written: restore it, or choose another --out')
    file.truncate(self._bytes)
    file.seek(0, os.SEEK_END)
    self._describe()
    return file

  def _count(self, lines: Iterable[bytes]) -> None:
    for line in lines:
      self._bytes, self._crc = self._bytes + len(line), google_crc32c.extend(self._crc, line)
      self._checksums += f'{self._crc:08x}'

  def _describe(self) -> None:
    """Writes the description of the table. After a kill, rows that came later cannot be known from damaged ones."""
    if self._path is not None:
      write_sealed(self._path + DESCRIPTION, self._made_by | {CHECKSUMS: self._checksums})
      self._described = time.monotonic()

  def _read_row(self, line: bytes, is_header: bool) -> None:
    try:
      if self._format == 'csv':
        row = [csv_text(cell) for cell in next(csv.reader([line.decode()]))]
      else:
        row = list(json.loads(line).values())
      if len(row) != len(self._columns) or row[0] in self.names:
        raise ValueError('another number of columns, or an image that has a row')
    except (ValueError, TypeError, AttributeError, RecursionError, csv.Error) as error:
      raise UserError(f'{self._path} has a row that no run of this command wrote: choose another --out') from error
    if not is_header:
      self.names.add(row[0])
      self.rows += 1
    elif row != self._columns:
      raise UserError(f'{self._path} has other columns ({_shorten(row)}): choose another --out')

  def write(self, columns: Mapping[str, Sequence[Value]]) -> None:
    """Appends rows and passes them to the system, so that they survive a kill.

    Args:
      columns: the values by column, equally many. A number keeps 6 decimals; None is an empty cell.

    Raises:
      UserError: the disk is full, or the reader of standard output is gone.
    """
    self._append(zip(*(columns[name] for name in self._columns), strict=True))

  def _encode(self, rows: Iterable[Sequence[Value]]) -> str:
    if self._format == 'csv':
      return csv_lines(rows)
    lines = []
    for row in rows:
      values = (round(value, DECIMALS) if isinstance(value, float) else value for value in row)
      lines.append(json.dumps(dict(zip(self._columns, values)), ensure_ascii=False, allow_nan=False) + '\n')
    return ''.join(lines)

  def _append(self, rows: Iterable[Sequence[Value]]) -> None:
    encoded = self._encode(rows).encode()
    try:
      self._file.write(encoded)
      self._file.flush()
      self._count(io.BytesIO(encoded))
      if time.monotonic() - self._described > DESCRIBE_SECONDS:
        self._describe()
    except BrokenPipeError as error:
      os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes it once more at exit
      raise UserError(
          'nobody reads standard output any more: the rest is not predicted; --out=FILE keeps all') from error
    except OSError as error:
      remedy = 'then run the same command with --append' if self._path else 'or give a file, --out=FILE'
      raise UserError(
          f'{self._path or "standard output"} cannot be written ({error.strerror}): free some space, {remedy}'
      ) from error

  def close(self) -> None:
    """Closes the file, and describes what it holds now."""
    if self._path is not None:
      self._file.close()
      self._describe()


def _shorten(value: Any) -> str:
  text = ', '.join(map(str, value)) if isinstance(value, list) else str(value)
  return text if len(text) <= 60 else text[:57] + '...'
