"""A training verb that says where it is and takes its time there, so that a test can end it at a chosen moment.

python -m tests.phases VERB --config=... --workdir=...
"""

from collections.abc import Callable
import functools
import sys
import time
from typing import Any

from uniemox_jax import cli, finetune, loop, pretrain
from uniemox_jax.checkpoint import Checkpoints

VERBS = {'pretrain': pretrain, 'finetune': finetune}
PAUSE_SECONDS = 0.5


def announced(phase: str, call: Callable[..., Any]) -> Callable[..., Any]:
  """`call`, which first says that `phase` begins, and then takes some time."""
  @functools.wraps(call)
  def speak(*args: Any, **options: Any) -> Any:
    print(f'PHASE {phase}', flush=True)
    time.sleep(PAUSE_SECONDS)
    return call(*args, **options)

  return speak


def compiling(jit_step: Callable[..., Any]) -> Callable[..., Any]:
  """`loop.jit_step`, whose program announces its first call, which compiles, and all later ones, which train."""
  def make(*args: Any) -> Callable[..., Any]:
    program, calls = jit_step(*args), []

    def step(*arguments: Any) -> Any:
      calls.append(None)
      phase = {1: 'compile', 5: 'train'}.get(len(calls))
      return (announced(phase, program) if phase else program)(*arguments)

    return step

  return make


def main() -> None:
  """Entry point."""
  verb = VERBS[sys.argv.pop(1)]
  loop.jit_step = compiling(loop.jit_step)
  Checkpoints.save = announced('save', Checkpoints.save)
  finetune.evaluate_params = announced('evaluate', finetune.evaluate_params)
  pretrain.reconstruction_triplets = announced('evaluate', pretrain.reconstruction_triplets)
  cli.define_training()
  cli.run(verb.main)


if __name__ == '__main__':
  main()
