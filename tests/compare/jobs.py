"""Jobs without a model, for what becomes of processes that start others: python -m tests.compare.jobs --workdir=W.

Two jobs, one after the other. Each takes steps until it is pre-empted; with --first=fails the first fails instead, and
the second is done at once.
"""

from pathlib import Path
import time

from absl import flags

from data_pipelines.errors import UserError
from uniemox_jax.compare import subprocess_runs
from uniemox_jax.runtime import cli, preemption

NAMES = ('first', 'second')


def work() -> None:
  """What a training verb does with the signal, without training."""
  name, folder = flags.FLAGS.cell, Path(flags.FLAGS.workdir, flags.FLAGS.cell)
  if flags.FLAGS.first == 'fails':
    if name == 'first':
      raise UserError('as asked: do not ask')
    (folder / 'result').write_text('done')
    return
  preemption.set_unsaved(True)
  print('begun', flush=True)
  while not preemption.poll():
    time.sleep(0.05)
  raise preemption.Preempted(f'step 1 is saved in {folder}')


def main() -> None:
  """Runs both jobs, or the one that --cell names."""
  folders = {name: str(Path(flags.FLAGS.workdir, name)) for name in NAMES}
  if flags.FLAGS.cell:
    subprocess_runs.run_here(folders[flags.FLAGS.cell], work)
    return

  def result_of(name: str) -> str | None:
    path = Path(folders[name], 'result')
    return path.read_text() if path.exists() else None

  subprocess_runs.run_jobs('tests.compare.jobs', folders, result_of)


if __name__ == '__main__':
  cli.define_workdir('.')
  subprocess_runs.define_flags(1)
  flags.DEFINE_enum('first', 'runs', ['runs', 'fails'], 'What the first job does.')
  cli.run(main)
