"""A fine-tuned classifier over evaluation views: on all devices, in batches of one size; its predictions as columns."""

from collections.abc import Callable, Mapping, Sequence
import functools
import hashlib
import itertools
import math
import timeit
from typing import Any

from flax import nnx
import jax
import numpy as np

from data_pipelines.errors import UserError
from data_pipelines.storage import parsing
from uniemox_jax.models.classifier import STREAMS, Classifier
from uniemox_jax.models.preprocess import normalise
from uniemox_jax.objectives.tasks import Task, predict, split_columns, tasks_of, width
from uniemox_jax.runtime import sharding
from uniemox_jax.train.checkpoint import Checkpoint, load_checkpoint
from uniemox_jax.train.run_folder import read_run_result, run_folder
from uniemox_jax.train.state import builder, graphdef_of

CPU_BATCH = 32
"""Measured (docs/predict.md): on a CPU, larger batches gain nothing and keep more in memory."""
SMALLEST, LARGEST = 32, 1024
"""Batches that are tried on an accelerator; a view of 224 x 224 takes 150 kB."""
_MIN_GAIN = 1.05
"""In speed, for which a batch is doubled."""


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
    thresholds: of the task 'labels', from which on a class is chosen, None for never; None as a whole if not known.
    sees_person: whether its views are of scene and person.
    image_size: side S of its views, pixels.
    view_shape: of an example: (S, S, 3), or (2, S, S, 3), scene and person.
    weights_sha256: of all weights and of how they are used.
    devices: number that share a batch.
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
    streams = STREAMS[description['model'].get('streams', 'scene')]
    self.sees_person = len(streams) > 1
    self.image_size: int = description['model']['image_size']
    view = self.image_size, self.image_size, 3
    self.view_shape = (len(streams), *view) if self.sees_person else view
    statistics = tuple((name, tuple(values)) for name, values in description.get('statistics', {}).items())
    self.weights_sha256 = _digest(checkpoint.params, (description['model'], self.tasks, self.thresholds, statistics))
    self._mesh = sharding.make_mesh()
    self.devices = self._mesh.size
    classifier = graphdef_of(builder(Classifier, **description['model']))
    params = sharding.replicate(checkpoint.params, self._mesh)
    self._apply = functools.partial(_apply, classifier, statistics, params)

  def __call__(self, views: np.ndarray) -> jax.Array:
    """Outputs (B, W), not waited for, of uint8 views (B, *view_shape); B is a multiple of `devices`."""
    with jax.set_mesh(self._mesh):
      return self._apply(sharding.global_batch({'views': views}, self._mesh)['views'])

  def columns(self, outputs_BxW: np.ndarray) -> dict[str, Sequence[str | float]]:
    """The columns of the table for a batch, in order (docs/predict.md)."""
    outputs = split_columns(outputs_BxW.astype(np.float64), self.tasks)
    table: dict[str, Sequence[str | float]] = {}
    first_with_classes = next((task.name for task in self.tasks if task.name != 'vad'), None)
    for task in self.tasks:
      predicted_BxC = predict(task, outputs[task.name])
      if task.name == 'label':
        table['label'] = [task.outputs[best] for best in predicted_BxC.argmax(axis=1)]
        table['probability'] = predicted_BxC.max(axis=1).tolist()
      if task.name == 'labels' and self.thresholds is not None:
        limits_C = np.array([np.inf if threshold is None else threshold for threshold in self.thresholds])
        table['labels'] = [';'.join(itertools.compress(task.outputs, row)) for row in predicted_BxC >= limits_C]
      # Two tasks may name the same classes: only the first has short headings.
      prefix = '' if task.name == 'vad' else 'p_' if task.name == first_with_classes else f'{task.name}_p_'
      for name, predicted_B in zip(task.outputs, predicted_BxC.T.tolist(), strict=True):
        table[prefix + name] = predicted_B
    return table

  def column_names(self) -> list[str]:
    """The keys of `columns`."""
    return list(self.columns(np.zeros((1, width(self.tasks)))))


def _stored_thresholds(checkpoint: Checkpoint, tasks: Sequence[Task]) -> list[float | None] | None:
  """Thresholds of the task 'labels', chosen on val, from the result.json of this checkpoint; None without them."""
  result = read_run_result(run_folder(checkpoint.path), checkpoint.step)
  labels = [list(task.outputs) for task in tasks if task.name == 'labels']
  with parsing(run_folder(checkpoint.path) / 'result.json'):
    rows = result.get('tasks', {}).get('labels', {}).get('per_class', [])
    return [row['threshold'] for row in rows] if labels == [[row['label'] for row in rows]] else None


def find_batch_size(predictor: Predictor, examples: int) -> int:
  """A good batch for this machine and number of examples: `CPU_BATCH` per device on a CPU, else measured."""
  devices = predictor.devices
  if jax.default_backend() == 'cpu':
    return min(CPU_BATCH * devices, round_up(examples, devices))
  return fastest_batch(functools.partial(seconds_per_batch, predictor), examples, devices)


def seconds_per_batch(predictor: Predictor, rows: int) -> float:
  """Time of a batch from host to host, once compiled: the shortest of three runs."""
  views = np.zeros((rows, *predictor.view_shape), np.uint8)
  jax.block_until_ready(predictor(views))
  return min(timeit.repeat(lambda: jax.device_get(predictor(views)), number=1, repeat=3))


def fastest_batch(seconds: Callable[[int], float], examples: int, devices: int) -> int:
  """Doubles the batch until it is out of memory or hardly faster; halves it if even the first is too large.

  Args:
    seconds: time of a batch of so many rows.
    examples: how many there are.
    devices: the batch is a multiple of it.

  Raises:
    UserError: a single row per device does not fit.
  """

  def seconds_if_it_fits(rows: int) -> float:
    try:
      return seconds(rows)
    except jax.errors.JaxRuntimeError as error:
      if 'RESOURCE_EXHAUSTED' in str(error):
        return math.inf
      raise

  rows = min(round_up(SMALLEST, devices), round_up(examples, devices))
  while (taken := seconds_if_it_fits(rows)) == math.inf:
    if rows == devices:
      raise UserError('the model does not fit into the memory of this device: use a larger one, or JAX_PLATFORMS=cpu')
    rows = round_up(rows // 2, devices)
  while 2 * rows <= min(LARGEST * devices, round_up(examples, devices)):
    doubled = seconds_if_it_fits(2 * rows)
    if 2 * taken < _MIN_GAIN * doubled:
      break
    rows, taken = 2 * rows, doubled
  return rows


def round_up(rows: int, devices: int) -> int:
  """The next positive multiple of `devices`."""
  return max(1, -(-rows // devices)) * devices


def _digest(params: Mapping[str, Any], description: object) -> str:
  digest = hashlib.sha256(repr(description).encode())
  for path, leaf in jax.tree_util.tree_leaves_with_path(params):
    digest.update(jax.tree_util.keystr(path).encode())
    digest.update(np.ascontiguousarray(leaf).data)
  return digest.hexdigest()
