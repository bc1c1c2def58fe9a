"""Metrics equal scikit-learn's and SciPy's."""

import numpy as np
import pytest
from scipy import special, stats
from scipy.spatial import distance
from sklearn import calibration
from sklearn import metrics as reference

from uniemox_jax.objectives import metrics

LABELS = ['a', 'b', 'c', 'd', 'never']


def close(value):
  return pytest.approx(value, abs=1e-6)


@pytest.fixture
def rng():
  return np.random.default_rng(0)


def test_single_label_metrics_equal_scikit_learn(rng):
  label = rng.integers(0, 4, 50)
  logits = rng.standard_normal((50, 5)).astype(np.float32) + 2 * np.eye(5, dtype=np.float32)[label]
  result = metrics.single_label(logits, label, LABELS)
  predicted, every = logits.argmax(1), range(5)
  assert result['examples'] == 50
  assert result['top1'] == close(reference.accuracy_score(label, predicted))
  assert result['top3'] == close(reference.top_k_accuracy_score(label, logits, k=3, labels=every))
  assert result['macro_f1'] == close(
      reference.f1_score(label, predicted, labels=every, average='macro', zero_division=0))
  assert result['balanced_accuracy'] == close(reference.balanced_accuracy_score(label, predicted))
  np.testing.assert_array_equal(result['confusion'], reference.confusion_matrix(label, predicted, labels=every))
  precision, recall, f1, support = reference.precision_recall_fscore_support(
      label, predicted, labels=every, zero_division=0)
  for name, values in {'precision': precision, 'recall': recall, 'f1': f1, 'examples': support}.items():
    assert [row[name] for row in result['per_class']] == close(values.tolist())


def test_a_class_that_the_split_lacks_lowers_macro_f1_and_the_other_mean_says_so():
  label = np.array([0, 1, 0, 1])
  perfect = metrics.single_label(np.eye(3)[label], label, ['a', 'b', 'absent'])
  assert perfect['macro_f1'] == close(2 / 3) and perfect['macro_f1_present'] == 1
  assert 'macro_f1_present' not in metrics.single_label(np.eye(2)[label], label, ['a', 'b'])
  several = metrics.multi_label(np.eye(3)[label], np.eye(3)[label] > 0, ['a', 'b', 'absent'], [0.5, 0.5, None])
  assert several['macro_f1'] == close(2 / 3) and several['macro_f1_present'] == 1


@pytest.mark.parametrize('value', [0.1, 1 / 3, 7.3e8, -0.7])
def test_a_constant_side_has_no_pearson_and_a_ccc_of_exactly_0(value):
  constant, varied = np.full((7, 1), value), np.linspace(-1, 1, 7)[:, None]
  for predicted, target in ((constant, varied), (varied, constant)):
    found = metrics.dimensional(predicted, target, ['valence'])
    assert found['pearson'] is None and found['ccc'] == 0
  equal = metrics.dimensional(constant, constant, ['valence'])
  assert equal['pearson'] is None and equal['ccc'] is None


def test_calibration_error_is_that_of_scikit_learns_calibration_curve(rng):
  label = rng.integers(0, 4, 400)
  logits = rng.standard_normal((400, 5)) + 2 * np.eye(5)[label]
  probability = special.softmax(logits, axis=-1)
  confidence, correct = probability.max(1), probability.argmax(1) == label
  accuracy, mean = calibration.calibration_curve(correct, confidence, n_bins=15)
  size = np.histogram(confidence, np.linspace(0, 1, 16))[0]
  assert metrics.single_label(logits, label,
                              LABELS)['ece'] == close(np.sum(size[size > 0] / 400 * np.abs(accuracy - mean)))


def multi_label_case(rng, rows):
  present = rng.random((rows, 5)) < [0.5, 0.2, 0.05, 0.3, 0]
  return present, rng.standard_normal((rows, 5)) + 1.5 * present


def test_multi_label_metrics_equal_scikit_learn(rng):
  val_present, val_scores = multi_label_case(rng, 200)
  present, scores = multi_label_case(rng, 150)
  thresholds = metrics.break_even_thresholds(val_scores, val_present)
  result = metrics.multi_label(scores, present, LABELS, thresholds)
  ap = [reference.average_precision_score(present[:, i], scores[:, i]) for i in range(4)]
  assert [row['ap'] for row in result['per_class'][:4]] == close(ap)
  assert result['per_class'][4]['ap'] is None
  assert result['map'] == close(np.mean(ap))
  predicted = scores >= [*thresholds[:4], np.inf]
  assert result['macro_f1'] == close(reference.f1_score(present, predicted, average='macro', zero_division=0))
  assert result['jaccard'] == close(reference.jaccard_score(present, predicted, average='samples', zero_division=0))
  precision, recall, f1, _ = reference.precision_recall_fscore_support(present, predicted, zero_division=0)
  for name, values in {'precision': precision, 'recall': recall, 'f1': f1}.items():
    assert [row[name] for row in result['per_class']] == close(values.tolist())


def test_average_precision_takes_equal_scores_together(rng):
  scores, present = rng.integers(0, 5, 100), rng.random(100) < 0.3
  assert metrics.average_precision(scores, present) == close(reference.average_precision_score(present, scores))


def test_thresholds_are_where_scikit_learns_curve_has_equal_precision_and_recall(rng):
  present, scores = multi_label_case(rng, 300)
  thresholds = metrics.break_even_thresholds(scores, present)
  assert thresholds[4] is None
  for i in range(4):
    precision, recall, places = reference.precision_recall_curve(present[:, i], scores[:, i])
    at = np.flatnonzero(places == thresholds[i])
    assert len(at) == 1 and precision[at[0]] == recall[at[0]] > 0


def test_distribution_measures_equal_scipy(rng):
  target = rng.dirichlet(np.full(7, 0.5), 60)
  target[:, 3] = 0
  target /= target.sum(axis=-1, keepdims=True)
  logits = rng.standard_normal((60, 7))
  predicted = special.softmax(logits, axis=-1)
  result = metrics.label_distribution(logits, target)
  assert result['examples'] == 60
  pairs = list(zip(target, predicted))
  assert result['chebyshev'] == close(np.mean([distance.chebyshev(t, p) for t, p in pairs]))
  assert result['canberra'] == close(np.mean([distance.canberra(t, p) for t, p in pairs]))
  assert result['clark'] == close(
      np.mean([np.sqrt(sum(distance.canberra([a], [b])**2 for a, b in zip(t, p))) for t, p in pairs]))
  assert result['kl'] == close(np.mean([stats.entropy(t, p) for t, p in pairs]))
  assert result['cosine'] == close(np.mean([1 - distance.cosine(t, p) for t, p in pairs]))
  assert result['intersection'] == close(np.mean([1 - distance.cityblock(t, p) / 2 for t, p in pairs]))


def test_a_share_of_zero_on_both_sides_adds_nothing():
  result = metrics.label_distribution(np.array([[0.0, -1000.0]]), np.array([[1.0, 0.0]]))
  assert [result[name] for name in ('chebyshev', 'clark', 'canberra', 'kl')] == close([0, 0, 0, 0])


def test_dimensional_metrics_equal_scipy_and_lins_definition(rng):
  target = rng.normal(5, 2, (80, 2))
  predicted = 0.5 * target + rng.normal(3, 1, (80, 2))
  target[::9, 1] = np.nan
  result = metrics.dimensional(predicted, target, ['valence', 'arousal'])
  for i, row in enumerate(result['per_dimension']):
    known = np.isfinite(target[:, i])
    x, y = predicted[known, i], target[known, i]
    assert row['examples'] == known.sum()
    assert row['mae'] == close(reference.mean_absolute_error(y, x))
    assert row['pearson'] == close(stats.pearsonr(x, y).statistic)
    # Lin 1989: 1 - the expected squared distance over that of independent variables.
    independent = np.mean((x[:, None] - y[None])**2)
    assert row['ccc'] == close(1 - reference.mean_squared_error(y, x) / independent)
  assert result['ccc'] == close(np.mean([row['ccc'] for row in result['per_dimension']]))
  assert result['examples'] == 80


def test_what_a_split_leaves_undefined_is_none():
  assert metrics.dimensional(np.ones((3, 1)), np.array([[1.0], [2.0], [3.0]]), ['valence'])['pearson'] is None
  assert metrics.dimensional(np.ones((3, 1)), np.full((3, 1), np.nan), ['valence'])['ccc'] is None
