"""A table that grows on disk by whole rows, as CSV or JSON lines, and that a later run can continue."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
import csv
import io
import json
import math
import os
import sys
from typing import Any

from data_pipelines.errors import UserError
from uniemox_jax.runtime.files import read_json, write_json

FORMATS = ('csv', 'jsonl')
DESCRIPTION = '.made_by.json'
"""Ending of the file beside the table that describes what its rows were made with."""
DECIMALS = 6

Cell = str | float | None


def format_of(path: str | None) -> str:
  """The format by a file's ending; CSV by default."""
  return 'jsonl' if path and path.lower().endswith(('.jsonl', '.json', '.ndjson')) else 'csv'


def check_append(path: str | None, made_by: Mapping[str, Any], append: bool) -> dict[str, Any] | None:
  """The description of the table that this run continues; None if it makes a new one.

  Args:
    path: of the table, None for standard output.
    made_by: what this run makes rows with; the table's description must agree in these keys.
    append: whether an existing table may be continued.

  Raises:
    UserError: the table exists and may not be continued, or was made with something else.
  """
  if path is None:
    if append:
      raise UserError('--append needs a file to continue: add --out=FILE')
    return None
  if not os.path.lexists(path):
    return None
  if not append:
    raise UserError(f'{path} exists already: continue it with --append, or choose another --out')
  try:
    found = read_json(path + DESCRIPTION)
  except (OSError, ValueError) as error:
    raise UserError(
        f'{path} is of unknown origin, for {path}{DESCRIPTION} is missing or no JSON: choose another --out') from error
  for key, value in made_by.items():
    if found.get(key) != value:
      raise UserError(
          f"{path} was made with another {key.replace('_', ' ')} ({_shorten(found.get(key))}, now "
          f'{_shorten(value)}): use the same, or choose another --out')
  return found


class PredictionTable:
  """Appends rows to a table.

  Attributes:
    names: first cells of the rows from an earlier run.
    rows: number of these rows.
  """

  def __init__(self, path: str | None, file_format: str, columns: Sequence[str], made_by: Mapping[str, Any]):
    """Opens a table that `check_append` allows: removes a half-written last row, or writes the header.

    Args:
      path: of the table, None for standard output.
      file_format: one of FORMATS.
      columns: names in order.
      made_by: written beside the table.

    Raises:
      UserError: the table cannot be written, or has another header.
    """
    self._path, self._format, self._columns = path, file_format, list(columns)
    self.names: set[str] = set()
    self.rows = 0
    self._file = sys.stdout.buffer if path is None else self._open(path, made_by)
    if self._file is sys.stdout.buffer or not self._file.tell():
      self._append(_to_csv([self._columns]) if file_format == 'csv' else '')

  def _open(self, path: str, made_by: Mapping[str, Any]) -> io.BufferedRandom:
    try:
      write_json(path + DESCRIPTION, dict(made_by))
      file = open(path, 'a+b')  # noqa: SIM115 - closed by `close`
    except OSError as error:
      raise UserError(f'{path} cannot be written ({error.strerror}): choose another --out') from error
    file.seek(0)
    whole = 0
    for line in file:
      if line.endswith(b'\n'):
        self._remember(line, whole == 0)
        whole += len(line)
    file.truncate(whole)
    file.seek(0, os.SEEK_END)
    return file

  def _remember(self, line: bytes, first: bool) -> None:
    try:
      row = self._parsed(line.decode())
    except (ValueError, csv.Error) as error:
      raise UserError(f'{self._path} has a row that no run of this command wrote: choose another --out') from error
    if first and self._format == 'csv':
      if row != self._columns:
        raise UserError(f'{self._path} has other columns ({_shorten(row)}): choose another --out')
      return
    self.names.add(row[0])
    self.rows += 1

  def _parsed(self, line: str) -> list[Any]:
    cells = next(csv.reader([line])) if self._format == 'csv' else list(json.loads(line).values())
    if len(cells) != len(self._columns):
      raise ValueError('another number of cells')
    return cells

  def write(self, columns: Mapping[str, Sequence[Cell]]) -> None:
    """Appends rows and passes them to the system, so that they survive a kill.

    Args:
      columns: by name, equally long. A number keeps 6 decimals; None is an empty cell.

    Raises:
      UserError: the disk is full, or the reader of standard output is gone.
    """
    rows = zip(*(columns[name] for name in self._columns), strict=True)
    self._append(_to_csv(map(_as_text, rows)) if self._format == 'csv' else ''.join(self._json(rows)))

  def _json(self, rows: Iterable[Sequence[Cell]]) -> Iterator[str]:
    for row in rows:
      cells = [round(cell, DECIMALS) if isinstance(cell, float) and math.isfinite(cell) else cell for cell in row]
      yield json.dumps(dict(zip(self._columns, cells)), ensure_ascii=False, allow_nan=False) + '\n'

  def _append(self, text: str) -> None:
    try:
      self._file.write(text.encode())
      self._file.flush()
    except BrokenPipeError as error:
      os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes it once more at exit
      raise UserError(
          'nobody reads standard output any more: the rest is not predicted; --out=FILE keeps all') from error
    except OSError as error:
      raise UserError(
          f'{self._path or "standard output"} cannot be written ({error.strerror}): free some space, then '
          'run the same command with --append') from error

  def close(self) -> None:
    """Closes the file."""
    if self._path is not None:
      self._file.close()


def _to_csv(rows: Iterable[Sequence[str]]) -> str:
  buffer = io.StringIO(newline='')
  csv.writer(buffer, lineterminator='\n').writerows(rows)
  return buffer.getvalue()


def _as_text(row: Iterable[Cell]) -> list[str]:
  return ['' if cell is None else f'{cell:.{DECIMALS}f}' if isinstance(cell, float) else cell for cell in row]


def _shorten(value: Any) -> str:
  text = ', '.join(map(str, value)) if isinstance(value, list) else str(value)
  return text if len(text) <= 60 else text[:57] + '...'
