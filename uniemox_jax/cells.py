"""Cells: independent runs behind one table, each a process of its own; side by side, resumable one by one.

A cell ends with whoever started it, however that ended: it notices that the pipe from there is closed, saves, and a
lock keeps the next try out until it has. What a failed cell said last is kept beside its log.
"""

from collections.abc import Callable, Sequence
import concurrent.futures
import os
import queue
import signal
import subprocess
import sys
import threading
import time

from absl import flags
import filelock

from data_pipelines.errors import UserError
from uniemox_jax.files import write_text

_ERROR = 'error.txt'


def define_flags(jobs: int) -> None:
  """Declares `--jobs`, and what cells are started with."""
  flags.DEFINE_integer('jobs', jobs, 'Cells that run side by side, each on its share of the CPUs; 1 where they share '
                       'an accelerator.', lower_bound=1)
  flags.DEFINE_string('cell', None, 'Name of one cell, to run it alone, in this process.')
  flags.DEFINE_integer('lifeline', None, 'Pipe that closes when whoever started this cell has ended.')


def run_here(folder: str, work: Callable[[], None]) -> None:
  """Runs a cell in this process, which ends with whoever holds its lifeline.

  Args:
    folder: of the cell; one process at a time works in it.
    work: does the cell, or goes on with it.
  """
  lifeline = flags.FLAGS.lifeline
  if lifeline is not None:
    threading.Thread(target=_follow, args=(lifeline,), daemon=True, name='lifeline').start()
  os.makedirs(folder, exist_ok=True)
  with filelock.FileLock(os.path.join(folder, 'lock')):
    work()


def _follow(lifeline: int) -> None:
  """Pre-empts this process when the other end of the pipe is closed; nothing is ever written there."""
  os.read(lifeline, 1)
  os.kill(os.getpid(), signal.SIGTERM)


def run_cells(module: str, todo: Sequence[str], folder_of: Callable[[str], str], after: Callable[[str], str]) -> None:
  """Runs cells with this command line, `--jobs` at a time; progress with time left after each.

  Args:
    module: what `python -m` starts; it gives `--cell` to `run_here`.
    todo: names of the cells that are not finished.
    folder_of: a cell's folder, where log.txt holds what it says.
    after: called with each cell that has ended, from this thread; its result in a few words.

  Raises:
    UserError: some cells failed; they are named, all others are finished.
  """
  jobs = flags.FLAGS.jobs
  start, failed = time.perf_counter(), []
  with concurrent.futures.ThreadPoolExecutor(jobs, initializer=_take_cpus, initargs=(_share_cpus(jobs),)) as pool:
    futures = {pool.submit(_run_in_process, module, cell, folder_of(cell)): cell for cell in todo}
    for done, future in enumerate(concurrent.futures.as_completed(futures), start=1):
      cell = futures[future]
      if said := future.result():
        failed.append(f'{cell} ({said})')
      left = (time.perf_counter() - start) / done * (len(todo) - done) / 60
      print(f'== {cell}: {f"failed: {said}" if said else after(cell)}  {done}/{len(todo)} cells  {left:.0f} min left',
            flush=True)
      if said:
        after(cell)
  if failed:
    raise UserError(f'{len(failed)} cells failed: {"; ".join(failed)}; run the same command again for these alone')


def why_failed(folder: str) -> str | None:
  """What a cell's last try said when it failed; None where it did not, or was not tried."""
  path = os.path.join(folder, _ERROR)
  if not os.path.exists(path):
    return None
  with open(path, encoding='utf-8') as file:
    return file.read().strip()


def _run_in_process(module: str, cell: str, folder: str) -> str | None:
  """Runs one cell; the last line it wrote if it failed."""
  os.makedirs(folder, exist_ok=True)
  error = os.path.join(folder, _ERROR)
  if os.path.exists(error):
    os.remove(error)
  lifeline, held = os.pipe()
  command = [sys.executable, '-m', module, *sys.argv[1:], f'--cell={cell}', f'--lifeline={lifeline}']
  with open(os.path.join(folder, 'log.txt'), 'w+', encoding='utf-8') as log:
    try:
      failed = subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, check=False,
                              pass_fds=(lifeline,)).returncode
    finally:
      os.close(lifeline)
      os.close(held)
    log.seek(0)
    said = (log.read().strip().splitlines() or ['no output'])[-1] if failed else None
  if said:
    write_text(error, said + '\n')
  return said


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
