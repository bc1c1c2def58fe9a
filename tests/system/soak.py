"""Kills pretraining and fine-tuning at random moments, again and again: python -m tests.system.soak --kills=100

A killed run is started again in the same way until it ends by itself; then its parameters, losses and results must be
those of a run that was never killed, to the bit. Exit code 1 where they are not.
"""

from collections import Counter
from collections.abc import Iterator
import multiprocessing
import os
from pathlib import Path
import random
import re
import signal
import sys
import tempfile
import time

from absl import app, flags, logging
from ml_collections import ConfigDict

from tests.support import small_runs
from uniemox_jax.finetune import finetune
from uniemox_jax.pretrain import pretrain
from uniemox_jax.runtime.run_log import read_metrics

VERBS = {'pretrain': pretrain, 'finetune': finetune}
PROCESSES = multiprocessing.get_context('forkserver')
"""New processes of a server that has imported everything: else most kills would fall into imports."""
PROCESSES.set_forkserver_preload(['tests.system.soak'])


def run_verb(verb: str, config: dict, workdir: Path, said: Path) -> None:
  """In a process of its own: the verb, with what it says in a file."""
  with open(said, 'w', encoding='utf-8') as file:
    os.dup2(file.fileno(), 1)
    os.dup2(file.fileno(), 2)
  VERBS[verb](ConfigDict(config), str(workdir))
  sys.stdout.flush()


def run(verb: str, config: ConfigDict, workdir: Path, seconds: float | None = None) -> tuple[int, str]:
  """Runs to the end, or is killed after so many seconds; the exit code and the last line that it said."""
  said = workdir.with_suffix('.txt')
  process = PROCESSES.Process(target=run_verb, args=(verb, config.to_dict(), workdir, said))
  process.start()
  process.join(seconds)
  process.kill()
  process.join()
  lines = said.read_text().split('\n') if said.exists() else []
  return process.exitcode, next((line.strip() for line in reversed(lines) if line.strip()), 'nothing')


def losses(workdir: Path) -> list[tuple[int, float]]:
  """(step, loss) of every training line."""
  return [(line['step'], line['loss']) for line in read_metrics(str(workdir)) if 'loss' in line]


def assert_same_end(whole: Path, killed: Path) -> None:
  """Exits with 1 unless two runs left the same parameters, losses and results."""
  results = [path.read_bytes() if path.exists() else b'' for path in (whole / 'result.json', killed / 'result.json')]
  if not small_runs.same_weights(whole, killed) or losses(whole) != losses(killed) or results[0] != results[1]:
    sys.exit(f'{killed.name}, which was killed, ended otherwise than {whole.name}')


def killed_runs(verb: str, config: ConfigDict, folder: Path, kills: int, draws: random.Random) -> Iterator[str]:
  """Kills runs that many times, then lets the last one end; each run that has ended is compared with a whole one.

  Yields:
    For each kill, the last line that the run had said.

  Raises:
    SystemExit: a run ended otherwise than the whole one, or failed.
  """
  whole = folder / f'{verb}_whole'
  code, last = run(verb, config, whole)  # compiles, so that the timed one finds everything compiled
  began = time.monotonic()
  timed = run(verb, config, folder / f'{verb}_timed')
  seconds = time.monotonic() - began
  if code or timed[0]:
    sys.exit(f'{verb} failed: {last}; {timed[1]}')
  done = number = 0
  while done < kills:
    killed = folder / f'{verb}_{number}'
    while (ended := run(verb, config, killed, draws.uniform(0, seconds) if done < kills else None)) and ended[0]:
      if ended[0] != -signal.SIGKILL:
        sys.exit(f'{verb} failed after a kill: {ended[1]}')
      done += 1
      yield ended[1]
    assert_same_end(whole, killed)
    number += 1


def soak(kills: int, seed: int, folder: Path) -> Counter:
  """Kills that many times, each verb half of them.

  Returns:
    How many kills came after the runs had said what, without the numbers.
  """
  data_dir = small_runs.write_records(folder)
  teacher = small_runs.write_teacher(folder / 'clip')
  configs = {
      'pretrain': small_runs.pretrain_config(data_dir, teacher, epochs=4),
      'finetune': small_runs.finetune_config(data_dir, epochs=5)}
  moments, began = Counter(), time.monotonic()
  for number, (verb, config) in enumerate(configs.items()):
    share = (kills + number) // len(configs)
    for last_line in killed_runs(verb, config, folder, share, random.Random(f'{seed} {verb}')):
      moments[f"{verb}: {re.sub('[0-9].*', '', last_line)}"] += 1
      done = moments.total()
      left = (time.monotonic() - began) / done * (kills - done)
      print(f'kill {done}/{kills}, {left:.0f} s left; it had said: {last_line}', flush=True)
  return moments


def main(argv: list[str]) -> None:
  """Entry point after flags are parsed."""
  logging.set_verbosity(logging.ERROR)
  with tempfile.TemporaryDirectory() as folder:
    moments = soak(flags.FLAGS.kills, flags.FLAGS.seed, Path(folder))
  for moment, count in sorted(moments.items()):
    print(f'{count:4} after {moment}')
  print(f'{moments.total()} kills; every run ended as one that nobody killed, to the bit')


if __name__ == '__main__':
  flags.DEFINE_integer('kills', 100, 'How many kills in all.', lower_bound=2)
  flags.DEFINE_integer('seed', 0, 'Of the moments.')
  app.run(main)
