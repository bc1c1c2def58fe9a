"""A process of a run of several, with a compiler that takes given seconds.

python -m tests.beginner ARGUMENT..., of which it takes that of its own index: SECONDS, after which it begins, and polls
until it is pre-empted; 'only SECONDS' for work that leaves nothing to save; 'fail SECONDS' for a mistake after it.
"""

import sys
import time

from absl import flags
import jax

from data_pipelines.errors import UserError
from uniemox_jax import cli, preemption


def main() -> None:
  """Entry point after the processes have found each other."""
  *kind, seconds = arguments[jax.process_index()].split()
  print('compiling', flush=True)
  time.sleep(float(seconds))
  if kind == ['fail']:
    raise UserError('as asked: do not ask')
  if not kind:
    preemption.begin()
    print('begun', flush=True)
  while not kind:
    preemption.check()
    time.sleep(0.05)
  print('work is over', flush=True)


if __name__ == '__main__':
  arguments, sys.argv[1:] = sys.argv[1:], []
  cli.define_workdir('.')
  cli.define_multihost()
  flags.FLAGS.set_default('multihost', True)
  cli.run(main)
  print('done', flush=True)
