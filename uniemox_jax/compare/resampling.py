"""95 % intervals of results that depend on the seeds of the runs and on the images that they were tested on.

Images are drawn anew by the Poisson bootstrap (Hanley and MacGibbon, 2006): in each of 2,000 resamples an image counts
once, several times or not at all, by a number that is a function of its id. So all runs are measured on the same draws,
and an image that is hard for both sides of a difference cancels. Seeds are too few to be drawn anew: what the spread
over runs adds is drawn from Student's t-distribution.

A run's luck with single answers is in both its score and its images, and must count once: it is taken out of the
images' part. Runs of folds have test images of their own, so their spread includes the images, and nothing is added.
"""

from collections.abc import Callable, Iterator, Sequence
import functools
from typing import NamedTuple

import numpy as np
from scipy import stats

from uniemox_jax.compare.summary_statistics import LEVEL, error_share
from uniemox_jax.eval.kept_outputs import KeptOutputs, read_answers, read_outputs
from uniemox_jax.eval.weighted_metrics import weighted_scores

RESAMPLES = 2000
_TOGETHER = 250
_GOLDEN = np.uint64(0x9e3779b97f4a7c15)


class RunScore(NamedTuple):
  """A run's score on its test images. resampled_R: the score on each resample, None if its outputs were not kept."""

  value: float
  resampled_R: np.ndarray | None = None

  def __sub__(self, other: 'RunScore') -> 'RunScore':
    """The difference, of the same resamples."""
    apart_R = None
    if self.resampled_R is not None and other.resampled_R is not None:
      apart_R = self.resampled_R - other.resampled_R
    return RunScore(self.value - other.value, apart_R)


class Interval(NamedTuple):
  """A 95 % interval. low, high: its ends. half: half its width. of_images: half the width that the images alone give,
  which more seeds do not reduce; 0 for folds, whose spread includes the images."""

  low: float
  high: float
  half: float
  of_images: float


@functools.cache
def resampled_scores(folder: str, config_hash: str, task: str, metric: str, tested_on: str = '') -> np.ndarray | None:
  """A finished run's score of a task on each resample of its test images, float64 (R,); None if it kept no outputs.

  `tested_on` is a change of the images, or `Transfer.file_part` of another dataset; '' for the run's own test.

  Raises:
    UserError: the kept outputs are damaged.
  """
  kept = read_outputs(folder, config_hash, task, tested_on)
  return None if kept is None else _resampled(kept, metric)


@functools.cache
def score_of_group(folder: str, config_hash: str, task: str, metric: str, tested_on: str,
                   group: frozenset[int]) -> tuple[RunScore, int] | None:
  """The scores of `resampled_scores` for the images whose keys are in `group`, and the number of these images.

  Returns:
    None if the run kept no outputs, or tested no such image. A score that these images leave undefined is NaN.
  """
  kept = read_outputs(folder, config_hash, task, tested_on)
  inside_N = kept is not None and np.isin(kept.example_N, np.fromiter(group, np.uint64, len(group)))
  if kept is None or not np.any(inside_N):
    return None
  part = KeptOutputs(*(values[inside_N] for values in kept))
  every_1xN = np.ones((1, len(part.example_N)), np.float32)
  value = weighted_scores(metric, part.outputs_NxC, part.target, every_1xN)[0]
  return RunScore(float(value), _resampled(part, metric)), len(part.example_N)


def _resampled(kept: KeptOutputs, metric: str) -> np.ndarray:
  return _on_resamples(
      kept.example_N, lambda weight_RxN: weighted_scores(metric, kept.outputs_NxC, kept.target, weight_RxN))


@functools.cache
def resampled_measure(folder: str, config_hash: str, task: str, measure: str) -> np.ndarray | None:
  """The scores of `resampled_scores` by one of `ambiguity.MEASURES`, for a run whose result has them."""
  if (kept := read_answers(folder, config_hash, task)) is None:
    return None
  return _on_resamples(kept[0], functools.partial(kept[1].scores, measure))


def _on_resamples(example_N: np.ndarray, scores: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
  weights = _image_weights(example_N.tobytes())
  return np.concatenate([
      scores(weights[start:start + _TOGETHER].astype(np.float32)) for start in range(0, RESAMPLES, _TOGETHER)])


@functools.lru_cache(maxsize=16)
def _image_weights(example_bytes: bytes) -> np.ndarray:
  """How often each image counts in each resample, uint8 (R, N): Poisson with mean 1, a function of the image's key."""
  return np.concatenate(list(_draw(np.frombuffer(example_bytes, np.uint64))))


def _draw(example_N: np.ndarray) -> Iterator[np.ndarray]:
  ends = stats.poisson.cdf(np.arange(16), 1)
  for start in range(0, RESAMPLES, _TOGETHER):
    resample_Kx1 = np.arange(start + 1, start + 1 + _TOGETHER, dtype=np.uint64)[:, None]
    with np.errstate(over='ignore'):
      mixed = example_N + resample_Kx1 * _GOLDEN  # Then as in splitmix64 (Steele et al., 2014).
      mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xbf58476d1ce4e5b9)
      mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94d049bb133111eb)
      mixed ^= mixed >> np.uint64(31)
    uniform_KxN = (mixed >> np.uint64(11)) * 2.0**-53
    yield np.searchsorted(ends, uniform_KxN, 'right').astype(np.uint8)


def interval(runs: Sequence[RunScore], folds: int = 0) -> Interval | None:
  """Computes the 95 % interval of the mean over runs, for other seeds and other test images.

  Args:
    runs: the score, or the difference of scores, of every repeat.
    folds: as for `summary_statistics.paired_difference`.

  Returns:
    The interval; None if some run kept no outputs. For a single run it is that of its images alone.
  """
  resampled = [run.resampled_R for run in runs if run.resampled_R is not None]
  if not runs or len(resampled) < len(runs):
    return None
  value_U, resampled_RxU = np.array([run.value for run in runs]), np.stack(resampled, axis=1)
  resampled_RxU = resampled_RxU[np.isfinite(resampled_RxU).all(axis=1)]
  if len(resampled_RxU) < RESAMPLES / 2:  # too few images for any statement
    return None
  mean_R = resampled_RxU.mean(axis=1)
  image_part_R = mean_R - mean_R.mean()
  seed_part_R = np.zeros_like(mean_R)
  if len(runs) > 1:
    error = np.sqrt(value_U.var(ddof=1) * error_share(len(runs), folds))
    places_R = np.random.default_rng(0).permutation(len(mean_R)) + 0.5  # spread evenly, so that few draws are enough
    seed_part_R = error * stats.t.ppf(places_R / len(mean_R), len(runs) - 1)
    in_both = (resampled_RxU - mean_R[:, None]).var(axis=0).mean() / (len(runs) - 1)
    of_all = image_part_R.var()
    image_part_R *= np.sqrt(max(0.0, 1 - in_both / of_all)) if of_all and not folds else 0
  (low, high), (low_image, high_image) = (
      np.quantile(part_R, [LEVEL / 2, 1 - LEVEL / 2]) for part_R in (image_part_R + seed_part_R, image_part_R))
  mean = value_U.mean()
  return Interval(float(mean + low), float(mean + high), float(high - low) / 2, float(high_image - low_image) / 2)
