"""Makes `model_int8.onnx` of `model.onnx`: matrix products in 8 bits, calibrated on images and compared on others
(docs/weights.md, In 8 bits)."""

from collections.abc import Iterator
import contextlib
import logging
from pathlib import Path
from typing import Any

import numpy as np

from data_pipelines import storage
from data_pipelines.errors import UserError
from data_pipelines.media import find_images, video
from data_pipelines.media.read_media import read_media
from uniemox_jax.convert.formats import onnx_files
from uniemox_jax.convert.onnx_graph import IMAGES
from uniemox_jax.models.preprocess import normalise
from uniemox_jax.models.view import View
from uniemox_jax.objectives.tasks import predict, split_columns, width
from uniemox_jax.onnx_export.float_export import MODEL, OnnxExport
from uniemox_jax.recognition.predictor import Predictor
from uniemox_jax.recognition.recogniser import Recogniser, of_onnx

INT8 = 'model_int8.onnx'
IMAGES_READ = 384
"""The most images that are read, spread over the folder; of every three, the first calibrates, the others are held
out."""
FEWEST = 12
"""The fewest images from which ranges, and how often the top class stays, can be measured."""
PRODUCTS = ['Gemm', 'MatMul']
"""The operators that are in 8 bits if they have weights. Their results are not rounded again."""
_BATCH = 8


def write_int8(folder: Path, export: OnnxExport, source: str) -> list[str]:
  """Writes `model_int8.onnx` beside `model.onnx`; returns lines that say what it was made of, and what was lost.

  Weights have a scale a column, activations one each, by their range on the calibration images. LayerNorm, softmax,
  GELU, the products between activations and all sums stay float32.

  Args:
    folder: the folder given to `write_model`.
    export: the export given to it.
    source: images, as `find_images.find` takes them; videos are left out.

  Raises:
    UserError: the model names no emotions, or there are fewer than `FEWEST` images that can be read.
  """
  assert export.recogniser is not None
  read_NxV, lines = _read_views(source, export.recogniser)
  calibrating = np.arange(len(read_NxV)) % 3 == 0
  with storage.temporary_folder() as scratch:
    model = _quantise(folder / MODEL, Path(scratch) / INT8, read_NxV[calibrating], export.view)
  onnx_files.write_onnx(folder / INT8, model, export.description | {'precision': 'int8'})
  held_out = read_NxV[~calibrating]
  lines.append(
      f'{INT8}: calibrated on {calibrating.sum()} images, against {MODEL} on {len(held_out)} others of the folder')
  exact, rounded = (_outputs(folder / name, held_out) for name in (MODEL, INT8))
  return [*lines, *_losses(exact, rounded, export.recogniser)]


def _read_views(source: str, recogniser: Recogniser) -> tuple[np.ndarray, list[str]]:
  """Views for a `Predictor`, uint8, and lines about what could not be read or has no person."""
  paths = [path for path in find_images.find([source]).paths if not video.is_video(path)]
  spread = np.unique(np.linspace(0, len(paths) - 1, min(len(paths), IMAGES_READ)).round().astype(int))
  view = recogniser.view
  rows = list(read_media([paths[place] for place in spread], view.size, ahead=2 * _BATCH, view=view.pixels))
  pixels = [row.pixels for row in rows if row.pixels is not None]
  unreadable = [f'{row.name}: {row.error}' for row in rows if row.pixels is None]
  if len(pixels) < FEWEST:
    raise UserError(
        f'--calibration={source} holds {len(pixels)} images that can be read, {FEWEST} are the fewest: give some '
        'hundred that are like those to be predicted')
  lines = [f'{len(unreadable)} images could not be read (first: {unreadable[0]})'] if unreadable else []
  scenes = np.stack(pixels)
  if not recogniser.sees_person:
    return scenes, lines
  return np.stack([scenes, scenes], axis=1), [*lines, 'the calibration images have no boxes: scenes replace persons']


class _Batches:
  """Calibration images as onnxruntime asks for them."""

  def __init__(self, views_NxV: np.ndarray, view: View):
    self._parts, self._view = iter(np.array_split(views_NxV, -(-len(views_NxV) // _BATCH))), view

  def get_next(self) -> dict[str, np.ndarray] | None:
    """The next batch, as the graph takes it; None after the last."""
    part = next(self._parts, None)
    return None if part is None else {IMAGES: np.asarray(normalise(part, self._view.mean, self._view.std))}


def _quantise(source: Path, scratch: Path, views_NxV: np.ndarray, view: View) -> Any:
  """The `onnx.ModelProto` of `source` in 8 bits, without its description."""
  import onnx
  from onnxruntime import quantization
  graph = onnx.load_model(source, load_external_data=False).graph
  weights = {tensor.name for tensor in graph.initializer}
  between = [node.name for node in graph.node if node.op_type == 'MatMul' and node.input[1] not in weights]
  is_large = source.with_name(source.name + onnx_files.DATA).exists()
  with _quiet():
    quantization.quantize_static(
        str(source), str(scratch), _Batches(views_NxV, view), quant_format=quantization.QuantFormat.QDQ,
        per_channel=True, activation_type=quantization.QuantType.QUInt8, weight_type=quantization.QuantType.QInt8,
        op_types_to_quantize=PRODUCTS, nodes_to_exclude=between, use_external_data_format=is_large,
        extra_options={'OpTypesToExcludeOutputQuantization': PRODUCTS})
  model = onnx.load_model(scratch)
  del model.metadata_props[:]
  return model


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
  """Silences advice about models that were not made here, which goes to the root logger."""
  root = logging.getLogger()
  level = root.level
  root.setLevel(logging.ERROR)
  try:
    yield
  finally:
    root.setLevel(level)


def _outputs(path: Path, views_NxV: np.ndarray) -> np.ndarray:
  predictor = Predictor(of_onnx(str(path), onnx_files.read_onnx(path)))
  return np.concatenate([predictor(part) for part in np.array_split(views_NxV, -(-len(views_NxV) // _BATCH))])


def _losses(exact_NxW: np.ndarray, rounded_NxW: np.ndarray, recogniser: Recogniser) -> list[str]:
  """Says what 8 bits change in each task."""
  tasks, lines = recogniser.tasks, []
  exact, rounded = (split_columns(outputs[:, :width(tasks)], tasks) for outputs in (exact_NxW, rounded_NxW))
  for task in tasks:
    before_NxC, after_NxC = predict(task, exact[task.name]), predict(task, rounded[task.name])
    same = np.mean(before_NxC.argmax(axis=1) == after_NxC.argmax(axis=1))
    top = '' if task.name == 'vad' else f'the top class is the same for {same:.1%}, '
    what = 'a value' if task.name == 'vad' else 'a probability'
    lines.append(f'{INT8}, {task.name}: {top}{_distance(what, before_NxC, after_NxC)}')
  if recogniser.texts:
    lines.append(
        f'{INT8}, texts: {_distance("a similarity", exact_NxW[:, width(tasks):], rounded_NxW[:, width(tasks):])}')
  return lines


def _distance(what: str, before: np.ndarray, after: np.ndarray) -> str:
  differences = np.abs(before - after)
  return f'{what} differs by at most {differences.max():.4f}, on average {differences.mean():.5f}'
