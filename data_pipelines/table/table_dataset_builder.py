"""Builds anyone's table of images: a file with a row per image, or a row for what each person said of it."""

import collections
from collections.abc import Iterator, Mapping, Sequence
import contextlib
import dataclasses
import itertools
import math
import pathlib
import re
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from data_pipelines import images
from data_pipelines.building import announcement, base_builder
from data_pipelines.building.raw_example import NO_LABEL, RawExample, WorkItem
from data_pipelines.building.raw_source import RawSource, check_groups, table_source
from data_pipelines.building.splits import TRAIN_VAL_TEST, hashed_splits
from data_pipelines.errors import UserError, join_names
from data_pipelines.person_boxes import crops
from data_pipelines.plain_text import visible
from data_pipelines.records import manifest
from data_pipelines.records.label_sets import VAD
from data_pipelines.source_files.table_files import Table, TableOfImages, open_table
from data_pipelines.table import box_units, rating_scales, spelling
from data_pipelines.table import columns as columns_of
from data_pipelines.table.image_paths import ImagePaths, paths_inside
from data_pipelines.table.options import CLASS_ROLES, TableOptions, check_options
from data_pipelines.table.rows import SPOILT, Rating, Reading, majority, merge
from data_pipelines.table.subjects import is_person
from data_pipelines.table.vote_columns import number_line, read_votes_as

PERCENT = {'train': 80, 'val': 10, 'test': 10}
SEED = 0
_NO_PERSONS = 'boxes of subjects that are no persons'
_OTHERS = 'if it is no table of images, name the others in --source, separated by commas'


class Builder(base_builder.BaseBuilder):
  """A user's own table.

  Args:
    options: what the user says about it; None for nothing.
    **kwargs: as for the base.
  """

  VERSION = tfds.core.Version('1.0.0')
  LABELS: tuple[str, ...] = ()  # Set on the instance when the rows are read; so are DISTRIBUTION and SPLIT_SEED.
  CLASSES: tuple[str, ...] = ()  # All that there may be, for a published table.
  HEADINGS: Mapping[str, Sequence[str]] = columns_of.ROLES  # The usual ones, by what they mean.
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
    """Lists examples by split, as the rows or the names of the files say it; else 80/10/10 by group, seeded.

    It prints what each column is taken for before any row is read. Raises UserError as the base says.
    """
    self._tables = list(map(self._opened, self.source.tables))
    readings = self._readings()
    ratings = [
        rating for table, reading in zip(self._tables, readings)
        for rating in reading.ratings(table.rows(reading.columns.names))]  # fmt: skip
    if not ratings:
      raise UserError(f'{self.source.given} has no rows: it must hold one for each image')
    rows = self._wanted(self._with_paths(source, ratings, readings))
    spelled = {} if readings[0].classes else spelling.spellings(rows, readings[0].class_headings)
    for line in spelling.lines(spelled):
      print(line)
    rows = spelling.respelled(rows, spelled)
    self._fractions = box_units.in_fractions(rows)
    rows = box_units.with_one_unit(rows, self._fractions)
    merged = self._merged(rows)
    usable = [rating for rating in merged if not rating.problem]
    self._name_classes(readings[0], usable, spelled)
    self._tell(usable, not CLASS_ROLES.isdisjoint(readings[0].columns.of_role))
    return self._split(usable, [split for split in TRAIN_VAL_TEST if any(one.split == split for one in merged)])

  def announce(self, splits: Mapping[str, Sequence[RawExample]]) -> None:
    """See the base."""
    announcement.print_splits(
        splits, self.LABELS, 'say val of some rows in the column of splits, or have all split here, by --column=split=')

  def contents(self, items: list[WorkItem]) -> Iterator[tuple[WorkItem, bytes | None]]:
    """See the base. The images that are in the tables are read in the order of their rows, a few at a time."""
    inside = [item for item in items if item.example.path in self._inside]
    yield from super().contents([item for item in items if item.example.path not in self._inside])
    inside.sort(key=lambda item: self._inside[item.example.path])
    for table, of_table in itertools.groupby(inside, lambda item: self._inside[item.example.path][0]):
      table_items = list(of_table)
      rows = [self._inside[item.example.path][1] for item in table_items]
      opened = self._tables[table]
      assert isinstance(opened, TableOfImages)
      for item, (_, content) in zip(table_items, opened.contents(self._image_column, rows)):
        yield item, content

  def _boxes(self, item: WorkItem, size: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    if beyond := crops.count_beyond(np.array(item.example.boxes).reshape(-1, 4), *size):
      self.ignore(manifest.BEYOND, beyond)
    return super()._boxes(item, size)

  def _opened(self, path: pathlib.Path) -> Table:
    expected = (*columns_of.expected_headings(), *','.join(self._said.columns.values()).split(','))
    with _hint(_OTHERS if len(self.source.tables) > 1 else ''):
      return open_table(path, expected)

  def _readings(self) -> list[Reading]:
    """How each table is read; prints it.

    Raises UserError if the tables do not have the columns of the first, or an option would change nothing.
    """
    split_of = {} if self._said.columns.get('split') == '' else self.source.split_of_tables()
    found = []
    for table in self._tables:
      with _hint(_OTHERS if len(self._tables) > 1 else ''):
        found.append(columns_of.find_columns(table, self._said.columns, self.HEADINGS))
    first = found[0]
    for table, columns in zip(self._tables, found):
      if columns.of_role != first.of_role:
        raise UserError(
            f'{table.path} has other columns than {self._tables[0].path}: {_difference(columns, first)}; '
            f'build them one by one with a --name each, or {_OTHERS}')
    check_options(self._said, first)
    print(visible(f'{self.source.given}' + (f': {len(self._tables)} tables' if len(self._tables) > 1 else '')))
    for line in first.lines():
      print(line)
    if split_of:
      print(f'  split      from the names of the files ({join_names(sorted(set(split_of.values())))})')
    classes = self._said.labels or self.CLASSES or next(
        filter(None, map(first.class_names, ('label', 'labels', 'votes', 'choices'))), ())
    if self._said.labels:
      print(visible(number_line(classes)))
    names = [column.name for column in first.votes]
    votes = read_votes_as(first, itertools.chain(*(table.rows(names) for table in self._tables)), classes)
    if votes:
      print(visible(f'  votes are read as {votes.said}'))
    self._image_column = first.of_role['image'][0].name
    return [
        Reading(
            columns, number, '' if columns.name('split') else split_of.get(self.source.tables[number], ''), classes,
            [self._said.scale_of(name)
             for name in VAD], bool(self._said.sides), bool(votes and votes.chosen))
        for number, columns in enumerate(found)]

  def _with_paths(self, source: pathlib.Path, ratings: list[Rating], readings: list[Reading]) -> list[Rating]:
    """The ratings with `image` as the path inside the raw folder; where the table holds it, as a name of its own."""
    image = readings[0].columns.of_role['image'][0]
    if image.form == 'bytes' and self.source.root_is_given:
      raise UserError(
          f"--images would change nothing, since the column '{image.name}' holds the images themselves: leave it out, "
          'or name a column of paths with --column=image=NAME')
    if image.form != 'cells':
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

  def _wanted(self, ratings: list[Rating]) -> list[Rating]:
    """The rows that count; says how many do not, and why. Raises UserError if none does."""
    least = self._said.min_confidence
    if least is None:
      return ratings
    wanted = [rating for rating in ratings if rating.attributes.get('confidence', math.inf) >= least]
    left_out = len(ratings) - len(wanted)
    without = sum('confidence' not in rating.attributes and not rating.problem for rating in wanted)
    print(f'  left out: {left_out} rows of a confidence below {least:g}; {without} rows without a confidence are kept')
    if left_out:
      self.ignore(f'rows of a confidence below {least:g}', left_out)
    if not wanted:
      raise UserError(f'{self.source.given} has no row of a confidence of {least:g} or more: lower --min_confidence')
    return wanted

  def _merged(self, rows: list[Rating]) -> list[Rating]:
    """One Rating an image; counts what is left out, and what is rejected. Raises UserError if that is too much."""
    noted: collections.Counter[str] = collections.Counter()
    merged = list(merge(rows, lambda kind: noted.update([kind])))
    rejected = [rating for rating in merged if rating.problem]
    wrong = [rating for rating in (*rows, *rejected) if rating.problem]
    first = f'first: {wrong[0].place}: {wrong[0].problem}' if wrong else ''
    if len(rejected) == len(merged):
      raise UserError(f'no row of {self.source.given} can be used; {first}')
    for rating in rejected:
      self.reject(rating.place, rating.problem)
    self.check_rejects(len(merged))
    if noted[SPOILT] > self._max_rejects * len(rows):
      raise UserError(
          f'{noted[SPOILT]} of {len(rows)} rows cannot be used, more than --max_rejects={self._max_rejects:g} allows; '
          f'{first}: correct them, or raise --max_rejects')
    if rejected:
      print(visible(f'  {len(rejected)} of {len(merged)} images are rejected; {first}'))
    for kind, count in noted.items():
      if count:
        self.ignore(kind, count)
        print(visible(f'  left out: {count} {kind}' + (f'; {first}' if kind == SPOILT else '')))
    return merged

  def _name_classes(self, reading: Reading, ratings: list[Rating], spelled: Mapping[str, str]) -> None:
    """Sets LABELS, and DISTRIBUTION if there are votes. Warns of texts that seem to be several classes."""
    voted = {name for rating in ratings for name in rating.votes}
    found = {name for rating in ratings for name in rating.classes()}
    found |= {spelled.get(name, name) for name in reading.class_headings}
    self.set_labels(reading.classes or tuple(sorted(found, key=_in_order)))
    self.DISTRIBUTION = tuple(name for name in self.LABELS if name in voted)
    for name in self.LABELS:
      parts = re.split(r'\s*[|;,/+&]\s*', name)
      if len(parts) > 1 and set(parts) <= set(self.LABELS):
        print(visible(f"  warning: '{name}' is one class: if it means several, write --column=labels=NAME"))
    if self.LABELS and not reading.classes and all(map(str.isdecimal, self.LABELS)):
      print('  warning: the classes are numbers without names: --labels=A,B,C names them, from 0 on')

  def _tell(self, ratings: list[Rating], has_classes: bool) -> None:
    """Prints and counts what is missing, and the scales of valence, arousal and dominance."""
    if any(rating.boxes for rating in ratings):
      print(
          f'  boxes: {"fractions" if self._fractions else "pixels"} of the image; four numbers alone are ' +
          ('x, y, width, height' if self._said.sides else 'x1, y1, x2, y2 (else declare --box_format=sides)'))
    scales, lines = rating_scales.find_scales([rating.vad for rating in ratings],
                                              {name: self._said.scale_of(name) for name in VAD})
    for line in lines:
      print(line)
    if scales:
      self.facts['vad_scale'] = scales
    ties = sum(bool(rating.votes) and not rating.label and not majority(rating.votes) for rating in ratings)
    empty = sum(not any(rating.classes()) for rating in ratings) if has_classes else 0
    for count, what in ((ties, 'images whose votes have no majority'), (empty, 'images without a class')):
      if count:
        self.facts[what] = count
        print(f'  {count} {what}')

  def _example(self, rating: Rating) -> RawExample:
    total = sum(rating.votes.values())
    attributes = dict(rating.attributes)
    boxes = rating.boxes
    if boxes and 'subject' in attributes and self._said.subject != 'any' and not is_person(attributes['subject']):
      self.ignore(_NO_PERSONS, len(boxes))
      self._no_persons += len(boxes)
      boxes = ()
    if self._said.caption:
      attributes.setdefault('caption', self._said.caption)
    return RawExample(
        rating.image, rating.label or majority(rating.votes) or NO_LABEL, labels=rating.labels,
        distribution=tuple(rating.votes.get(name, 0) / total for name in self.DISTRIBUTION) if total else (),
        vad=rating.vad, boxes=boxes, size=(1, 1) if self._fractions else (), name=rating.id, attributes=attributes,
        group=rating.group)

  def _split(self, ratings: list[Rating], declared: Sequence[str]) -> dict[str, list[RawExample]]:
    """The examples of ratings without a problem, in the splits that the table declares, or by hash without any."""
    times = collections.Counter(rating.image for rating in ratings)  # Records of one image stay together.
    self._no_persons = 0
    examples = self.with_groups([
        self._example(
            rating if times[rating.image] == 1 or rating.group else dataclasses.replace(rating, group=rating.image))
        for rating in ratings])
    if self._no_persons:
      print(f'  left out: {self._no_persons} {_NO_PERSONS}')
    if declared:
      check_groups([(rating.split, example.group) for rating, example in zip(ratings, examples)])
      found = {
          split: [example for rating, example in zip(ratings, examples) if rating.split == split] for split in declared}
      if empty := [split for split in declared if not found[split]]:
        raise UserError(f"no row of split '{empty[0]}' can be used{self.first_reject()}: correct them")
      return found
    if not self.LABELS and all(math.isnan(value) for rating in ratings for value in rating.vad):
      return {'train': examples}
    self.SPLIT_SEED = SEED
    print(f'  split {"/".join(map(str, PERCENT.values()))} here')
    with _hint(self.first_reject().lstrip('; ')):
      return hashed_splits(examples, PERCENT, SEED)


@contextlib.contextmanager
def _hint(text: str) -> Iterator[None]:
  """Adds a remedy to what is raised about a table."""
  try:
    yield
  except UserError as error:
    raise UserError(f'{error}; {text}' if text else str(error)) from error


def _difference(columns: columns_of.Columns, first: columns_of.Columns) -> str:
  """Says in words the first role in which the columns of two tables differ."""
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
  """The sort key of names: numbers by their value, before texts."""
  return (False, int(name), '') if name.isdecimal() else (True, 0, name)
