"""Measures `uniemox_jax.predict` on 10,000 images, 1 % of them broken, beside its two parts alone, on Linux.

python -m benchmarks.predict

Draws 500 x 375 images with the detail of photographs, breaks every hundredth, and saves a classifier of the demo's size
with random weights. Of every 2,000 images three things are timed: the model over finished views, the views alone, and
both together with the table written. Two steps that share a machine and do not overlap take the sum of their times,
which is a rate of 1 / (1 / model + 1 / views). docs/predict.md holds what was measured.
"""

import collections
import csv
import functools
import importlib.metadata
import os
import pathlib
import tempfile
import time

from absl import flags
import jax
import numpy as np
import tqdm

from benchmarks import photographs
from configs import demo
from data_pipelines.media import find_images
from data_pipelines.media.read_media import read_media
from uniemox_jax.models.classifier import Classifier
from uniemox_jax.predict import prediction
from uniemox_jax.predict.table_writer import PredictionTable
from uniemox_jax.recognition import predictor as inference
from uniemox_jax.recognition.predictor import Predictor
from uniemox_jax.recognition.recogniser import open_recogniser
from uniemox_jax.runtime import cli
from uniemox_jax.train.checkpoint import save_weights
from uniemox_jax.train.state import builder, initial_params

CLASSES = 8
BROKEN_EVERY = 100
PART = 2_000


def save_demo_model(folder: pathlib.Path) -> None:
  """A classifier of the demo's size with random weights."""
  model = demo.get_config('finetune').model.to_dict() | {'classes': CLASSES}
  params = jax.device_get(initial_params(builder(Classifier, **model), seed=0))
  save_weights(
      str(folder), params,
      {'kind': 'classifier', 'model': model, 'labels': [f'class{index}' for index in range(CLASSES)]})


def break_some(paths: list[str]) -> None:
  """Every hundredth file becomes empty, cut in half, or text, in turns."""
  for index, path in enumerate(paths[BROKEN_EVERY // 2::BROKEN_EVERY]):
    file = pathlib.Path(path)
    whole = file.read_bytes()
    file.write_bytes((b'', whole[:len(whole) // 2], b'<html>404</html>')[index % 3])


def run_model(predictor: Predictor, count: int, batch_size: int) -> None:
  """Predicts so many random views, one batch ahead of the one that is waited for."""
  pixels = np.random.default_rng(0).integers(0, 256, (batch_size, *predictor.view_shape), np.uint8)
  working = predictor(pixels)
  for _ in range(1, -(-count // batch_size)):
    working, finished = predictor(pixels), working
    jax.device_get(finished)
  jax.device_get(working)


def images_per_second(predictor: Predictor, paths: list[str], batch_size: int, table: PredictionTable) -> list[float]:
  """Of the model alone, of the views alone, broken ones among them, and of both together with the table's rows."""
  read = functools.partial(read_media, paths, predictor.recogniser.view.size, ahead=2 * batch_size)
  works = (
      lambda: run_model(predictor, len(paths), batch_size), lambda: collections.deque(read(), maxlen=0),
      lambda: prediction.write_rows(predictor, read(), table, batch_size, tqdm.tqdm(disable=True)))
  rates = []
  for work in works:
    start = time.perf_counter()
    work()
    rates.append(len(paths) / (time.perf_counter() - start))
  return rates


def measure(predictor: Predictor, paths: list[str], batch_size: int, out: pathlib.Path) -> None:
  """Prints a line for each part of the images, so that a busy moment of the machine affects all three, then the sum."""
  table = PredictionTable(str(out), 'csv', prediction.table_columns(predictor), {})
  rates, mebibytes = [], []
  print('| images | model alone | views alone | 1/(1/model + 1/views) | together | ratio | MiB |\n|' + '---|' * 7)
  for first in range(0, len(paths), PART):
    part = paths[first:first + PART]
    rates.append(images_per_second(predictor, part, batch_size, table))
    mebibytes.append(_resident_mebibytes())
    print(_line(f'{first + len(part):,}', np.array(rates[-1:]), f'{mebibytes[-1]:.0f}'), flush=True)
  table.close()
  print(_line('all', np.array(rates), f'{max(mebibytes) - mebibytes[0]:+.0f} at most') + '\n')
  with out.open(encoding='utf-8') as lines:
    errors = [row['error'] for row in csv.DictReader(lines)]
  print(
      f"{len(errors):,} rows for {len(paths):,} images: {errors.count(''):,} predicted, "
      f"{len(errors) - errors.count('')} unreadable")


def _line(images: str, rates_Nx3: np.ndarray, memory: str) -> str:
  """A row of the table; of several equal parts, the harmonic means, which follow from the sum of the times."""
  model, view, both = 1 / (1 / rates_Nx3).mean(axis=0)
  bound = 1 / (1 / model + 1 / view)
  return f'| {images} | {model:.0f} | {view:.0f} | {bound:.0f} | {both:.0f} | {both / bound:.2f} | {memory} |'


def _resident_mebibytes() -> float:
  pages = int(pathlib.Path('/proc/self/statm').read_text().split()[1])
  return pages * os.sysconf('SC_PAGE_SIZE') / 2**20


def main() -> None:
  """Entry point after flags are parsed."""
  values = flags.FLAGS
  with tempfile.TemporaryDirectory(dir=values.workdir) as folder:
    folder = pathlib.Path(folder)
    photographs.draw_photographs(folder / 'raw', values.images)
    paths = find_images.find([str(folder / 'raw')]).paths
    break_some(paths)
    save_demo_model(folder / 'run')
    predictor = Predictor(open_recogniser(str(folder / 'run')))
    batch_size = inference.find_batch_size(predictor, len(paths))
    run_model(predictor, batch_size, batch_size)  # compiles
    print(
        f'{len(paths):,} images of {photographs.WIDTH} x {photographs.HEIGHT}, every {BROKEN_EVERY}th broken; '
        f'{jax.devices()[0].device_kind}, batch {batch_size}, {os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f}; '
        f"jax {jax.__version__}, pillow {importlib.metadata.version('pillow')}\n")
    measure(predictor, paths, batch_size, folder / 'predictions.csv')


if __name__ == '__main__':
  flags.DEFINE_string('workdir', None, 'Existing folder for the temporary files.')
  flags.DEFINE_integer('images', 10_000, 'Images drawn, 60 kB each.', lower_bound=PART)
  cli.run(main)
