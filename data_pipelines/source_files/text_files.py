"""A user's text files and tables, as editors and spreadsheets of any country save them."""

from collections.abc import Iterator, Sequence
import csv
import io
import os
import re
from typing import NamedTuple

from data_pipelines import storage
from data_pipelines.errors import UserError
from data_pipelines.plain_text import decode_text

_DELIMITERS = ',;\t'


class TableRow(NamedTuple):
  """place: 'FILE line N', for messages; cells: by heading; decimal: the mark before the decimals of a number."""

  place: str
  cells: dict[str, str]
  decimal: str

  def number(self, column: str) -> float:
    """The number in a cell. Raises ValueError if there is none."""
    return float(self.cells[column].replace(self.decimal, '.'))


def read_text(path: str | os.PathLike, remedy: str = 'save it as text in UTF-8', errors: str = 'strict') -> str:
  """The file's text, see `decode_text`, with \n as line end.

  Raises:
    UserError: it cannot be read, or is no text; names the file.
  """
  with storage.parsing(path, remedy):
    return decode_text(storage.read_bytes(path), errors).replace('\r\n', '\n').replace('\r', '\n')


def read_table(path: str | os.PathLike, columns: Sequence[str], optional: Sequence[str] = ()) -> Iterator[TableRow]:
  """The rows of a CSV file that has these columns, in any order and beside others; empty lines do not count.

  Cells are separated by commas, or by semicolons or tabs, where numbers may have a decimal comma. Headings may differ
  in all but letters and digits, and in case; the cells have them as in `columns` and `optional`.

  Raises:
    UserError: the file is no CSV, a column is missing or there twice, or a row is too short; names the line.
  """
  remedy = 'save it as CSV in UTF-8'
  text = read_text(path, remedy)
  with storage.parsing(path, remedy):
    start = text.lstrip('\n')
    if start[:4].lower() == 'sep=':  # Excel's own hint.
      start = start.partition('\n')[2]
    known = {_plain(column): column for column in [*columns, *optional]}

    def headings_of(delimiter: str) -> list[str]:
      cells = next(csv.reader(io.StringIO(start, newline=''), delimiter=delimiter), [])
      return [known.get(_plain(cell), cell) for cell in cells]

    delimiter = max(_DELIMITERS, key=lambda delimiter: len(set(known.values()).intersection(headings_of(delimiter))))
    headings = headings_of(delimiter)
    for column in columns:
      if headings.count(column) != 1:
        problem = 'has two columns' if column in headings else 'lacks column'
        raise UserError(f"{path} {problem} '{column}': its first line must hold {','.join(columns)}")
    # Line numbers are those of the file, with the lines before the headings.
    before = text[:len(text) - len(start)].count('\n')
    reader = csv.reader(io.StringIO(start, newline=''), delimiter=delimiter)
    next(reader)
    for cells in reader:
      place = f'{path} line {before + reader.line_num}'
      if any(map(str.strip, cells)):
        if len(cells) < len(headings) and not set(headings[len(cells):]).isdisjoint(columns):
          raise UserError(f'{place} is too short: it must hold {",".join(columns)}')
        yield TableRow(place, dict(zip(headings, cells)), '.' if delimiter == ',' else ',')


def _plain(heading: str) -> str:
  return re.sub(r'[\W_]', '', heading).casefold()
