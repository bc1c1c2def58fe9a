"""Classification metrics as sums over masked batches, so that padding and hosts never change a number."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from uniemox_jax import losses


def classification_sums(logits_BxC: jax.Array, label_B: jax.Array, mask_B: jax.Array) -> dict[str, jax.Array]:
  """What one batch adds.

  Args:
    logits_BxC: float32.
    label_B: int32 class indices.
    mask_B: float32, 0 for padding rows.

  Returns:
    'loss' (sum of cross-entropies), 'top3' (hits among the three highest) and 'confusion' (C, C), true by predicted.
  """
  true_BxC = jax.nn.one_hot(label_B, logits_BxC.shape[-1]) * mask_B[:, None]
  predicted_BxC = jax.nn.one_hot(jnp.argmax(logits_BxC, -1), logits_BxC.shape[-1])
  top3_Bx3 = jax.lax.top_k(logits_BxC, min(3, logits_BxC.shape[-1]))[1]
  return {
      'loss': jnp.sum(losses.cross_entropy(logits_BxC, true_BxC)),
      'top3': jnp.sum(jnp.any(top3_Bx3 == label_B[:, None], axis=-1) * mask_B),
      'confusion': true_BxC.T @ predicted_BxC,
  }


def classification_summary(sums: dict[str, np.ndarray], labels: list[str]) -> dict[str, Any]:
  """Metrics from the summed batches: examples, loss, top1, top3, macro_f1, per_class and confusion (true by row).

  A class without examples and predictions counts as F1 0, as scikit-learn's zero_division=0 does.
  """
  confusion = np.asarray(sums['confusion']).round().astype(int)
  hits, support, predicted = confusion.diagonal(), confusion.sum(1), confusion.sum(0)
  precision = hits / np.maximum(predicted, 1)
  recall = hits / np.maximum(support, 1)
  f1 = 2 * hits / np.maximum(predicted + support, 1)
  total = int(confusion.sum())
  per_class = [
      {'label': label, 'examples': int(support[i]), 'precision': float(precision[i]), 'recall': float(recall[i]),
       'f1': float(f1[i])} for i, label in enumerate(labels)]
  return {'examples': total, 'loss': float(sums['loss']) / total, 'top1': float(hits.sum() / total),
          'top3': float(sums['top3']) / total, 'macro_f1': float(f1.mean()), 'per_class': per_class,
          'confusion': confusion.tolist()}
