"""Writes the tables of near-duplicates: what is a copy of what, groups for another build, and images to leave out."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
import csv
import io
import os

from data_pipelines import storage
from data_pipelines.duplicates.near_duplicates import Copy, Found
from data_pipelines.errors import UserError
from data_pipelines.plain_text import csv_cell, csv_text
from data_pipelines.source_files.text_files import read_table

GROUPS, EXCLUDE = '_groups.csv', '_exclude.csv'
"""The endings that replace `.csv` in the names of the other two tables."""


def write_tables(out: str | os.PathLike, found: Found) -> list[str]:
  """Writes OUT.csv, OUT_groups.csv and OUT_exclude.csv, and returns their paths."""
  stem = os.path.splitext(out)[0]
  tables: dict[str, tuple[Sequence[str], Iterable[Sequence[object]]]] = {
      os.fspath(out): (Copy._fields, ((*copy[:-1], int(copy.mirrored)) for copy in found.copies)), stem + GROUPS: (
          ('image', 'group'), found.groups), stem + EXCLUDE: (('image',), ((name,) for name in found.exclude))}
  for path, (columns, rows) in tables.items():
    buffer = io.StringIO(newline='')
    writer = csv.writer(buffer)
    writer.writerow(columns)
    writer.writerows(map(csv_cell, row) for row in rows)
    storage.write_text(path, buffer.getvalue())
  return list(tables)


def read_copies(path: str | os.PathLike) -> Iterator[Copy]:
  """Reads the rows of OUT.csv. Raises UserError if it is no such table."""
  for row in read_table(path, Copy._fields):
    texts = {name: csv_text(row.cells[name]) for name in Copy._fields}
    try:
      yield Copy(
          texts['image'], texts['split'], texts['same_as'], texts['its_split'], texts['its_dataset'],
          int(texts['distance']), bool(int(texts['mirrored'])))
    except ValueError as error:
      raise UserError(
          f'{row.place} has no distance, or is neither mirrored (1) nor not (0): find them again') from error


def pairs_of_splits(copies: Iterable[Copy], dataset: str) -> dict[tuple[str, str, str], int]:
  """Counts the images of a split with a copy in another or the same: (split, other dataset or '', split) -> count."""
  counts = Counter(
      (copy.split, '' if copy.its_dataset == dataset else copy.its_dataset, copy.its_split) for copy in copies)
  return dict(sorted(counts.items()))
