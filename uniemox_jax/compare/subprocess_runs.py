"""Cells: independent runs behind one table, each a process of its own; side by side, resumable one by one.

A cell ends with whoever started it, however that ended: it notices that the pipe from there is closed, saves, and a
lock keeps the next try out until it has. What a failed cell said last is kept beside its log. The process that starts
cells leaves the accelerator to them.
"""

from collections.abc import Callable, Sequence
import concurrent.futures
import contextlib
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from typing import BinaryIO

from absl import flags
import filelock
from ml_collections import ConfigDict

from data_pipelines.errors import UserError
from uniemox_jax.runtime import preemption
from uniemox_jax.runtime.files import is_remote, read_json, write_text
from uniemox_jax.train.kept_config import changed_keys

flags.disclaim_key_flags()  # `--help` shows flags that are defined here as the verb's own

_ERROR = 'error.txt'


def define_flags(jobs: int) -> None:
  """Declares `--jobs`, and what cells are started with."""
  flags.DEFINE_integer(
      'jobs', jobs, 'Cells that run side by side, each on its share of the CPUs; 1 where they share '
      'an accelerator.', lower_bound=1)
  flags.DEFINE_string('cell', None, 'Name of one cell, to run it alone, in this process.')
  flags.DEFINE_integer('lifeline', None, 'Pipe that closes when whoever started this cell has ended.')


def check_workdir(workdir: str) -> None:
  """Raises UserError for a bucket: cells lock their folders."""
  if is_remote(workdir):
    raise UserError(f'--workdir={workdir}: cells need a folder on this machine; copy it to the bucket afterwards')


def run_here(folder: str, work: Callable[[], object]) -> None:
  """Runs a cell in this process, which ends with whoever holds its lifeline.

  Args:
    folder: of the cell; one process at a time works in it.
    work: does the cell, or goes on with it.
  """
  lifeline = flags.FLAGS.lifeline
  if lifeline is not None:
    threading.Thread(target=_follow, args=(lifeline,), daemon=True, name='lifeline').start()
  os.makedirs(folder, exist_ok=True)
  lock = filelock.FileLock(os.path.join(folder, 'lock'))
  try:
    lock.acquire(timeout=0)
  except filelock.Timeout:
    print(f'another process works in {folder}: waiting for its end', flush=True)
    lock.acquire()
  with lock:
    work()


def check_same(folder: str, section: ConfigDict, *, start: bool = True) -> None:
  """Raises UserError where a run in `folder` was done, or begun, with other values than `section` has.

  What changes no number of a run may differ, but not where it started from (`init`), which a table names; unless
  `start` is False.
  """
  path = os.path.join(folder, 'config.json')
  if not os.path.exists(path):
    return
  ran, now = read_json(path), section.to_dict()
  changed = changed_keys(ran, now) + (['init'] if start and ran.get('init') != now.get('init') else [])
  if changed:
    raise UserError(
        f'{folder} holds a run with other values of {", ".join(changed)}: restore them, remove that '
        'folder, or choose another --workdir')


def _follow(lifeline: int) -> None:
  """Pre-empts this process when the other end of the pipe is closed; nothing is ever written there."""
  os.read(lifeline, 1)
  os.kill(os.getpid(), signal.SIGTERM)


class _Lifelines:
  """The ends that this process holds; a cell saves and ends when its own is closed."""

  def __init__(self) -> None:
    self._held: set[BinaryIO] = set()
    self._cut = threading.Event()

  def new(self) -> tuple[int, BinaryIO]:
    """The cell's end, and ours, which is closed already after `cut`."""
    lifeline, ours = os.pipe()
    held = os.fdopen(ours, 'wb', buffering=0)
    self._held.add(held)
    if self._cut.is_set():
      held.close()
    return lifeline, held

  def cut(self) -> None:
    """Ends all cells that run, and those that are about to start."""
    self._cut.set()
    for held in list(self._held):
      held.close()


def run_cells(
    module: str, todo: Sequence[str], folder_of: Callable[[str], str], after: Callable[[str], str | None]) -> None:
  """Runs cells with this command line, `--jobs` at a time; progress with time left after each.

  Args:
    module: what `python -m` starts; it gives `--cell` to `run_here`.
    todo: names of the cells that are not finished.
    folder_of: a cell's folder, where log.txt holds what it says.
    after: called with each cell that has ended, from this thread; its result in a few words, None where there is none.

  Raises:
    UserError: some cells failed; they are named, all others are finished.
    Preempted: SIGTERM came, to this process or to cells, and all cells have saved.
  """
  jobs, lifelines = flags.FLAGS.jobs, _Lifelines()
  preemption.set_unsaved(True)
  with concurrent.futures.ThreadPoolExecutor(jobs, initializer=_take_cpus, initargs=(_share_cpus(jobs),)) as pool:
    futures = {pool.submit(_run_in_process, module, cell, folder_of(cell), lifelines): cell for cell in todo}
    try:
      failed = _await(futures, after)
    except BaseException:
      # Whatever ends this process ends its cells, and leaving the pool waits until they have saved.
      pool.shutdown(wait=False, cancel_futures=True)
      lifelines.cut()
      raise
  preemption.set_unsaved(False)
  if failed and all(code == preemption.EXIT_CODE for code, _ in failed.values()):
    raise preemption.Preempted(f'{len(failed)} cells were, and have saved')
  if failed:
    named = '; '.join(f'{cell} ({said})' for cell, (_, said) in failed.items())
    raise UserError(f'{len(failed)} cells failed: {named}; run the same command again for these alone')


def _await(futures: dict[concurrent.futures.Future, str], after: Callable[[str],
                                                                          str | None]) -> dict[str, tuple[int, str]]:
  """Tells each cell when it has ended; exit code and last words of those that failed."""
  start, waiting, failed = time.perf_counter(), set(futures), {}
  while waiting:
    ended, waiting = concurrent.futures.wait(waiting, timeout=1, return_when=concurrent.futures.FIRST_COMPLETED)
    if preemption.poll():
      raise preemption.Preempted('all cells have saved')
    for future in ended:
      cell, (code, said), result = futures[future], future.result(), after(futures[future])
      if code or result is None:
        failed[cell] = code, said if code else 'it ended without a result'
      done = len(futures) - len(waiting)
      left = (time.perf_counter() - start) / done * len(waiting) / 60
      said = f'{"failed" if code != preemption.EXIT_CODE else "ended"}: {failed[cell][1]}' if cell in failed else result
      print(f'== {cell}: {said}  {done}/{len(futures)} cells  {left:.0f} min left', flush=True)
  return failed


def why_failed(folder: str) -> str | None:
  """What a cell's last try said when it failed; None where it did not, or was not tried."""
  try:
    with open(os.path.join(folder, _ERROR), encoding='utf-8') as file:
      return file.read().strip()
  except FileNotFoundError:
    return None


def _run_in_process(module: str, cell: str, folder: str, lifelines: _Lifelines) -> tuple[int, str]:
  """Runs one cell; its exit code and the last line it wrote."""
  os.makedirs(folder, exist_ok=True)
  with contextlib.suppress(FileNotFoundError):
    os.remove(os.path.join(folder, _ERROR))
  lifeline, held = lifelines.new()
  command = [sys.executable, '-m', module, *sys.argv[1:], f'--cell={cell}', f'--lifeline={lifeline}']
  with open(os.path.join(folder, 'log.txt'), 'a+', encoding='utf-8', errors='replace') as log, held:
    start = log.tell()
    try:
      # A group of its own: Ctrl-C is for this process, which then ends its cells so that they save.
      code = subprocess.run(
          command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, check=False, pass_fds=(lifeline,),
          process_group=0).returncode
    finally:
      os.close(lifeline)
    log.seek(start)
    said = (log.read().strip().splitlines() or ['no output'])[-1]
  if code < 0:
    said = f'killed by {signal.Signals(-code).name} after: {said}'
  if code not in (0, preemption.EXIT_CODE):
    write_text(os.path.join(folder, _ERROR), said + '\n')
  return code, said


def _share_cpus(jobs: int) -> queue.Queue[list[int]]:
  """This process's CPUs dealt out to `jobs` processes: small steps run better one to a core than all over all."""
  available = sorted(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else []
  shares: queue.Queue[list[int]] = queue.Queue()
  for job in range(jobs):
    shares.put(available[job::jobs] or available)
  return shares


def _take_cpus(shares: queue.Queue[list[int]]) -> None:
  """Keeps this thread, and so the processes that it starts, to one share."""
  if share := shares.get():
    os.sched_setaffinity(0, share)
