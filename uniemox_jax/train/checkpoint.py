"""Checkpoints: plain nested dicts on disk, written and read by Orbax. The only file that imports it.

A step folder holds `params`, `optimizer`, `description` (what the model is) and `record`: a checksum for every array,
the score, the devices it was made on, and a seal over all of that. What does not agree with its record is never used:
it is named, and the last good step takes its place. Of a run that averages its weights, `params` are the averaged ones,
which is what readers want; those that train on lie with the optimizer.
"""

from collections.abc import Iterator
import contextlib
import errno
import logging
import math
import sys
from typing import Any, NamedTuple

from etils import epath
from flax import nnx
import jax
from jax.experimental import multihost_utils
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import preservation_policy

from data_pipelines.errors import UserError, first_line, join_names
from data_pipelines.plain_text import check_labels
from data_pipelines.storage import absolute, exists, parse_json
from uniemox_jax.models.preprocess import check_statistics
from uniemox_jax.models.registry import MODULES, abstract_student
from uniemox_jax.objectives.tasks import tasks_of
from uniemox_jax.runtime.distributed import is_primary, wait_for_all
from uniemox_jax.runtime.integrity import changed_leaves, describe_leaves, path_name, seal
from uniemox_jax.train.state import TrainState

FOLDER = 'checkpoints'
SET_ASIDE = '.damaged'
_SCORE = 'score'


class Checkpoint(NamedTuple):
  """Loaded weights. path: the step folder. step: how many updates were done. params: a nested dict of numpy arrays.
  description: what the model is ('kind', 'model' arguments, 'labels', ...)."""

  path: str
  step: int
  params: dict[str, Any]
  description: dict[str, Any]


class Restored(NamedTuple):
  """A run's newest good state, whether its evaluation is still to come, the devices that it was saved from, and the
  seal of the last line that the log had then."""

  state: TrainState
  unevaluated: bool
  devices: str | None
  log: str


class Damaged(Exception):
  """A step folder is not what was saved; the message says what differs."""


def _options() -> ocp.CheckpointManagerOptions:
  keep = preservation_policy.AnyPreservationPolicy([
      preservation_policy.LatestN(n=2),
      preservation_policy.BestN(
          get_metric_fn=lambda metrics: metrics[_SCORE], n=1, keep_checkpoints_without_metrics=False)])
  return ocp.CheckpointManagerOptions(preservation_policy=keep, best_fn=lambda metrics: metrics[_SCORE])


def _to_trees(state: TrainState) -> dict[str, Any]:
  """What of a state a step folder holds, by item."""
  optimizer = {'step': state.step, 'opt_state': state.opt_state}
  return {
      'params': state.evaluated,
      'optimizer': optimizer if state.average is None else optimizer | {'params': state.params}}


def _to_state(trees: dict[str, Any]) -> TrainState:
  """The inverse of `_to_trees`."""
  evaluated, optimizer = trees['params'], trees['optimizer']
  average = evaluated if 'params' in optimizer else None
  return TrainState(optimizer['step'], optimizer.get('params', evaluated), optimizer['opt_state'], average)


def _record(trees: dict[str, Any], description: dict[str, Any], **facts: Any) -> dict[str, Any]:
  """What a step folder's `record` holds."""
  record = {'leaves': describe_leaves(trees), **facts}
  return record | {'seal': seal([description, record])}


def _read_record(folder: epath.Path) -> tuple[dict[str, Any], dict[str, Any] | None]:
  """Description and record of a step folder; no record where an earlier version wrote it.

  Raises:
    Damaged: they are not what was written.
  """
  try:
    with contextlib.suppress(OSError, ValueError):  # Orbax can do without it, but not bear one nested too deep.
      parse_json(folder / '_CHECKPOINT_METADATA')
    description = parse_json(folder / 'description' / 'metadata')
    if not (folder / 'record').exists():
      return description, None
    record = parse_json(folder / 'record' / 'metadata')
    if record.pop('seal') != seal([description, record]):
      raise Damaged('description or record: they do not agree with their seal')
    score = record['score']
    if score is not None and parse_json(folder / 'metrics' / 'metrics')[_SCORE] != score:
      raise Damaged('metrics: the score is not the recorded one')
  except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
    raise Damaged(f'description, record or metrics: {first_line(error)}') from error
  return description, record


def _steps(folder: epath.Path) -> list[int]:
  """The whole steps in a run's folder of checkpoints, oldest first."""
  return sorted(found.step for found in ocp.path.step.standard_name_format().find_all(folder))


class _Manager(ocp.CheckpointManager):
  """Orbax's, which leaves jax's pre-emption service to `preemption.poll`.

  The service agrees on the next number that a process will ask with. Orbax would ask with the step's, between ours: the
  agreed number then never comes, and a signal just after a save is lost.
  """

  def reached_preemption(self, step: int) -> bool:
    return False


class Checkpoints:
  """A run's checkpoints: the two newest, and the best where steps carry a score. Saving is asynchronous."""

  def __init__(self, workdir: str, description: dict[str, Any], devices: str):
    """Opens or creates `workdir`/checkpoints; every step stores `description` and `devices` (`sharding.describe_mesh`).

    Steps whose record is damaged are named and set aside.
    """
    self._description, self._devices = description, devices
    self.folder = absolute(workdir) / FOLDER
    if is_primary() and self.folder.exists():
      for step in _steps(self.folder):
        try:
          _read_record(self.folder / str(step))
        except Damaged as damage:
          _set_aside(self.folder / str(step), damage)
    wait_for_all('checkpoint records read')
    self._manager = _Manager(self.folder, options=_options())

  @property
  def latest_step(self) -> int | None:
    """The newest whole step; None before the first."""
    return self._manager.latest_step()

  @property
  def newest(self) -> str:
    """The folder of the newest whole step, for messages."""
    return 'none yet' if self.latest_step is None else str(self.folder / str(self.latest_step))

  def save(self, state: TrainState, score: float | None = None, unevaluated: bool = False, log: str = '') -> None:
    """Saves `state` under its step; it replaces a checkpoint of that step that was not evaluated.

    Args:
      state: the state; its buffers may be donated when this returns.
      score: higher is better; makes the step a candidate for the best.
      unevaluated: whether the evaluation that is due at this step is still to come.
      log: see `Restored`.

    Raises:
      UserError: there is no space; earlier steps are intact.
    """
    step, trees = int(state.step), _to_trees(state)
    record = _record(trees, self._description, devices=self._devices, score=score, unevaluated=unevaluated, log=log)
    items = ocp.args.Composite(
        **{name: ocp.args.StandardSave(tree) for name, tree in trees.items()},
        description=ocp.args.JsonSave(self._description), record=ocp.args.JsonSave(record))
    with self._space_explained():
      if step in self._manager.all_steps():
        self._manager.wait_until_finished()
        self._manager.delete(step)
      self._manager.save(step, args=items, metrics=None if score is None else {_SCORE: score}, force=True)

  def restore_latest(self, template: TrainState) -> Restored | None:
    """The newest good state with the template's shapes and shardings, or None where nothing was saved.

    Damaged steps are named and set aside.

    Raises:
      UserError: the checkpoint is of another model, or only damaged ones are left.
    """
    while (step := self.latest_step) is not None:
      try:
        return self._restore(step, template)
      except Damaged as damage:
        if is_primary():
          _set_aside(self.folder / str(step), damage)
        wait_for_all('damaged checkpoint set aside')
        self._manager.reload()
    if self.folder.exists() and any(path.name.endswith(SET_ASIDE) for path in self.folder.iterdir()):
      raise UserError(
          f'{self.folder} holds damaged checkpoints only (*{SET_ASIDE}): delete the folder to start anew, '
          'or choose another --workdir')
    return None

  def _restore(self, step: int, template: TrainState) -> Restored:
    folder = self.folder / str(step)
    wanted = _to_trees(template)
    _, record = _read_record(folder)
    if record is not None:
      shapes = {path_name(path): list(leaf.shape) for path, leaf in jax.tree_util.tree_leaves_with_path(wanted)}
      saved = {name: leaf['shape'] for name, leaf in record['leaves'].items()}
      if different := sorted(name for name in shapes.keys() | saved.keys() if shapes.get(name) != saved.get(name)):
        raise self._misfit(step, f'different: {join_names(different)}')
    items = ocp.args.Composite(**{name: ocp.args.StandardRestore(tree) for name, tree in wanted.items()})
    restored: Any = None
    problem = ''
    try:
      restored = self._manager.restore(step, args=items)
    except Exception as error:  # damaged files raise what they like, from JSON's errors to TensorStore's
      problem = first_line(error)
    if not np.all(multihost_utils.process_allgather(np.array(restored is not None))):
      if record is None:
        raise self._misfit(step, problem)
      raise Damaged(problem or 'another process could not read its share')
    trees = {name: restored[name] for name in wanted}
    if record is None:
      print(f'{folder} has no checksums (an earlier version wrote it): not verified', file=sys.stderr, flush=True)
      record = {'unevaluated': False, 'devices': None}
    elif changed := changed_leaves(trees, record['leaves']):
      raise Damaged(f'the bits of {join_names(changed)} are not the saved ones')
    return Restored(_to_state(trees), record['unevaluated'], record['devices'], record.get('log', ''))

  def _misfit(self, step: int, problem: str) -> UserError:
    return UserError(
        f'{self.folder}/{step} does not fit this model ({problem}): resume with the config it was made '
        'with, or choose another --workdir')

  @contextlib.contextmanager
  def _space_explained(self) -> Iterator[None]:
    """One line instead of a traceback where the disk is full."""
    try:
      yield
    except (OSError, ValueError, RuntimeError) as error:
      if getattr(error, 'errno', None) not in (errno.ENOSPC, errno.EDQUOT) and 'No space left' not in str(error):
        raise
      whole = [str(step) for step in _steps(self.folder)]
      raise UserError(
          f'no space left to save a checkpoint in {self.folder}; intact are the steps '
          f'{", ".join(whole) or "(none)"}: make room and run the same command again') from error

  def wait(self) -> None:
    """Waits for pending saves.

    Raises:
      UserError: there is no space; earlier steps are intact.
    """
    with self._space_explained():
      self._manager.wait_until_finished()

  def close(self) -> None:
    """Waits for pending saves and closes the folder."""
    self.wait()
    self._manager.close()


def _set_aside(folder: epath.Path, damage: Damaged) -> None:
  """Renames a damaged step, so that nothing takes it for a checkpoint, and says so."""
  aside = folder.with_name(folder.name + SET_ASIDE)
  if aside.exists():
    aside.rmtree()
  folder.rename(aside)
  print(f'checkpoint {folder} is damaged ({damage}): set aside as {aside.name}', file=sys.stderr, flush=True)


class _Lent(np.ndarray):
  """An array that Orbax writes as it lies in memory; any other it copies first, a large model's size again.

  Orbax 0.12.8 has an option for that (`deepcopy_host_arrays`), Colab's 0.12.4 has not.
  """

  def __deepcopy__(self, memo: dict[int, Any] | None, /) -> '_Lent':
    return self


@contextlib.contextmanager
def _quiet_orbax() -> Iterator[None]:
  """Orbax warns of files that are rightly not there. What goes wrong is an exception."""
  logger = logging.getLogger('absl')
  level = logger.level
  logger.setLevel(max(level, logging.ERROR))
  try:
    yield
  finally:
    logger.setLevel(level)


def save_weights(workdir: str, params: dict[str, Any], description: dict[str, Any]) -> None:
  """Writes weights from elsewhere as step 0 of a run without an optimizer, for `load_checkpoint` to read."""
  lent = jax.tree.map(lambda array: np.asarray(array).view(_Lent), params)
  record = _record({'params': lent}, description, devices=None, score=None, unevaluated=False)
  items = ocp.args.Composite(
      params=ocp.args.PyTreeSave(lent), description=ocp.args.JsonSave(description), record=ocp.args.JsonSave(record))
  # Not packed either: that would take a large model's size again.
  handler = ocp.CompositeCheckpointHandler(
      params=ocp.PyTreeCheckpointHandler(use_ocdbt=False, use_compression=False),
      description=ocp.JsonCheckpointHandler(), record=ocp.JsonCheckpointHandler())
  with _quiet_orbax(), ocp.Checkpointer(handler) as checkpointer:
    checkpointer.save(absolute(workdir) / FOLDER / '0', args=items)


def _candidates(path: str) -> list[epath.Path]:
  """The step folders that a checkpoint PATH means (docs/commands.md, Shared flags and paths), the wanted first:
  itself; or a workdir's by score where they have one, else by age."""
  folder = absolute(path)
  if exists(folder / 'params'):
    return [folder]
  folder /= FOLDER

  def rank(step: int) -> tuple[bool, float, int]:
    try:
      score = (_read_record(folder / str(step))[1] or {}).get('score')
    except Damaged:
      score = math.inf  # it is named when its turn comes
    return score is not None, score or 0.0, step

  steps = _steps(folder) if exists(folder) else []
  if not steps:
    raise UserError(f"'{path}' holds no checkpoint: give the --workdir of a run, or one of its {FOLDER}/STEP folders")
  return [folder / str(step) for step in sorted(steps, key=rank, reverse=True)]


def load_checkpoint(path: str) -> Checkpoint:
  """Loads parameters as numpy arrays, without the optimizer's state, on any number of devices.

  Args:
    path: a run's workdir (its best step if it has scores, else its last), or one step folder. A damaged step of a
      workdir is named, and the next best or next older taken.

  Raises:
    UserError: there is no checkpoint, or none that can be read.
  """
  damage = None
  for folder in _candidates(path):
    try:
      return _load(folder)
    except Damaged as error:
      print(f'checkpoint {folder} is damaged ({error}): not used', file=sys.stderr, flush=True)
      damage = error
  raise UserError(f'checkpoint {path} cannot be read ({damage}): use another step, or make it again')


def _check_description(folder: epath.Path, description: dict[str, Any], tree: Any) -> None:
  """Raises Damaged unless the description of a student is that of the arrays in `tree`, of which none is read yet."""
  try:
    if description['kind'] not in MODULES:
      return
    shapes = nnx.to_pure_dict(nnx.state(abstract_student(description['kind'], description['model']), nnx.Param))
    wanted, found = ({path_name(path): tuple(leaf.shape)
                      for path, leaf in jax.tree_util.tree_leaves_with_path(leaves)}
                     for leaves in (shapes, tree))
    if different := sorted(name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name)):
      raise ValueError(f'other shapes of {join_names(different)}')
    if 'statistics' in description:
      check_statistics(**description['statistics'])
    if description['kind'] == 'classifier':
      outputs = [name for task in tasks_of(description) for name in task.outputs]
      check_labels(outputs, folder)
      if len(outputs) != description['model']['classes']:
        raise ValueError(f'{len(outputs)} names of outputs')
  except (ValueError, TypeError, LookupError, AttributeError, ArithmeticError) as error:
    raise Damaged(f'description is not that of its arrays: {first_line(error)}') from error


def _load(folder: epath.Path) -> Checkpoint:
  description, record = _read_record(folder)
  try:
    with _quiet_orbax(), ocp.PyTreeCheckpointer() as checkpointer:
      tree = checkpointer.metadata(folder / 'params').item_metadata.tree
      _check_description(folder, description, tree)
      as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
      params = checkpointer.restore(folder / 'params', args=ocp.args.PyTreeRestore(restore_args=as_numpy))
  except Damaged:
    raise
  except Exception as error:  # as in Checkpoints._restore
    raise Damaged(first_line(error)) from error
  if record is None:
    print(f'{folder} has no checksums (an earlier version wrote it): not verified', file=sys.stderr, flush=True)
  else:
    names = {name for name in record['leaves'] if name.startswith('params/')}
    missing = names - {path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path({'params': params})}
    if changed := sorted(missing) + changed_leaves({'params': params}, record['leaves']):
      raise Damaged(f'the bits of {join_names(changed)} are not the saved ones')
  return Checkpoint(str(folder), int(folder.name), params, description)
