"""Measures our pretraining step beside the original's, written plainly in PyTorch, in one run.

python -m benchmarks.train_step --size=demo --profile
python -m benchmarks.train_step --size=vitl16 --batch_size=128 --out=train_step.json    # on a GPU

Both take the same random images of the same size on the same device. Each has a process of its own, and they take
turns, so that a busy moment of the machine meets both. Neither records nor tensorflow are needed. On a GPU that both
frameworks see: bfloat16, against PyTorch eager and `torch.compile` under autocast; else float32 on the CPU.
docs/performance.md holds what was measured.
"""

from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
import contextlib
import multiprocessing
import os
import statistics
import subprocess
import sys
from typing import Any

from absl import flags, logging
from ml_collections import ConfigDict
from tqdm import tqdm

from benchmarks.steps import step_sizes, step_worker
from data_pipelines import command
from data_pipelines.errors import UserError
from data_pipelines.storage import write_json
from uniemox_jax.runtime.hardware import peak_flops

PLATFORMS = {'cpu': ('ours', 'read', 'eager'), 'gpu': ('ours', 'read', 'eager', 'compiled')}
TITLES = {'ours': 'ours', 'read': 'ours, teacher_views', 'eager': 'PyTorch', 'compiled': 'PyTorch, torch.compile'}
BATCH = {'cpu': {'demo': 64, 'vitb16': 8, 'vitl16': 8}, 'gpu': {'demo': 64, 'vitb16': 256, 'vitl16': 128}}
DTYPE = {'cpu': 'float32', 'gpu': 'bfloat16'}
PRODUCT = {'cpu': 2048, 'gpu': 8192}
MAX_WORK_RATIO, MIN_SPEEDUP, MIN_MFU = 0.90, 2.0, 0.50
"""What we want: our FLOPs of the original's; on a GPU, our rate of PyTorch eager's, and our share of the peak."""
NO_GPU = 'not measured: PyTorch and jax do not both see a GPU here'
_SEES_GPU = 'import jax, torch; print(torch.cuda.is_available() and jax.default_backend() == "gpu")'


def measure(config: ConfigDict, platform: str, steps: int, turns: int, profile: bool) -> dict[str, Any]:
  """Everything that the command reports, as written by --out.

  Raises:
    UserError: an implementation failed, for want of memory or of a library.
  """
  with contextlib.ExitStack() as stack:
    spawn = multiprocessing.get_context('spawn')
    processes = {name: stack.enter_context(ProcessPoolExecutor(1, spawn)) for name in PLATFORMS[platform]}

    def ask(name: str, task: Callable[..., Any], *arguments: Any) -> Any:
      try:
        return processes[name].submit(task, *arguments).result()
      except Exception as error:  # Any that a library raises there.
        last = (str(error).strip().splitlines() or [type(error).__name__])[-1]
        raise UserError(
            f'{TITLES[name]} failed ({last[:300]}): if memory was short, lower --batch_size; if a library is '
            "missing, pip install 'uniemox_jax[torch]'") from error

    ready = {name: ask(name, step_worker.build, name, config, platform) for name in tqdm(processes, 'compiling')}
    timed = {name: [] for name in processes}
    for name in tqdm(list(processes) * turns, 'measuring'):
      ask(name, step_worker.run, 1)  # Its threads and caches come back from the other's turn.
      timed[name].append(ask(name, step_worker.run, steps))
    product = {name: ask(name, step_worker.product_rate, PRODUCT[platform]) for name in processes}
    costs = ask('ours', step_worker.profile, steps) if profile else None
  flops = dict.fromkeys(processes, step_sizes.original_training_flops(config))
  for name in step_sizes.OURS:
    flops[name] = step_sizes.our_program(step_sizes.ours(name, config)).work.training.flops
  examples = config.batch_size * steps
  measured = {
      name: _implementation(ready[name], timed[name], examples, flops[name], product[name]) for name in processes}
  report = {
      'size': config.size, 'platform': platform, 'dtype': config.dtype, 'batch_size': config.batch_size, 'steps': steps,
      'turns': turns, 'cpus': len(os.sched_getaffinity(0)), 'load': os.getloadavg()[0], 'config': config.to_dict(),
      'implementations': measured, 'flops_ratio': flops['ours'] / flops['eager'],
      'times_as_fast_as': {name: _speedup(measured, name) for name in processes if name != 'ours'}}
  if platform == 'cpu':
    report['gpu'] = NO_GPU if not sees_gpu() else 'not measured: --platform=cpu'
  return report | ({'profile': costs} if profile else {})


def _implementation(ready: dict[str, Any], timed: list[dict[str, float]], examples: int, flops: int,
                    product: float) -> dict[str, Any]:
  """Rates of every turn, and shares of the device's peak, where that is known, and of the matrix product's rate."""
  rates = [examples / one['seconds'] for one in timed]
  rate, peak = statistics.median(rates), peak_flops(ready['device'])
  return ready | {
      'examples_per_second': rate, 'examples_per_second_by_turn': rates, 'loss': timed[-1]['loss'],
      'cpu_milliseconds_per_example': statistics.median(1000 * one['cpu_seconds'] / examples for one in timed),
      'flops_per_example': flops, 'flops_per_second': flops * rate, 'mfu': peak and flops * rate / peak,
      'product_flops_per_second': product, 'share_of_product_rate': flops * rate / product}


def _speedup(measured: dict[str, Any], name: str) -> dict[str, float]:
  """Our rate of the other's, within one turn, where the machine is the same."""
  rates = [measured[each]['examples_per_second_by_turn'] for each in ('ours', name)]
  ratios = [ours / theirs for ours, theirs in zip(*rates)]
  ours, theirs = (measured[each]['cpu_milliseconds_per_example'] for each in ('ours', name))
  return {'median': statistics.median(ratios), 'least': min(ratios), 'most': max(ratios), 'by_cpu_time': theirs / ours}


def table(report: dict[str, Any]) -> str:
  """The report in Markdown."""
  rows, gpu = report['implementations'], report['platform'] == 'gpu'
  lines = [
      f"{report['size']}, batch {report['batch_size']}, {report['dtype']}, {report['turns']} turns of "
      f"{report['steps']} steps; {rows['ours']['version']}, {rows['eager']['version']}; {rows['ours']['device']}, "
      f"{report['cpus']} CPUs, load {report['load']:.1f} at the end", '',
      f"| | examples/s, median | range | CPU ms an example | GFLOP an example | GFLOP/s | "
      f"{'MFU' if gpu else 'of the matrix product rate'} |", '|---|---|---|---|---|---|---|']
  for name, row in rows.items():
    rates = row['examples_per_second_by_turn']
    share = row['mfu'] if gpu else row['share_of_product_rate']
    shown = 'peak unknown' if share is None else f'{share:.0%}'
    shown += '' if gpu else f" ({row['product_flops_per_second'] / 1e9:.0f} GFLOP/s)"
    lines.append(
        f"| {TITLES[name]} | {row['examples_per_second']:.0f} | {min(rates):.0f}-{max(rates):.0f} | "
        f"{row['cpu_milliseconds_per_example']:.2f} | {row['flops_per_example'] / 1e9:.3f} | "
        f"{row['flops_per_second'] / 1e9:.0f} | {shown} |")
  lines += ['', f"FLOPs by formula: {report['flops_ratio']:.3f} of the original's (wanted: at most {MAX_WORK_RATIO})"]
  for name, speedup in report['times_as_fast_as'].items():
    wanted = f' (wanted: at least {MIN_SPEEDUP:.0f})' if gpu and name == 'eager' else ''
    lines.append(
        f"Examples/s: {speedup['median']:.2f} times those of {TITLES[name]} (turns {speedup['least']:.2f}-"
        f"{speedup['most']:.2f}; by CPU time {speedup['by_cpu_time']:.2f}){wanted}")
  lines.append(f'MFU wanted for ViT-B and ViT-L: at least {MIN_MFU:.0%}' if gpu else f"GPU: {report['gpu']}")
  if 'profile' in report:
    lines += ['', '| our step, kind of operation | share of time | longest operations |', '|---|---|---|']
    lines += [f"| {row['kind']} | {row['share']:.1%} | {', '.join(row['longest'])} |" for row in report['profile']]
  return '\n'.join(lines)


def sees_gpu() -> bool:
  """Whether both frameworks see a GPU; asked in another process, since a framework that looks also takes."""
  done = subprocess.run([sys.executable, '-c', _SEES_GPU], capture_output=True, text=True, check=False)
  return done.stdout.strip() == 'True'


def main() -> None:
  """The command."""
  logging.set_verbosity(logging.WARNING)
  values = flags.FLAGS
  platform = 'gpu' if values.platform != 'cpu' and sees_gpu() else 'cpu'
  if values.platform == 'gpu' and platform == 'cpu':
    raise UserError('--platform=gpu: PyTorch and jax do not both see one: install their CUDA builds, or leave it out')
  if values.profile and platform == 'gpu':
    raise UserError("--profile reads XLA's CPU programs: add --platform=cpu")
  config = step_sizes.load(values.size)
  config.size = values.size
  config.batch_size = values.batch_size or BATCH[platform][values.size]
  config.dtype = values.dtype or DTYPE[platform]
  report = measure(config, platform, values.steps, values.turns, values.profile)
  print(table(report))
  if values.out:
    write_json(values.out, report)


if __name__ == '__main__':
  flags.DEFINE_enum('size', 'demo', step_sizes.SIZES, 'Student and teacher: those of the shipped configs.')
  flags.DEFINE_enum('platform', 'auto', ('auto', 'cpu', 'gpu'), 'auto: a GPU if both frameworks see one.')
  flags.DEFINE_enum('dtype', None, ('float32', 'bfloat16'), 'None: bfloat16 on a GPU, float32 on a CPU.')
  flags.DEFINE_integer('batch_size', None, 'Examples a step; None: what suits size and platform.', 1)
  flags.DEFINE_integer('steps', 10, 'Steps a turn.', 1)
  flags.DEFINE_integer('turns', 15, 'Turns of each implementation.', 1)
  flags.DEFINE_bool('profile', False, 'Also report where the time of our step goes (CPU).')
  flags.DEFINE_string('out', None, 'A JSON file for all that was measured.')
  command.run(main)
