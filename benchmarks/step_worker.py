"""One implementation in a process of its own, for `benchmarks.train_step`.

python -m benchmarks.step_worker ours|eager|compiled, with the config as JSON in the first line of standard input.
Then every line asks, and is answered by one line of JSON: {"steps": n} takes n steps and times them, {"product": n}
times products of two n x n matrices, {"profile": n} says where the time of n steps goes (ours). It ends with its input.
"""

import json
import os
import sys
import time
from typing import Any

from ml_collections import ConfigDict

from benchmarks import step_sizes

PRODUCT_SECONDS = 0.5


def build(implementation: str, config: ConfigDict) -> Any:
  """The step, with methods `run`, `product`, `device`, `version`. Each process runs its own framework only."""
  batch = step_sizes.random_batch(config)
  if implementation == 'ours':
    from benchmarks.ours_step import OurStep
    return OurStep(config, batch)
  from benchmarks.torch_step import TorchStep
  return TorchStep(
      **step_sizes.torch_arguments(config), batch=batch, dtype=config.dtype, compiled=implementation == 'compiled')


def answer(step: Any, request: dict[str, int]) -> Any:
  """What one request gives; seconds of the wall and of all threads' CPU time."""
  if 'product' in request:
    size = request['product']
    step.product(size, 1)
    count, started = 0, time.perf_counter()
    while time.perf_counter() < started + PRODUCT_SECONDS:
      step.product(size, 1)
      count += 1
    return 2 * size**3 * count / (time.perf_counter() - started)
  if 'profile' in request:
    return step.profile(request['profile'])
  started, cpu_started = time.perf_counter(), time.process_time()
  loss = step.run(request['steps'])
  return {'seconds': time.perf_counter() - started, 'cpu_seconds': time.process_time() - cpu_started, 'loss': loss}


def main() -> None:
  """Answers until the input ends. Whatever a library prints goes to standard error."""
  answers = os.fdopen(os.dup(1), 'w', buffering=1)
  os.dup2(2, 1)
  step = build(sys.argv[1], ConfigDict(json.loads(sys.stdin.readline())))
  started = time.perf_counter()
  step.run(1)
  print(
      json.dumps({
          'device': step.device, 'version': step.version, 'first_step_seconds': time.perf_counter() - started,
          'modules': sorted({'tensorflow', 'torch', 'jax'} & sys.modules.keys())}), file=answers)
  for line in sys.stdin:
    print(json.dumps(answer(step, json.loads(line))), file=answers)


if __name__ == '__main__':
  main()
