"""The linear probe of ratings: ridge regression on frozen features, its L2 strength chosen on val."""

from collections.abc import Callable
from typing import Any

import numpy as np

from uniemox_jax.eval.linear_probe import LinearProbe, standard_of, sweep


def fit_ridge(features_NxD: np.ndarray, target_NxK: np.ndarray, strength: float) -> LinearProbe:
  """Minimises Σ (output - target)² + strength · ‖kernel‖² over standardised features; the bias is free.

  Args:
    features_NxD: the features of the training images. A feature that is constant there becomes 0.
    target_NxK: the targets; an image whose target is NaN is left out of that dimension.
    strength: the strength of L2.
  """
  standard = standard_of(features_NxD)
  columns = [
      _solve(standard(features_NxD[known_N]), target_N[known_N], strength)
      for target_N, known_N in zip(target_NxK.T.astype(np.float64),
                                   np.isfinite(target_NxK).T)]
  kernel_KxD, bias_K = (np.array(values) for values in zip(*columns))
  return LinearProbe(standard, kernel_KxD.T, bias_K)


def _solve(x_MxD: np.ndarray, y_M: np.ndarray, strength: float) -> tuple[np.ndarray, float]:
  """Kernel (D,) and bias of one dimension; `x_MxD` is overwritten."""
  centre_D, centre = x_MxD.mean(axis=0), y_M.mean()
  x_MxD -= centre_D
  kernel_D = np.linalg.solve(x_MxD.T @ x_MxD + strength * np.eye(x_MxD.shape[1]), x_MxD.T @ (y_M - centre))
  return kernel_D, centre - centre_D @ kernel_D


def probe_ridge(features_NxD: np.ndarray, target_NxK: np.ndarray,
                val_score: Callable[[LinearProbe], float]) -> tuple[LinearProbe, dict[str, Any]]:
  """Fits on train, see `fit_ridge`, at the strength that is best by `val_score` of a fitted probe on val.

  Returns:
    The probe; and the choice, for result.json.
  """
  best, tried = sweep(lambda strength: val_score(fit_ridge(features_NxD, target_NxK, strength)))
  rows = [{'l2': strength, 'val_score': score} for strength, score in tried]
  return fit_ridge(features_NxD, target_NxK, best), {'l2': best, 'val_score': dict(tried)[best], 'tried': rows}
