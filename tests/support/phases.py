"""A training verb that says where it is and takes its time there, so that a test can end it at a chosen moment.

python -m tests.support.phases VERB --config=... --workdir=...
"""

from collections.abc import Callable
import functools
import sys
import time
from typing import Any

from uniemox_jax import finetune, pretrain
from uniemox_jax.runtime import cli
from uniemox_jax.train import checkpoint, loop
from uniemox_jax.train.checkpoint import Checkpoints

VERBS = {'pretrain': pretrain.pretrain, 'finetune': finetune.finetune}
PAUSE_SECONDS, TRAINING_PAUSE_SECONDS, REPLACING_PAUSE_SECONDS = 0.5, 1.0, 3


def announced(phase: str, call: Callable[..., Any]) -> Callable[..., Any]:
  """`call`, which first says that `phase` begins, and then takes some time."""

  @functools.wraps(call)
  def speak(*args: Any, **options: Any) -> Any:
    print(f'PHASE {phase}', flush=True)
    time.sleep(PAUSE_SECONDS)
    return call(*args, **options)

  return speak


def compiling(compile_step: Callable[..., Any]) -> Callable[..., Any]:
  """`loop.compile_step`, announced, and of the program that it gives the fourth step, as one of training.

  The steps after that take their time: on a busy machine, processes need seconds to hear of each other's signal.
  """

  def make(*arguments: Any) -> Callable[..., Any]:
    program, calls = announced('compile', compile_step)(*arguments), []

    def step(*arguments: Any) -> Any:
      calls.append(None)
      if len(calls) > 4:
        time.sleep(TRAINING_PAUSE_SECONDS)
      return (announced('train', program) if len(calls) == 4 else program)(*arguments)

    return step

  return make


def replacing(delete: Callable[..., None]) -> Callable[..., None]:
  """The deletion of a step that is saved anew, announced once the old one is gone."""

  def make(*arguments: Any) -> None:
    delete(*arguments)
    print('PHASE replace', flush=True)
    time.sleep(REPLACING_PAUSE_SECONDS)

  return make


def main() -> None:
  """Entry point."""
  verb = VERBS[sys.argv.pop(1)]
  loop.compile_step = compiling(loop.compile_step)
  Checkpoints.save = announced('save', Checkpoints.save)
  checkpoint._Manager.delete = replacing(checkpoint._Manager.delete)
  finetune.predict_tasks = announced('evaluate', finetune.predict_tasks)
  pretrain.reconstruction_triplets = announced('evaluate', pretrain.reconstruction_triplets)
  cli.run(cli.define_training(verb))


if __name__ == '__main__':
  main()
