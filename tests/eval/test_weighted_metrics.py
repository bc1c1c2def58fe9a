"""A score under weights is the metric of the examples repeated so often."""

import numpy as np
import pytest
from scipy import stats

from uniemox_jax.eval.weighted_metrics import weighted_scores
from uniemox_jax.objectives import metrics
from uniemox_jax.objectives.tasks import KINDS, Task, measure, prepare_targets

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


@pytest.mark.parametrize(('name', 'metric'), [
    *((name, kind.score) for name, kind in KINDS.items()),
    ('vad', 'pearson'), *(('label', name) for name in metrics.CONFIDENCE)])
def test_weights_are_repetitions(name, metric):
  outputs = RNG.normal(0, 1, (COUNT, len(TASKS[name].outputs))).round(1).astype(np.float32)  # with equal scores
  weights = RNG.multinomial(COUNT, np.full(COUNT, 1 / COUNT), 7).astype(np.float32)
  weights[0] = 1
  found = weighted_scores(metric, outputs, prepared(name), weights)
  for weight_N, score in zip(weights.astype(int), found):
    repeated = np.repeat(np.arange(COUNT), weight_N)
    expected = measure(TASKS[name], outputs[repeated], TARGETS[name][repeated])[metric]
    assert score == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(('truth', 'metric'), [
    *((truth, name) for truth in ('label', 'distribution') for name in metrics.CONFIDENCE), ('distribution', 'brier'),
    ('distribution', 'entropy_pearson')])  # fmt: skip
def test_weights_are_repetitions_in_what_is_asked_of_ambiguous_images(truth, metric):
  logits = RNG.normal(0, 1, (COUNT, 4)).round(0).astype(np.float32)  # with equal confidences
  target = prepared(truth).copy()
  target[:5] = -1 if truth == 'label' else np.nan
  weights = RNG.multinomial(COUNT, np.full(COUNT, 1 / COUNT), 7).astype(np.float32)
  for weight_N, score in zip(weights.astype(int), weighted_scores(metric, logits, target, weights)):
    repeated = np.repeat(np.arange(COUNT), weight_N)
    [expected] = weighted_scores(metric, logits[repeated], target[repeated], np.ones((1, len(repeated))))
    assert score == pytest.approx(expected, abs=1e-5)
  if metric == 'entropy_pearson':
    known = np.isfinite(target).all(axis=1)
    expected = stats.pearsonr(*metrics.entropies(logits[known], target[known])).statistic
    assert weighted_scores(metric, logits, target, np.ones((1, COUNT)))[0] == pytest.approx(expected)
    assert np.isnan(weighted_scores(metric, np.zeros((COUNT, 4)), target, np.ones((1, COUNT)))[0])


def test_a_class_that_no_drawn_image_has_does_not_count():
  scores = np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.3]], np.float32)
  present = np.array([[1, 0], [0, 1], [1, 0]], np.float32)
  weights = np.array([[1, 0, 1], [0, 0, 0]], np.float32)
  found = weighted_scores('map', scores, present, weights)
  assert found[0] == 1 and np.isnan(found[1])
