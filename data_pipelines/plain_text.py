"""Makes text of unknown origin safe to show: labels, file names and settings must be nothing but text.

Three places read such text as more than that. A terminal obeys escape sequences, Markdown turns it into links, HTML and
table cells, and a spreadsheet runs a cell of a CSV file that begins like a formula. Each has one function here; Jinja
escapes HTML pages (`page_rendering`).
"""

import codecs
from collections import Counter
from collections.abc import Iterable, Sequence
import re
import reprlib
from typing import Any

from data_pipelines.errors import UserError

_FORMULA = re.compile(r"'*[=+\-@\t\r\n]")
_MARKDOWN = re.compile(r'[\\`\[\]<>|&]|(?<=[A-Za-z]):(?=//)|(?<=www)\.', re.IGNORECASE)
_MARKS = ((codecs.BOM_UTF8, 'utf-8'), (codecs.BOM_UTF32_LE, 'utf-32-le'), (codecs.BOM_UTF32_BE, 'utf-32-be'),
          (codecs.BOM_UTF16_LE, 'utf-16-le'), (codecs.BOM_UTF16_BE, 'utf-16-be'), (b'', 'utf-8'))  # fmt: skip


def visible(text: str) -> str:
  """Replaces line ends, control characters and others that change how the rest is shown by backslash codes."""
  return ''.join(
      character if character.isprintable() else character.encode('unicode_escape').decode() for character in text)


def decode_text(content: bytes, errors: str = 'strict') -> str:
  """Decodes a file's text: UTF-8, or UTF-16 or UTF-32 if zero bytes or the mark at its start, left out, say so.

  `errors` is for UTF-8 alone, as in `bytes.decode`. Raises ValueError if the text is none of these.
  """
  mark, encoding = next(kind for kind in _MARKS if content.startswith(kind[0]))
  if not mark and 0 in content[:2]:
    encoding = 'utf-16-be' if content[0] == 0 else 'utf-16-le'
  text = content[len(mark):].decode(encoding, errors if encoding == 'utf-8' else 'strict')
  if '\0' in text:
    raise ValueError('it holds zero bytes')
  return text


def single_line(text: str) -> str:
  """Makes text `visible`, and all white space in it a single space."""
  return visible(' '.join(text.split()))


def check_labels(names: Any, source: object) -> None:
  """Raises UserError about `source` unless `names` are texts of 1 to 200 characters, all of them visible."""
  wrong = [name for name in names if not isinstance(name, str) or not 0 < len(name) <= 200 or not name.isprintable()]
  if wrong:
    length = len(wrong[0]) if isinstance(wrong[0], str) else 0
    remedy = f'shorten it, {length} characters are over 200' if length > 200 else 'rename it, to letters on one line'
    raise UserError(f'{source} has the label {reprlib.repr(wrong[0])}: {remedy}')


def first_double(names: Iterable[str]) -> str | None:
  """The first name that occurs twice; None if all differ."""
  return next((name for name, times in Counter(names).items() if times > 1), None)


def check_distinct(names: Sequence[str], source: object) -> None:
  """Raises UserError about `source` if a label occurs twice: two columns of a table would have one name."""
  if (double := first_double(names)) is not None:
    raise UserError(f"{source} has the label '{single_line(double)}' twice: give each class a name of its own")


def csv_cell(value: Any) -> Any:
  """Makes a cell that no spreadsheet takes for a formula.

  Text that begins with = + - @, a tab or a line end gets an apostrophe in front, which spreadsheets take as "this is
  text". Numbers stay as they are, those in a text, too. Text that looks like the result gets one more apostrophe, so
  that `csv_text` gives back exactly what was written.
  """
  if not isinstance(value, str) or not _FORMULA.match(value):
    return value
  try:
    float(value)
  except ValueError:
    return f"'{value}"
  return value


def csv_text(cell: str) -> str:
  """Restores the text that `csv_cell` was given; any other cell stays as it is."""
  return cell[1:] if cell.startswith("'") and _FORMULA.match(cell) else cell


def markdown_text(value: Any) -> Any:
  """Escapes text within a line of Markdown or a cell of its tables, so that it shows as itself; numbers stay.

  It escapes what makes code, links, images, HTML, entities or cells, and addresses that GitHub links by itself. It does
  not escape asterisks and underscores: at worst they slant a word, and names are full of them.
  """
  return _MARKDOWN.sub(r'\\\g<0>', visible(re.sub(r'\s+', ' ', value))) if isinstance(value, str) else value


def markdown_code(text: str) -> str:
  """Makes text code within a line, where nothing is escaped and only a backtick ends it."""
  return '`' + single_line(text).replace('`', "'") + '`'
