"""What `benchmarks.train_step` has done in another process, one for each implementation: each keeps its own step."""

import multiprocessing
import os
import sys
import threading
import time
from typing import Any

import jax
from ml_collections import ConfigDict

from benchmarks.steps import step_sizes

PRODUCT_SECONDS = 0.5

_step: Any = None
"""Of this process: has the methods `run` and `product`, and the attributes `device` and `version`."""


def build(implementation: str, config: ConfigDict, platform: str) -> dict[str, Any]:
  """Makes the step and takes it once. Each process runs its own framework only.

  Args:
    implementation: 'ours', 'read', which is ours with `teacher_views`, 'eager' or 'compiled'.
    config: see `step_sizes.load`.
    platform: 'cpu' hides a GPU from both frameworks.
  """
  global _step
  threading.Thread(target=_end_with_parent, daemon=True).start()
  os.dup2(2, 1)  # Standard output is for the result, whatever a library prints.
  os.environ['XLA_PYTHON_CLIENT_PREALLOCATE'] = 'false'
  # A cached program may carry the function names of another version of the code, and the profile goes by them.
  jax.config.update('jax_enable_compilation_cache', False)
  if platform == 'cpu':
    os.environ['CUDA_VISIBLE_DEVICES'] = ''
    jax.config.update('jax_platforms', 'cpu')
  batch = step_sizes.random_batch(config)
  if implementation in step_sizes.OURS:
    from benchmarks.steps.ours_step import OurStep
    _step = OurStep(step_sizes.ours(implementation, config), batch)
  else:
    from benchmarks.steps.torch_step import TorchStep
    _step = TorchStep(config, batch, compiled=implementation == 'compiled')
  return {
      'device': _step.device, 'version': _step.version, 'first_step_seconds': run(1)['seconds'],
      'modules': sorted({'tensorflow', 'torch', 'jax'} & sys.modules.keys())}


def run(steps: int) -> dict[str, float]:
  """Takes so many steps: the last loss, and seconds of the wall and of all threads' CPU time."""
  started, cpu_started = time.perf_counter(), time.process_time()
  loss = _step.run(steps)
  return {'seconds': time.perf_counter() - started, 'cpu_seconds': time.process_time() - cpu_started, 'loss': loss}


def product_rate(size: int) -> float:
  """FLOP/s of products of two square matrices."""
  _step.product(size)
  count, started = 0, time.perf_counter()
  while time.perf_counter() < started + PRODUCT_SECONDS:
    _step.product(size)
    count += 1
  return 2 * size**3 * count / (time.perf_counter() - started)


def profile(steps: int) -> list[dict[str, Any]]:
  """Where the time of our steps goes, see `step_profile.costs`."""
  return _step.profile(steps)


def _end_with_parent() -> None:
  """An executor's processes would outlive a parent that is killed."""
  multiprocessing.parent_process().join()
  os._exit(1)
