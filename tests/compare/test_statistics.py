"""Intervals cover as often as they say, and the number of seeds gives the power that it promises."""

import time

import numpy as np
import pytest
from scipy import stats

from uniemox_jax.compare import resampling
from uniemox_jax.compare.resampling import RunScore, interval
from uniemox_jax.compare.summary_statistics import error_share, paired_difference, seeds_needed
from uniemox_jax.eval.weighted_metrics import weighted_scores

IMAGES = 300
STUDIES = 150


@pytest.fixture(scope='module', name='weight_RxN')
def weights() -> np.ndarray:
  """Fewer resamples of 300 images than `interval` takes, all at once."""
  return resampling._image_weights(np.random.default_rng(0).integers(0, 2**64, IMAGES,
                                                                     np.uint64).tobytes()).astype(np.float32)


def drawn_scores(rng: np.random.Generator, seeds: int, gain: float, between: float) -> np.ndarray:
  """Whether each run is right on each image (2, S, N): images are hard for all, runs have luck, the first side is
  better by `gain` on average over all images and seeds."""
  ease_N = rng.normal(0, 0.15, IMAGES)  # shared by both sides
  apart_2xN = rng.normal(0, 0.08, (2, IMAGES))  # what one side alone finds easy
  luck_2xS = rng.normal(0, between, (2, seeds))
  side_2 = np.array([0.5 + gain, 0.5])
  chance = side_2[:, None, None] + (ease_N + apart_2xN)[:, None] + luck_2xS[:, :, None]
  return rng.random(chance.shape) < np.clip(chance, 0, 1)


def runs_of(right_SxN: np.ndarray, weight_RxN: np.ndarray) -> list[RunScore]:
  resampled_RxS = weight_RxN @ right_SxN.T.astype(np.float32) / weight_RxN.sum(axis=1, keepdims=True)
  return [RunScore(float(right_N.mean()), column_R) for right_N, column_R in zip(right_SxN, resampled_RxS.T)]


@pytest.mark.parametrize(('seeds', 'between'), [(3, 0.0), (3, 0.03), (5, 0.01), (10, 0.03)])
def test_intervals_of_a_difference_and_of_a_mean_cover_the_truth(weight_RxN, seeds, between):
  rng, gain = np.random.default_rng(seeds), 0.05
  covered = np.zeros(2)
  for _ in range(STUDIES):
    ours, theirs = (runs_of(side, weight_RxN) for side in drawn_scores(rng, seeds, gain, between))
    apart = [a - b for a, b in zip(ours, theirs)]
    for place, (runs, truth) in enumerate(((apart, gain), (theirs, 0.5))):
      found = interval(runs)
      covered[place] += found.low <= truth <= found.high
  # 95 %, three standard errors of so many studies, and the little that few seeds add.
  assert (covered / STUDIES > 0.90).all() and (covered / STUDIES < 0.995).all(), covered / STUDIES


def test_an_interval_without_luck_is_that_of_the_images(weight_RxN):
  right_N = np.random.default_rng(0).random(IMAGES) < 0.6
  found = interval(runs_of(np.stack([right_N] * 3), weight_RxN))
  error = np.sqrt(right_N.mean() * (1 - right_N.mean()) / IMAGES)
  assert found.half == pytest.approx(1.96 * error, rel=0.06) and found.half == pytest.approx(found.of_images)
  assert interval(runs_of(right_N[None], weight_RxN)).half == pytest.approx(found.half)


def test_an_interval_without_images_is_students():
  values = np.array([0.5, 0.53, 0.48, 0.51, 0.55])
  found = interval([RunScore(value, np.full(resampling.RESAMPLES, value)) for value in values])
  expected = stats.t.isf(0.025, 4) * values.std(ddof=1) / np.sqrt(5)
  assert found.half == pytest.approx(expected, rel=0.01) and found.of_images == 0


def test_an_interval_over_folds_is_that_of_the_corrected_test():
  rng = np.random.default_rng(0)
  values = rng.normal(0.05, 0.03, 10)
  runs = [RunScore(value, value + rng.normal(0, 0.03, resampling.RESAMPLES)) for value in values]
  limits = interval(runs, folds=5)
  expected = stats.t.isf(0.025, 9) * values.std(ddof=1) * np.sqrt(1 / 10 + 1 / 4)
  assert limits.half == pytest.approx(expected, rel=0.01)
  p = paired_difference(dict(enumerate(values)), dict.fromkeys(range(10), 0.0), folds=5).p
  assert (p < 0.05) == (limits.low > 0 or limits.high < 0)


def test_what_is_hard_for_both_sides_cancels(weight_RxN):
  rng = np.random.default_rng(0)
  theirs_SxN = rng.random((4, IMAGES)) < rng.random(IMAGES)
  ours_SxN = theirs_SxN | (rng.random((4, IMAGES)) < 0.04)
  ours, theirs = runs_of(ours_SxN, weight_RxN), runs_of(theirs_SxN, weight_RxN)
  apart = [a - b for a, b in zip(ours, theirs)]
  assert interval(apart).half < 0.5 * interval(theirs).half


def test_no_interval_where_a_run_kept_nothing():
  assert interval([RunScore(0.5, np.full(resampling.RESAMPLES, 0.5)), RunScore(0.6)]) is None
  assert interval([]) is None


def test_draws_are_those_of_poisson_and_belong_to_the_image():
  keys = np.random.default_rng(0).integers(0, 2**64, 500, np.uint64)
  weights = resampling._image_weights(keys.tobytes())
  assert weights.shape == (resampling.RESAMPLES, 500)
  assert weights.mean() == pytest.approx(1, abs=0.01) and weights.var() == pytest.approx(1, abs=0.01)
  assert np.abs(np.corrcoef(weights.T.astype(float)) - np.eye(500)).max() < 0.15
  order = np.random.default_rng(1).permutation(500)[:100]
  np.testing.assert_array_equal(resampling._image_weights(keys[order].tobytes()), weights[:, order])


def test_ten_seeds_of_two_thousand_images_take_seconds():
  rng, began = np.random.default_rng(0), time.process_time()
  keys = rng.integers(0, 2**64, 2000, np.uint64)
  weights = resampling._image_weights(keys.tobytes()).astype(np.float32)
  runs = []
  for _ in range(10):
    logits_NxC, label_N = rng.normal(size=(2000, 8)).astype(np.float32), rng.integers(0, 8, 2000).astype(np.int32)
    resampled_R = weighted_scores('top1', logits_NxC, label_N, weights)
    runs.append(RunScore(float(np.mean(logits_NxC.argmax(1) == label_N)), resampled_R))
  assert interval(runs).half > 0
  assert time.process_time() - began < 5


@pytest.mark.parametrize(('spread', 'difference'), [(0.01, 0.02), (0.02, 0.02), (0.03, 0.02)])
def test_so_many_seeds_find_the_difference_in_80_percent_of_studies(spread, difference):
  needed = seeds_needed(spread, difference)
  rng = np.random.default_rng(0)

  def power(seeds: int) -> float:
    return float(np.mean(stats.ttest_1samp(rng.normal(difference, spread, (20000, seeds)), 0, axis=1).pvalue < 0.05))

  assert power(needed) >= 0.79
  assert power(needed - 1) < 0.81


def test_seeds_needed_are_those_of_the_books():
  # Cohen (1988) and G*Power: a paired t-test of an effect of 0.5 standard deviations needs 34 pairs, of 0.8 15.
  assert [seeds_needed(1.0, effect) for effect in (0.5, 0.8)] == [34, 15]
  assert seeds_needed(1e-9, 0.02) == 2 and seeds_needed(10.0, 0.02) is None


def test_folds_share_training_images_and_are_corrected_for():
  rng = np.random.default_rng(0)
  ours = {(seed, fold): value for seed in range(2) for fold, value in enumerate(rng.normal(0.6, 0.05, 5))}
  theirs = {repeat: value + rng.normal(-0.03, 0.04) for repeat, value in ours.items()}
  apart = np.array([ours[repeat] - theirs[repeat] for repeat in ours])
  plain, corrected = (paired_difference(ours, theirs, folds) for folds in (0, 5))
  assert plain.p == pytest.approx(stats.ttest_1samp(apart, 0).pvalue)
  t = apart.mean() / (apart.std(ddof=1) * np.sqrt(1 / 10 + 1 / 4))
  assert corrected.p == pytest.approx(2 * stats.t.sf(abs(t), 9)) and corrected.p > plain.p
  assert corrected.runs == 10 and corrected.difference == plain.difference


def test_more_deals_do_not_replace_images():
  assert error_share(10_000, 5) == pytest.approx(1 / 4, rel=1e-3)
  assert seeds_needed(0.05, 0.02, folds=5) is None and seeds_needed(0.01, 0.02, folds=5) == 2


def test_intervals_of_calibration_and_of_risk_cover_their_mean_over_test_sets(weight_RxN, monkeypatch):
  monkeypatch.setattr(resampling, 'RESAMPLES', 400)  # enough to see a wrong width
  measures, studies = ('adaptive_ece', 'aurc', 'top1_at_80'), 60
  rng = np.random.default_rng(0)
  found: dict[str, list] = {name: [] for name in measures}
  for _ in range(studies):
    logits_NxC = rng.normal(0, 2, (IMAGES, 3))
    share_NxC = np.exp(logits_NxC) / np.exp(logits_NxC).sum(axis=1, keepdims=True)
    label_N = (rng.random((IMAGES, 1)) > share_NxC.cumsum(axis=1)).sum(axis=1)
    for name in measures:
      too_sure = name, 1.5 * logits_NxC, label_N
      value, drawn_R = weighted_scores(*too_sure, np.ones((1, IMAGES)))[0], weighted_scores(*too_sure, weight_RxN[:400])
      found[name].append((value, interval([RunScore(value, drawn_R)])))
  for name, runs in found.items():
    truth = np.mean([value for value, _ in runs])
    covered = np.mean([limits.low <= truth <= limits.high for _, limits in runs])
    assert covered >= 0.87, (name, covered)
    spread = np.std([value for value, _ in runs])
    assert np.mean([limits.half for _, limits in runs]) == pytest.approx(1.96 * spread, rel=0.35), name
