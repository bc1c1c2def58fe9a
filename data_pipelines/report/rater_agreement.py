"""Measures how far annotators agree, from a table of who said what of which image."""

from collections import Counter
from collections.abc import Collection, Sequence
import os
from typing import Any, NamedTuple

import numpy as np

from data_pipelines.annotate.tally import alpha_of
from data_pipelines.errors import UserError
from data_pipelines.plain_text import csv_text, single_line
from data_pipelines.source_files.file_names import FileNames
from data_pipelines.source_files.text_files import read_table

COLUMNS = ('image', 'annotator', 'label')


class VoteTable(NamedTuple):
  """Votes as a table has them. votes: (image, annotator) -> label. replaced: how many votes a later one replaced."""

  path: str
  votes: dict[tuple[str, str], str]
  replaced: int


def read_votes(path: str | os.PathLike) -> VoteTable:
  """Reads a table with the columns image, annotator and label. Of a person's two votes on an image the later counts.

  Raises:
    UserError: it is no such table, or the library that measures agreement is not installed.
  """
  try:
    import krippendorff  # noqa: F401  Before anything is read.
  except ImportError as error:
    raise UserError("krippendorff is not installed: pip install 'uniemox_jax[report]'") from error
  found: dict[tuple[str, str], str] = {}
  count = 0
  for row in read_table(path, COLUMNS):
    image, annotator, label = (csv_text(row.cells[column]).strip() for column in COLUMNS)
    if label:  # Who passes over an image has not voted.
      count += 1
      found[image, single_line(annotator)] = label
  return VoteTable(os.fspath(path), found, count - len(found))


def measure_agreement(table: VoteTable, ids: Collection[str], labels: Sequence[str]) -> dict[str, Any]:
  """Computes Krippendorff's alpha, nominal, and which classes are taken for which.

  Args:
    table: the result of `read_votes`.
    ids: the ids of the records; votes on other images are left out, and counted.
    labels: the names of the classes, which come first.

  Returns:
    'alpha', None if it has no value, and 'why'; 'images' with two votes or more; 'votes' on all; 'labels';
    'confusion': for each two labels, how often two persons said them of one image, in either order; 'annotators', each
    with 'votes', and 'agreement': the share of the others' votes on the same images that are equal.

  Raises:
    UserError: no vote is on one of these images.
  """
  known = FileNames(ids).find_all(dict.fromkeys(image for image, _ in table.votes), table.path)
  votes = [(known[image], annotator, label) for (image, annotator), label in table.votes.items() if image in known]
  said = {label for _, _, label in votes}
  names = [label for label in labels if label in said] + sorted(said - set(labels))
  row_of = {image: row for row, image in enumerate(dict.fromkeys(image for image, _, _ in votes))}
  column_of = {label: column for column, label in enumerate(names)}
  counts_NxV = np.zeros((len(row_of), len(names)), np.int64)
  cells = [(row_of[image], column_of[label]) for image, _, label in votes]
  np.add.at(counts_NxV, tuple(np.array(cells, np.int64).reshape(-1, 2).T), 1)
  alpha, images, why = alpha_of(counts_NxV)
  confusion_VxV = counts_NxV.T @ counts_NxV - np.diag(counts_NxV.sum(0))
  return {
      'alpha': None if alpha is None else round(alpha, 4), 'why': why, 'images': images, 'votes': len(votes),
      'replaced': table.replaced, 'labels': names, 'confusion': confusion_VxV.tolist(),
      'annotators': _annotators(votes, cells, counts_NxV)}


def _annotators(votes: Sequence[tuple[str, str, str]], cells: Sequence[tuple[int, int]],
                counts_NxV: np.ndarray) -> list[dict[str, Any]]:
  """Lists the annotators, those who agree least first."""
  cast: Counter[str] = Counter()
  others: Counter[str] = Counter()
  equal: Counter[str] = Counter()
  total_N = counts_NxV.sum(1)
  for (_, annotator, _), (row, column) in zip(votes, cells):
    cast[annotator] += 1
    others[annotator] += int(total_N[row]) - 1
    equal[annotator] += int(counts_NxV[row, column]) - 1
  rows = [{
      'annotator': name, 'votes': cast[name],
      'agreement': round(equal[name] / others[name], 4) if others[name] else None} for name in cast]
  return sorted(rows, key=lambda row: (row['agreement'] is None, row['agreement'], row['annotator']))
