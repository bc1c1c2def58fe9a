"""Makes tables of votes: what most annotators said of an image, and how far they agree. Nothing here touches a file."""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Sequence
import csv
import io
import statistics
from typing import Any, NamedTuple

import numpy as np

from data_pipelines.annotate.questions import Questions
from data_pipelines.annotate.votes import Vote
from data_pipelines.plain_text import csv_cell
from data_pipelines.table.rows import majority

VOTE_COLUMNS = ('image', 'annotator', 'label', 'style', 'valence', 'arousal', 'dominance')
Row = list[Any]


class Agreement(NamedTuple):
  """How far annotators agree. alpha: Krippendorff's, or None. images: how many have two votes or more. why: the reason
  if alpha is None."""

  alpha: float | None
  images: int
  why: str = ''


def vote_rows(votes: Iterable[Vote]) -> list[Row]:
  """The rows of `votes.csv`: headings, and a row for each image and annotator."""
  cells = [['' if cell is None else cell for cell in vote] for vote in votes]
  return [list(VOTE_COLUMNS), *cells]


def image_rows(images: Collection[str], votes: Iterable[Vote], questions: Questions) -> list[Row]:
  """The rows of `table.csv`: headings, and a row for each image, with votes or without.

  label: the class with the most votes, empty if several have as many; then the votes for each class, under its name.
  annotators: how many voted. agreement: the share of them who chose the most frequent class. Then the mean of each
  rating. domain: the style with the most votes, like the label.
  """
  headings = ['image', *(['label', *questions.labels] if questions.labels else []), 'annotators']
  headings += ['agreement'] if questions.labels else []
  headings += [*questions.ratings, *(['domain'] if questions.styles else [])]
  of_image = _by_image(votes)
  rows: list[Row] = [headings]
  for image in images:
    given = of_image.get(image, [])
    row: Row = [image]
    times = Counter(vote.label for vote in given)
    if questions.labels:
      row += [majority(times), *(times[label] for label in questions.labels)]
    row.append(len(given))
    if questions.labels:
      row.append(round(max(times.values()) / len(given), 4) if given else '')
    for name in questions.ratings:
      row.append(round(statistics.fmean(getattr(vote, name) for vote in given), 4) if given else '')
    if questions.styles:
      row.append(majority(Counter(vote.style for vote in given)))
    rows.append(row)
  return rows


def agreement(votes: Iterable[Vote], question: str) -> Agreement:
  """Computes Krippendorff's alpha of a question: nominal for label and style, interval for ratings.

  1 is perfect agreement, 0 what chance gives, and less is systematic disagreement (Krippendorff, Content Analysis,
  chapter 11). Images with one vote do not count, as in its definition.
  """
  values = [[getattr(vote, question) for vote in of_one] for of_one in _by_image(votes).values()]
  domain = sorted({value for of_one in values for value in of_one})
  counts_NxV = np.array([[of_one.count(value) for value in domain] for of_one in values
                        ]).reshape(len(values), len(domain))
  return alpha_of(counts_NxV, None if question in ('label', 'style') else domain)


def alpha_of(counts_NxV: np.ndarray, values: Sequence[float] | None = None) -> Agreement:
  """Computes Krippendorff's alpha, interval if there are values, else nominal.

  Args:
    counts_NxV: how often each value was said of each image.
    values: the values of the columns, ascending; None for names.
  """
  import krippendorff

  compared_MxV = counts_NxV[counts_NxV.sum(1) > 1]
  if not len(compared_MxV):
    return Agreement(None, 0, 'no image has two votes')
  if np.count_nonzero(compared_MxV.any(0)) < 2:
    return Agreement(None, len(compared_MxV), 'all votes on images with two or more are the same')
  alpha = krippendorff.alpha(
      value_counts=compared_MxV, value_domain=values, level_of_measurement='nominal' if values is None else 'interval')
  return Agreement(float(alpha), len(compared_MxV))


def _by_image(votes: Iterable[Vote]) -> dict[str, list[Vote]]:
  of_image = defaultdict(list)
  for vote in votes:
    of_image[vote.image].append(vote)
  return of_image


def csv_of(rows: Iterable[Sequence[Any]]) -> str:
  """Writes the rows as CSV, in which no cell is a formula."""
  text = io.StringIO(newline='')
  csv.writer(text).writerows(map(csv_cell, row) for row in rows)
  return text.getvalue()
