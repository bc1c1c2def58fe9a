"""Reads a user's text files and tables, as editors and spreadsheets of any country save them."""

from collections.abc import Collection, Iterator, Sequence
import csv
import io
import os
import re
from typing import Any, NamedTuple

from data_pipelines import storage
from data_pipelines.errors import UserError
from data_pipelines.plain_text import decode_text

_DELIMITERS = ',;\t|'
_REMEDY = 'save it as CSV in UTF-8'
_MAX_CELL = 2**24
csv.field_size_limit(_MAX_CELL)  # For all of the process; by default a cell of 128 kB ends it.


class TableRow(NamedTuple):
  """One row of a table.

  Attributes:
    place: 'FILE line N' or 'FILE row N', for messages.
    cells: the cells by heading; those of a text table are texts, those of other forms what Python has for them.
    decimal: the mark before the decimals of a number in a text.
    problem: why the row cannot be used, if it cannot.
  """

  place: str
  cells: dict[str, Any]
  decimal: str = '.'
  problem: str = ''

  def number(self, column: str) -> float:
    """Reads the number in a text cell. Raises ValueError if there is none."""
    return float(self.cells[column].replace(self.decimal, '.'))


class TextTable(NamedTuple):
  """An opened table of text: its path, headings, delimiter, and the text of its rows with the lines before them."""

  path: str
  headings: list[str]
  delimiter: str
  text: str
  before: int

  def rows(self) -> Iterator[TableRow]:
    """Yields the rows; empty lines do not count. A row whose cells are not as many as the headings has a `problem`.

    Raises UserError if a quote does not end, or ends within its cell.
    """
    # Without `strict`, a quote that never ends takes the rest of the file into its cell.
    reader = csv.reader(io.StringIO(self.text, newline=''), delimiter=self.delimiter, strict=True)
    decimal = '.' if self.delimiter == ',' else ','
    width, line = len(self.headings), self.before + 1
    try:
      for number, cells in enumerate(reader):
        while len(cells) > width and not cells[-1].strip():  # Spreadsheets write empty ones.
          cells.pop()
        if number and any(map(str.strip, cells)):
          problem = '' if len(cells) == width else f'{len(cells)} cells under {width} headings: put texts in quotes'
          place = f'{self.path} line {self.before + reader.line_num}'
          yield TableRow(place, dict(zip(self.headings, cells)), decimal, problem)
        line = self.before + reader.line_num + 1
    except csv.Error as error:
      why = f'a cell of more than {_MAX_CELL:,} characters' if 'field larger' in str(error) else error
      raise UserError(f'{self.path} line {line}: {why}: correct its quotes') from error


def read_text(path: str | os.PathLike, remedy: str = 'save it as text in UTF-8', errors: str = 'strict') -> str:
  """Reads the file's text, see `decode_text`, with \n as line end.

  Raises:
    UserError: the file cannot be read, or is no text; the message names it.
  """
  with storage.parsing(path, remedy):
    try:
      content = storage.read_bytes(path)
    except IsADirectoryError as error:
      raise UserError(f'{os.fspath(path)} is a folder: {remedy}') from error
    try:
      return decode_text(content, errors).replace('\r\n', '\n').replace('\r', '\n')
    except UnicodeDecodeError as error:
      if error.encoding != 'utf-8':
        raise
      line = content[:error.start].count(b'\n') + 1
      raise UserError(
          f'{os.fspath(path)} is not in UTF-8, first in line {line}, but perhaps in Windows-1252 or Latin-1: '
          f'{remedy}') from error


def read_table(path: str | os.PathLike, columns: Sequence[str], optional: Sequence[str] = ()) -> Iterator[TableRow]:
  """Reads the rows of a CSV file that has these columns, in any order and beside others; empty lines do not count.

  Cells are separated by commas, or by semicolons, tabs or bars, with which numbers may have a decimal comma. Only
  letters and digits of headings count, in any case; the cells have them as in `columns` and `optional`.

  Raises:
    UserError: the file is no CSV, a column is missing or there twice, or a row is too short; the message names the
      line.
  """
  known = {plain(column): column for column in [*columns, *optional]}
  with storage.parsing(path, _REMEDY):
    table = open_text_table(path, known)
    headings = [known.get(plain(heading), heading) for heading in table.headings]
    for column in columns:
      if headings.count(column) != 1:
        problem = 'has two columns' if column in headings else 'lacks column'
        raise UserError(f"{path} {problem} '{column}': its first line must hold {','.join(columns)}")
    for row in table._replace(headings=headings).rows():
      if not row.cells.keys() >= set(columns):
        raise UserError(f'{row.place} is too short: it must hold {",".join(columns)}')
      yield row


def open_text_table(path: str | os.PathLike, expected: Collection[str] = ()) -> TextTable:
  """Opens a table whose cells are separated by commas, semicolons, tabs or bars: whichever gives more headings.

  Args:
    path: the file.
    expected: headings as `plain` gives them; those that are met count before others.

  Raises:
    UserError: the file is no text, or empty.
  """
  with storage.parsing(path, _REMEDY):
    text = read_text(path, _REMEDY)
    start = text.lstrip('\n')
    if start[:4].lower() == 'sep=':  # Excel's own hint.
      start = start.partition('\n')[2]

    def headings_of(delimiter: str) -> list[str]:
      return next(csv.reader(io.StringIO(start, newline=''), delimiter=delimiter), [])

    def fit(delimiter: str) -> tuple[int, int]:
      headings = headings_of(delimiter)
      return len(set(map(plain, headings)).intersection(expected)), len(headings)

    delimiter = max(_DELIMITERS, key=fit)
    headings = [heading.strip() for heading in headings_of(delimiter)]
    return TextTable(os.fspath(path), headings, delimiter, start, text[:len(text) - len(start)].count('\n'))


def plain(heading: str) -> str:
  """Keeps the heading's letters and digits, in lower case: what two spellings of it have in common."""
  return re.sub(r'[\W_]', '', heading).casefold()


def without_decimal(cell: str) -> str:
  """Returns 25 for 25.0, which pandas writes if another cell of the column is empty; any other text as it is."""
  return cell[:-2] if re.fullmatch(r'-?\d+[.,]0', cell) else cell
