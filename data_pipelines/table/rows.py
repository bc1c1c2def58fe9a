"""From the rows of tables to examples: what the cells of one say, and what several rows of one image say together."""

import collections
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
import dataclasses
import itertools
import math
import re
from typing import Any, NamedTuple

from data_pipelines.building.splits import split_named
from data_pipelines.records.label_sets import VAD
from data_pipelines.source_files.text_files import TableRow
from data_pipelines.table import cells
from data_pipelines.table.columns import SIDES, Columns


@dataclasses.dataclass(frozen=True, slots=True)
class Rating:
  """What one row says.

  Attributes:
    place: of the row, for messages.
    table, number: the rank of its table, and its row there from 0: where the bytes of an image are.
    image: the path that it gives, '' for none.
    id: of the record, '' for none; so are `label`, `annotator`, `split`, `group` and `domain`.
    labels: of several classes.
    votes: counts or shares by class.
    vad: valence, arousal, dominance, NaN where not said.
    boxes: as `cells.boxes` gives them.
    attributes: caption, domain, subject and confidence, where they are said.
    problem: why the row cannot be used, if it cannot.
  """

  place: str
  table: int
  number: int
  image: str = ''
  id: str = ''
  label: str = ''
  labels: tuple[str, ...] = ()
  votes: Mapping[str, float] = dataclasses.field(default_factory=dict)
  annotator: str = ''
  vad: tuple[float, ...] = (math.nan, math.nan, math.nan)
  boxes: tuple[tuple[float, ...], ...] = ()
  split: str = ''
  group: str = ''
  attributes: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  problem: str = ''

  def says(self) -> tuple:
    """All that two rows of one image must agree in."""
    return self.label, self.labels, tuple(self.votes.items()), self.split, self.group, str((self.vad, self.attributes))


class Reading(NamedTuple):
  """How the rows of one table are read.

  Attributes:
    columns: what its columns mean.
    table: its rank among the tables.
    split: of all its rows; '' if they say it themselves, or nothing does.
    classes: all that there may be, in any case; () for any.
    scale: lowest and highest value of valence, arousal and dominance; None if not declared.
    sides: whether boxes are x, y, width and height.
  """

  columns: Columns
  table: int
  split: str = ''
  classes: tuple[str, ...] = ()
  scale: tuple[float, float] | None = None
  sides: bool = False

  def ratings(self, rows: Iterable[TableRow]) -> Iterator[Rating]:
    """Each row as a Rating; one that cannot be used has a problem."""
    for number, row in enumerate(rows):
      try:
        if row.problem:
          raise ValueError(row.problem)
        yield self._rating(row, number)
      except ValueError as error:
        image = row.cells.get(self.columns.name('image') or '')
        yield Rating(
            row.place, self.table, number, image if isinstance(image, str) else '', split=self.split,
            problem=str(error))

  def _rating(self, row: TableRow, number: int) -> Rating:

    def said(role: str) -> Any:
      name = self.columns.name(role)
      return row.cells.get(name) if name else None

    numbers = [cells.number(said(name), row.decimal) for name in VAD]
    low, high = self.scale or (-math.inf, math.inf)
    if outside := [value for value in numbers if value < low or value > high]:
      raise ValueError(f'{outside[0]:g} is outside the scale {low:g} to {high:g}')
    image = said('image')
    if isinstance(image, dict):
      image = image.get('path')
    subject = said('subject')
    attributes = {
        'caption': ' '.join(cells.text(said('caption')).split()), 'domain': cells.text(said('domain')),
        'subject': ', '.join(map(cells.text, subject)) if isinstance(subject, list) else cells.text(subject)}
    confidence = cells.number(said('confidence'), row.decimal)
    return Rating(
        row.place, self.table, number, cells.text(image), cells.text(said('id')), self._label(row), self._labels(row),
        self._votes(row), cells.text(said('annotator')), tuple(numbers), self._boxes(row), self._split(said('split')),
        cells.text(said('group')), {name: value for name, value in attributes.items() if value} |
        ({} if math.isnan(confidence) else {'confidence': confidence}))

  def _named(self, found: str) -> str:
    """The class as it is spelled among `classes`."""
    if not found or not self.classes or found in self.classes:
      return found
    for name in self.classes:
      if name.casefold() == found.casefold():
        return name
    raise ValueError(f"class '{found}' is none of the {len(self.classes)}")

  def _names(self, role: str) -> tuple[str, ...]:
    """What numbers in the column of a role index."""
    return self.columns.class_names(role) or self.classes

  def _label(self, row: TableRow) -> str:
    name = self.columns.name('label')
    return self._named(cells.label(row.cells[name], self._names('label'))) if name else ''

  def _labels(self, row: TableRow) -> tuple[str, ...]:
    columns = self.columns.of_role.get('labels', ())
    if len(columns) > 1:
      found = [column.name for column in columns if cells.flag(row.cells[column.name])]
    else:
      found = [name for column in columns for name in cells.labels(row.cells[column.name], self._names('labels'))]
    return tuple(map(self._named, found))

  def _votes(self, row: TableRow) -> dict[str, float]:
    """Votes by class. Of several columns, each is a class with numbers, or a person with the class that they chose."""
    columns = self.columns.of_role.get('votes', ())
    if not columns:
      return {}
    said = {column.name: row.cells[column.name] for column in columns}
    if len(columns) == 1:
      found = cells.votes(said[columns[0].name], self._names('votes'))
    else:
      counted = cells.counts(said, row.decimal)
      found = counted if counted is not None else cells.votes(
          [cell for cell in said.values() if not cells.is_missing(cell)], self._names('votes'))
    found = {self._named(name): value for name, value in found.items()}
    if min(found.values(), default=1) < 0:
      raise ValueError('it has fewer than 0 votes')
    if not sum(found.values()):
      raise ValueError('its votes sum to 0')
    return found

  def _boxes(self, row: TableRow) -> tuple[tuple[float, ...], ...]:
    columns = self.columns.of_role.get('box', ())
    if len(columns) == 4:
      numbers = [cells.number(row.cells[column.name], row.decimal) for column in columns]
      sides = self.sides or tuple(column.name.casefold() for column in columns) in SIDES
      return () if all(map(math.isnan, numbers)) else (cells.box_of(numbers, sides),)
    return tuple(cells.boxes(row.cells[columns[0].name], self.sides)) if columns else ()

  def _split(self, cell: Any) -> str:
    if self.columns.name('split') is None:
      return self.split
    found = split_named(cells.text(cell))
    if found is None:
      raise ValueError(f"split '{cell}' is none of train, val and test")
    return found


def merge(ratings: Iterable[Rating], count: Callable[[str], None]) -> Iterator[Rating]:
  """One Rating an id, or an image where there is no column of ids, in the order of their first rows.

  Rows of several annotators become votes, and the mean of their numbers. Other rows of one image must agree, and are
  one with the boxes of all; where they differ, the image is one Rating with a problem.

  Args:
    ratings: of all rows.
    count: called with what is left out.
  """
  by_image: dict[str, list[Rating]] = {}
  for rating in ratings:
    by_image.setdefault(rating.id or rating.image if not rating.problem else f'\0{rating.place}', []).append(rating)
  for rows in by_image.values():
    if any(row.annotator for row in rows):
      yield _tallied(rows, count)
    elif len(rows) == 1:
      yield rows[0]
    else:
      yield _agreed(rows, count)


def _agreed(rows: Sequence[Rating], count: Callable[[str], None]) -> Rating:
  first = rows[0]
  for row in rows[1:]:
    if row.image != first.image:
      return dataclasses.replace(first, problem=f'its id is also that of {row.image}: {row.place}')
    if row.says() != first.says():
      return dataclasses.replace(
          first, problem=f'{re.sub(".* ", "row ", row.place)} says other things of it; if these are votes, name the '
          'column of who voted: --column=annotator=NAME')
    count('rows that say the same again')
  return dataclasses.replace(first, boxes=tuple(dict.fromkeys(itertools.chain(*(row.boxes for row in rows)))))


def _tallied(rows: Sequence[Rating], count: Callable[[str], None]) -> Rating:
  """What several annotators say: the votes, and the mean of their numbers; of two rows of one of them, the later."""
  latest = {row.annotator: row for row in rows}
  for _ in range(len(rows) - len(latest)):
    count('rows of an annotator who rated the image again')
  rows = list(latest.values())
  splits, groups = ({getattr(row, name) for row in rows} for name in ('split', 'group'))
  if len(splits) > 1 or len(groups) > 1:
    return dataclasses.replace(rows[0], problem='its rows are of several splits or groups')
  votes: dict[str, float] = {}
  for row in rows:
    for name in [row.label] if row.label else row.labels:
      votes[name] = votes.get(name, 0) + 1
  domains = collections.Counter(row.attributes['domain'] for row in rows if 'domain' in row.attributes)
  domain = majority(domains)
  attributes = {**rows[0].attributes, 'domain': domain}
  vad = tuple(_mean([row.vad[place] for row in rows]) for place in range(len(VAD)))
  boxes = tuple(dict.fromkeys(itertools.chain(*(row.boxes for row in rows))))
  return dataclasses.replace(
      rows[0], label='', labels=(), votes=votes, annotator='', vad=vad, boxes=boxes,
      attributes={name: value for name, value in attributes.items() if value})


def _mean(values: Sequence[float]) -> float:
  known = [value for value in values if not math.isnan(value)]
  return sum(known) / len(known) if known else math.nan


def majority(votes: Mapping[str, float]) -> str:
  """The class with most votes; '' where two have as many, or there is none."""
  best = max(votes.values(), default=0)
  winners = [name for name, count in votes.items() if count == best]
  return winners[0] if len(winners) == 1 else ''
