"""Checkpoints: plain nested dicts on disk, written and read by Orbax. The only file that imports it."""

import json
import os
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import preservation_policy

from data_pipelines.errors import UserError
from uniemox_jax.train_state import TrainState

FOLDER = 'checkpoints'
_SCORE = 'score'


class Checkpoint(NamedTuple):
  """Loaded weights. path: the step folder; step: updates done; params: nested dict of numpy arrays;
  description: what the model is ('kind', 'model' arguments, 'labels', ...)."""

  path: str
  step: int
  params: dict[str, Any]
  description: dict[str, Any]


def _options(read_only: bool = False) -> ocp.CheckpointManagerOptions:
  keep = preservation_policy.AnyPreservationPolicy([
      preservation_policy.LatestN(n=2),
      preservation_policy.BestN(get_metric_fn=lambda metrics: metrics[_SCORE], n=1,
                                keep_checkpoints_without_metrics=False),
  ])
  return ocp.CheckpointManagerOptions(preservation_policy=keep, read_only=read_only,
                                      best_fn=lambda metrics: metrics[_SCORE])


class Checkpoints:
  """A run's checkpoints: the two newest, and the best where steps carry a score. Saving is asynchronous."""

  def __init__(self, workdir: str, description: dict[str, Any]):
    """Opens or creates `workdir`/checkpoints; `description` is stored in every step."""
    self._description = description
    self.folder = os.path.abspath(os.path.join(workdir, FOLDER))
    self._manager = ocp.CheckpointManager(self.folder, options=_options())

  @property
  def latest_step(self) -> int | None:
    """The newest whole step, None before the first."""
    return self._manager.latest_step()

  def save(self, state: TrainState, score: float | None = None) -> None:
    """Saves `state` under its step; `score` (higher is better) makes it a candidate for the best."""
    items = ocp.args.Composite(
        params=ocp.args.StandardSave(state.params),
        optimizer=ocp.args.StandardSave({'step': state.step, 'opt_state': state.opt_state}),
        description=ocp.args.JsonSave(self._description))
    metrics = None if score is None else {_SCORE: score}
    self._manager.save(int(state.step), args=items, metrics=metrics, force=True)

  def restore_latest(self, template: TrainState) -> TrainState | None:
    """The newest state with the template's shapes and shardings, or None where nothing was saved.

    Raises:
      UserError: the checkpoint is of another model.
    """
    step = self.latest_step
    if step is None:
      return None
    items = ocp.args.Composite(
        params=ocp.args.StandardRestore(template.params),
        optimizer=ocp.args.StandardRestore({'step': template.step, 'opt_state': template.opt_state}))
    try:
      restored = self._manager.restore(step, args=items)
    except (ValueError, KeyError) as error:
      raise UserError(f'{self.folder}/{step} does not fit this model ({str(error).splitlines()[0][:200]}): '
                      'resume with the config it was made with, or choose another --workdir') from error
    return TrainState(restored['optimizer']['step'], restored['params'], restored['optimizer']['opt_state'])

  def close(self) -> None:
    """Waits for pending saves."""
    self._manager.wait_until_finished()
    self._manager.close()


class _Lent(np.ndarray):
  """An array that Orbax writes as it lies in memory; any other it copies first, a large model's size again.

  Orbax 0.12.8 has an option for that (`deepcopy_host_arrays`), Colab's 0.12.4 has not.
  """

  def __deepcopy__(self, memo: dict[int, Any]) -> '_Lent':
    return self


def save_weights(workdir: str, params: dict[str, Any], description: dict[str, Any]) -> None:
  """Writes weights from elsewhere as step 0 of a run without an optimizer, for `load_checkpoint` to read."""
  lent = jax.tree.map(lambda array: np.asarray(array).view(_Lent), params)
  items = ocp.args.Composite(params=ocp.args.PyTreeSave(lent), description=ocp.args.JsonSave(description))
  # Not packed either: that would take a large model's size again.
  handler = ocp.CompositeCheckpointHandler(
      params=ocp.PyTreeCheckpointHandler(use_ocdbt=False, use_compression=False),
      description=ocp.JsonCheckpointHandler())
  with ocp.Checkpointer(handler) as checkpointer:
    checkpointer.save(os.path.abspath(os.path.join(workdir, FOLDER, '0')), args=items)


def has_checkpoint(path: str) -> bool:
  """Whether `path` is a folder that `load_checkpoint` understands, whole or not."""
  return any(os.path.isdir(os.path.join(path, name)) for name in ('params', FOLDER))


def _step_folder(path: str) -> str:
  """The step folder that a checkpoint PATH means (design, "Commands"): itself, or a workdir's best, else newest."""
  if os.path.isdir(os.path.join(path, 'params')):
    return path
  folder = os.path.join(path, FOLDER)
  if os.path.isdir(folder):
    with ocp.CheckpointManager(os.path.abspath(folder), options=_options(read_only=True)) as manager:
      step = manager.best_step()
      step = manager.latest_step() if step is None else step
    if step is not None:
      return os.path.join(folder, str(step))
  raise UserError(f"'{path}' holds no checkpoint: give the --workdir of a run, or one of its {FOLDER}/STEP folders")


def load_checkpoint(path: str) -> Checkpoint:
  """Loads parameters as numpy arrays, without the optimizer's state, on any number of devices.

  Args:
    path: a run's workdir (its best step if it has scores, else its last), or one step folder.

  Raises:
    UserError: there is no checkpoint, or it cannot be read.
  """
  folder = os.path.abspath(_step_folder(path))
  try:
    with ocp.PyTreeCheckpointer() as checkpointer:
      tree = checkpointer.metadata(os.path.join(folder, 'params')).item_metadata.tree
      as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
      params = checkpointer.restore(os.path.join(folder, 'params'),
                                    args=ocp.args.PyTreeRestore(restore_args=as_numpy))
    with open(os.path.join(folder, 'description', 'metadata'), encoding='utf-8') as file:
      description = json.load(file)
  except (OSError, ValueError, KeyError) as error:
    raise UserError(f'checkpoint {folder} cannot be read ({str(error).splitlines()[0][:200]}): '
                    'use another step, or make it again') from error
  return Checkpoint(folder, int(os.path.basename(folder)), params, description)
