"""Reads the cells of a table of any form. If a cell holds nothing usable, a ValueError says why."""

import collections
from collections.abc import Iterable, Mapping, Sequence
import contextlib
import json
import math
import re
from typing import Any
import unicodedata

from data_pipelines.source_files.text_files import without_decimal

MISSING = ('', 'nan', 'na', 'n/a', 'null', 'none')
_AS_JSON = str.maketrans("()'", '[]"')
"""Tuples and quotes of Python."""
_OPENING, _CLOSING = ('[', '(', '{'), (']', ')', '}')
_CORNERS, _SIDES = ('x1', 'y1', 'x2', 'y2'), ('x', 'y', 'w', 'h')
_BOX_KEYS = {
    'xmin': 'x1', 'left': 'x1', 'ymin': 'y1', 'top': 'y1', 'xmax': 'x2', 'right': 'x2', 'ymax': 'y2', 'bottom': 'y2',
    'width': 'w', 'height': 'h'}


def is_missing(cell: Any) -> bool:
  """Whether a cell says nothing: it has no value, NaN, or a text that means that."""
  if isinstance(cell, str):
    return cell.strip().casefold() in MISSING
  return cell is None or isinstance(cell, float) and math.isnan(cell)


def number(cell: Any, decimal: str = '.') -> float:
  """Reads the finite number in a cell; NaN if the cell says nothing."""
  if is_missing(cell):
    return math.nan
  try:
    value = float(cell.replace(decimal, '.') if isinstance(cell, str) else cell)
  except (TypeError, ValueError) as error:
    remedy = ''
    if isinstance(cell, str) and re.fullmatch(r"[-+\d.,' \u00a0\u202f]*\d", cell.strip()):
      remedy = f": write it as 1234{decimal}5, with '{decimal}' before decimals and nothing between thousands"
    raise ValueError(f"'{cell}' is no number{remedy}") from error
  if not math.isfinite(value):
    raise ValueError(f"'{cell}' is not finite")
  return value


def text(cell: Any) -> str:
  """Reads a text; '' if the cell says nothing. Whole numbers have no decimals, whatever the file made of them."""
  if is_missing(cell):
    return ''
  if isinstance(cell, float) and cell.is_integer():
    cell = int(cell)
  if isinstance(cell, (str, int, float)):
    return without_decimal(str(cell).strip())
  raise ValueError(f"{'an object' if isinstance(cell, dict) else 'a list'} where a text should be: {cell}")


def label(cell: Any, names: Sequence[str]) -> str:
  """Reads the name of a class; '' for none. A number is the index into `names`, if there are any; -1 means none."""
  if isinstance(cell, (list, tuple)) or isinstance(cell, str) and re.fullmatch(r'\s*\[.*\]\s*', cell):
    entries = listed(cell)
    if len(entries) > 1:
      raise ValueError(f"'{cell}' is several classes: name their column with --column=labels=NAME")
    cell = entries[0] if entries else None
  found = text(cell)
  if not names or not re.fullmatch(r'-?\d+', found) or found in names:
    return found
  index = int(found)
  if not -1 <= index < len(names):
    raise ValueError(
        f'class {index} is none of the {len(names)}: numbers count from 0; if these count from 1, write a name for 0 '
        'before the others in --labels')
  return names[index] if index >= 0 else ''


def listed(cell: Any) -> list[Any]:
  """Reads the entries of a list, or of a text such as 'a|b', 'a; b', 'a / b' or "['a', 'b']"; [] for none."""
  if not isinstance(cell, str):
    return [] if is_missing(cell) else list(cell) if isinstance(cell, (list, tuple)) else [cell]
  inner = cell.strip()
  in_brackets = inner[:1] in _OPENING and inner[-1:] in _CLOSING
  if in_brackets:
    inner = inner[1:-1]
    if quoted := re.findall(r"""'([^']*)'|"([^"]*)\"""", inner):  # As numpy writes it, there are no commas between.
      return [one or other for one, other in quoted]
    if re.fullmatch(r'[-\d.\s]+', inner):
      return inner.split()
  return [part.strip(' \t\n\'"') for part in re.split(r'[|;,]|\s/\s', inner)]


def labels(cell: Any, names: Sequence[str]) -> list[str]:
  """Reads the classes of `listed`, each once; [] for none."""
  return [] if is_missing(cell) else list(dict.fromkeys(filter(None, (label(entry, names) for entry in listed(cell)))))


def class_key(name: str) -> str:
  """The key that all spellings of a class share: case and spaces do not make another class."""
  return ' '.join(unicodedata.normalize('NFC', name).split()).casefold()


def flag(cell: Any) -> bool:
  """Reads whether a class is present: 0 or 1, yes or no, true or false, an x or nothing."""
  word = '' if is_missing(cell) else str(cell).strip().casefold()
  if word in ('1', '1.0', '1,0', 'true', 'yes', 'x'):
    return True
  if word in ('', '0', '0.0', '0,0', 'false', 'no'):
    return False
  raise ValueError(f"'{cell}' is neither 0 nor 1")


def votes(cell: Any, names: Sequence[str]) -> dict[str, float]:
  """Reads counts or shares by class, from an object of numbers or a list of the classes voted for; {} for none."""
  if isinstance(cell, str) and cell.strip().startswith('{'):
    try:
      cell = json.loads(cell.replace("'", '"'))  # Python writes its own with single quotes.
    except json.JSONDecodeError as error:
      raise ValueError(f"'{cell}' is no object such as {{\"joy\": 3}}") from error
  if isinstance(cell, dict):
    return {name.strip(): number(value) for name, value in cell.items() if not is_missing(value)}
  voted = [] if is_missing(cell) else listed(cell)
  if not names and voted and all(count_in(entry, '.') is not None for entry in voted):
    raise ValueError(f"'{cell}' holds numbers, where votes by class should be: give a column a class, or --labels")
  return choices(voted, names)


def choices(voted: Iterable[Any], names: Sequence[str]) -> dict[str, float]:
  """Counts how often each class was chosen, in cells that each hold one, or nothing."""
  return dict(collections.Counter(filter(None, (label(entry, names) for entry in voted))))


def count_in(cell: Any, decimal: str) -> float | None:
  """Reads the number of votes, or their share, in a cell; None if it holds something else, or nothing."""
  with contextlib.suppress(ValueError):
    value = number(cell.rstrip(' %') if isinstance(cell, str) else cell, decimal)
    return None if math.isnan(value) else value
  return None


def counts(cells: Mapping[str, Any], decimal: str) -> dict[str, float]:
  """Reads counts, shares or percent by class, from a column for each; an empty cell is 0."""
  found = {}
  for name, cell in cells.items():
    if not is_missing(cell):
      found[name] = number(cell.rstrip(' %') if isinstance(cell, str) else cell, decimal)
  return found


def boxes(cell: Any, sides: bool) -> list[tuple[float, ...]]:
  """Reads the boxes in a cell, as (xmin, ymin, xmax, ymax).

  Args:
    cell: four numbers, or four for each box; an object with four; a list of objects; or any of these as a text.
    sides: whether four numbers are x, y, width and height, and not two corners. An object says so by its keys.
  """
  if is_missing(cell):
    return []
  if isinstance(cell, str):
    cell = cell.translate(_AS_JSON)
    try:
      cell = json.loads(cell)
    except ValueError:
      cell = cell.strip(' []')  # Of numpy, which writes no commas.
      parts = re.split(r'[\s;]+', cell)  # Else 0,1 0,2 0,3 0,4 would be eight numbers.
      parts = parts if len(parts) == 4 else re.split(r'[\s;,]+', cell)
      cell = [number(part.rstrip(','), ',') for part in parts]
  if isinstance(cell, dict):
    return [_keyed_box(cell)]
  if not isinstance(cell, (list, tuple)):
    raise ValueError(f"'{cell}' is no box")
  if cell and all(isinstance(value, (int, float)) for value in cell):
    fours = [cell] if len(cell) % 4 else [cell[start:start + 4] for start in range(0, len(cell), 4)]
    return [box_of([number(value) for value in four], sides) for four in fours]
  return [box for entry in cell for box in boxes(entry, sides)]


def box_of(values: Sequence[float], sides: bool) -> tuple[float, ...]:
  """Makes a box of its four numbers; see `boxes`."""
  if len(values) != 4 or not all(map(math.isfinite, values)):
    raise ValueError(
        f'a box of {len(values)} numbers, not of four' if len(values) != 4 else 'a box without all numbers')
  xmin, ymin, xmax, ymax = values
  if sides:
    xmax, ymax = xmin + xmax, ymin + ymax
  if xmax <= xmin or ymax <= ymin:
    hint = '' if sides else '; if these are x, y, width and height, give --box_format=sides'
    raise ValueError(f'a box without area, or inverted: {values}{hint}')
  return xmin, ymin, xmax, ymax


def _keyed_box(cell: dict[str, Any]) -> tuple[float, ...]:
  keyed = {_BOX_KEYS.get(name.casefold(), name.casefold()): value for name, value in cell.items()}
  for left, top in (('x1', 'x'), ('y1', 'y')):
    keyed.setdefault(top, keyed.get(left))
  for names, sides in ((_CORNERS, False), (_SIDES, True)):
    if all(keyed.get(name) is not None for name in names):
      return box_of([number(keyed[name]) for name in names], sides)
  raise ValueError(f'a box with the keys {", ".join(cell)}')
