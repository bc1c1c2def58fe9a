"""A trained model over any number of evaluation views: on all devices, in batches of one size; what it says."""

from collections.abc import Callable, Sequence
import functools
import hashlib
import os
import time
from typing import Any

from flax import nnx
import jax
import numpy as np

from data_pipelines.errors import UserError
from uniemox_jax.models.classifier import STREAMS, Classifier
from uniemox_jax.models.preprocess import normalise
from uniemox_jax.objectives.tasks import Task, predict, split_columns, tasks_of, width
from uniemox_jax.report.model_card import run_folder
from uniemox_jax.runtime import sharding
from uniemox_jax.runtime.files import exists, read_json
from uniemox_jax.train.checkpoint import Checkpoint, load_checkpoint
from uniemox_jax.train.state import builder, graphdef_of

CPU_BATCH = 32
"""Measured (docs/predict.md): on a CPU, larger batches gain nothing and keep more in memory."""
SMALLEST, LARGEST = 32, 1024
"""Of the batches that are tried on an accelerator; a view of 224 x 224 takes 150 kB."""
_WORTH = 1.05

Cells = list[str] | list[float]


@functools.partial(jax.jit, static_argnums=(0, 1))
def _apply(
    classifier: nnx.GraphDef, statistics: tuple[tuple[str, tuple[float, ...]], ...], params: dict[str, Any],
    views: jax.Array) -> jax.Array:
  return nnx.merge(classifier, params)(normalise(views, **dict(statistics)))


class Predictor:
  """A fine-tuned classifier, its weights on every device.

  Attributes:
    path: the step folder it came from.
    tasks: what it predicts.
    thresholds: of the task 'labels', from which on a class is chosen, None for never; or None where they are not known.
    streams: 'scene', or 'scene+person'.
    image_size: side S of its views, pixels.
    view_shape: of what it takes for a picture: (S, S, 3), or (2, S, S, 3), scene and person.
    weights_sha256: of all weights and of how they are used.
    devices: how many share a batch.
  """

  def __init__(self, path: str):
    """Loads a checkpoint PATH (workdir: its best epoch; a step folder; `import_torch` output).

    Raises:
      UserError: no checkpoint, or one without a classifier.
    """
    checkpoint = load_checkpoint(path)
    description = checkpoint.description
    if description['kind'] != 'classifier':
      raise UserError(
          f"{path} holds a model of kind '{description['kind']}', which names no emotions: give the "
          '--workdir of a fine-tuning run (python -m uniemox_jax.finetune)')
    self.path, self.tasks = checkpoint.path, tasks_of(description)
    self.thresholds = _stored_thresholds(checkpoint, self.tasks)
    self.streams: str = description['model'].get('streams', 'scene')
    self.image_size: int = description['model']['image_size']
    view = self.image_size, self.image_size, 3
    self.view_shape = view if self.streams == 'scene' else (len(STREAMS[self.streams]), *view)
    statistics = tuple((name, tuple(values)) for name, values in description.get('statistics', {}).items())
    self.weights_sha256 = _digest(checkpoint.params, (description['model'], self.tasks, self.thresholds, statistics))
    self._mesh = sharding.make_mesh()
    self.devices = self._mesh.size
    classifier = graphdef_of(builder(Classifier, **description['model']))
    params = sharding.replicate(checkpoint.params, self._mesh)
    self._apply = functools.partial(_apply, classifier, statistics, params)

  def __call__(self, views: np.ndarray) -> jax.Array:
    """Starts on uint8 views (B, *view_shape), B a multiple of `devices`; gives outputs (B, W), perhaps not ready."""
    with jax.set_mesh(self._mesh):
      return self._apply(sharding.global_batch({'views': views}, self._mesh)['views'])

  def columns(self, outputs_BxW: np.ndarray) -> dict[str, Cells]:
    """What a table tells of a batch, column by column in their order (docs/predict.md)."""
    outputs, table = split_columns(outputs_BxW.astype(np.float64), self.tasks), {}
    naming = [task.name for task in self.tasks if task.name != 'vad']
    for task in self.tasks:
      predicted_BxC = predict(task, outputs[task.name])
      if task.name == 'label':
        best_B = predicted_BxC.argmax(axis=1)
        table |= {'label': [task.outputs[index] for index in best_B], 'probability': predicted_BxC.max(axis=1).tolist()}
      if task.name == 'labels' and self.thresholds is not None:
        table['labels'] = _chosen(task, predicted_BxC, self.thresholds)
      # Two tasks may name the same classes: only the first has short headings.
      prefix = '' if task.name == 'vad' else 'p_' if task.name == naming[0] else f'{task.name}_p_'
      table |= {prefix + name: cells for name, cells in zip(task.outputs, predicted_BxC.T.tolist(), strict=True)}
    return table

  def column_names(self) -> list[str]:
    """The keys of `columns`, before there is any batch."""
    return list(self.columns(np.zeros((1, width(self.tasks)))))


def _chosen(task: Task, scores_BxC: np.ndarray, thresholds: Sequence[float | None]) -> list[str]:
  """Of each row, the classes that reach their threshold, joined by a semicolon."""
  limits_C = np.array([np.inf if threshold is None else threshold for threshold in thresholds])
  return [';'.join(name for name, chosen in zip(task.outputs, row) if chosen) for row in scores_BxC >= limits_C]


def _stored_thresholds(checkpoint: Checkpoint, tasks: Sequence[Task]) -> list[float | None] | None:
  """Those of the task 'labels', chosen on val, that result.json holds of this checkpoint; None where it does not."""
  path = os.path.join(run_folder(checkpoint.path), 'result.json')
  result = read_json(path) if exists(path) else {}
  rows = result.get('tasks', {}).get('labels', {}).get('per_class', [])
  labels = [list(task.outputs) for task in tasks if task.name == 'labels']
  known = result.get('checkpoint_step') == checkpoint.step and labels == [[row['label'] for row in rows]]
  return [row['threshold'] for row in rows] if known else None


def batch_size(predictor: Predictor, most: int) -> int:
  """A good batch for this machine: measured on accelerators, `CPU_BATCH` a device elsewhere; never much over `most`."""
  devices = predictor.devices
  if jax.default_backend() == 'cpu':
    return min(CPU_BATCH * devices, _multiple(most, devices))
  return fastest_batch(functools.partial(seconds_a_batch, predictor), most, devices)


def seconds_a_batch(predictor: Predictor, rows: int, repetitions: int = 3) -> float:
  """What a batch takes from host to host, once compiled: the shortest of some runs."""
  views = np.zeros((rows, *predictor.view_shape), np.uint8)
  jax.block_until_ready(predictor(views))
  taken = []
  for _ in range(repetitions):
    start = time.perf_counter()
    jax.device_get(predictor(views))
    taken.append(time.perf_counter() - start)
  return min(taken)


def fastest_batch(seconds: Callable[[int], float], most: int, devices: int) -> int:
  """Doubles the batch until it is out of memory or hardly faster; halves it where even the first is too large.

  Args:
    seconds: what a batch of so many rows takes.
    most: rows that there are.
    devices: the batch is a multiple of it.

  Raises:
    UserError: a single row a device does not fit.
  """
  rows = min(_multiple(SMALLEST, devices), _multiple(most, devices))
  while (taken := _unless_out_of_memory(seconds, rows)) is None:
    if rows == devices:
      raise UserError('the model does not fit into the memory of this device: use a larger one, or JAX_PLATFORMS=cpu')
    rows = _multiple(rows // 2, devices)
  while 2 * rows <= min(LARGEST * devices, _multiple(most, devices)):
    doubled = _unless_out_of_memory(seconds, 2 * rows)
    if doubled is None or 2 * taken < _WORTH * doubled:
      break
    rows, taken = 2 * rows, doubled
  return rows


def _unless_out_of_memory(seconds: Callable[[int], float], rows: int) -> float | None:
  try:
    return seconds(rows)
  except jax.errors.JaxRuntimeError as error:
    if 'RESOURCE_EXHAUSTED' in str(error):
      return None
    raise


def _multiple(rows: int, devices: int) -> int:
  """The next multiple of `devices`, at least one."""
  return max(1, -(-rows // devices)) * devices


def _digest(params: dict[str, Any], description: Any) -> str:
  digest = hashlib.sha256(repr(description).encode())
  for path, leaf in jax.tree_util.tree_leaves_with_path(params):
    digest.update(jax.tree_util.keystr(path).encode())
    digest.update(np.ascontiguousarray(leaf).data)
  return digest.hexdigest()
