"""Statistics of repeated runs: mean and spread, paired differences, Holm's correction, and how many seeds are enough.

A *repeat* is what a run was repeated by: a seed, or a seed and a fold. All folds of a seed share most of their training
images, so their differences are not independent: their variance is corrected as Nadeau and Bengio (2003) do.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

Repeat = Any
"""A seed, or (seed, fold)."""
POWER, LEVEL = 0.8, 0.05
MOST_SEEDS = 1000


class SeedStatistics(NamedTuple):
  """Statistics over repeats. spread: the standard deviation with n - 1; None for a single run."""

  mean: float
  spread: float | None
  runs: int


class PairedDifference(NamedTuple):
  """The mean difference over the repeats that both have. spread: its standard deviation with n - 1. p: that of
  Student's paired t-test, two-sided. Both are None with fewer than two repeats; p also if all differences are equal."""

  difference: float
  spread: float | None
  p: float | None
  runs: int


def over_seeds(by_repeat: Mapping[Repeat, float]) -> SeedStatistics:
  """The statistics of at least one value."""
  values = list(by_repeat.values())
  return SeedStatistics(float(np.mean(values)), _spread(np.array(values)), len(values))


def paired_difference(
    ours: Mapping[Repeat, float], theirs: Mapping[Repeat, float], folds: int = 0) -> PairedDifference | None:
  """Ours minus theirs, repeat by repeat: the same seed drew the same order of images. None if they share no repeat.

  `folds` is the number of parts that the images were dealt to; 0 without folds.
  """
  repeats = shared_repeats(ours, theirs)
  if not repeats:
    return None
  differences = np.array([ours[repeat] - theirs[repeat] for repeat in repeats], np.float64)
  mean, spread, p = float(differences.mean()), _spread(differences), None
  # What rounding leaves of equal differences is no spread.
  if spread is not None and np.ptp(differences) > 1e-12:
    p = float(2 * stats.t.sf(abs(mean) / (spread * np.sqrt(error_share(len(repeats), folds))), len(repeats) - 1))
  return PairedDifference(mean, spread, p, len(repeats))


def shared_repeats(ours: Mapping[Repeat, object], theirs: Mapping[Repeat, object]) -> list[Repeat]:
  """The repeats that both have, in order."""
  return sorted(ours.keys() & theirs.keys())


def error_share(runs: int | np.ndarray, folds: int) -> float | np.ndarray:
  """The squared standard error of a mean over runs, as a share of their variance.

  Runs on the folds of one deal share most training images. So the ratio of tested to other images is added to 1 / runs
  (Nadeau and Bengio, 2003, eq. 7; for several deals Bouckaert and Frank, 2004).
  """
  return 1 / runs + (1 / (folds - 1) if folds else 0)


def _spread(values: np.ndarray) -> float | None:
  return float(np.std(values, ddof=1)) if len(values) > 1 else None


def holm(p_values: Sequence[float | None]) -> list[float | None]:
  """Applies Holm's correction for several questions to one table; None stays, and does not count as a question."""
  asked = sorted((p, index) for index, p in enumerate(p_values) if p is not None)
  corrected: list[float | None] = [None] * len(p_values)
  largest = 0.0
  for rank, (p, index) in enumerate(asked):
    largest = max(largest, min(1.0, (len(asked) - rank) * p))
    corrected[index] = largest
  return corrected


def seeds_needed(spread: float, difference: float, folds: int = 0) -> int | None:
  """The fewest seeds with which the paired t-test finds a true difference, at level 0.05, in 80 % of all studies.

  Args:
    spread: the standard deviation of the difference over repeats, above 0.
    difference: the true difference.
    folds: as for `paired_difference`; each seed then has so many repeats.

  Returns:
    2 or more; None if `MOST_SEEDS` are too few.
  """
  seeds_S = np.arange(2, MOST_SEEDS + 1)
  runs_S = seeds_S * max(folds, 1)
  # Above 38, scipy's distribution is not exact, and the power is 1 to many digits but for two seeds.
  noncentral_S = np.minimum(abs(difference) / (spread * np.sqrt(error_share(runs_S, folds))), 38)
  limit_S = stats.t.isf(LEVEL / 2, runs_S - 1)
  power_S = stats.nct.sf(limit_S, runs_S - 1, noncentral_S) + stats.nct.cdf(-limit_S, runs_S - 1, noncentral_S)
  enough_S = np.flatnonzero(power_S >= POWER)
  return int(seeds_S[enough_S[0]]) if len(enough_S) else None
