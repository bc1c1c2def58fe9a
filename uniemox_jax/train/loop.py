"""The loop that every training verb runs: evaluate, save, only then take the next batch, step."""

from collections.abc import Callable, Iterator
import contextlib
import os
from pathlib import Path
from typing import Any, NamedTuple

import jax
from jax._src import compilation_cache  # how JAX packs the programs that it keeps has no public name
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
import numpy as np

from data_pipelines.errors import UserError
from data_pipelines.ownership import owned
from uniemox_jax.runtime import preemption
from uniemox_jax.runtime.clock import Profile
from uniemox_jax.runtime.distributed import is_primary, is_same_everywhere
from uniemox_jax.runtime.run_log import RunLog
from uniemox_jax.runtime.sharding import describe_mesh, global_batch
from uniemox_jax.train.checkpoint import Checkpoints
from uniemox_jax.train.config import TrainConfig
from uniemox_jax.train.optimizer import Optimizer, make_optimizer
from uniemox_jax.train.run_folder import config_hash, keep_config, run_hash
from uniemox_jax.train.state import Build, TrainState, create_state, state_template
from uniemox_jax.train.steps import Step

Evaluate = Callable[[int, TrainState], float | None]


class Every(NamedTuple):
  """After how many steps to log, to save, and to run `evaluate`. 0 means only at the end."""

  log: int
  save: int
  evaluate: int = 0

  def due(self, step: int, total: int) -> 'Due':
    """What is due after `step` of `total` updates."""
    return Due(*(step == total or bool(interval) and step % interval == 0 for interval in self))


class Due(NamedTuple):
  """Whether to log, to save, and to run `evaluate` now."""

  log: bool
  save: bool
  evaluate: bool


class Run(NamedTuple):
  """A new or restored run: `state` stands at step `start`, and the log is cut back to that step.

  unevaluated: whether the checkpoint was saved before its due evaluation.
  """

  config: TrainConfig
  mesh: Mesh
  optimizer: Optimizer
  state: TrainState
  start: int
  unevaluated: bool
  log: RunLog
  checkpoints: Checkpoints
  owner: contextlib.ExitStack

  def close(self) -> None:
    """Waits for the last save, closes the log and gives the workdir back."""
    with self.owner:
      self.checkpoints.close()
      self.log.close()


def open_run(
    config: TrainConfig, workdir: str, *, name: str, build: Build, mesh: Mesh, steps_per_epoch: int,
    description: dict[str, Any], inputs: dict[str, str | None], loaded: dict[str, Any] | None,
    flops_per_example: int | None = None, profile: Profile | None = None) -> Run:
  """Starts the run in `workdir`, or resumes it from its newest good checkpoint.

  Args:
    config, inputs: kept in the workdir; a resumed run must have the same, see `keep_config`.
    name: the verb's name, for progress lines.
    description: what describes the model; every checkpoint stores it.
    build, mesh, loaded: see `state.state_template` and `state.create_state`.
    flops_per_example: the FLOPs of training (see `flops`), for the utilisation in the log; None leaves it out.
    profile: the steps to trace.

  Raises:
    UserError: the workdir belongs to another run, a process is using it now, or its checkpoints are damaged; and see
      `keep_config`.
  """
  use_compilation_cache()
  optimizer, total_steps = make_optimizer(config, steps_per_epoch), config.epochs * steps_per_epoch
  devices = describe_mesh(mesh)
  with contextlib.ExitStack() as owner:
    _own(workdir, owner)
    kept = keep_config(config, workdir, inputs)
    description = description | {'config_hash': config_hash(kept), 'run_hash': run_hash(kept)}
    checkpoints = Checkpoints(workdir, description, devices)
    template = state_template(build, optimizer.tx, mesh, averaged=optimizer.ema_decay > 0)
    # Restore before initialising; otherwise two states are in memory.
    restored = checkpoints.restore_latest(template)
    state = restored.state if restored else create_state(template, build, optimizer.tx, config.seed, loaded)
    start = int(state.step)
    if restored and is_primary():
      print(f'{name} resumes at step {start} of {total_steps}', flush=True)
      if restored.devices != devices:
        print(
            f'saved on {restored.devices or "unknown devices"}, resumed on {devices}: the last bits may differ from '
            'those of an uninterrupted run', flush=True)
    log = RunLog(
        workdir, name=name, total_steps=total_steps, batch_size=config.batch_size, start_step=start,
        flops_per_example=flops_per_example, profile=profile, seal=restored.log if restored else '')
    return Run(
        config, mesh, optimizer, state, start, bool(restored and restored.unevaluated), log, checkpoints,
        owner.pop_all())


def _own(workdir: str, owner: contextlib.ExitStack) -> None:
  """The first process takes the workdir for all, until `owner` is closed.

  Raises:
    UserError: another run is in it; in every process.
  """
  problem = ''
  if is_primary():
    try:
      owner.enter_context(owned(workdir))
    except UserError as error:
      problem = str(error)
  if not is_same_everywhere(problem) or problem:
    raise UserError(problem or f'{workdir} is in use by another run, as the first process says')


def use_compilation_cache() -> None:
  """Keeps compiled programs between runs, unless the user has chosen a place or none (JAX_COMPILATION_CACHE_DIR).

  JAX warns of a program that is damaged, and compiles it again.
  """
  # zlib adds a checksum. zstandard, which JAX prefers, adds none: a damaged program would crash, or compute otherwise.
  vars(compilation_cache).update(zstandard=None, zstd=None)
  if 'JAX_COMPILATION_CACHE_DIR' not in os.environ:
    cache = os.environ.get('XDG_CACHE_HOME', str(Path.home() / '.cache'))
    jax.config.update('jax_compilation_cache_dir', os.path.join(cache, 'uniemox_jax', 'xla'))
    # Small programs too: checksums are compiled when a run saves, and a pre-empted one has little time.
    jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.1)


def jit_step(step_fn: Step, state: TrainState) -> Any:
  """Jits a step. It donates the state's buffers, and returns the state sharded as it came (shapes will do)."""
  shardings = jax.tree.map(lambda leaf: leaf.sharding, state)
  return jax.jit(step_fn, donate_argnums=0, out_shardings=(shardings, None))


def train(
    run: Run, step_fn: Step, batches: Iterator[dict[str, np.ndarray]], *, every: Every, frozen: Any = (),
    evaluate: Evaluate | None = None) -> TrainState:
  """Runs from `run.start` to the end, closes the run, and returns the last state.

  Args:
    run: see `open_run`; the buffers of its state are donated.
    step_fn: a pure step of `steps`.
    batches: this host's batches, already at the step to resume from; 'example_id' stays on the host.
    every: how often to log, evaluate, save; it saves too after an evaluation that returns a score, and at the end.
    frozen: arguments of the step that never change (the teacher).
    evaluate: (step, state) -> score of the state, higher is better, or None.

  Raises:
    UserError: `max_skipped_steps` steps in a row had to be skipped, or there is no space to save.
    Preempted: SIGTERM came; everything is saved.
  """
  try:
    key = jax.jit(lambda: jax.random.key(run.config.seed), out_shardings=NamedSharding(run.mesh, P()))()
    state, log, total, compiled = run.state, run.log, run.log.total_steps, None
    for step in range(run.start, total + 1):
      stopping, due = preemption.poll(), every.due(step, total)
      if stopping or any(due):
        log.flush(run.config.max_skipped_steps, run.checkpoints.newest)
        _evaluate_and_save(run, step, state, due, stopping, evaluate)
      if step == total:
        break
      batch = next(batches)
      example_ids = batch.pop('example_id')
      with jax.set_mesh(run.mesh), log.stepping(step, step == run.start):
        rows = global_batch(batch, run.mesh)
        compiled = compiled or compile_step(step_fn, state, frozen, rows, key)
        state, metrics = compiled(state, frozen, rows, key)
        log.add(step + 1, metrics, example_ids)
      preemption.set_unsaved(True)
    run.checkpoints.wait()
  except (UserError, preemption.Preempted):
    # Either the full disk is reported already, or what matters is saved.
    with contextlib.suppress(OSError):
      run.close()
    raise
  preemption.set_unsaved(False)
  run.close()
  return state


def compile_step(step_fn: Step, *arguments: Any) -> Any:
  """Compiles the program for these arguments of a step, state first. A signal that comes before all processes have it
  ends them without a step, and at once unless something was saved before.

  Raises:
    Preempted: SIGTERM came.
  """
  compiled = jit_step(step_fn, arguments[0]).lower(*arguments).compile()
  preemption.begin()
  preemption.raise_if_preempted()
  return compiled


def _evaluate_and_save(
    run: Run, step: int, state: TrainState, due: Due, stopping: bool, evaluate: Evaluate | None) -> None:
  """What is due after `step` updates; what the run was restored with is not done again.

  Raises:
    Preempted: as `train` does, after saving.
  """
  log, checkpoints = run.log, run.checkpoints
  fresh = step > run.start
  to_evaluate = bool(evaluate and due.evaluate and (fresh or run.unevaluated) and step > 0)
  score = None
  if evaluate and to_evaluate and not stopping:
    try:
      with log.clock.apart('evaluate'):
        score = evaluate(step, state)
      to_evaluate = False
    except preemption.Preempted:
      stopping = True
  with log.clock.apart('save'):
    if score is not None or fresh and (due.save or stopping) and step > 0:
      # A step that was restored unevaluated is saved in its own place, before any was done.
      preemption.begin()
      preemption.set_unsaved(True)
      run.log.sync()
      checkpoints.save(state, score, unevaluated=to_evaluate, log=log.seal)
      if not fresh:
        checkpoints.wait()
        preemption.set_unsaved(False)
  if stopping:
    where = f'step {step} is saved in {checkpoints.folder}' if step > 0 else 'no step was done yet'
    raise preemption.Preempted(where)
