"""Metrics equal scikit-learn's, whatever the padding."""

import jax.numpy as jnp
import numpy as np
import pytest
from sklearn import metrics as reference

from uniemox_jax.metrics import classification_summary, classification_sums

LABELS = ['a', 'b', 'c', 'd', 'never']


def test_metrics_of_padded_batches_equal_scikit_learn():
  rng = np.random.default_rng(0)
  label = rng.integers(0, 4, 50).astype(np.int32)
  logits = rng.standard_normal((50, 5)).astype(np.float32) + 2 * np.eye(5, dtype=np.float32)[label]
  padded_logits = np.concatenate([logits, rng.standard_normal((14, 5)).astype(np.float32)])
  padded_label = np.concatenate([label, np.zeros(14, np.int32)])
  mask = np.concatenate([np.ones(50, np.float32), np.zeros(14, np.float32)])
  total = None
  for start in range(0, 64, 16):
    rows = slice(start, start + 16)
    sums = classification_sums(*(jnp.asarray(x[rows]) for x in (padded_logits, padded_label, mask)))
    total = sums if total is None else {name: total[name] + value for name, value in sums.items()}
  result = classification_summary({name: np.asarray(value) for name, value in total.items()}, LABELS)

  predicted = logits.argmax(1)
  every = range(5)
  assert result['examples'] == 50
  assert result['top1'] == pytest.approx(reference.accuracy_score(label, predicted), abs=1e-6)
  assert result['top3'] == pytest.approx(reference.top_k_accuracy_score(label, logits, k=3, labels=every), abs=1e-6)
  assert result['macro_f1'] == pytest.approx(
      reference.f1_score(label, predicted, labels=every, average='macro', zero_division=0), abs=1e-6)
  assert result['loss'] == pytest.approx(
      reference.log_loss(label, np.exp(logits) / np.exp(logits).sum(1, keepdims=True), labels=every), rel=1e-5)
  np.testing.assert_array_equal(result['confusion'], reference.confusion_matrix(label, predicted, labels=every))
  assert [row['recall'] for row in result['per_class']] == pytest.approx(
      reference.recall_score(label, predicted, labels=every, average=None, zero_division=0))
