"""Metrics for comparing results, in which an example may count several times or not at all.

A resample of the test images is a weight for each image: how often it was drawn. All resamples are computed together.
"""

from collections.abc import Callable

import numpy as np

from uniemox_jax.objectives import metrics


def weighted_scores(metric: str, outputs_NxC: np.ndarray, target: np.ndarray, weight_RxN: np.ndarray) -> np.ndarray:
  """Computes a metric under each of R weightings of its examples, float64 (R,); NaN where it is undefined.

  Args:
    metric: a score of `tasks.KINDS`, or 'pearson'; for a label or votes, one of `metrics.CONFIDENCE`; for votes,
      'brier', or 'entropy_pearson', the correlation of the entropies of prediction and votes.
    outputs_NxC: the outputs of the head, float32.
    target: as `kept_outputs.KeptOutputs` has it.
    weight_RxN: how often each example counts, at least 0; its dtype, float32 or float64, is that of the sums.
  """
  return _SCORES[metric](outputs_NxC, target, weight_RxN)


def _weighted_mean(value_N: np.ndarray, present_N: np.ndarray, weight_RxN: np.ndarray) -> np.ndarray:
  """Over the present examples; float32 sums of small integers are exact, others are right to 1e-6."""
  total_R = (weight_RxN @ present_N.astype(weight_RxN.dtype)).astype(np.float64)
  sum_R = (weight_RxN @ np.where(present_N, value_N, 0).astype(weight_RxN.dtype)).astype(np.float64)
  return np.divide(sum_R, total_R, out=np.full_like(total_R, np.nan), where=total_R > 0)


def _mean_defined(value_CxR: np.ndarray) -> np.ndarray:
  """`metrics.mean_defined` of each column; NaN where none is defined."""
  defined_R = np.isfinite(value_CxR).sum(axis=0)
  sum_R = np.nansum(value_CxR, axis=0)
  return np.divide(sum_R, defined_R, out=np.full_like(sum_R, np.nan), where=defined_R > 0)


def _top1(logits_NxC: np.ndarray, label_N: np.ndarray, weight_RxN: np.ndarray) -> np.ndarray:
  return _weighted_mean(logits_NxC.argmax(axis=-1) == label_N, label_N >= 0, weight_RxN)


def _kl(logits_NxC: np.ndarray, target_NxC: np.ndarray, weight_RxN: np.ndarray) -> np.ndarray:
  present_N = np.isfinite(target_NxC).all(axis=-1)
  return _weighted_mean(metrics.kl_by_example(logits_NxC, np.nan_to_num(target_NxC)), present_N, weight_RxN)


def _brier(logits_NxC: np.ndarray, target_NxC: np.ndarray, weight_RxN: np.ndarray) -> np.ndarray:
  present_N = np.isfinite(target_NxC).all(axis=-1)
  return _weighted_mean(metrics.brier_by_example(logits_NxC, np.nan_to_num(target_NxC)), present_N, weight_RxN)


def _entropy_pearson(logits_NxC: np.ndarray, target_NxC: np.ndarray, weight_RxN: np.ndarray) -> np.ndarray:
  predicted_N, true_N = metrics.entropies(logits_NxC, target_NxC)
  if min(np.ptp(predicted_N), np.ptp(true_N[np.isfinite(true_N)])) < 1e-12:  # equal but for rounding
    return np.full(len(weight_RxN), np.nan)
  return _pearson(predicted_N[:, None], true_N[:, None], weight_RxN)


def _of_confidence(name: str) -> Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]:
  """The measure of `metrics.CONFIDENCE`, of labels or of votes."""

  def score(logits_NxC: np.ndarray, target: np.ndarray, weight_RxN: np.ndarray) -> np.ndarray:
    known_N = target >= 0 if target.ndim == 1 else np.isfinite(target).all(axis=-1)
    surest = metrics.surest_class(logits_NxC[known_N], target[known_N])
    return metrics.CONFIDENCE[name](*surest, weight_RxN[:, known_N])

  return score


def _ccc(predicted_NxD: np.ndarray, target_NxD: np.ndarray, weight_RxN: np.ndarray) -> np.ndarray:
  """Lin's concordance, the mean over dimensions, from weighted moments."""
  return _mean_defined(np.stack([_one_ccc(*_moments(x, y, weight_RxN)) for x, y in zip(predicted_NxD.T, target_NxD.T)]))


def _pearson(predicted_NxD: np.ndarray, target_NxD: np.ndarray, weight_RxN: np.ndarray) -> np.ndarray:
  """Pearson's r, the mean over dimensions, from weighted moments."""
  return _mean_defined(
      np.stack([_one_pearson(*_moments(x, y, weight_RxN)) for x, y in zip(predicted_NxD.T, target_NxD.T)]))


def _moments(predicted_N: np.ndarray, target_N: np.ndarray, weight_RxN: np.ndarray) -> tuple[np.ndarray, ...]:
  """Covariance, both variances, and the difference of the means, (R,) each.

  From sums of squares, which one product gives for all resamples. `metrics.dimensional` subtracts the mean first, so
  that a constant side has a variance of exactly 0: these sums do not.
  """
  known_N = np.isfinite(target_N)
  origin = target_N[known_N].mean()  # which the result does not depend on, but its rounding does
  x, y = predicted_N - origin, target_N - origin
  mean_x, mean_y, xx, yy, xy = (_weighted_mean(value_N, known_N, weight_RxN) for value_N in (x, y, x * x, y * y, x * y))
  return xy - mean_x * mean_y, xx - mean_x**2, yy - mean_y**2, mean_x - mean_y


def _one_ccc(both_R: np.ndarray, xx_R: np.ndarray, yy_R: np.ndarray, apart_R: np.ndarray) -> np.ndarray:
  total_R = xx_R + yy_R + apart_R**2
  return np.divide(2 * both_R, total_R, out=np.full_like(total_R, np.nan), where=total_R > 0)


def _one_pearson(both_R: np.ndarray, xx_R: np.ndarray, yy_R: np.ndarray, apart_R: np.ndarray) -> np.ndarray:
  del apart_R
  product_R = np.sqrt(np.maximum(xx_R, 0) * np.maximum(yy_R, 0))
  return np.divide(both_R, product_R, out=np.full_like(product_R, np.nan), where=product_R > 0)


def _mean_average_precision(scores_NxC: np.ndarray, present_NxC: np.ndarray, weight_RxN: np.ndarray) -> np.ndarray:
  """The mean over the classes that a resample has, each as `metrics.average_precision`."""
  known_N = np.isfinite(present_NxC).all(axis=-1)
  weight_RxK = weight_RxN[:, known_N]
  return _mean_defined(
      np.stack([
          metrics.weighted_average_precision(score_K, present_K > 0, weight_RxK)
          for score_K, present_K in zip(scores_NxC[known_N].T, present_NxC[known_N].T)]))


_SCORES = {
    'top1': _top1, 'map': _mean_average_precision, 'kl': _kl, 'ccc': _ccc, 'pearson': _pearson, 'brier': _brier,
    'entropy_pearson': _entropy_pearson, **{name: _of_confidence(name) for name in metrics.CONFIDENCE}}
