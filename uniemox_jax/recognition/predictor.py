"""Runs a recogniser on views, on all devices or in onnxruntime, in batches of one size; predictions become columns."""

from collections.abc import Callable
import functools
import math
import timeit
from typing import Any

from flax import nnx
import jax
import numpy as np

from data_pipelines.errors import UserError
from uniemox_jax.convert.onnx_graph import IMAGES, LOGITS
from uniemox_jax.models.preprocess import normalise
from uniemox_jax.objectives.tasks import width
from uniemox_jax.recognition.columns import Columns, prediction_columns
from uniemox_jax.recognition.recogniser import FlaxModel, ModelSource, OnnxModel, Recogniser, open_recogniser
from uniemox_jax.runtime import sharding

CPU_BATCH = 32
"""The batch on a CPU: larger ones gain nothing and take more memory, as was measured (docs/predict.md)."""
SMALLEST, LARGEST = 32, 1024
"""The smallest and the largest batch that is tried on an accelerator; a view of 224 x 224 takes 150 kB."""
_MIN_GAIN = 1.05
"""The least gain in speed for which a batch is doubled."""


@functools.partial(jax.jit, static_argnums=(0, 1))
def _apply(
    model: nnx.GraphDef, statistics: tuple[tuple[str, tuple[float, ...]], ...], params: dict[str, Any],
    views: jax.Array) -> jax.Array:
  return nnx.merge(model, params)(normalise(views, **dict(statistics)) if statistics else views)


class _OnDevices:
  """A module, its weights on every device."""

  def __init__(self, model: FlaxModel, statistics: tuple[tuple[str, tuple[float, ...]], ...]):
    self._mesh = sharding.make_mesh()
    self.devices, self.platform = self._mesh.size, jax.default_backend()
    self._graphdef, self._statistics = model.graphdef, statistics
    self._params = sharding.replicate(model.params, self._mesh)

  def __call__(self, views: np.ndarray) -> jax.Array:
    statistics = self._statistics if views.dtype == np.uint8 else ()
    with jax.set_mesh(self._mesh):
      placed = sharding.global_batch({'views': views}, self._mesh)['views']
      return _apply(self._graphdef, statistics, self._params, placed)


class _InSession:
  """A session of onnxruntime, which takes normalised views."""

  devices, platform = 1, 'cpu'

  def __init__(self, model: OnnxModel, statistics: tuple[tuple[str, tuple[float, ...]], ...]):
    self._session, self._statistics = model.session, statistics

  def __call__(self, views: np.ndarray) -> np.ndarray:
    if views.dtype == np.uint8:
      views = np.asarray(normalise(views, **dict(self._statistics)))
    return self._session.run([LOGITS], {IMAGES: views})[0]


class Predictor:
  """A recogniser, ready to run.

  Attributes:
    recogniser: what it runs.
    view_shape: the shape of an example: (S, S, 3), or (2, S, S, 3), scene and person.
    devices: the number of devices that share a batch.
    platform: the kind of these devices, 'cpu' for example.
  """

  def __init__(self, recogniser: Recogniser):
    self.recogniser = recogniser
    view = recogniser.view.size, recogniser.view.size, 3
    self.view_shape = (2, *view) if recogniser.sees_person else view
    model, statistics = recogniser.model, (('mean', recogniser.view.mean), ('std', recogniser.view.std))
    self._run = _InSession(model, statistics) if isinstance(model, OnnxModel) else _OnDevices(model, statistics)
    self.devices, self.platform = self._run.devices, self._run.platform

  def __call__(self, views: np.ndarray) -> jax.Array | np.ndarray:
    """Computes the outputs (B, W), without waiting for those of a module.

    Args:
      views: (B, *view_shape), uint8, or float32 that is normalised already; B is a multiple of `devices`.
    """
    return self._run(views)

  def columns(self, outputs_BxW: np.ndarray) -> Columns:
    """The columns of the table for a batch, in order."""
    return prediction_columns(outputs_BxW, self.recogniser.tasks, self.recogniser.thresholds, self.recogniser.texts)

  def column_names(self) -> list[str]:
    """The keys of `columns`."""
    return list(self.columns(np.zeros((1, width(self.recogniser.tasks) + len(self.recogniser.texts)))))


def open_predictor(source: str | ModelSource) -> Predictor:
  """Loads any model that names emotions, see `open_recogniser`, onto all devices."""
  return Predictor(open_recogniser(source))


def find_batch_size(predictor: Predictor, examples: int) -> int:
  """Finds a good batch for this machine and number of examples: `CPU_BATCH` per device on a CPU, else it measures."""
  devices = predictor.devices
  if predictor.platform == 'cpu':
    return min(CPU_BATCH * devices, round_up(examples, devices))
  return fastest_batch(functools.partial(seconds_per_batch, predictor), examples, devices)


def seconds_per_batch(predictor: Predictor, rows: int) -> float:
  """The time of a batch from host to host, once compiled: the shortest of three runs."""
  views = np.zeros((rows, *predictor.view_shape), np.uint8)
  jax.block_until_ready(predictor(views))
  return min(timeit.repeat(lambda: jax.device_get(predictor(views)), number=1, repeat=3))


def fastest_batch(seconds: Callable[[int], float], examples: int, devices: int) -> int:
  """Doubles the batch until it is out of memory or hardly faster; halves it if even the first is too large.

  Args:
    seconds: a function from the rows of a batch to its time.
    examples: how many examples there are.
    devices: the number of devices; the batch is a multiple of it.

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
