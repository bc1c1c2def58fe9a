"""The tasks' metrics over a whole split: outputs and targets of every example, float64 on the host (docs/tasks.md).

Neither batches nor hosts enter, so padding and topology change nothing but the outputs' own rounding. Metrics that a
split leaves undefined, such as the average precision of a class without examples, are None, and left out of means.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from uniemox_jax.objectives import confidence


def _softmax(logits_NxC: np.ndarray) -> np.ndarray:
  exponentials_NxC = np.exp(logits_NxC - logits_NxC.max(axis=-1, keepdims=True))
  return exponentials_NxC / exponentials_NxC.sum(axis=-1, keepdims=True)


def _sigmoid(logits: np.ndarray) -> np.ndarray:
  return 0.5 * (1 + np.tanh(0.5 * logits))


ACTIVATIONS = {'softmax': _softmax, 'sigmoid': _sigmoid, 'identity': lambda outputs: outputs}
"""The functions that turn outputs into predictions; any float dtype, rows are examples."""
CONFIDENCE = {
    'ece': confidence.expected_calibration_error, 'adaptive_ece': confidence.adaptive_calibration_error,
    'aurc': confidence.area_under_risk_coverage, 'top1_at_80': confidence.accuracy_at_coverage}
"""The measures of what the confidence in the likeliest class is worth, by name."""


def mean_defined(values: Sequence[float | None]) -> float | None:
  """The mean of the values that are not None; None if all are."""
  defined = [value for value in values if value is not None]
  return float(np.mean(defined)) if defined else None


def single_label(logits_NxC: np.ndarray, label_N: np.ndarray, names: Sequence[str]) -> dict[str, Any]:
  """Computes the metrics of single-label classification.

  Args:
    logits_NxC: logits of any float dtype.
    label_N: class indices.
    names: the names of the classes.

  Returns:
    examples, top1, top3, macro_f1 (see `macro_f1`), balanced_accuracy (mean recall of the classes with examples), of
    `confidence` ece, adaptive_ece, aurc and top1_at_80, per_class, confusion (true by row).
  """
  classes = len(names)
  ranked_NxC = np.argsort(-logits_NxC, axis=-1, kind='stable')
  predicted_N = ranked_NxC[:, 0]
  confusion = np.zeros((classes, classes), int)
  np.add.at(confusion, (label_N, predicted_N), 1)
  hits, support, predicted = confusion.diagonal(), confusion.sum(1), confusion.sum(0)
  precision, recall = hits / np.maximum(predicted, 1), hits / np.maximum(support, 1)
  f1 = 2 * hits / np.maximum(predicted + support, 1)
  surest, once_1xN = surest_class(logits_NxC, label_N), np.ones((1, len(label_N)))
  per_class = [{
      'label': name, 'examples': int(support[i]), 'precision': float(precision[i]), 'recall': float(recall[i]),
      'f1': float(f1[i])} for i, name in enumerate(names)]
  return {
      'examples': len(label_N), 'top1': float(np.mean(predicted_N == label_N)),
      'top3': float(np.mean((ranked_NxC[:, :3] == label_N[:, None]).any(axis=-1))),
      **macro_f1(f1, support), 'balanced_accuracy': float(recall[support > 0].mean()),
      **{name: float(of_confidence(*surest, once_1xN)[0]) for name, of_confidence in CONFIDENCE.items()}, 'per_class':
          per_class, 'confusion': confusion.tolist()}


def macro_f1(f1_C: np.ndarray, support_C: np.ndarray) -> dict[str, float]:
  """Macro-F1 over all classes of the dataset; one that the split lacks counts 0.

  That is scikit-learn's `f1_score(average='macro', labels=ALL, zero_division=0)`. Where the split lacks a class, no
  prediction reaches 1, so 'macro_f1_present', the mean over the classes with examples, stands beside it.
  """
  values = {'macro_f1': float(f1_C.mean())}
  present_C = support_C > 0
  return values if present_C.all() else values | {'macro_f1_present': float(f1_C[present_C].mean())}


def multi_label(
    scores_NxC: np.ndarray, present_NxC: np.ndarray, names: Sequence[str],
    thresholds_C: Sequence[float | None]) -> dict[str, Any]:
  """Computes the metrics of multi-label classification.

  Args:
    scores_NxC: higher is likelier, comparable within a class.
    present_NxC: which classes each example has; bool.
    names: the names of the classes.
    thresholds_C: the thresholds that `break_even_thresholds` gave on val. A class is predicted from its threshold on,
      and never if that is None.

  Returns:
    examples; map, the mean average precision over the classes with examples; at the thresholds, macro_f1 (see
    `macro_f1`) and jaccard, the mean over examples of intersection over union; per_class with examples, ap, threshold,
    precision, recall and f1.
  """
  limits_C = np.array([np.inf if threshold is None else threshold for threshold in thresholds_C])
  predicted_NxC = scores_NxC >= limits_C
  both = predicted_NxC & present_NxC
  hits, support, predicted = both.sum(0), present_NxC.sum(0), predicted_NxC.sum(0)
  precision, recall = hits / np.maximum(predicted, 1), hits / np.maximum(support, 1)
  f1 = 2 * hits / np.maximum(predicted + support, 1)
  ap_C = [average_precision(scores_NxC[:, i], present_NxC[:, i]) for i in range(len(names))]
  jaccard_N = both.sum(1) / np.maximum((predicted_NxC | present_NxC).sum(1), 1)
  per_class = [{
      'label': name, 'examples': int(support[i]), 'ap': ap_C[i], 'threshold': thresholds_C[i],
      'precision': float(precision[i]), 'recall': float(recall[i]), 'f1': float(f1[i])} for i, name in enumerate(names)]
  return {
      'examples': len(scores_NxC), 'map': mean_defined(ap_C),
      **macro_f1(f1, support), 'jaccard': float(jaccard_N.mean()), 'per_class': per_class}


def average_precision(score_N: np.ndarray, present_N: np.ndarray) -> float | None:
  """The sum over thresholds of precision times the step in recall. Equal scores count together; None without positives.
  """
  [found] = weighted_average_precision(score_N, present_N, np.ones((1, len(score_N))))
  return None if np.isnan(found) else float(found)


def weighted_average_precision(score_N: np.ndarray, present_N: np.ndarray, weight_RxN: np.ndarray) -> np.ndarray:
  """The average precision if each example counts as often as its weight says, float64 (R,); NaN without positives."""
  order_N = np.argsort(-score_N, kind='stable')
  weight_RxN = weight_RxN[:, order_N]
  last_of_equals = np.flatnonzero(np.append(np.diff(score_N[order_N]) != 0, True))
  drawn_RxK = np.cumsum(weight_RxN, axis=1)[:, last_of_equals]
  hits_RxK = np.cumsum(weight_RxN * present_N[order_N], axis=1)[:, last_of_equals]
  precision_RxK = np.divide(hits_RxK, drawn_RxK, out=np.zeros_like(hits_RxK), where=drawn_RxK > 0)
  sum_R = np.sum(np.diff(hits_RxK, prepend=0) * precision_RxK, axis=1, dtype=np.float64)
  all_R = hits_RxK[:, -1].astype(np.float64)
  return np.divide(sum_R, all_R, out=np.full_like(sum_R, np.nan), where=all_R > 0)


def break_even_thresholds(scores_NxC: np.ndarray, present_NxC: np.ndarray) -> list[float | None]:
  """The score of each class at which precision equals recall: as many examples are predicted as there are.

  Equal scores at that place are predicted together, and precision is then the lower of the two. None without examples.
  """
  sorted_NxC = -np.sort(-scores_NxC, axis=0)
  return [float(sorted_NxC[count - 1, i]) if count else None for i, count in enumerate(present_NxC.sum(0))]


def label_distribution(logits_NxC: np.ndarray, target_NxC: np.ndarray) -> dict[str, Any]:
  """Computes the six measures of Geng (2016, table 1), means over examples; 0 / 0 and 0 ln 0 count as 0.

  Args:
    logits_NxC: their softmax is the prediction.
    target_NxC: shares, rows sum to 1.

  Returns:
    examples; chebyshev, clark, canberra, kl (target to prediction, nats), lower is better; cosine, intersection, higher
    is better.
  """
  logits_NxC, target_NxC = logits_NxC.astype(np.float64), target_NxC.astype(np.float64)
  predicted_NxC = _softmax(logits_NxC)
  apart_NxC, total_NxC = np.abs(predicted_NxC - target_NxC), predicted_NxC + target_NxC
  relative_NxC = np.divide(apart_NxC, total_NxC, out=np.zeros_like(apart_NxC), where=total_NxC > 0)
  norms_N = np.linalg.norm(predicted_NxC, axis=-1) * np.linalg.norm(target_NxC, axis=-1)
  by_example = {
      'chebyshev': apart_NxC.max(axis=-1), 'clark': np.sqrt(
          (relative_NxC**2).sum(axis=-1)), 'canberra': relative_NxC.sum(axis=-1),
      'kl': kl_by_example(logits_NxC, target_NxC), 'cosine': (predicted_NxC * target_NxC).sum(axis=-1) / norms_N,
      'intersection': np.minimum(predicted_NxC, target_NxC).sum(axis=-1)}
  return {'examples': len(target_NxC)} | {name: float(values_N.mean()) for name, values_N in by_example.items()}


def kl_by_example(logits_NxC: np.ndarray, target_NxC: np.ndarray) -> np.ndarray:
  """The divergence from target to the softmax of the logits, nats, float64 (N,)."""
  logits_NxC, target_NxC = logits_NxC.astype(np.float64), target_NxC.astype(np.float64)
  log_NxC = logits_NxC - logits_NxC.max(axis=-1, keepdims=True)
  log_NxC = log_NxC - np.log(np.exp(log_NxC).sum(axis=-1, keepdims=True))
  log_target_NxC = np.log(target_NxC, out=np.zeros_like(target_NxC), where=target_NxC > 0)
  return (target_NxC * (log_target_NxC - log_NxC)).sum(axis=-1)


def brier_by_example(logits_NxC: np.ndarray, target_NxC: np.ndarray) -> np.ndarray:
  """Brier's (1950) score, float64 (N,): the squared distance of target and softmax of the logits, from 0 to 2.

  Like KL it is proper: of many votes on an image, their true shares score best. It has a limit, where KL has none.
  """
  return ((_softmax(logits_NxC.astype(np.float64)) - target_NxC)**2).sum(axis=-1)


def entropies(logits_NxC: np.ndarray, target_NxC: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Shannon's entropy of the softmax of the logits, and of the target, nats, float64 (N,) each."""
  predicted_NxC = _softmax(logits_NxC.astype(np.float64))
  from scipy import special  # Here, so that no --help waits for it: a tenth of a second.
  return special.entr(predicted_NxC).sum(axis=-1), special.entr(target_NxC.astype(np.float64)).sum(axis=-1)


def surest_class(logits_NxC: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """The inputs of `confidence`: the probability of the likeliest class, float64 (N,), and how right that class is.

  Probabilities are rounded to 12 places, so that those which differ only by the order of a sum are equal.

  Args:
    logits_NxC: logits of any float dtype.
    target: class indices (N,), by which the class is right or not; or shares of votes (N, C), by which its share is its
      chance to be right.
  """
  predicted_N = logits_NxC.argmax(axis=-1)
  probability_N = np.take_along_axis(_softmax(logits_NxC.astype(np.float64)), predicted_N[:, None], axis=-1)[:, 0]
  probability_N = probability_N.round(12)
  if target.ndim == 1:
    return probability_N, (predicted_N == target).astype(np.float64)
  return probability_N, np.take_along_axis(target.astype(np.float64), predicted_N[:, None], axis=-1)[:, 0]


def dimensional(predicted_NxD: np.ndarray, target_NxD: np.ndarray, names: Sequence[str]) -> dict[str, Any]:
  """Computes the metrics of continuous dimensions.

  Args:
    predicted_NxD, target_NxD: on the dataset's scale; a target may be NaN, which leaves it out.
    names: the names of the dimensions.

  Returns:
    examples (with any target), mae, pearson, ccc, means over dimensions; per_dimension with the same of each. CCC is
    Lin's (1989), with variances over N. Where one side is constant, Pearson is None and CCC 0; where both sides are
    the same constant, CCC is None too.
  """
  rows = [
      _one_dimension(predicted_NxD[:, i].astype(np.float64), target_NxD[:, i].astype(np.float64))
      for i in range(len(names))]
  means = {metric: mean_defined([row[metric] for row in rows]) for metric in ('mae', 'pearson', 'ccc')}
  return {
      'examples': int(np.isfinite(target_NxD).any(axis=-1).sum()),
      **means, 'per_dimension': [{'dimension': name, **row} for name, row in zip(names, rows)]}


def _one_dimension(predicted_N: np.ndarray, target_N: np.ndarray) -> dict[str, Any]:
  known_N = np.isfinite(target_N)
  x, y = predicted_N[known_N], target_N[known_N]
  if not len(x):
    return {'examples': 0, 'mae': None, 'pearson': None, 'ccc': None}
  from_mean_x, from_mean_y = _from_mean(x), _from_mean(y)
  covariance, spread_x, spread_y = np.mean(from_mean_x * from_mean_y), np.mean(from_mean_x**2), np.mean(from_mean_y**2)
  total = spread_x + spread_y + (x.mean() - y.mean())**2
  product = np.sqrt(spread_x * spread_y)
  return {
      'examples': len(x), 'mae': float(np.abs(x - y).mean()),
      'pearson': float(covariance / product) if product else None,
      'ccc': float(2 * covariance / total) if total else None}


def _from_mean(values_N: np.ndarray) -> np.ndarray:
  """Distances from the mean; exactly 0 for equal numbers, whose mean may be off in its last bit."""
  return np.zeros_like(values_N) if np.ptp(values_N) == 0 else values_N - values_N.mean()
