"""Builder of anyone's table of images: a file with a row an image, or a row for what each person said of it."""

import collections
from collections.abc import Iterator, Mapping
import dataclasses
import itertools
import math
import pathlib
from typing import Any, NamedTuple

import tensorflow_datasets as tfds

from data_pipelines import images
from data_pipelines.building import announcement, base_builder
from data_pipelines.building.raw_example import NO_LABEL, RawExample, WorkItem
from data_pipelines.building.raw_source import RawSource, check_groups, table_source
from data_pipelines.building.splits import TRAIN_VAL_TEST, hashed_splits
from data_pipelines.errors import UserError, join_names
from data_pipelines.plain_text import visible
from data_pipelines.source_files.table_files import open_table
from data_pipelines.table import columns as columns_of
from data_pipelines.table.image_paths import ImagePaths, paths_inside
from data_pipelines.table.rows import Rating, Reading, majority, merge
from data_pipelines.table.subjects import is_person

PERCENT = {'train': 80, 'val': 10, 'test': 10}
SEED = 0
SCALES = ((-1, 1), (0, 1), (1, 5), (1, 7), (1, 9), (1, 10), (0, 10), (0, 100), (-100, 100))
"""Of valence, arousal and dominance, as questionnaires have them; the first that holds all values is printed."""


class TableOptions(NamedTuple):
  """What the user says about a table.

  Attributes:
    columns: role -> headings, see `columns.find_columns`.
    labels: names of the classes, in order; () for those that the file names, or that occur, sorted.
    scale: lowest and highest value of valence, arousal and dominance, outside of which a row is rejected.
    caption: text of an image without one of its own, such as 'a photo of {label}'; '' for that of `caption_text`.
    sides: whether boxes are x, y, width and height, and not two corners.
    min_confidence: rows of less are left out, and counted.
    subject: 'person' keeps the boxes of subjects that are persons, 'any' all; where there is a column of subjects.
  """

  columns: Mapping[str, str] = {}
  labels: tuple[str, ...] = ()
  scale: tuple[float, float] | None = None
  caption: str = ''
  sides: bool = False
  min_confidence: float = -math.inf
  subject: str = 'person'


class Builder(base_builder.BaseBuilder):
  """A user's own table.

  Args:
    options: what the user says about it; None for nothing.
    **kwargs: as for the base.
  """

  VERSION = tfds.core.Version('1.0.0')
  LABELS: tuple[str, ...] = ()  # Set on the instance when the rows are read; so are DISTRIBUTION and SPLIT_SEED.
  CLASSES: tuple[str, ...] = ()  # All that there may be, for a published table.
  MANUAL_DOWNLOAD_INSTRUCTIONS = (
      'A table of your own has a row an image, as CSV, JSON lines, Parquet or Arrow: the path or the bytes of the '
      'image, and what is known of it (see docs/tables.md)')

  def __init__(self, *, options: TableOptions | None = None, **kwargs: Any) -> None:
    self._said = options or TableOptions()
    self._inside: dict[str, tuple[int, int]] = {}  # Path -> table and row, of images that are in the table itself.
    super().__init__(**kwargs)

  def find_source(self, folder: pathlib.Path) -> RawSource:
    """See the base."""
    return table_source(folder)

  def list_examples(self, source: pathlib.Path) -> dict[str, list[RawExample]]:
    """Examples by split, as the rows say it, or the names of the files; else 80/10/10 by group, seeded.

    Prints what each column is taken for before any row is read. Raises UserError as the base says.
    """
    expected = (*columns_of.expected_headings(), *','.join(self._said.columns.values()).split(','))
    self._tables = [open_table(path, expected) for path in self.source.tables]
    readings = self._readings()
    ratings: list[Rating] = []
    for table, reading in zip(self._tables, readings):
      ratings += filter(self._is_wanted, reading.ratings(table.rows(reading.columns.names)))
    if not ratings:
      raise UserError(f'{self.source.given} has no rows: it must hold one for each image')
    merged = list(merge(self._with_paths(source, ratings, readings), self.ignore))
    self._name_classes(readings[0], merged)
    self._tell(merged)
    found = self._split(merged, declared=any(rating.split for rating in merged))
    announcement.print_splits(found, self.LABELS)
    return found

  def _is_wanted(self, rating: Rating) -> bool:
    """Whether a row counts; says why not."""
    if wanted := rating.attributes.get('confidence', math.inf) >= self._said.min_confidence:
      return wanted
    self.ignore(f'rows of a confidence below {self._said.min_confidence:g}')
    return False

  def contents(self, items: list[WorkItem]) -> Iterator[tuple[WorkItem, bytes | None]]:
    """See the base. The images that are in the tables are read in the order of their rows, a few at a time."""
    inside = [item for item in items if item.example.path in self._inside]
    yield from super().contents([item for item in items if item.example.path not in self._inside])
    inside.sort(key=lambda item: self._inside[item.example.path])
    for table, of_table in itertools.groupby(inside, lambda item: self._inside[item.example.path][0]):
      table_items = list(of_table)
      rows = [self._inside[item.example.path][1] for item in table_items]
      for item, (_, content) in zip(table_items, self._tables[table].contents(self._image_column, rows)):
        yield item, content

  def _readings(self) -> list[Reading]:
    """How each table is read; prints it. Raises UserError if the tables do not have the columns of the first."""
    split_of = self.source.split_of_tables()
    readings: list[Reading] = []
    for number, table in enumerate(self._tables):
      columns = columns_of.find_columns(table, self._said.columns)
      first = readings[0].columns if readings else columns
      if columns.of_role != first.of_role:
        raise UserError(
            f'{table.path} has other columns than {self._tables[0].path}: {_difference(columns, first)}; '
            'build them one by one with a --name each')
      classes = self._said.labels or self.CLASSES or next(
          filter(None, map(columns.class_names, ('label', 'labels', 'votes'))), ())
      split = '' if columns.name('split') else split_of.get(self.source.tables[number], '')
      readings.append(Reading(columns, number, split, classes, self._said.scale, self._said.sides))
    print(visible(f'{self.source.given}' + (f': {len(self._tables)} tables' if len(self._tables) > 1 else '')))
    for line in readings[0].columns.lines():
      print(line)
    if split_of:
      print(f'  split      from the names of the files ({join_names(sorted(set(split_of.values())))})')
    self._image_column = readings[0].columns.of_role['image'][0].name
    return readings

  def _with_paths(self, source: pathlib.Path, ratings: list[Rating], readings: list[Reading]) -> list[Rating]:
    """The ratings with `image` as the path inside the raw folder; where the table holds it, as a name of its own."""
    if readings[0].columns.of_role['image'][0].form != 'cells':
      if self._beam:
        raise UserError('--beam_runner is for images that are files: build a table that holds images without it')
      files = [
          path.relative_to(source).as_posix() if path.is_relative_to(source) else path.name
          for path in self.source.tables]  # fmt: skip
      ratings = paths_inside(ratings, files)
      self._inside = {rating.image: (rating.table, rating.number) for rating in ratings}
      return ratings
    paths = ImagePaths(source, self.files(source))
    folders = [path.parent for path in self.source.tables]
    resolved = [paths.resolve(rating, folders[rating.table]) for rating in ratings]
    unused = [path for path in paths.unused if pathlib.PurePath(path).suffix.lower() in images.SUFFIXES]
    if unused:
      self.ignore('images in no row', len(unused))
      print(visible(f'  {len(unused)} images are in no row: {join_names(sorted(unused))}'))
    return resolved

  def _name_classes(self, reading: Reading, ratings: list[Rating]) -> None:
    """Sets LABELS, and DISTRIBUTION if there are votes."""
    columns = reading.columns.of_role
    voted = {name for rating in ratings for name in rating.votes}
    found = voted | {name for rating in ratings for name in (rating.label, *rating.labels) if name}
    for role in ('labels', 'votes'):
      if len(columns.get(role, ())) > 1 and (role == 'labels' or voted & {column.name for column in columns[role]}):
        found |= {column.name for column in columns[role]}
    self.set_labels(reading.classes or tuple(sorted(found, key=_in_order)))
    self.DISTRIBUTION = tuple(name for name in self.LABELS if name in voted)

  def _tell(self, ratings: list[Rating]) -> None:
    """Prints and counts what is missing, and the scale of valence and arousal; tells pixels of boxes from fractions."""
    corners = [value for rating in ratings for box in rating.boxes for value in box]
    self._fractions = bool(corners) and max(corners) <= 1
    if corners:
      print(f'  boxes: {"fractions" if self._fractions else "pixels"} of the image')
    numbers = [value for rating in ratings for value in rating.vad if not math.isnan(value)]
    if numbers:
      low, high = min(numbers), max(numbers)
      scale = self._said.scale or next((pair for pair in SCALES if pair[0] <= low and high <= pair[1]), (low, high))
      how = 'declared' if self._said.scale else 'found; declare another with --vad_scale'
      print(f'  scale: {scale[0]:g} to {scale[1]:g} ({how}); the values are {low:g} to {high:g}')
      self.facts['vad_scale'] = list(scale)
      if scale not in SCALES and not self._said.scale:
        print('  warning: that is no usual scale: if some numbers mean that nothing was said, give --vad_scale')
    if problems := [rating for rating in ratings if rating.problem]:
      if len(problems) == len(ratings):
        raise UserError(f'no row of {self.source.given} can be used; first: {problems[0].place}: {problems[0].problem}')
      print(visible(f'  {len(problems)} rows cannot be used; first: {problems[0].place}: {problems[0].problem}'))
    ties = sum(bool(rating.votes) and not rating.label and not majority(rating.votes) for rating in ratings)
    empty = sum(
        not rating.problem and not rating.label and not rating.labels and not rating.votes
        for rating in ratings) if self.LABELS else 0  # fmt: skip
    for count, what in ((ties, 'images whose votes have no majority'), (empty, 'images without a class')):
      if count:
        self.facts[what] = count
        print(f'  {count} {what}')

  def _example(self, rating: Rating) -> RawExample:
    if rating.problem:
      return RawExample('', name=rating.place, problem=rating.problem)
    total = sum(rating.votes.values())
    attributes = dict(rating.attributes)
    boxes = rating.boxes
    if 'subject' in attributes and self._said.subject == 'person' and not is_person(attributes['subject']):
      self.ignore('boxes of subjects that are no persons', len(boxes))
      boxes = ()
    if self._said.caption:
      attributes.setdefault('caption', self._said.caption)
    return RawExample(
        rating.image, rating.label or majority(rating.votes) or NO_LABEL, labels=rating.labels,
        distribution=tuple(rating.votes.get(name, 0) / total for name in self.DISTRIBUTION) if total else (),
        vad=rating.vad, boxes=boxes, size=(1, 1) if self._fractions else (), name=rating.id, attributes=attributes,
        group=rating.group)

  def _split(self, ratings: list[Rating], declared: bool) -> dict[str, list[RawExample]]:
    times = collections.Counter(rating.image for rating in ratings)  # Records of one image stay together.
    examples = self.with_groups([
        self._example(
            rating if times[rating.image] == 1 or rating.group else dataclasses.replace(rating, group=rating.image))
        for rating in ratings])
    if declared:
      present = [split for split in TRAIN_VAL_TEST if any(rating.split == split for rating in ratings)]
      splits = [rating.split or present[0] for rating in ratings]
      check_groups([(split, example.group) for split, example in zip(splits, examples)])
      return {
          split: [example for its_split, example in zip(splits, examples) if its_split == split] for split in present}
    if not self.LABELS and all(math.isnan(value) for rating in ratings for value in rating.vad):
      return {'train': examples}
    self.SPLIT_SEED = SEED
    print(f'  split {"/".join(map(str, PERCENT.values()))} here')
    return hashed_splits(examples, PERCENT, SEED)


def _difference(columns: columns_of.Columns, first: columns_of.Columns) -> str:
  """In words, the first role in which the columns of two tables differ."""
  for role in columns_of.ROLES:
    ours, theirs = columns.of_role.get(role, ()), first.of_role.get(role, ())
    if ours != theirs:
      said = [
          ', '.join(f"'{name}' {type_name}".strip()
                    for name, _, type_name, *_ in both) or 'none'
          for both in (ours, theirs)]  # fmt: skip
      return f'{role} is {said[0]}, there {said[1]}'
  return ''


def _in_order(name: str) -> tuple[bool, int, str]:
  """Numbers by their value, before texts."""
  return (False, int(name), '') if name.isdecimal() else (True, 0, name)
