"""A trained model over any number of evaluation views: on all devices, in batches of one size."""

from collections.abc import Callable, Sequence
import functools
import hashlib
import time
from typing import Any

from flax import nnx
import jax
import numpy as np

from data_pipelines.errors import UserError
from uniemox_jax import sharding
from uniemox_jax.checkpoint import load_checkpoint
from uniemox_jax.models.classifier import Classifier
from uniemox_jax.preprocess import normalise
from uniemox_jax.train_state import builder, graphdef_of

CPU_BATCH = 32
"""Measured (docs/predict.md): on a CPU, larger batches gain nothing and keep more in memory."""
SMALLEST, LARGEST = 32, 1024
"""Of the batches that are tried on an accelerator; a view of 224 x 224 takes 150 kB."""
_WORTH = 1.05

Outputs = dict[str, Any]


@functools.partial(jax.jit, static_argnums=(0, 1))
def _apply(classifier: nnx.GraphDef, statistics: tuple[tuple[str, tuple[float, ...]], ...], params: dict[str, Any],
           views_BxSxSx3: jax.Array) -> Outputs:
  logits_BxC = nnx.merge(classifier, params)(normalise(views_BxSxSx3, **dict(statistics)))
  return {'probabilities': jax.nn.softmax(logits_BxC)}


class Predictor:
  """A fine-tuned classifier, its weights on every device.

  Attributes:
    path: the step folder it came from.
    labels: class names in the order of the probabilities.
    image_size: side S of its views, pixels.
    weights_sha256: of all weights and of how they are used.
    devices: how many share a batch.
  """

  def __init__(self, path: str):
    """Loads a checkpoint PATH (workdir: its best epoch; a step folder; `import_torch` output).

    Raises:
      UserError: no checkpoint, or one of another task.
    """
    checkpoint = load_checkpoint(path)
    description = checkpoint.description
    if description['kind'] != 'classifier':
      raise UserError(f"{path} holds a model of kind '{description['kind']}', which names no emotions: give the "
                      '--workdir of a fine-tuning run (python -m uniemox_jax.finetune)')
    self.path, self.labels = checkpoint.path, list(description['labels'])
    self.image_size: int = description['model']['image_size']
    statistics = tuple((name, tuple(values)) for name, values in description.get('statistics', {}).items())
    self.weights_sha256 = _digest(checkpoint.params, (description['model'], self.labels, statistics))
    self._mesh = sharding.make_mesh()
    self.devices = self._mesh.size
    classifier = graphdef_of(builder(Classifier, **description['model']))
    params = sharding.replicate(checkpoint.params, self._mesh)
    self._apply = functools.partial(_apply, classifier, statistics, params)

  def __call__(self, views_BxSxSx3: np.ndarray) -> Outputs:
    """Starts on uint8 views, B a multiple of `devices`; gives 'probabilities', float32 (B, C), perhaps not ready."""
    with jax.set_mesh(self._mesh):
      return self._apply(sharding.global_batch({'views': views_BxSxSx3}, self._mesh)['views'])


def columns(labels: Sequence[str], outputs: Outputs) -> dict[str, list[str] | list[float]]:
  """What a table tells of a batch, column by column in their order: the likeliest class, then every class's p_CLASS."""
  probabilities_BxC = np.asarray(outputs['probabilities'])
  best_B = probabilities_BxC.argmax(axis=1)
  each = {f'p_{label}': probabilities_BxC[:, index].tolist() for index, label in enumerate(labels)}
  return {'label': [labels[index] for index in best_B], 'probability': probabilities_BxC.max(axis=1).tolist()} | each


def column_names(labels: Sequence[str]) -> list[str]:
  """The keys of `columns`, before there is any batch."""
  return list(columns(labels, {'probabilities': np.zeros((1, len(labels)))}))


def batch_size(predictor: Predictor, most: int) -> int:
  """A good batch for this machine: measured on accelerators, `CPU_BATCH` a device elsewhere; never much over `most`."""
  devices = predictor.devices
  if jax.default_backend() == 'cpu':
    return min(CPU_BATCH * devices, _multiple(most, devices))
  return fastest_batch(functools.partial(seconds_a_batch, predictor), most, devices)


def seconds_a_batch(predictor: Predictor, rows: int, repetitions: int = 3) -> float:
  """What a batch takes from host to host, once compiled: the shortest of some runs."""
  views_BxSxSx3 = np.zeros((rows, predictor.image_size, predictor.image_size, 3), np.uint8)
  jax.block_until_ready(predictor(views_BxSxSx3))
  taken = []
  for _ in range(repetitions):
    start = time.perf_counter()
    jax.device_get(predictor(views_BxSxSx3))
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
