"""How often intervals of a difference cover the truth, by simulation: python -m benchmarks.intervals [--studies=400].

Two classifiers are drawn, or for folds, trained on drawn features: a nearest class mean and one that sees fewer
features. The truth is known: the average over all seeds and images. Beside ours stand the plain hierarchical
bootstrap, which draws runs and images anew alike, the bootstrap of images alone, and Student's t over runs alone, which
on folds is ours.
"""

from collections.abc import Callable, Iterator

from absl import app, flags
import numpy as np
from scipy import stats

from data_pipelines.records.folds import deal
from uniemox_jax.compare import resampling
from uniemox_jax.compare.resampling import RESAMPLES, RunScore, interval
from uniemox_jax.compare.summary_statistics import error_share

_STUDIES = flags.DEFINE_integer('studies', 400, 'Simulated studies a row.')
GAIN = 0.03

Runs = list[RunScore]


def ours(runs: Runs, folds: int) -> tuple[float, float]:
  """As `compare` does it."""
  found = interval(runs, folds)
  assert found
  return found.low, found.high


def both_resampled(runs: Runs, folds: int) -> tuple[float, float]:
  """Runs are drawn as images are, with replacement."""
  del folds
  resampled_RxU = np.stack([run.resampled_R for run in runs if run.resampled_R is not None], axis=1)
  drawn_RxU = np.random.default_rng(0).multinomial(len(runs), [1 / len(runs)] * len(runs), RESAMPLES)
  low, high = np.nanquantile((resampled_RxU * drawn_RxU).sum(axis=1) / len(runs), [0.025, 0.975])
  return float(low), float(high)


def students(runs: Runs, folds: int) -> tuple[float, float]:
  """The spread over runs alone."""
  values = np.array([run.value for run in runs])
  half = stats.t.isf(0.025, len(runs) - 1) * values.std(ddof=1) * np.sqrt(error_share(len(runs), folds))
  return float(values.mean() - half), float(values.mean() + half)


def images_resampled(runs: Runs, folds: int) -> tuple[float, float]:
  """The runs stay as they are."""
  del folds
  resampled_RxU = np.stack([run.resampled_R for run in runs if run.resampled_R is not None], axis=1)
  low, high = np.nanquantile(resampled_RxU.mean(axis=1), [0.025, 0.975])
  return float(low), float(high)


METHODS: dict[str, Callable[[Runs, int], tuple[float, float]]] = {
    'ours': ours, 'both resampled': both_resampled, 'images resampled': images_resampled, "Student's t": students}


def scored(right_UxN: np.ndarray, weight_RxN: np.ndarray) -> Runs:
  """Runs from where each was right; NaN where it was not tested."""
  tested_UxN = np.isfinite(right_UxN).astype(np.float32)
  hits_RxU = weight_RxN @ np.nan_to_num(right_UxN).T.astype(np.float32)
  drawn_RxU = weight_RxN @ tested_UxN.T
  resampled_RxU = np.where(drawn_RxU > 0, hits_RxU / np.maximum(drawn_RxU, 1), np.nan)
  return [RunScore(float(np.nanmean(right_N)), column_R) for right_N, column_R in zip(right_UxN, resampled_RxU.T)]


def weights_of(rng: np.random.Generator, images: int) -> np.ndarray:
  """New images: how often each counts."""
  return resampling._image_weights(rng.integers(0, 2**64, images, np.uint64).tobytes()).astype(np.float32)


def drawn_studies(rng: np.random.Generator, seeds: int, images: int, luck: float, apart: float) -> Iterator[Runs]:
  """Differences of two drawn classifiers; `luck`: spread of each over seeds, `apart`: what images favour one."""
  weight_RxN = weights_of(rng, images)
  for _ in range(_STUDIES.value):
    ease_N = rng.normal(0.5, 0.15, images)
    sides = []
    for gain in (GAIN, 0.0):
      chance_UxN = ease_N + gain + rng.normal(0, apart, images) + rng.normal(0, luck, (seeds, 1))
      sides.append(scored((rng.random((seeds, images)) < np.clip(chance_UxN, 0, 1)).astype(float), weight_RxN))
    yield [a - b for a, b in zip(*sides)]


def _class_means(train_NxD: np.ndarray, label_N: np.ndarray, test_MxD: np.ndarray) -> np.ndarray:
  means_CxD = np.stack([train_NxD[label_N == label].mean(axis=0) for label in range(CLASSES)])
  return ((test_MxD[:, None] - means_CxD)**2).sum(axis=-1).argmin(axis=1)


CLASSES, FEATURES, SEEN = 3, 30, (30, 12)
SHIFT_CXD = np.random.default_rng(1).normal(0, 0.33, (CLASSES, FEATURES))


def _new_images(rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
  label_N = rng.integers(0, CLASSES, count)
  return SHIFT_CXD[label_N] + rng.normal(0, 1, (count, FEATURES)), label_N


def folds_truth(rng: np.random.Generator, train: int) -> float:
  """The mean difference in accuracy of classifiers of new training images, on many new test images."""
  found = []
  for _ in range(2000):
    (features_NxD, label_N), (test_MxD, truth_M) = _new_images(rng, train), _new_images(rng, 500)
    one, other = (
        np.mean(_class_means(features_NxD[:, :seen], label_N, test_MxD[:, :seen]) == truth_M) for seen in SEEN)
    found.append(one - other)
  return float(np.mean(found))


def fold_studies(rng: np.random.Generator, seeds: int, folds: int, images: int) -> Iterator[Runs]:
  """Differences of two classifiers over the folds of new images in each study."""
  for _ in range(_STUDIES.value):
    weight_RxN = weights_of(rng, images)
    features_NxD, label_N = _new_images(rng, images)
    right_2xUxN = np.full((2, seeds * folds, images), np.nan)
    names = np.array([f'{number}' for number in range(images)])
    for seed in range(seeds):
      part_N = deal(names, np.arange(images), label_N, folds, f'{seed}')
      for fold in range(folds):
        tested = part_N == fold
        for side, seen in enumerate(SEEN):
          predicted = _class_means(features_NxD[~tested, :seen], label_N[~tested], features_NxD[tested, :seen])
          right_2xUxN[side, seed * folds + fold, tested] = predicted == label_N[tested]
    yield [a - b for a, b in zip(*(scored(right_UxN, weight_RxN) for right_UxN in right_2xUxN))]


def row(name: str, studies: Iterator[Runs], truth: float, folds: int) -> str:
  """Coverage and mean half width of each method."""
  covered, halves = dict.fromkeys(METHODS, 0), dict.fromkeys(METHODS, 0.0)
  for runs in studies:
    for method, limits in METHODS.items():
      low, high = limits(runs, folds)
      covered[method] += low <= truth <= high
      halves[method] += (high - low) / 2
  cells = [f'{covered[method] / _STUDIES.value:.3f} (±{halves[method] / _STUDIES.value:.3f})' for method in METHODS]
  return f'| {name} | {" | ".join(cells)} |'


def main(_: list[str]) -> None:
  """Prints a row for each kind of study as soon as it is there."""
  print(f'| studies | {" | ".join(METHODS)} |\n|---|{"---|" * len(METHODS)}')
  rng = np.random.default_rng(0)
  for seeds in (3, 5, 10):
    for luck, apart in ((0.0, 0.0), (0.0, 0.1), (0.02, 0.1), (0.05, 0.1)):
      name = f'{seeds} seeds, 480 images, luck {luck:g}, images apart {apart:g}'
      print(row(name, drawn_studies(rng, seeds, 480, luck, apart), GAIN, 0), flush=True)
  for seeds, folds, images in ((1, 5, 90), (3, 5, 90), (10, 5, 90), (3, 10, 90), (3, 5, 480)):
    truth = folds_truth(rng, images * (folds - 1) // folds)
    name = f'{seeds} seeds, {folds} folds of {images} images, true difference {truth:.3f}'
    print(row(name, fold_studies(rng, seeds, folds, images), truth, folds), flush=True)


if __name__ == '__main__':
  app.run(main)
