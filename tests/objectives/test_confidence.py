"""Calibration, risk and coverage, and Brier's score are those by hand and by scikit-learn."""

import numpy as np
import pytest
from sklearn.metrics import brier_score_loss, precision_recall_curve

from uniemox_jax.objectives import confidence, metrics

ONCE = np.ones((1, 10))
CONFIDENCE = np.array([0.95, 0.9, 0.85, 0.8, 0.75, 0.7, 0.65, 0.6, 0.55, 0.5])
RIGHT = np.array([1, 1, 0, 1, 1, 1, 0, 1, 0, 0.0])


def test_risk_and_coverage_by_hand():
  risks = [0, 0, 1 / 3, 1 / 4, 1 / 5, 1 / 6, 2 / 7, 2 / 8, 3 / 9, 4 / 10]
  assert confidence.area_under_risk_coverage(CONFIDENCE, RIGHT, ONCE)[0] == pytest.approx(np.mean(risks))
  assert confidence.accuracy_at_coverage(CONFIDENCE, RIGHT, ONCE)[0] == pytest.approx(6 / 8)
  curve = confidence.risk_coverage_curve(CONFIDENCE, RIGHT, np.arange(1, 11) / 10)
  np.testing.assert_allclose(curve, risks, atol=1e-12)


def test_the_area_is_one_minus_scikit_learns_mean_precision():
  rng = np.random.default_rng(0)
  sure, right = rng.random(200), rng.random(200) < 0.6
  precision = precision_recall_curve(right, sure)[0][:-1]  # but for that of no answers, which it adds
  found = confidence.area_under_risk_coverage(sure, right, np.ones((1, 200)))[0]
  assert found == pytest.approx(1 - precision.mean())


def test_equal_confidences_make_the_order_of_the_examples_mean_nothing():
  tied, order = np.full(10, 0.7), np.random.default_rng(0).permutation(10)
  for measure in metrics.CONFIDENCE.values():
    assert measure(tied, RIGHT, ONCE) == pytest.approx(measure(tied, RIGHT[order], ONCE))
  assert confidence.area_under_risk_coverage(tied, RIGHT, ONCE)[0] == pytest.approx(0.4)
  assert confidence.accuracy_at_coverage(tied, RIGHT, ONCE)[0] == pytest.approx(0.6)
  assert confidence.adaptive_calibration_error(tied, RIGHT, ONCE)[0] == pytest.approx(0.1)


def test_adaptive_bins_hold_equally_many():
  rng = np.random.default_rng(0)
  sure = np.sort(0.5 + 0.5 * rng.random(10 * confidence.BINS)**4)[::-1]
  right = rng.random(len(sure)) < sure - 0.1
  gaps = [abs(part.mean()) for part in np.split(sure - right, confidence.BINS)]
  once = np.ones((1, len(sure)))
  assert confidence.adaptive_calibration_error(sure, right, once)[0] == pytest.approx(np.mean(gaps))
  assert confidence.expected_calibration_error(sure, right, once)[0] != pytest.approx(np.mean(gaps), abs=0.005)
  # One example is its own bins.
  assert confidence.adaptive_calibration_error(sure[:1], right[:1] * 1.0, once[:, :1])[0] == abs(sure[0] - right[0])


def test_nothing_counted_is_undefined():
  for measure in metrics.CONFIDENCE.values():
    assert np.isnan(measure(CONFIDENCE, RIGHT, 0 * ONCE)[0])


def test_briers_score_is_scikit_learns_of_single_votes():
  rng = np.random.default_rng(0)
  logits, label = rng.standard_normal((20, 4)), rng.integers(0, 4, 20)
  expected = brier_score_loss(np.eye(4)[label].ravel(), metrics.ACTIVATIONS['softmax'](logits).ravel())
  assert metrics.brier_by_example(logits, np.eye(4)[label]).mean() == pytest.approx(4 * expected)
