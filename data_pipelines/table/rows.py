"""Makes examples of the rows of tables: reads what the cells of a row say, and joins several rows of one image."""

import collections
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
import dataclasses
import itertools
import math
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
    place: the row's place, for messages.
    table, number: the rank of its table, and its row there from 0, where the bytes of an image are.
    image: the path that it gives, '' for none.
    id: the record's id, '' for none; so are `label`, `annotator`, `split`, `group` and `domain`.
    labels: several classes.
    votes: counts or shares by class.
    vad: valence, arousal, dominance, NaN if not said.
    boxes: boxes as `cells.boxes` gives them.
    attributes: caption, domain, subject and confidence, if they are said.
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
    """All in which two rows of one image must agree."""
    return self.label, self.labels, tuple(self.votes.items()), self.split, self.group, str((self.vad, self.attributes))

  def classes(self) -> Iterator[str]:
    """All classes that the row names."""
    if self.label:
      yield self.label
    yield from self.labels
    yield from self.votes


class Reading(NamedTuple):
  """How the rows of one table are read.

  Attributes:
    columns: what its columns mean.
    table: its rank among the tables.
    split: the split of all its rows; '' if they say it themselves, or nothing does.
    classes: all classes that there may be, in any case; () for any.
    scales: the lowest and highest value of valence, arousal and dominance, each None if not declared.
    sides: whether boxes are x, y, width and height.
    chosen: whether each of several columns of votes is a person with the class that they chose.
  """

  columns: Columns
  table: int
  split: str = ''
  classes: tuple[str, ...] = ()
  scales: Sequence[tuple[float, float] | None] = (None,) * len(VAD)
  sides: bool = False
  chosen: bool = False

  @property
  def class_headings(self) -> list[str]:
    """The headings of columns that each stand for a class."""
    labels, votes = self.columns.of_role.get('labels', ()), self.columns.votes
    return [column.name for of_role in (labels, () if self.chosen else votes) if len(of_role) > 1 for column in of_role]

  def ratings(self, rows: Iterable[TableRow]) -> Iterator[Rating]:
    """Yields each row as a Rating; one that cannot be used has a problem."""
    for number, row in enumerate(rows):
      known, problem = {'image': '', 'id': '', 'split': self.split}, row.problem
      for role, read in (('image', _path), ('id', cells.text), ('split', _split)):
        name = self.columns.name(role)
        try:
          known[role] = read(row.cells.get(name)) if name else known[role]
        except ValueError as error:
          problem = problem or str(error)
      rating = Rating(row.place, self.table, number, known['image'], known['id'], split=known['split'], problem=problem)
      try:
        yield rating if problem else self._filled(rating, row)
      except ValueError as error:
        yield dataclasses.replace(rating, problem=str(error))

  def _filled(self, rating: Rating, row: TableRow) -> Rating:

    def said(role: str) -> Any:
      name = self.columns.name(role)
      return row.cells.get(name) if name else None

    numbers = [cells.number(said(name), row.decimal) for name in VAD]
    for value, scale in zip(numbers, self.scales):
      if scale and not math.isnan(value) and not scale[0] <= value <= scale[1]:
        raise ValueError(f'{value:g} is outside the scale {scale[0]:g} to {scale[1]:g}')
    subject = said('subject')
    attributes = {
        'caption': ' '.join(cells.text(said('caption')).split()), 'domain': cells.text(said('domain')),
        'subject': ', '.join(map(cells.text, subject)) if isinstance(subject, list) else cells.text(subject)}
    confidence = cells.number(said('confidence'), row.decimal)
    return dataclasses.replace(
        rating, label=self._label(row), labels=self._labels(row), votes=self._votes(row),
        annotator=cells.text(said('annotator')), vad=tuple(numbers), boxes=self._boxes(row),
        group=cells.text(said('group')), attributes={name: value for name, value in attributes.items() if value} |
        ({} if math.isnan(confidence) else {'confidence': confidence}))

  def _named(self, found: str) -> str:
    """The class as it is spelled among `classes`."""
    if not found or not self.classes or found in self.classes:
      return found
    for name in self.classes:
      if cells.class_key(name) == cells.class_key(found):
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
    """Votes by class. Of several columns, each is a class with a number, or a person with the class that they chose."""
    columns = self.columns.votes
    if not columns:
      return {}
    said = {column.name: row.cells[column.name] for column in columns}
    names = columns[0].class_names or self.classes
    if self.chosen:
      found = cells.choices(said.values(), names)
    elif len(columns) > 1:
      found = cells.counts(said, row.decimal)
    else:
      found = cells.votes(said[columns[0].name], names)
    votes: dict[str, float] = {}
    for name, value in found.items():
      votes[self._named(name)] = votes.get(self._named(name), 0) + value
    if min(votes.values(), default=1) < 0:
      raise ValueError('it has fewer than 0 votes')
    if votes and not sum(votes.values()):
      raise ValueError('its votes sum to 0')
    return votes

  def _boxes(self, row: TableRow) -> tuple[tuple[float, ...], ...]:
    columns = self.columns.of_role.get('box', ())
    if len(columns) == 4:
      numbers = [cells.number(row.cells[column.name], row.decimal) for column in columns]
      sides = self.sides or tuple(column.name.casefold() for column in columns) in SIDES
      return () if all(map(math.isnan, numbers)) else (cells.box_of(numbers, sides),)
    return tuple(cells.boxes(row.cells[columns[0].name], self.sides)) if columns else ()


def _path(cell: Any) -> str:
  return cells.text(cell.get('path') if isinstance(cell, dict) else cell)


def _split(cell: Any) -> str:
  found = split_named(cells.text(cell))
  if found is None:
    what = 'it has no split' if cells.is_missing(cell) else f"split '{cell}' is none of train, val and test"
    raise ValueError(f'{what}: correct it, or have all split here, by --column=split=')
  return found


def merge(ratings: Iterable[Rating], count: Callable[[str], None]) -> Iterator[Rating]:
  """Merges ratings to one for each id, or for each image without a column of ids, in the order of their first rows.

  Rows of several annotators become votes, and the mean of their numbers. Other rows of one image must agree, and become
  one with the boxes of all. If they differ, or no row can be used, the image is one Rating with a problem.

  Args:
    ratings: the ratings of all rows.
    count: a function that is called with what is left out.
  """
  by_image: dict[str, list[Rating]] = {}
  for rating in ratings:
    by_image.setdefault(rating.id or rating.image or f'\0{rating.place}', []).append(rating)
  for rows in by_image.values():
    usable = [row for row in rows if not row.problem]
    for _ in range(len(rows) - len(usable) if usable else 0):
      count(SPOILT)
    if any(row.annotator for row in usable):
      yield _tallied(usable, count)
    elif len(usable) < 2:
      yield (usable or rows)[0]
    else:
      yield _agreed(usable, count)


SPOILT = 'rows that cannot be used, of images with other rows'
"""The kind of row that `merge` counts, and that does not count as a rejected image."""


def _agreed(rows: Sequence[Rating], count: Callable[[str], None]) -> Rating:
  first = rows[0]
  for row in rows[1:]:
    if row.image != first.image:
      return dataclasses.replace(first, problem=f'its id is also that of {row.image}: {row.place}')
    if row.says() != first.says():
      return dataclasses.replace(
          first, problem=f'{row.place} says other things of it; if these are votes, name the column of who voted: '
          '--column=annotator=NAME')
    if set(row.boxes) <= set(first.boxes):
      count('rows that say the same again')
  return dataclasses.replace(first, boxes=tuple(dict.fromkeys(itertools.chain(*(row.boxes for row in rows)))))


def _tallied(rows: Sequence[Rating], count: Callable[[str], None]) -> Rating:
  """What several annotators say: the votes, and the mean of their numbers; of two rows of one of them, the later."""
  latest = {row.annotator or row.place: row for row in rows}
  for _ in range(len(rows) - len(latest)):
    count('earlier rows of an annotator who rated the image again')
  rows = list(latest.values())
  for name in ('image', 'split', 'group'):
    for row in rows:
      if getattr(row, name) != getattr(rows[0], name):
        return dataclasses.replace(rows[0], problem=f'{row.place} says another {name} of it')
  votes: dict[str, float] = {}
  for row in rows:
    cast = dict.fromkeys([row.label] if row.label else row.labels, 1.0) or row.votes
    for name, times in cast.items():
      votes[name] = votes.get(name, 0) + times
  said = {
      name: [row.attributes[name] for row in rows if name in row.attributes]
      for name in ('caption', 'subject', 'domain', 'confidence')}  # fmt: skip
  for name in ('caption', 'subject'):
    for _ in range(len(set(said[name])) - 1):
      count(f'{name}s of an image that has another one, of an earlier annotator')
  attributes = {
      **{name: values[0] for name, values in said.items() if values}, 'domain':
          majority(collections.Counter(said['domain'])), 'confidence': _mean(said['confidence'])}
  vad = tuple(_mean([row.vad[place] for row in rows]) for place in range(len(VAD)))
  boxes = tuple(dict.fromkeys(itertools.chain(*(row.boxes for row in rows))))
  return dataclasses.replace(
      rows[0], label='', labels=(), votes=votes, annotator='', vad=vad, boxes=boxes,
      attributes={name: value for name, value in attributes.items() if not cells.is_missing(value)})


def _mean(values: Sequence[float]) -> float:
  known = [value for value in values if not math.isnan(value)]
  return sum(known) / len(known) if known else math.nan


def majority(votes: Mapping[str, float]) -> str:
  """The class with most votes; '' if two have as many, or there is none."""
  best = max(votes.values(), default=0)
  winners = [name for name, count in votes.items() if count == best]
  return winners[0] if len(winners) == 1 else ''
