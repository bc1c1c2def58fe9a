"""Runs jobs, the independent runs behind one table, side by side. Each is a process of its own, and resumes by itself.

A job saves and ends when the process that started it has ended for any reason: it sees that the pipe from there is
closed. A lock keeps the next try out of its folder until then. The error of a job that failed is kept beside its log.
The process that starts jobs leaves the accelerator to them.
"""

from collections.abc import Callable, Collection, Iterator, Mapping
import concurrent.futures
import contextlib
import os
import pathlib
import queue
import signal
import subprocess
import sys
import threading
import time

from absl import flags
from ml_collections import ConfigDict

from data_pipelines.errors import UserError
from data_pipelines.ownership import owned
from data_pipelines.storage import exists, open_local, parsing, read_json_object, write_text
from uniemox_jax.runtime import preemption
from uniemox_jax.train.run_folder import changed_keys

flags.disclaim_key_flags()  # `--help` shows flags that are defined here as the verb's own

_ERROR = 'error.txt'


def define_flags(jobs: int) -> None:
  """Declares `--jobs`, and the flags with which the process of one job is started."""
  flags.DEFINE_integer(
      'jobs', jobs, 'Jobs that run side by side, each on its share of the CPUs; 1 where they share '
      'an accelerator.', lower_bound=1)
  flags.DEFINE_string('cell', None, 'Name of one job, to run it alone, in this process.')
  flags.DEFINE_integer('lifeline', None, 'Pipe that closes when the process that started this job has ended.')


def check_same_config(folder: str, section: ConfigDict, also: Collection[str] = ()) -> None:
  """Raises UserError if a run in `folder` was done, or begun, with other values than `section` has.

  Keys that change no number of a run may differ, except those of `also`.
  """
  path = os.path.join(folder, 'config.json')
  if not exists(path):
    return
  ran, now = read_json_object(path), section.to_dict()
  with parsing(path):
    changed = changed_keys(ran, now) + [key for key in also if ran.get(key) != now.get(key)]
  if changed:
    raise UserError(
        f'{folder} holds a run with other values of {", ".join(changed)}: restore them, remove that '
        'folder, or choose another --workdir')


def last_error(folder: str) -> str | None:
  """The last line of a job whose last try failed; None if it did not fail, or was not tried."""
  with contextlib.suppress(FileNotFoundError):
    return pathlib.Path(folder, _ERROR).read_text(encoding='utf-8', errors='replace').strip()
  return None


def run_here(folder: str, work: Callable[[], object]) -> None:
  """Runs a job in this process, which ends when the process that started it ends.

  Args:
    folder: the job's folder; one process at a time works in it.
    work: a function that does the job, or resumes it.
  """
  if flags.FLAGS.lifeline is not None:
    threading.Thread(target=_follow, args=(flags.FLAGS.lifeline,), daemon=True, name='lifeline').start()
  with owned(folder, 'job', wait=True):
    work()


def _follow(lifeline: int) -> None:
  """Pre-empts this process when the other end of the pipe is closed; nothing is ever written there."""
  os.read(lifeline, 1)
  os.kill(os.getpid(), signal.SIGTERM)


def run_unfinished(module: str, folders: Mapping[str, str], tabulate: Callable[[], Mapping[str, str]]) -> None:
  """Runs the jobs without a result, and keeps the table up to date.

  Args:
    module: see `run_jobs`.
    folders: the folders of all jobs, by name.
    tabulate: a function that writes the table from what is finished, and returns the result of each finished job in a
      few words.

  Raises: as `run_jobs`.
  """
  finished = tabulate()
  print(f'{len(folders)} jobs, {len(finished)} of them finished before', flush=True)
  missing = {name: folder for name, folder in folders.items() if name not in finished}
  run_jobs(module, missing, lambda name: tabulate().get(name))


@contextlib.contextmanager
def printed_at_the_end(table: str) -> Iterator[None]:
  """Prints a file, which is kept up to date meanwhile, when the work inside ends, even by an error."""
  try:
    yield
  finally:
    if exists(table):
      print(pathlib.Path(table).read_text(encoding='utf-8'), flush=True)


def run_jobs(module: str, folders: Mapping[str, str], after: Callable[[str], str | None]) -> None:
  """Runs jobs with this command line, `--jobs` at a time; prints each that has ended, and the time left.

  Args:
    module: what `python -m` starts; it gives the job that `--cell` names to `run_here`.
    folders: the folders of the jobs, by name; log.txt in each holds what the job prints.
    after: a function that is called from this thread with each job that has ended, and returns its result in a few
      words, or None.

  Raises:
    UserError: some jobs failed; they are named, all others are finished.
    Preempted: SIGTERM came, to this process or to jobs, and all jobs have saved.
  """
  jobs = flags.FLAGS.jobs
  preemption.set_unsaved(True)
  lifeline, ours = os.pipe()
  pool = concurrent.futures.ThreadPoolExecutor(jobs, initializer=_share_cpus(jobs))
  with os.fdopen(lifeline, 'rb'), os.fdopen(ours, 'wb') as held, pool:
    futures = {pool.submit(_run_in_process, module, name, folders[name], lifeline): name for name in folders}
    try:
      failed = _await(futures, after)
    except BaseException:
      # Whatever ends this process ends its jobs, and leaving the pool waits until they have saved.
      pool.shutdown(wait=False, cancel_futures=True)
      held.close()
      raise
  preemption.set_unsaved(False)
  if failed and all(code == preemption.EXIT_CODE for code, _ in failed.values()):
    raise preemption.Preempted(f'{len(failed)} jobs were, and have saved')
  if failed:
    named = '; '.join(f'{name} ({error})' for name, (_, error) in failed.items())
    raise UserError(f'{len(failed)} of {len(folders)} jobs failed: {named}; run the same command again for these alone')


def _await(futures: dict[concurrent.futures.Future, str], after: Callable[[str],
                                                                          str | None]) -> dict[str, tuple[int, str]]:
  """Prints each job when it has ended; exit code and last line of those that failed, by name."""
  start, waiting, failed = time.perf_counter(), set(futures), {}
  while waiting:
    ended, waiting = concurrent.futures.wait(waiting, timeout=1, return_when=concurrent.futures.FIRST_COMPLETED)
    if preemption.poll():
      raise preemption.Preempted('all jobs have saved')
    for future in ended:
      name, (code, last_line), outcome = futures[future], future.result(), after(futures[future])
      if code or outcome is None:
        failed[name] = code, last_line if code else 'it ended without a result'
        outcome = f'{"ended" if code == preemption.EXIT_CODE else "failed"}: {failed[name][1]}'
      done = len(futures) - len(waiting)
      left = (time.perf_counter() - start) / done * len(waiting) / 60
      print(f'== {name}: {outcome}  {done}/{len(futures)} jobs  {left:.0f} min left', flush=True)
  return failed


def _run_in_process(module: str, name: str, folder: str, lifeline: int) -> tuple[int, str]:
  """Runs one job; its exit code and the last line it printed."""
  error = pathlib.Path(folder, _ERROR)
  error.parent.mkdir(parents=True, exist_ok=True)
  error.unlink(missing_ok=True)
  command = [sys.executable, '-m', module, *sys.argv[1:], f'--cell={name}', f'--lifeline={lifeline}']
  with open_local(os.path.join(folder, 'log.txt'), 'a+', encoding='utf-8', errors='replace') as log:
    start = log.tell()
    # A group of its own: Ctrl-C is for this process, which then ends its jobs so that they save.
    code = subprocess.run(
        command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, check=False, pass_fds=(lifeline,),
        process_group=0).returncode
    log.seek(start)
    last_line = (log.read().strip().splitlines() or ['no output'])[-1]
  if code < 0:
    last_line = f'killed by {signal.Signals(-code).name} after: {last_line}'
  if code not in (0, preemption.EXIT_CODE):
    write_text(str(error), last_line + '\n')
  return code, last_line


def _share_cpus(jobs: int) -> Callable[[], None]:
  """What keeps a thread, and so the processes that it starts, to its share of this process's CPUs, one of `jobs`:
  small steps run better one to a core than all over all."""
  cpus = sorted(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else []
  shares: queue.SimpleQueue[list[int]] = queue.SimpleQueue()
  for job in range(jobs):
    shares.put(cpus[job::jobs] or cpus)
  return lambda: os.sched_setaffinity(0, shares.get()) if cpus else None
