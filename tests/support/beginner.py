"""A process of a run of several, with a compiler that takes given seconds.

python -m tests.support.beginner ARGUMENT..., of which it takes that of its own index: SECONDS, after which it begins,
and polls until it is pre-empted; 'only SECONDS' for work that leaves nothing to save; 'together SECONDS' for such work
in which each needs the other; 'fail SECONDS' for a mistake after it; 'differ SECONDS' for one that all find. With
$TOGETHER_MS, processes that end wait for each other for so long, and not as in a run.
"""

import os
import sys
import time

from absl import flags
import jax

from data_pipelines.errors import UserError
from uniemox_jax.runtime import cli, distributed, preemption


def train() -> None:
  """Begins, and takes steps until pre-empted."""
  preemption.begin()
  print('begun', flush=True)
  while True:
    preemption.raise_if_preempted()
    time.sleep(0.05)


def main() -> None:
  """Entry point after the processes have found each other."""
  *kind, seconds = arguments[jax.process_index()].split()
  preemption.TOGETHER_MS = int(os.environ.get('TOGETHER_MS', preemption.TOGETHER_MS))
  print('compiling', flush=True)
  ends = time.monotonic() + float(seconds)
  while time.monotonic() < ends:
    if kind == ['together']:
      distributed.is_same_everywhere('step')
    time.sleep(0.01)
  if kind == ['fail'] or kind == ['differ'] and not distributed.is_same_everywhere(jax.process_index()):
    raise UserError('as asked: do not ask')
  if not kind:
    train()
  print('work is over', flush=True)


if __name__ == '__main__':
  arguments, sys.argv[1:] = sys.argv[1:], []
  cli.define_workdir('.')
  cli.define_multihost()
  flags.FLAGS.set_default('multihost', True)
  cli.run(main)
