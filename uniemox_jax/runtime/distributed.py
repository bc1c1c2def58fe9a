"""How the processes of a run find each other, and wait for each other."""

from collections.abc import Iterator
import contextlib
import hashlib
import os
import sys
import threading

import jax
from jax.experimental import multihost_utils
import numpy as np

from data_pipelines.errors import UserError
from uniemox_jax.runtime.preemption import EXIT_CODE

VARIABLES = ('JAX_COORDINATOR_ADDRESS', 'JAX_NUM_PROCESSES', 'JAX_PROCESS_ID')


def join(multihost: bool, timeout: int) -> None:
  """Joins the other processes, before anything else is asked of jax.

  If not all come in time, the process ends with one line and exit code 75, "run it again".

  Args:
    timeout: seconds.
    multihost: find them as jax does by itself on TPU slices, GKE, Slurm and Open MPI. Without it, only where
      `VARIABLES` (host:port of the first process, how many, which this is) are set, as launch_local.sh sets them.

  Raises:
    UserError: some of the variables are missing or no numbers, or there is nothing to find.
  """
  found = {name: os.environ[name] for name in VARIABLES if name in os.environ}
  # The first alone is jax's own, and may be set for other reasons.
  if len(found) == len(VARIABLES):
    address, count, index = found.values()
    if not (count.isdigit() and index.isdigit() and int(index) < int(count)):
      raise UserError(f'JAX_NUM_PROCESSES={count} and JAX_PROCESS_ID={index} are not a count and an index below it')
    with _time_limit(f'process {index} of {count} waited {timeout} s at {address} for the others', timeout):
      jax.distributed.initialize(address, int(count), int(index), initialization_timeout=2 * timeout)
  elif set(found) & set(VARIABLES[1:]):
    raise UserError(f'{", ".join(found)} without {", ".join(set(VARIABLES) - set(found))}: set all three, or none')
  elif multihost:
    try:
      with _time_limit(f'waited {timeout} s for the other processes of this job', timeout):
        jax.distributed.initialize(initialization_timeout=2 * timeout)
    except ValueError as error:
      raise UserError(
          f'--multihost: jax finds no other processes here ({error}): leave it out on a single machine, or '
          f'set {", ".join(VARIABLES)}') from error


@contextlib.contextmanager
def _time_limit(what: str, seconds: int) -> Iterator[None]:
  """Ends the process where jax would abort it later, with a native stack."""

  def give_up() -> None:
    print(
        f'error: {what}: start the missing ones, or check that this address can be reached', file=sys.stderr,
        flush=True)
    os._exit(EXIT_CODE)

  timer = threading.Timer(seconds, give_up)
  timer.daemon = True
  timer.start()
  try:
    yield
  finally:
    timer.cancel()


def is_primary() -> bool:
  """Whether this is the one process that writes what only one should."""
  return jax.process_index() == 0


def is_same_everywhere(value: object) -> bool:
  """Whether every process asks with the same value, by its representation; all must ask."""
  digest = np.frombuffer(hashlib.sha256(repr(value).encode()).digest(), np.uint8)
  return bool(np.all(multihost_utils.process_allgather(digest) == digest))


def wait_for_all(what: str) -> None:
  """Returns when every process has come to the point called `what`."""
  if jax.process_count() > 1:
    multihost_utils.sync_global_devices(what)
