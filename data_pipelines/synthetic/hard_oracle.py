"""Computes the best possible answers to the harder world, whose probabilities are known: nothing is learned.

It does not use what is hidden. No model that sees the pixels can do better, on average over many images.
"""

import collections
from collections.abc import Callable, Hashable, Sequence
import functools
from typing import Any

import numpy as np

from data_pipelines.records.label_sets import EMOTIONS
from data_pipelines.synthetic.hard_annotators import RELIABILITY, answers, majority_shares
from data_pipelines.synthetic.hard_world import CUE_SHARES, Case, Scene, cases

_SEEN: dict[str, Callable[[Case], Hashable]] = {
    'both': lambda case: (case.figure_seen, case.scene_seen), 'figure': lambda case: case.figure_seen,
    'scene': lambda case: case.scene_seen}
_TARGETS: dict[str, Callable[[Case], np.ndarray]] = {
    'class': lambda case: np.eye(len(EMOTIONS))[EMOTIONS.index(case.emotion)],
    'label': lambda case: majority_shares(case.emotion, case.other),
    'votes': lambda case: answers(case.emotion, case.other).mean(axis=0)}

QUESTIONS = {
    'class': ('class', 'both'), 'label': ('label', 'both'), 'figure_alone': ('label', 'figure'),
    'scene_alone': ('label', 'scene')}
"""The questions by name: what is asked for, and what is seen, see `best_shares`."""


@functools.cache
def _table(target: str, sees: str) -> dict[Hashable, np.ndarray]:
  """Joint probability of what is seen and each emotion: key -> (emotions,)."""
  table: dict[Hashable, np.ndarray] = collections.defaultdict(lambda: np.zeros(len(EMOTIONS)))
  for emotion in EMOTIONS:
    for case, share in zip(*cases(emotion)):
      table[_SEEN[sees](case)] += share / len(EMOTIONS) * _TARGETS[target](case)
  return dict(table)


def best_shares(case: Case, target: str, sees: str = 'both') -> np.ndarray:
  """The probability of each emotion, (emotions,), given what is drawn and not hidden.

  Args:
    case: the case of an image.
    target: 'class', the emotion that was drawn; 'label', the majority of the annotators; 'votes', their mean.
    sees: 'both', or 'figure' or 'scene' alone.
  """
  joint = _table(target, sees)[_SEEN[sees](case)]
  return joint / joint.sum()


def best_answer(case: Case, target: str, sees: str = 'both') -> str:
  """The most probable emotion of `best_shares`."""
  return EMOTIONS[int(best_shares(case, target, sees).argmax())]


def best_domain(scene: Scene) -> str:
  """The best answer to the style, which every image shows."""
  return scene.style


def expected_accuracy(target: str, sees: str = 'both') -> float:
  """The share of right answers among infinitely many images."""
  return float(sum(joint.max() for joint in _table(target, sees).values()))


def scores(scenes: Sequence[Scene], said: np.ndarray, labels: Sequence[str]) -> dict[str, Any]:
  """Measures what the oracle reaches on these images.

  Args:
    scenes: what the images show.
    said: the answers of each annotator, indices of EMOTIONS, (images, annotators).
    labels: the majority's emotion of each image.

  Returns:
    The accuracy of class and label from figure and scene, from either alone, and by kind of cues; and `votes_kl`, the
    mean Kullback-Leibler divergence of the votes from the best shares; all rounded to 4 places.
  """
  truth = {'class': [scene.case.emotion for scene in scenes], 'label': labels}
  right = {
      name: np.array([best_answer(scene.case, target, sees) == true for scene, true in zip(scenes, truth[target])])
      for name, (target, sees) in QUESTIONS.items()}
  right['domain'] = np.array([best_domain(scene) == scene.style for scene in scenes])
  found: dict[str, Any] = {name: _mean(values) for name, values in right.items()}
  found['votes_kl'] = _mean(np.array([_kl(scene.case, votes) for scene, votes in zip(scenes, said)]))
  kinds = np.array([scene.case.cues for scene in scenes])
  found['by_cues'] = {
      kind: {name: _mean(right[name][kinds == kind]) for name in QUESTIONS} for kind in CUE_SHARES if kind in kinds}
  return found


def _kl(case: Case, said: np.ndarray) -> float:
  votes = np.bincount(said, minlength=len(EMOTIONS)) / len(RELIABILITY)
  given = votes > 0
  return float((votes[given] * np.log(votes[given] / best_shares(case, 'votes')[given])).sum())


def _mean(values: np.ndarray) -> float:
  return round(float(values.mean()), 4)
