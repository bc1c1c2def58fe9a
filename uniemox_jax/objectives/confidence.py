"""Measures what a prediction's confidence is worth: calibration, and the errors that remain among the surest answers.

All functions take these arrays of N examples:

  confidence_N: the probability of the likeliest class.
  right_N: whether that class is right, or its chance to be, from 0 to 1.
  weight_RxN: how often each example counts, at least 0, in each of R weightings.

They return float64 (R,), NaN where nothing counts. Weights are repetitions, and equal confidences count together: no
result depends on the order of the examples.
"""

import numpy as np

BINS = 15
COVERAGE = 0.8


def expected_calibration_error(confidence_N: np.ndarray, right_N: np.ndarray, weight_RxN: np.ndarray) -> np.ndarray:
  """The mean distance of accuracy and confidence over 15 equal bins (low, high] of confidence, weighted by their size.

  Source: Guo et al. (2017), eq. 3.
  """
  bin_N = np.searchsorted(np.linspace(0, 1, BINS + 1)[1:-1], confidence_N)
  gap_NxK = np.where(bin_N[:, None] == np.arange(BINS), (confidence_N - right_N)[:, None], 0)
  return _share(np.abs(weight_RxN @ gap_NxK).sum(axis=1), weight_RxN.sum(axis=1, dtype=np.float64))


def adaptive_calibration_error(confidence_N: np.ndarray, right_N: np.ndarray, weight_RxN: np.ndarray) -> np.ndarray:
  """The expected calibration error over 15 bins that hold equally many examples each, from the surest on.

  The bins are those of Nixon et al. (2019). Their own measure takes every class; this one the likeliest alone. An
  example on the border of two bins, or a group of equal confidence, counts in both by its shares.
  """
  mass_RxK, gap_RxK = _from_the_surest(confidence_N, confidence_N - right_N, weight_RxN)
  borders = np.linspace(0, 1, BINS + 1)
  apart_R = [np.abs(np.diff(_between(borders, mass_K, gap_K))).sum() for mass_K, gap_K in zip(mass_RxK, gap_RxK)]
  return _share(np.array(apart_R), mass_RxK[:, -1])


def area_under_risk_coverage(confidence_N: np.ndarray, right_N: np.ndarray, weight_RxN: np.ndarray) -> np.ndarray:
  """The mean over n = 1 … N of the errors among the n surest answers, as a share of n (Geifman and El-Yaniv, 2017)."""
  mass_RxK, errors_RxK = _from_the_surest(confidence_N, 1 - right_N, weight_RxN)
  risk_RxK = np.divide(errors_RxK, mass_RxK, out=np.zeros_like(mass_RxK), where=mass_RxK > 0)
  return _share((np.diff(mass_RxK) * risk_RxK[:, 1:]).sum(axis=1), mass_RxK[:, -1])


def accuracy_at_coverage(confidence_N: np.ndarray, right_N: np.ndarray, weight_RxN: np.ndarray) -> np.ndarray:
  """The accuracy if only the surest 80 % are answered."""
  mass_RxK, hits_RxK = _from_the_surest(confidence_N, right_N, weight_RxN)
  hits_R = [_between(COVERAGE, mass_K, hits_K) for mass_K, hits_K in zip(mass_RxK, hits_RxK)]
  return _share(np.array(hits_R), COVERAGE * mass_RxK[:, -1])


def risk_coverage_curve(confidence_N: np.ndarray, right_N: np.ndarray, coverage_K: np.ndarray) -> np.ndarray:
  """The share of errors, float64 (K,), if only the surest share `coverage_K`, above 0, is answered."""
  [mass_G], [errors_G] = _from_the_surest(confidence_N, 1 - right_N, np.ones((1, len(confidence_N))))
  return _between(coverage_K, mass_G, errors_G) / (coverage_K * mass_G[-1])


def _from_the_surest(confidence_N: np.ndarray, value_N: np.ndarray,
                     weight_RxN: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Running sums of weights and weighted values, (R, 1 + groups) each, from 0 on; a group has one confidence."""
  order_N = np.argsort(-confidence_N, kind='stable')
  last_of_equals = np.flatnonzero(np.append(np.diff(confidence_N[order_N]) != 0, True))
  weight_RxN = weight_RxN[:, order_N]
  sums = (
      np.cumsum(each_RxN, axis=1, dtype=np.float64)[:, last_of_equals]
      for each_RxN in (weight_RxN, weight_RxN * value_N[order_N]))
  mass_RxK, sum_RxK = (np.pad(sum_RxK, ((0, 0), (1, 0))) for sum_RxK in sums)
  return mass_RxK, sum_RxK


def _between(share: np.ndarray | float, mass_K: np.ndarray, sum_K: np.ndarray) -> np.ndarray:
  """A running sum where a share of the whole mass is reached: within a group it grows evenly."""
  return np.interp(share * mass_K[-1], mass_K, sum_K)


def _share(sum_R: np.ndarray, total_R: np.ndarray) -> np.ndarray:
  return np.divide(sum_R, total_R, out=np.full(len(total_R), np.nan), where=total_R > 0)
