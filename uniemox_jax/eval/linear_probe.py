"""The linear probe: logistic regression on frozen features, its L2 strength chosen on val (Radford et al. 2021, A.3).

It runs scikit-learn's L-BFGS on the host, as the protocol does. docs/protocols.md says how long that takes.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple
import warnings

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from data_pipelines.errors import UserError

MAX_ITERATIONS = 1000
COLUMN_PARTS = 8
STEPS_PER_DECADE = 8
DECADES = 6
"""The strength lies between 10^-6 and 10^6."""
FIRST_STEP = 2 * STEPS_PER_DECADE
"""The sweep starts at every second decade: 1e-6, 1e-4, ..., 1e6."""


class Standard(NamedTuple):
  """How features are standardised. mean_D, std_D: those of the training features, float64; std 1 for a constant one."""

  mean_D: np.ndarray
  std_D: np.ndarray

  def __call__(self, features_NxD: np.ndarray) -> np.ndarray:
    """Standardises features to float64 (N, D), in place: beside the features, memory holds no more than this."""
    standard_NxD = features_NxD.astype(np.float64)
    standard_NxD -= self.mean_D
    standard_NxD /= self.std_D
    return standard_NxD


def standard_of(features_NxD: np.ndarray) -> Standard:
  """The statistics of training features, some columns at a time, since numpy makes a copy of all that it takes."""
  parts = np.array_split(features_NxD, COLUMN_PARTS, axis=1)
  mean_D, std_D = (
      np.concatenate([moment(part, axis=0, dtype=np.float64) for part in parts]) for moment in (np.mean, np.std))
  return Standard(mean_D, np.where(std_D > 0, std_D, 1.0))


class LinearProbe(NamedTuple):
  """A fitted probe, in float64. kernel_DxC, bias_C: they apply to features as `standard` gives them. converged: whether
  the fit did, within `MAX_ITERATIONS`."""

  standard: Standard
  kernel_DxC: np.ndarray
  bias_C: np.ndarray
  converged: bool = True

  def __call__(self, features_NxD: np.ndarray) -> np.ndarray:
    """The logits or ratings, float64 (N, C)."""
    return self.standard(features_NxD) @ self.kernel_DxC + self.bias_C


def fit_probe(features_NxD: np.ndarray, label_N: np.ndarray, classes: Sequence[str], strength: float) -> LinearProbe:
  """Minimises Σ cross-entropy + strength / 2 · ‖kernel‖² over standardised features; the bias is free.

  Args:
    features_NxD: the features of the training images. A feature that is constant there becomes 0.
    label_N: class indices.
    classes: the names of the classes.
    strength: the strength of L2, which is 1 / C of scikit-learn.

  Raises:
    UserError: a class has no training image.
  """
  absent = [name for index, name in enumerate(classes) if index not in label_N]
  if absent or len(classes) < 2:
    raise UserError(
        f'a linear probe needs training images of two or more classes, and there are none of '
        f'{", ".join(absent) or "a second one"}: raise --config.fraction, or take another dataset')
  standard = standard_of(features_NxD)
  model = LogisticRegression(C=1 / strength, max_iter=MAX_ITERATIONS)
  with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter('always', ConvergenceWarning)
    model.fit(standard(features_NxD), label_N)
  kernel_CxD, bias_C = model.coef_, model.intercept_
  if len(classes) == 2:  # scikit-learn keeps a single log-odds.
    kernel_CxD, bias_C = np.concatenate([0 * kernel_CxD, kernel_CxD]), np.append(0, bias_C)
  return LinearProbe(
      standard, kernel_CxD.T, bias_C, not any(issubclass(warning.category, ConvergenceWarning) for warning in caught))


def sweep(score: Callable[[float], float]) -> tuple[float, list[tuple[float, float]]]:
  """Finds the strength with the highest score: every second decade first, then ever closer around the best.

  Each round halves the distance to the two neighbours that are tried, down to 8 steps a decade: at most 15 of 97
  strengths are tried. Of equal scores, the stronger wins.

  Args:
    score: a function from a strength to the score on val.

  Returns:
    The strength; and (strength, score) of all that were tried, weakest first.
  """

  def strength(index: int) -> float:
    return 10.0**(index / STEPS_PER_DECADE)

  scores: dict[int, float] = {}
  last, step = DECADES * STEPS_PER_DECADE, FIRST_STEP
  indices: Iterable[int] = range(-last, last + 1, FIRST_STEP)
  while step:
    scores |= {index: score(strength(index)) for index in indices if abs(index) <= last}
    best = max(scores, key=lambda index: (scores[index], index))
    step //= 2
    indices = best - step, best + step
  return strength(best), [(strength(index), scores[index]) for index in sorted(scores)]


def probe_linear(
    train: tuple[np.ndarray, np.ndarray], classes: Sequence[str],
    val_score: Callable[[LinearProbe], float]) -> tuple[LinearProbe, dict[str, Any]]:
  """Fits on train, features_NxD and label_N, at the strength that is best by `val_score` of a fitted probe on val.

  Returns:
    The probe; and the choice, for result.json.

  Raises:
    UserError: see `fit_probe`.
  """
  fitted: dict[float, LinearProbe] = {}

  def score(strength: float) -> float:
    probe = fitted[strength] = fit_probe(*train, classes, strength)
    top1 = val_score(probe)
    warning = '' if probe.converged else f'  not converged after {MAX_ITERATIONS} iterations'
    print(f'linear probe: L2 {strength:.3g}  val top1 {top1:.4f}{warning}', flush=True)
    return top1

  best, tried = sweep(score)
  rows = [{'l2': strength, 'val_top1': top1, 'converged': fitted[strength].converged} for strength, top1 in tried]
  return fitted[best], {'l2': best, 'val_top1': dict(tried)[best], 'tried': rows}
