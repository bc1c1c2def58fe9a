"""Emotion is ambiguous: this measures how well answers fit images on which annotators disagree.

If records have both the votes of annotators and one label, by the majority, models of the task 'distribution' and of
the task 'label' are asked the same: over the classes that votes and labels share, against both truths.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from data_pipelines.records import targets
from data_pipelines.records.reader import Split
from uniemox_jax.eval.weighted_metrics import weighted_scores
from uniemox_jax.objectives.confidence import risk_coverage_curve
from uniemox_jax.objectives.metrics import surest_class
from uniemox_jax.objectives.tasks import Task, split_columns


class Measure(NamedTuple):
  """What is measured. metric: a metric of `weighted_scores`. truth: 'majority' or 'votes'. direction: 1 if more is
  better, else -1."""

  metric: str
  truth: str
  direction: int


MEASURES = {
    'top1': Measure('top1', 'majority', 1), 'top1_at_80': Measure('top1_at_80', 'majority', 1),
    'aurc': Measure('aurc', 'majority', -1), 'ece': Measure('ece', 'majority', -1),
    'adaptive_ece': Measure('adaptive_ece', 'majority', -1), 'votes_adaptive_ece': Measure('adaptive_ece', 'votes', -1),
    'kl': Measure('kl', 'votes', -1), 'brier': Measure('brier', 'votes',
                                                       -1), 'entropy_pearson': Measure('entropy_pearson', 'votes', 1)}
"""The measures, by their names in result.json."""


class Truths(NamedTuple):
  """Both truths of every record of a split. classes: those that votes and labels share. majority_N: int32, an index of
  them, -1 without one. votes_NxC: float32, shares that sum to 1, NaN without votes."""

  classes: tuple[str, ...]
  majority_N: np.ndarray
  votes_NxC: np.ndarray


class Answers(NamedTuple):
  """A model's answers and both truths, over the same classes. logits_NxC: float32. The others are as in `Truths`."""

  logits_NxC: np.ndarray
  majority_N: np.ndarray
  votes_NxC: np.ndarray

  def scores(self, name: str, weight_RxN: np.ndarray) -> np.ndarray:
    """Computes one of `MEASURES` under each of R weightings of the examples, see `weighted_scores`."""
    measure = MEASURES[name]
    truth = self.majority_N if measure.truth == 'majority' else self.votes_NxC
    return weighted_scores(measure.metric, self.logits_NxC, truth, weight_RxN)

  def risk(self, coverage_K: np.ndarray) -> np.ndarray:
    """The share of errors against the majority if a share is answered, see `confidence.risk_coverage_curve`."""
    known_N = self.majority_N >= 0
    surest = surest_class(self.logits_NxC[known_N], self.majority_N[known_N])
    return risk_coverage_curve(*surest, coverage_K)


def read_truths(split: Split) -> Truths | None:
  """Reads the votes and the majority of every record; None unless there are both, over two classes or more.

  Raises:
    UserError: the annotations are damaged.
  """
  voted = targets.columns(split, 'distribution')
  classes = tuple(name for name in split.labels if name in voted)
  if len(classes) < 2:
    return None
  found = targets.read(split)
  share_NxC = found['distribution'][:, [voted.index(name) for name in classes]]
  total_Nx1 = share_NxC.sum(axis=1, keepdims=True)
  votes_NxC = np.divide(share_NxC, total_Nx1, out=np.full_like(share_NxC, np.nan), where=total_Nx1 > 0)
  index_of_label = np.array([classes.index(name) if name in classes else -1 for name in split.labels] + [-1], np.int32)
  majority_N = index_of_label[found['label']]  # of label -1, the last
  return Truths(classes, majority_N, votes_NxC) if (majority_N >= 0).any() and (total_Nx1 > 0).any() else None


def shared_columns(tasks: Sequence[Task], truths: Truths | None) -> dict[str, np.ndarray]:
  """The columns of a task's outputs that are `Truths.classes`, for each task that answers with one of the classes.

  Their softmax is the prediction, given that the answer is one of these. {} without truths.
  """
  return {
      task.name: np.array([task.outputs.index(name) for name in truths.classes])
      for task in tasks
      if truths and task.name in ('label', 'distribution') and set(truths.classes) <= set(task.outputs)}


def measure_ambiguity(tasks: Sequence[Task], outputs_NxW: np.ndarray, truths: Truths | None) -> dict[str, Any]:
  """Computes {'ambiguity': …} of the result, by task: `MEASURES`, and how many examples have a majority, and votes.

  Args:
    tasks: the model's tasks.
    outputs_NxW: the outputs of its head for every record.
    truths: the truths of these records; None gives {}, as do tasks of other kinds.

  Returns:
    The entries. A value that the split leaves undefined is None.
  """
  outputs = split_columns(outputs_NxW, tasks)
  once_1xN = np.ones((1, len(outputs_NxW)))
  found = {}
  for name, columns in shared_columns(tasks, truths).items():
    assert truths
    answers = Answers(outputs[name][:, columns], truths.majority_N, truths.votes_NxC)
    values = {measure: float(answers.scores(measure, once_1xN)[0]) for measure in MEASURES}
    counts = {
        'classes': len(truths.classes), 'examples_with_majority': int((truths.majority_N >= 0).sum()),
        'examples_with_votes': int(np.isfinite(truths.votes_NxC).all(axis=1).sum())}
    found[name] = {
        'ambiguity': counts | {measure: value if np.isfinite(value) else None for measure, value in values.items()}}
  return found
