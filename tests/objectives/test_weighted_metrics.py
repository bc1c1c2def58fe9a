"""A score under weights is the metric of the examples repeated so often."""

import numpy as np
import pytest

from uniemox_jax.objectives.tasks import KINDS, Task, measure, prepare_targets
from uniemox_jax.objectives.weighted_metrics import weighted_scores

COUNT = 60
RNG = np.random.default_rng(0)
VAD = RNG.normal(5, 2, (COUNT, 3)).astype(np.float32)
VAD[RNG.random((COUNT, 3)) < 0.2] = np.nan
TARGETS = {
    'label': RNG.integers(-1, 4, COUNT).astype(np.int32), 'labels': (RNG.random((COUNT, 4)) < 0.3).astype(np.float32),
    'distribution': RNG.dirichlet(np.ones(4), COUNT).astype(np.float32), 'vad': VAD}
TASKS = {
    name:
        Task(name, ('valence', 'arousal', 'dominance'), 'l2', mean=(5.0, 5.0, 5.0), std=(2.0, 2.0, 2.0))
        if name == 'vad' else Task(name, ('a', 'b', 'c', 'd'), KINDS[name].losses[0]) for name in KINDS}  # fmt: skip


def prepared(name: str) -> np.ndarray:
  if name == 'label':
    return TARGETS[name]
  target, present = map(np.asarray, prepare_targets(TASKS[name], TARGETS[name]))
  return np.where(present > 0, target, np.nan)


@pytest.mark.parametrize(('name', 'metric'),
                         [*((name, kind.score) for name, kind in KINDS.items()), ('vad', 'pearson')])
def test_weights_are_repetitions(name, metric):
  outputs = RNG.normal(0, 1, (COUNT, len(TASKS[name].outputs))).round(1).astype(np.float32)  # with equal scores
  weights = RNG.poisson(1, (7, COUNT)).astype(np.float32)
  weights[0] = 1
  found = weighted_scores(metric, outputs, prepared(name), weights)
  for weight_N, score in zip(weights.astype(int), found):
    repeated = np.repeat(np.arange(COUNT), weight_N)
    expected = measure(TASKS[name], outputs[repeated], TARGETS[name][repeated])[metric]
    assert score == pytest.approx(expected, abs=1e-5)


def test_a_class_that_no_drawn_image_has_does_not_count():
  scores = np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.3]], np.float32)
  present = np.array([[1, 0], [0, 1], [1, 0]], np.float32)
  weights = np.array([[1, 0, 1], [0, 0, 0]], np.float32)
  found = weighted_scores('map', scores, present, weights)
  assert found[0] == 1 and np.isnan(found[1])
