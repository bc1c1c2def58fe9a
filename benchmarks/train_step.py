"""Measures our pretraining step beside the original's, written plainly in PyTorch, in one run.

python -m benchmarks.train_step --size=demo --profile
python -m benchmarks.train_step --size=vitb16,vitl16 --batch_size=64,128,256 --turns=3 --minutes=9    # on a GPU

Both take the same random images of the same size on the same device. Each has a process of its own, and they take
turns, so that a busy moment of the machine meets both. Neither records nor tensorflow are needed. On a GPU that both
frameworks see: bfloat16, against PyTorch eager and `torch.compile` under autocast; else float32 on the CPU. Several
sizes or batches give one table at the end, which names what failed and what the minutes did not suffice for.
docs/performance.md holds what was measured.
"""

from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
import contextlib
import multiprocessing
import os
import statistics
import subprocess
import sys
import time
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

    def answer(name: str, asked: Future[Any]) -> Any:
      try:
        return asked.result()
      except Exception as error:  # Any that a library raises there.
        last = (str(error).strip().splitlines() or [type(error).__name__])[-1]
        raise UserError(
            f'{TITLES[name]} failed ({last[:300]}): if memory was short, lower --batch_size; if a library is '
            "missing, pip install 'uniemox_jax[torch]'") from error

    def ask(name: str, task: Callable[..., Any], *arguments: Any) -> Any:
      return answer(name, processes[name].submit(task, *arguments))

    ready, together = {}, {}
    for name, process in processes.items():
      together[name] = process.submit(step_worker.build, name, config, platform)
      # One after the other, up to one that fails; on a GPU the CPUs are free to compile all at once.
      if platform == 'cpu' and together[name].exception():
        break
    for name in tqdm(together, 'compiling'):
      ready[name] = answer(name, together[name])
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


def measure_all(configs: list[ConfigDict], platform: str, minutes: float, **how: Any) -> list[dict[str, Any]]:
  """`measure` of each config, or its size, batch and why it was not measured; none is begun after so many minutes."""
  reports, started = [], time.monotonic()
  for config in configs:
    print(f'{config.size}, batch {config.batch_size} …', file=sys.stderr, flush=True)
    report: dict[str, Any] = {'size': config.size, 'batch_size': config.batch_size}
    if time.monotonic() - started > 60 * minutes:
      reports.append(report | {'not_measured': f'the {minutes:g} minutes were over'})
      continue
    try:
      report = measure(config, platform, **how)
    except UserError as error:
      reports.append(report | {'not_measured': str(error)})
      continue
    print(table(report) + '\n', file=sys.stderr, flush=True)
    reports.append(report)
  return reports


def summary(reports: list[dict[str, Any]]) -> str:
  """One row for each implementation, size and batch, in Markdown."""
  lines = ['| size | batch | | examples/s | MFU | ours, times this |', '|---|---|---|---|---|---|']
  for report in reports:
    place = f"| {report['size']} | {report['batch_size']} |"
    if 'not_measured' in report:
      lines.append(f"{place} not measured: {report['not_measured']} | | | |")
      continue
    for name, row in report['implementations'].items():
      mfu = '-' if row['mfu'] is None else f"{row['mfu']:.0%}"
      ratio = f"{report['times_as_fast_as'][name]['median']:.2f}" if name in report['times_as_fast_as'] else ''
      lines.append(f"{place} {TITLES[name]} | {row['examples_per_second']:.0f} | {mfu} | {ratio} |")
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
  configs = [
      _config(size, platform, batch_size, values.dtype)
      for size in values.size
      for batch_size in map(_batch_size, values.batch_size or [None])]
  how = {'steps': values.steps, 'turns': values.turns, 'profile': values.profile}
  if len(configs) == 1:
    report = measure(configs[0], platform, **how)
    print(table(report))
  else:
    reports = measure_all(configs, platform, values.minutes, **how)
    report = {'runs': reports}
    print(summary(reports))
  if values.out:
    write_json(values.out, report)


def _config(size: str, platform: str, batch_size: int | None, dtype: str | None) -> ConfigDict:
  if size not in step_sizes.SIZES:
    raise UserError(f'--size={size} is not known: choose from {", ".join(step_sizes.SIZES)}')
  config = step_sizes.load(size)
  config.size, config.batch_size = size, batch_size or BATCH[platform][size]
  config.dtype = dtype or DTYPE[platform]
  return config


def _batch_size(given: str | None) -> int | None:
  if given is not None and not (given.isdecimal() and int(given)):
    raise UserError(f'--batch_size={given} is not a positive number: give one or more, separated by commas')
  return int(given) if given else None


if __name__ == '__main__':
  flags.DEFINE_list(
      'size', ['demo'],
      f'Student and teacher, those of the shipped configs: of {", ".join(step_sizes.SIZES)}, one or more.')
  flags.DEFINE_enum('platform', 'auto', ('auto', 'cpu', 'gpu'), 'auto: a GPU if both frameworks see one.')
  flags.DEFINE_enum('dtype', None, ('float32', 'bfloat16'), 'None: bfloat16 on a GPU, float32 on a CPU.')
  flags.DEFINE_list('batch_size', None, 'Examples a step, one number or more; None: what suits size and platform.')
  flags.DEFINE_integer('steps', 10, 'Steps a turn.', 1)
  flags.DEFINE_integer('turns', 15, 'Turns of each implementation.', 1)
  flags.DEFINE_float('minutes', 9.0, 'Of several sizes or batches, none is begun after so long.', 0.0)
  flags.DEFINE_bool('profile', False, 'Also report where the time of our step goes (CPU).')
  flags.DEFINE_string('out', None, 'A JSON file for all that was measured.')
  command.run(main)
