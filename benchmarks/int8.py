"""Measures `model_int8.onnx` of a ViT-B/16 against `model.onnx` and our own float32, on this machine's CPU.

JAX_PLATFORMS=cpu python -m benchmarks.int8

Exports a classifier with random weights in both forms, calibrated on drawn images, and a third in which onnxruntime
finds the ranges of activations anew for each batch. All predict batches of the size that `predict` takes, in turns, so
that what else the machine does concerns all of them. Rates are medians. docs/predict.md holds what was measured.
"""

import pathlib
import statistics
import tempfile
import time

from absl import flags
import jax
import numpy as np
from PIL import Image

from uniemox_jax.convert.formats.onnx_files import open_session
from uniemox_jax.models.classifier import Classifier
from uniemox_jax.onnx_export import float_export, int8
from uniemox_jax.recognition.predictor import Predictor, find_batch_size
from uniemox_jax.recognition.recogniser import OnnxModel, Recogniser, open_recogniser
from uniemox_jax.runtime import cli
from uniemox_jax.train.checkpoint import Checkpoint
from uniemox_jax.train.state import builder, initial_params

VIT_B = {'image_size': 224, 'patch_size': 16, 'width': 768, 'depth': 12, 'heads': 12, 'classes': 8}


def random_classifier(model: dict[str, int]) -> Checkpoint:
  """Random weights; the classes depend on the image."""
  params = jax.device_get(jax.jit(lambda: initial_params(builder(Classifier, **model), seed=0))())
  rng = np.random.default_rng(0)
  params['head']['kernel'] = rng.normal(0, 0.05, params['head']['kernel'].shape).astype(np.float32)
  labels = [f'class{index}' for index in range(model['classes'])]
  return Checkpoint('random', 0, params, {'kind': 'classifier', 'model': model, 'labels': labels})


def draw_images(folder: pathlib.Path, count: int) -> None:
  """Images of 256 pixels, smooth at several scales."""
  rng = np.random.default_rng(0)
  for index in range(count):
    pixels = rng.integers(0, 256, (2 + index % 14, 2 + index % 14, 3), np.uint8)
    Image.fromarray(pixels).resize((256, 256), Image.Resampling.BICUBIC).save(folder / f'{index:03d}.png')


def dynamic(folder: pathlib.Path, recogniser: Recogniser) -> Recogniser:
  """The same with ranges of activations that onnxruntime finds as it runs."""
  from onnxruntime import quantization
  path = folder / 'dynamic.onnx'
  quantization.quantize_dynamic(
      folder / float_export.MODEL, path, op_types_to_quantize=int8.PRODUCTS, per_channel=True,
      weight_type=quantization.QuantType.QInt8, extra_options={'MatMulConstBOnly': True})
  return recogniser._replace(model=OnnxModel(open_session(path)))


def predictors(folder: pathlib.Path, images: int) -> dict[str, Predictor]:
  """By name, all that is measured."""
  export = float_export.of_student(random_classifier(VIT_B))
  assert export.recogniser is not None
  print(float_export.write_model(folder, export))
  (folder / 'images').mkdir()
  draw_images(folder / 'images', images)
  print('\n'.join(int8.write_int8(folder, export, str(folder / 'images'))), flush=True)
  found = {'JAX, float32': export.recogniser}
  for name, file in (('onnxruntime, float32', float_export.MODEL), ('onnxruntime, int8', int8.INT8)):
    found[name] = open_recogniser(str(folder / file))
  found['onnxruntime, int8, dynamic'] = dynamic(folder, found['onnxruntime, float32'])
  return {name: Predictor(recogniser) for name, recogniser in found.items()}


def main() -> None:
  """Entry point after flags are parsed."""
  values = flags.FLAGS
  with tempfile.TemporaryDirectory() as scratch:
    measured = predictors(pathlib.Path(scratch), values.images)
    first = next(iter(measured.values()))
    rows = values.batch_size or find_batch_size(first, 10**6)
    views = np.random.default_rng(0).integers(0, 256, (rows, *first.view_shape), np.uint8)
    seconds: dict[str, list[float]] = {name: [] for name in measured}
    for turn in range(values.turns + 1):
      for name, predictor in measured.items():
        start = time.perf_counter()
        jax.device_get(predictor(views))
        if turn:  # the first one compiles
          seconds[name].append(time.perf_counter() - start)
  base = statistics.median(next(iter(seconds.values())))
  print(f'batches of {rows}, {values.turns} turns\n\n| | images a second | times JAX |\n|---|---|---|')
  for name, times in seconds.items():
    median = statistics.median(times)
    print(f'| {name} | {rows / median:.2f} | {base / median:.2f} |')


if __name__ == '__main__':
  flags.DEFINE_integer('turns', 5, 'Batches that each predicts.', 1)
  flags.DEFINE_integer('batch_size', None, 'Images in a batch; by default as predict chooses it.', 1)
  flags.DEFINE_integer('images', 24, 'Drawn images, of which a third calibrates.', 12)
  cli.run(main)
