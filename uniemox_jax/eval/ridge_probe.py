"""The linear probe of ratings: ridge regression on frozen features, its L2 strength chosen on val."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from uniemox_jax.eval.linear_probe import sweep


class RidgeProbe(NamedTuple):
  """A fitted probe, in float64. mean_D, std_D: those of the training features. kernel_DxK, bias_K: they apply to the
  standardised features."""

  mean_D: np.ndarray
  std_D: np.ndarray
  kernel_DxK: np.ndarray
  bias_K: np.ndarray

  def __call__(self, features_NxD: np.ndarray) -> np.ndarray:
    """The predicted values, float64 (N, K)."""
    return ((features_NxD - self.mean_D) / self.std_D) @ self.kernel_DxK + self.bias_K


def fit_ridge(features_NxD: np.ndarray, target_NxK: np.ndarray, strength: float) -> RidgeProbe:
  """Minimises Σ (output - target)² + strength · ‖kernel‖² over standardised features; the bias is free.

  Args:
    features_NxD: the features of the training images. A feature that is constant there becomes 0.
    target_NxK: the targets; an image whose target is NaN is left out of that dimension.
    strength: the strength of L2.
  """
  features_NxD = features_NxD.astype(np.float64)
  mean_D, std_D = features_NxD.mean(axis=0), features_NxD.std(axis=0)
  std_D = np.where(std_D > 0, std_D, 1.0)
  standard_NxD = (features_NxD - mean_D) / std_D
  columns = []
  for target_N in target_NxK.T.astype(np.float64):
    known_N = np.isfinite(target_N)
    x_MxD, y_M = standard_NxD[known_N], target_N[known_N]
    centre_D, centre = x_MxD.mean(axis=0), y_M.mean()
    x_MxD = x_MxD - centre_D
    kernel_D = np.linalg.solve(x_MxD.T @ x_MxD + strength * np.eye(x_MxD.shape[1]), x_MxD.T @ (y_M - centre))
    columns.append((kernel_D, centre - centre_D @ kernel_D))
  kernel_KxD, bias_K = (np.array(values) for values in zip(*columns))
  return RidgeProbe(mean_D, std_D, kernel_KxD.T, bias_K)


def probe_ridge(features_NxD: np.ndarray, target_NxK: np.ndarray,
                val_score: Callable[[RidgeProbe], float]) -> tuple[RidgeProbe, dict[str, Any]]:
  """Fits on train, see `fit_ridge`, at the strength that is best by `val_score` of a fitted probe on val.

  Returns:
    The probe; the choice, for result.json.
  """
  best, tried = sweep(lambda strength: val_score(fit_ridge(features_NxD, target_NxK, strength)))
  rows = [{'l2': strength, 'val_score': score} for strength, score in tried]
  return fit_ridge(features_NxD, target_NxK, best), {'l2': best, 'val_score': dict(tried)[best], 'tried': rows}
