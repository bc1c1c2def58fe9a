"""How the processes of a run find each other, wait for each other, and end when one of them dies."""

from collections.abc import Iterator
import contextlib
import ctypes
import functools
import hashlib
import os
import sys
import threading
import time

import jax
from jax._src import distributed as jax_distributed  # what happens when a process dies has no public name
from jax.experimental import multihost_utils
import numpy as np

from data_pipelines.errors import UserError
from uniemox_jax.runtime.preemption import EXIT_CODE

DEAD_SECONDS = 20
"""A process that gives no sign of life for so long counts as dead."""
VARIABLES = ('JAX_COORDINATOR_ADDRESS', 'JAX_NUM_PROCESSES', 'JAX_PROCESS_ID')


def join(multihost: bool, timeout: int) -> None:
  """Joins the other processes, before anything else is asked of jax.

  If not all come in time, the process ends with one line and exit code 75, "run it again".

  Args:
    timeout: seconds.
    multihost: whether to find them as jax does by itself on TPU slices, GKE, Slurm and Open MPI. Otherwise there are
      others only if `VARIABLES` (host:port of the first process, how many, which this is) are set, as launch_local.sh
      does.

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
      _initialize(timeout, coordinator_address=address, num_processes=int(count), process_id=int(index))
  elif set(found) & set(VARIABLES[1:]):
    raise UserError(f'{", ".join(found)} without {", ".join(set(VARIABLES) - set(found))}: set all three, or none')
  elif multihost:
    try:
      with _time_limit(f'waited {timeout} s for the other processes of this job', timeout):
        _initialize(timeout)
    except ValueError as error:
      raise UserError(
          f'--multihost: jax finds no other processes here ({error}): leave it out on a single machine, or '
          f'set {", ".join(VARIABLES)}') from error


def _initialize(timeout: int, **place: str | int) -> None:
  """jax's own, but for what it does when a process dies: it would abort the others with a native stack, code 134.

  jaxlib (0.10.2) calls the function that may be given for that with an argument that Python cannot take. The C++
  exception that follows ends the process, by a handler of ours, while other exceptions end it as before.
  """
  jaxlib = jax_distributed._jax
  jaxlib.get_distributed_runtime_client = functools.partial(
      jaxlib.get_distributed_runtime_client, missed_heartbeat_callback=lambda status: _end_after_death())
  _handle_bad_cast()
  jax.distributed.initialize(
      **place, initialization_timeout=2 * timeout, heartbeat_timeout_seconds=DEAD_SECONDS)  # type: ignore[arg-type]


@functools.cache
def _handle_bad_cast() -> object:
  """Lets an uncaught std::bad_cast end the process as `_end_after_death` does; where C++ is another, nothing changes.

  Returns:
    The handler: C++ calls it until the process ends.
  """
  with contextlib.suppress(OSError, AttributeError):
    cpp = ctypes.CDLL('libstdc++.so.6')
    cpp.__cxa_current_exception_type.restype = ctypes.POINTER(ctypes.c_char_p * 2)  # std::type_info, its name second
    set_handler = cpp._ZSt13set_terminatePFvvE
    set_handler.restype = kind = ctypes.CFUNCTYPE(None)
    previous = None

    def handle() -> None:
      if (exception := cpp.__cxa_current_exception_type()) and exception.contents[1] == b'St8bad_cast':
        _end_after_death()
      if previous:
        previous()

    handler = kind(handle)
    previous = set_handler(handler)
    return handler
  return None


def _end_after_death() -> None:
  print('error: another process of this run died: run the same command again on all', file=sys.stderr, flush=True)
  os._exit(EXIT_CODE)


def wait_for_news_of_death() -> None:
  """Ends this process if the death of another one caused an error. It is called after such an error."""
  if jax.distributed.is_initialized():
    time.sleep(1.5 * DEAD_SECONDS)


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
  """Whether this is the one process that writes what only one should write."""
  return jax.process_index() == 0


def is_same_everywhere(value: object) -> bool:
  """Whether every process calls this with the same value, by its representation; all must call it."""
  digest = np.frombuffer(hashlib.sha256(repr(value).encode()).digest(), np.uint8)
  return bool(np.all(multihost_utils.process_allgather(digest) == digest))


def wait_for_all(what: str) -> None:
  """Returns when every process has come to the point called `what`."""
  if jax.process_count() > 1:
    multihost_utils.sync_global_devices(what)
