"""A process of a run of several that takes given seconds to compile, and then polls until it is pre-empted.

python -m tests.beginner SECONDS..., of which it takes those of its own index.
"""

import sys
import time

import jax

from uniemox_jax import distributed, preemption

distributed.join(multihost=True)
preemption.watch()
print('compiling', flush=True)
time.sleep(float(sys.argv[1 + jax.process_index()]))
preemption.begin()
print('begun', flush=True)
try:
  while True:
    preemption.check()
    time.sleep(0.05)
except preemption.Preempted as reason:
  preemption.leave(reason)
