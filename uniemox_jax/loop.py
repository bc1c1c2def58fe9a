"""The loop that every training verb runs: evaluate, save, only then take the next batch, step."""

from collections.abc import Callable, Iterator
import os
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict
import numpy as np
import optax

from uniemox_jax.checkpoint import Checkpoints
from uniemox_jax.config import config_hash, keep_config
from uniemox_jax.logging import RunLog
from uniemox_jax.sharding import global_batch
from uniemox_jax.train_state import Build, TrainState, create_state
from uniemox_jax.train_step import Step


class Every(NamedTuple):
  """In steps: how often to log, to save, and to run `evaluate`. 0 is never but at the end."""

  log: int
  save: int
  evaluate: int = 0


class Run(NamedTuple):
  """A new or restored run: `state` stands at `start`, the log is cut back to it."""

  state: TrainState
  start: int
  mesh: Mesh
  log: RunLog
  checkpoints: Checkpoints

  def close(self) -> None:
    """Waits for the last save and closes the log."""
    self.checkpoints.close()
    self.log.close()


def open_run(config: ConfigDict, workdir: str, *, name: str, build: Build, tx: optax.GradientTransformation, mesh: Mesh,
             total_steps: int, description: dict[str, Any], loaded: dict[str, Any] | None,
             flops_per_example: int | None = None) -> Run:
  """Starts the run in `workdir`, or resumes it from its newest checkpoint.

  Args:
    config: kept as config.json; a resumed run must have the same.
    workdir: the run's folder.
    name: of the verb, for progress lines.
    build, tx, mesh, loaded: see `train_state.create_state`.
    total_steps: where the run ends.
    description: of the model, stored with every checkpoint.
    flops_per_example: of training (see `flops`), for the utilisation in the log; None leaves it out.

  Raises:
    UserError: the workdir belongs to another run.
  """
  use_compilation_cache()
  keep_config(config, workdir)
  checkpoints = Checkpoints(workdir, description | {'config_hash': config_hash(config.to_dict())})
  state, template = create_state(build, tx, mesh, config.seed, loaded)
  restored = checkpoints.restore_latest(template)
  state = state if restored is None else restored
  start = int(state.step)
  if start:
    print(f'{name} resumes at step {start} of {total_steps}', flush=True)
  log = RunLog(workdir, name=name, total_steps=total_steps, batch_size=config.batch_size, start_step=start,
               flops_per_example=flops_per_example)
  return Run(state, start, mesh, log, checkpoints)


def use_compilation_cache() -> None:
  """Keeps compiled programs between runs, unless the user has chosen a place or none (JAX_COMPILATION_CACHE_DIR)."""
  if 'JAX_COMPILATION_CACHE_DIR' not in os.environ:
    cache = os.environ.get('XDG_CACHE_HOME', os.path.expanduser('~/.cache'))
    jax.config.update('jax_compilation_cache_dir', os.path.join(cache, 'uniemox_jax', 'xla'))


def jit_step(step_fn: Step, state: TrainState) -> Any:
  """The jitted step: the state's buffers are donated, and it comes back sharded as it came (shapes will do)."""
  shardings = jax.tree.map(lambda leaf: leaf.sharding, state)
  return jax.jit(step_fn, donate_argnums=0, out_shardings=(shardings, None))


def train(run: Run, step_fn: Step, batches: Iterator[dict[str, np.ndarray]], *, key: jax.Array, every: Every,
          frozen: Any = (), evaluate: Callable[[int, TrainState], float | None] | None = None) -> TrainState:
  """Runs from `run.start` to the end, and returns the last state.

  Args:
    run: see `open_run`; the buffers of its state are donated.
    step_fn: a pure step of `train_step`.
    batches: this host's batches, already at the step to resume from.
    key: of the run; the step folds its number in.
    every: how often to log, evaluate, save; it saves too after an evaluation that returns a score, and at the end.
    frozen: arguments of the step that never change (the teacher).
    evaluate: (step, state) -> score of the state, higher is better, or None.

  Raises:
    UserError: a loss is not finite; nothing after the last good checkpoint is saved.
  """
  state, start, mesh, log, checkpoints = run
  compiled = jit_step(step_fn, state)
  total = log.total_steps
  for step in range(start, total + 1):
    due = {name: step > start and (step == total or bool(interval) and step % interval == 0)
           for name, interval in every._asdict().items()}
    if any(due.values()):
      log.flush(_last_good(checkpoints))
      with log.clock.paused():
        score = evaluate(step, state) if evaluate and due['evaluate'] else None
        if due['save'] or score is not None:
          checkpoints.save(state, score)
    if step == total:
      break
    with jax.set_mesh(mesh):
      state, metrics = compiled(state, frozen, global_batch(next(batches), mesh), key)
    log.add(step + 1, metrics)
    if step == start:
      jax.block_until_ready(state.step)
      log.clock.start()
  return state


def _last_good(checkpoints: Checkpoints) -> str:
  step = checkpoints.latest_step
  return 'none yet' if step is None else os.path.join(checkpoints.folder, str(step))
