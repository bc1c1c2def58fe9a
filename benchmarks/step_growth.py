"""How a pretraining step grows with batch, tokens, width and depth: python -m benchmarks.step_growth --on=cpu --out=DIR

--on=cpu takes the demo's step and measures it; --on=v5e:1x1 asks the TPU's compiler about ViT-B/16, --on=h100:1 a GPU's
(docs/gpu.md), which knows its memory alone. One axis at a time is changed. DIR keeps every point, so the same command
goes on where it stopped, and draws step_growth.png from all that DIR holds. docs/performance.md shows what was found.
"""

from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
import multiprocessing
import os
from pathlib import Path
import statistics
from typing import Any

from absl import flags
from matplotlib.figure import Figure
from ml_collections import ConfigDict
import numpy as np
from tqdm import tqdm

from benchmarks.steps import step_sizes, step_worker
from configs import pretrain_emoset_vitb16
from data_pipelines import command
from data_pipelines.storage import exists, read_json_object, write_json
from uniemox_jax.plan.planning import plan
from uniemox_jax.runtime.hardware import GIB

AXES = {
    'cpu': {
        'batch': (8, 16, 32, 64, 128, 256), 'tokens': (16, 36, 64, 100, 144, 196), 'width': (48, 96, 192, 384),
        'depth': (2, 4, 8, 16)}, 'compiler': {
            'batch': (16, 32, 64, 128, 256), 'tokens': (49, 100, 196, 400), 'width': (384, 768, 1024, 1280),
            'depth': (6, 12, 24)}}
"""Patches of a view, and what else is asked for, of one axis at a time."""
BASE = {
    'cpu': {'batch': 64, 'tokens': 36, 'width': 96, 'depth': 4},
    'compiler': {'batch': 128, 'tokens': 196, 'width': 768, 'depth': 12}}
"""The demo's student, and ViT-B/16 with 128 examples a device."""
SECONDS, TURNS = 0.5, 7
QUANTITIES = {'seconds': 'time of a step', 'bytes': 'memory'}
"""What grows, with its title in the figure. On a CPU the time is that of all threads, which other jobs disturb less."""
_HEAD_WIDTH = {'cpu': 24, 'compiler': 64}

Point = dict[str, int]


def kind_of(where: str) -> str:
  """Which axes and base 'cpu' or a topology has."""
  return 'cpu' if where == 'cpu' else 'compiler'


def points(kind: str) -> list[Point]:
  """The base, then every other value of each axis."""
  base = BASE[kind]
  return [
      base, *(base | {axis: value} for axis, values in AXES[kind].items() for value in values if value != base[axis])]


def config_of(kind: str, point: Point) -> ConfigDict:
  """The pretraining config of a point; the teacher stays as it is, and sees the view's size."""
  config = step_sizes.load('demo') if kind == 'cpu' else pretrain_emoset_vitb16.get_config()
  side = config.model.patch_size * round(point['tokens']**0.5)
  config.batch_size = point['batch']
  config.model.update(
      image_size=side, width=point['width'], depth=point['depth'], heads=point['width'] // _HEAD_WIDTH[kind])
  return config


def time_on_cpu(point: Point) -> dict[str, float]:
  """Seconds of a step, of the wall and of all threads' CPU time, in a process of its own: the median over turns."""
  config = config_of('cpu', point)
  config.size = 'demo'
  with ProcessPoolExecutor(1, multiprocessing.get_context('spawn')) as process:
    process.submit(step_worker.build, 'ours', config, 'cpu').result()
    warm = process.submit(step_worker.run, 1).result()['seconds']
    steps = max(1, round(SECONDS / warm))
    turns = [process.submit(step_worker.run, steps).result() for _ in range(TURNS)]
  return {name: statistics.median(turn[name] for turn in turns) / steps for name in ('seconds', 'cpu_seconds')}


def ask_compiler(topology: str, point: Point) -> dict[str, float]:
  """Seconds by the compiler's cycles, where it counts them, and bytes of memory, of a step on one device."""
  result = plan(config_of('compiler', point), topology)
  clock = result['compiler_clock']
  return {'bytes': result['hbm_bytes_per_device']} | ({'seconds': clock['seconds']} if clock else {})


def grow(where: str, folder: str) -> list[dict[str, Any]]:
  """All points of 'cpu' or of a topology, each with its seconds and bytes; those of an earlier try are read."""
  kind = kind_of(where)
  path = os.path.join(folder, f'{where.replace(":", "_")}.json')
  kept: dict[str, Any] = read_json_object(path) if exists(path) else {'on': where, 'points': []}
  known = {_key(point): point for point in kept['points']}
  measure: Callable[[Point], dict[str,
                                  float]] = time_on_cpu if kind == 'cpu' else lambda point: ask_compiler(where, point)
  for point in tqdm(points(kind), where, unit='point'):
    if _key(point) not in known:
      known[_key(point)] = point | measure(point)
      write_json(path, {'on': where, 'points': list(known.values())})
  return list(known.values())


def _key(point: dict[str, Any]) -> tuple[Any, ...]:
  return tuple(point[axis] for axis in BASE['cpu'])


def curve(run: dict[str, Any], axis: str, quantity: str) -> list[tuple[int, float]]:
  """(value of the axis, one of `QUANTITIES`) of a run's points in which only this axis differs from the base."""
  if (run['on'], quantity) == ('cpu', 'seconds'):
    quantity = 'cpu_seconds'
  base = BASE[kind_of(run['on'])]
  others = [other for other in base if other != axis]
  return sorted((point[axis], point[quantity])
                for point in run['points']
                if quantity in point and all(point[other] == base[other] for other in others))


def exponent(line: list[tuple[int, float]]) -> float:
  """The p of y = c x^p: the slope of log y over log x, by least squares."""
  x_N, y_N = np.log(line).T
  return float(np.polyfit(x_N, y_N, 1)[0])


def powers(run: dict[str, Any]) -> str:
  """A table of the powers of each axis by which time and memory grow, and memory as a fixed part and one an example."""
  rows = ['| grows with | time, as a power | memory, as a power |', '|---|---|---|']
  for axis in BASE['cpu']:
    curves = [curve(run, axis, quantity) for quantity in QUANTITIES]
    rows.append(f'| {axis} | {" | ".join(f"{exponent(line):.2f}" if len(line) > 1 else "-" for line in curves)} |')
  if len(memory := curve(run, 'batch', 'bytes')) > 1:
    example, fixed = np.polyfit([batch for batch, _ in memory], [size for _, size in memory], 1)
    rows.append(f'\nmemory by batch: {fixed / GIB:.2f} GiB, and {example / 2**20:.1f} MiB an example')
  return '\n'.join(rows)


def draw(folder: str) -> None:
  """step_growth.png: a column an axis; time above, memory below, as multiples of the base's, with their powers."""
  runs = [read_json_object(str(path)) for path in sorted(Path(folder).glob('*.json'))]
  figure = Figure(figsize=(11, 5.4), layout='constrained')
  panels = figure.subplots(2, len(BASE['cpu']), sharey='row')
  for row, (quantity, title) in zip(panels, QUANTITIES.items()):
    for axes, axis in zip(row, BASE['cpu']):
      for number, run in enumerate(runs):
        line = curve(run, axis, quantity)
        if len(line) > 1:
          base = BASE[kind_of(run['on'])][axis]
          x_N, y_N = np.array(line).T
          axes.plot(
              x_N / base, y_N / dict(line)[base], marker='o', markersize=4, color=f'C{number}',
              label=f'{run["on"]}: {exponent(line):.2f}')
      axes.plot([0.25, 4], [0.25, 4], color='#bbbbbb', linewidth=1, zorder=0)
      axes.set_xscale('log', base=2)
      axes.set_yscale('log', base=2)
      axes.set(title=f'{title}, by {axis}', xlabel=f'{axis} / base')
      axes.grid(alpha=0.3)
      if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize='small')
    row[0].set_ylabel('multiple of the base')
  figure.savefig(os.path.join(folder, 'step_growth.png'), dpi=100)


def main() -> None:
  """Prints a table of every point and one of powers, and draws."""
  where, folder = flags.FLAGS.on, flags.FLAGS.out
  print(f'| {" | ".join(BASE["cpu"])} | ms a step | CPU ms a step | examples/s | memory |\n|{"---|" * 8}')
  found = grow(where, folder)
  for point in found:
    seconds, cpu_seconds, size = (point.get(name) for name in ('seconds', 'cpu_seconds', 'bytes'))
    cells = [
        *(str(value) for value in _key(point)), f'{1e3 * seconds:.4g}' if seconds else '-',
        f'{1e3 * cpu_seconds:.4g}' if cpu_seconds else '-', f'{point["batch"] / seconds:.4g}' if seconds else '-',
        f'{size / GIB:.2f} GiB' if size else '-']
    print(f'| {" | ".join(cells)} |')
  print('\n' + powers({'on': where, 'points': found}))
  draw(folder)


if __name__ == '__main__':
  flags.DEFINE_string('on', 'cpu', 'cpu, or a topology that `plan` takes, of one device.')
  command.define_path('out', 'runs/step_growth', 'Folder for the points and the figure.', remote=False)
  command.run(main)
