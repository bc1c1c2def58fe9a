"""Statistics of repeated runs: mean and spread over seeds, paired differences, and Holm's correction."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats


class SeedStatistics(NamedTuple):
  """Over seeds. spread: standard deviation with n - 1; None of a single run."""

  mean: float
  spread: float | None
  runs: int


class PairedDifference(NamedTuple):
  """Mean difference over the seeds that both have. p: of Student's paired t-test, two-sided; None with fewer than two
  seeds, or where the difference is the same for all of them."""

  difference: float
  p: float | None
  runs: int


def over_seeds(by_seed: Mapping[int, float]) -> SeedStatistics:
  """Of at least one value."""
  values = list(by_seed.values())
  return SeedStatistics(float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else None, len(values))


def paired_difference(ours: Mapping[int, float], theirs: Mapping[int, float]) -> PairedDifference | None:
  """Ours minus theirs, seed by seed: the same seed drew the same order of images. None where they share no seed."""
  seeds = sorted(ours.keys() & theirs.keys())
  if not seeds:
    return None
  differences = np.array([ours[seed] - theirs[seed] for seed in seeds], np.float64)
  # What rounding leaves of equal differences is no spread.
  varies = len(seeds) > 1 and np.ptp(differences) > 1e-12
  p = float(stats.ttest_1samp(differences, 0.0).pvalue) if varies else None
  return PairedDifference(float(differences.mean()), p, len(seeds))


def holm(p_values: Sequence[float | None]) -> list[float | None]:
  """Holm's correction for asking several questions of one table; None stays, and does not count as asked."""
  asked = sorted((p, index) for index, p in enumerate(p_values) if p is not None)
  corrected: list[float | None] = [None] * len(p_values)
  largest = 0.0
  for rank, (p, index) in enumerate(asked):
    largest = max(largest, min(1.0, (len(asked) - rank) * p))
    corrected[index] = largest
  return corrected
