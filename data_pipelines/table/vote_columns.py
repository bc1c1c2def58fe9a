"""Finds whether several columns of votes are classes with counts, or persons with the class that each chose."""

from collections.abc import Iterable, Sequence
import re
from typing import Any, NamedTuple

from data_pipelines.source_files.text_files import TableRow, plain
from data_pipelines.table import cells
from data_pipelines.table.columns import ROLES, Columns


class VoteReading(NamedTuple):
  """How columns of votes are read. chosen: whether a column is a person, and not a class. said: what is printed."""

  chosen: bool
  said: str


def read_votes_as(columns: Columns, rows: Iterable[TableRow], classes: Sequence[str]) -> VoteReading | None:
  """Decides how the columns of votes are read, for all rows alike; None for one column, unless it lists numbers.

  Texts are classes that people chose, and fractions are shares. Whole numbers may be either: they are classes if
  classes are known and no heading is one, or if the headings name persons, such as rater_1; else they are counts.

  Args:
    columns: the columns of the table.
    rows: all rows, with the cells of these columns.
    classes: all classes that there may be; () for any.
  """
  names = [column.name for column in columns.votes]
  if len(names) < 2:
    lists = (row.cells[name] for row in rows for name in names if not row.problem)
    return _NUMBERED if classes and any(map(_is_list_of_numbers, lists)) else None
  chosen = f'classes chosen by {len(names)} people, a column each'
  counted = f'counts of votes, a class a column ({len(names)})'
  if 'choices' in columns.of_role:
    return VoteReading(True, chosen)
  numbers, whole, texts = 0, True, 0
  for row in rows:
    for name in names if not row.problem else ():
      value = cells.count_in(row.cells[name], row.decimal)
      if value is None:
        texts += not cells.is_missing(row.cells[name])
      else:
        numbers, whole = numbers + 1, whole and value.is_integer()
  if not whole or not numbers or texts >= numbers:
    return VoteReading(texts > 0 and texts >= numbers, chosen if texts and texts >= numbers else counted)
  if {cells.class_key(name) for name in names} & set(map(cells.class_key, classes)):
    return VoteReading(False, counted)
  if classes or all(map(_is_person, names)):
    return VoteReading(True, f'{chosen}; if they are counts, give each column the name of its class')
  return VoteReading(
      False,
      f'{counted}; if each column is a person and its numbers are classes, write --column=choices={",".join(names)}')


_NUMBERED = VoteReading(
    False, 'numbers of the classes that were voted for; if they are counts, give a column a class, or {"joy": 3}')


def _is_list_of_numbers(cell: Any) -> bool:
  entries = [] if cells.is_missing(cell) or isinstance(cell, dict) else cells.listed(cell)
  return len(entries) > 1 and all(cells.count_in(entry, '.') is not None for entry in entries)


def _is_person(heading: str) -> bool:
  return re.sub(r'\d+$', '', plain(heading)) in set(map(plain, ROLES['annotator']))


def number_line(classes: Sequence[str]) -> str:
  """Says for people what a number in the place of a class means."""
  return f'  numbers of classes count from 0: 0 is {classes[0]}, {len(classes) - 1} is {classes[-1]}'
