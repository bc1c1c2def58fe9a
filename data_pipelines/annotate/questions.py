"""The questions that annotators are asked about every image, and the possible answers."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from data_pipelines.errors import UserError
from data_pipelines.plain_text import check_labels
from data_pipelines.records.label_sets import NAMED_LABELS, VAD
from data_pipelines.source_files.text_files import plain

COLUMNS = ('image', 'label', 'annotators', 'agreement', *VAD, 'domain')
"""The headings of `table.csv` besides the classes, which may not have these names."""
MAX_CHOICES, MAX_POINTS = 60, 1001


class Questions(NamedTuple):
  """The questions about an image, in this order.

  labels: the classes, () if none is asked for. styles: likewise. ratings: which of VAD are asked for. low, high: the
  whole numbers at the ends of their scale.
  """

  labels: tuple[str, ...] = ()
  styles: tuple[str, ...] = ()
  ratings: tuple[str, ...] = ()
  low: int = 1
  high: int = 9

  @property
  def names(self) -> tuple[str, ...]:
    """The keys of an answer."""
    return (*(['label'] if self.labels else []), *(['style'] if self.styles else []), *self.ratings)

  def as_json(self) -> dict[str, Any]:
    """The questions for a file and for the page; `Questions(**...)`, with tuples, is the inverse."""
    return {name: list(value) if isinstance(value, tuple) else value for name, value in self._asdict().items()}

  def check(self, answer: Any) -> dict[str, str | int]:
    """Returns the answer if it answers each question as allowed.

    Raises:
      UserError: it has not.
    """
    if not isinstance(answer, dict) or set(answer) != set(self.names):
      raise UserError(f'an answer must hold {", ".join(self.names)}')
    for name, value in answer.items():
      choices = {'label': self.labels, 'style': self.styles}.get(name)
      if choices is not None:
        valid = value in choices
      else:
        valid = isinstance(value, int) and not isinstance(value, bool) and self.low <= value <= self.high
      if not valid:
        raise UserError(f'{str(value)[:40]!r} is no answer for {name}')
    return {name: answer[name] for name in self.names}


def read_questions(
    labels: Sequence[str], styles: Sequence[str], vad: bool, dominance: bool, scale: Sequence[str]) -> Questions:
  """Makes the questions that flags ask for.

  Args:
    labels: class names, or one of `NAMED_LABELS`.
    styles: names of styles, () if they are not asked for.
    vad: whether valence and arousal are asked for.
    dominance: whether dominance is asked for, too.
    scale: the two ends of the scale.

  Raises:
    UserError: nothing is asked, or a name or the scale cannot be used.
  """
  if len(labels) == 1 and labels[0].strip().lower() in NAMED_LABELS:
    labels = NAMED_LABELS[labels[0].strip().lower()]
  if dominance and not vad:
    raise UserError('--dominance is asked together with valence and arousal: add --vad')
  if not labels and not vad:
    raise UserError('nothing is asked: give --labels=mikels, --labels=ekman or --labels=a,b,c, or --vad, or both')
  low, high = _ends(scale)
  ratings = VAD if dominance else VAD[:2] if vad else ()
  return Questions(_choices('labels', labels, COLUMNS), _choices('styles', styles), ratings, low, high)


def _choices(flag: str, names: Sequence[str], taken: Sequence[str] = ()) -> tuple[str, ...]:
  """The names, each of which can be a heading beside the others and those that are taken."""
  chosen = tuple(name.strip() for name in names)
  if not chosen:
    return ()
  check_labels(chosen, f'--{flag}')
  if not 2 <= len(chosen) <= MAX_CHOICES:
    raise UserError(f'--{flag} names {len(chosen)}: give 2 to {MAX_CHOICES}, separated by commas')
  times: Mapping[str, int] = Counter(map(plain, (*chosen, *taken)))
  for name in chosen:
    if times[plain(name)] > 1 or not plain(name):
      raise UserError(f"--{flag} has '{name}', which is there twice, has no letter, or is a column's name: rename it")
  return chosen


def _ends(scale: Sequence[str]) -> tuple[int, int]:
  try:
    low, high = map(int, scale)
    if not 2 <= high - low + 1 <= MAX_POINTS:
      raise ValueError
  except ValueError as error:
    raise UserError(
        f'--scale={",".join(scale)} is no scale: give its ends, two whole numbers such as --scale=1,9') from error
  return low, high
