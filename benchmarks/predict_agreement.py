"""How closely `predict` agrees with `evaluate`: the same images by both ways, probability by probability.

python -m benchmarks.predict_agreement --workdir=runs/demo/finetune_uniemox --source=runs/demo/raw/emo8

For every record of the test split, `evaluate` (TensorFlow's decoder and resizing) is compared with `predict` on the
JPEG that the record stores, and on the raw file that it was built from, which may be larger and was encoded once less.
docs/predict.md holds what was measured.
"""

from collections.abc import Iterable
import os
import pathlib
import tempfile

from absl import flags
import jax
import numpy as np

from data_pipelines.batches import pipeline
from data_pipelines.light_tensorflow import tf
from data_pipelines.media.read_media import read_media
from data_pipelines.records import reader
from data_pipelines.storage import read_json
from uniemox_jax.objectives import tasks
from uniemox_jax.recognition.predictor import Predictor
from uniemox_jax.recognition.recogniser import open_recogniser
from uniemox_jax.runtime import cli

BATCH = 32


def _probabilities(predictor: Predictor, batches: Iterable[np.ndarray]) -> np.ndarray:
  """float32 (N, C) of all rows of the batches."""
  outputs_NxC = np.concatenate([jax.device_get(predictor(batch)) for batch in batches])
  return tasks.predict(predictor.recogniser.tasks[0], outputs_NxC)


def evaluated(predictor: Predictor, split: reader.Split) -> np.ndarray:
  """float32 (N, C) of every record, over the views that `evaluate` takes."""
  batches = list(pipeline.eval_batches(split, batch_size=BATCH, image_size=predictor.recogniser.view.size))
  mask_N = np.concatenate([batch['mask'] for batch in batches])
  return _probabilities(predictor, (batch['image'] for batch in batches))[mask_N > 0]


def predicted(predictor: Predictor, paths: list[str]) -> np.ndarray:
  """float32 (N, C) of files, over the views that `predict` takes."""
  pixels_NxSxSx3 = np.stack([view.pixels for view in read_media(paths, predictor.recogniser.view.size, ahead=BATCH)])
  padded = np.pad(pixels_NxSxSx3, ((0, -len(paths) % BATCH), (0, 0), (0, 0), (0, 0)))
  return _probabilities(predictor, np.split(padded, len(padded) // BATCH))[:len(paths)]


def write_stored(split: reader.Split, folder: pathlib.Path) -> list[str]:
  """The JPEG of every record as a file of its own."""
  paths = [folder / f'{position}.jpg' for position in range(split.num_examples)]
  for position, path in enumerate(paths):
    record = tf.train.Example.FromString(split.read(position))
    path.write_bytes(record.features.feature['image'].bytes_list.value[0])
  return [str(path) for path in paths]


def main() -> None:
  """Entry point after flags are parsed."""
  values = flags.FLAGS
  predictor = Predictor(open_recogniser(values.workdir))
  config = read_json(os.path.join(values.workdir, 'config.json'))
  split = reader.open_split(config['data_dir'], config['dataset'], 'test')
  reference = evaluated(predictor, split)
  raw = [os.path.join(values.source, annotation.id) for annotation in split.annotations()]
  with tempfile.TemporaryDirectory() as folder:
    ways = {
        'the stored JPEG': predicted(predictor, write_stored(split, pathlib.Path(folder))),
        'the raw file': predicted(predictor, raw)}
  print(
      f'{len(reference)} images, {predictor.recogniser.view.size} pixels, '
      f'{len(predictor.recogniser.tasks[0].outputs)} classes\n\n'
      '| predict on | largest difference of a probability | mean | same class |\n|---|---|---|---|')
  for name, found in ways.items():
    apart = np.abs(found - reference)
    same = (found.argmax(axis=1) == reference.argmax(axis=1)).sum()
    print(f'| {name} | {apart.max():.4f} | {apart.mean():.5f} | {same} of {len(reference)} |')


if __name__ == '__main__':
  cli.define_workdir()
  flags.DEFINE_string('source', None, 'The raw folder that the records were built from.', required=True)
  cli.run(main)
