"""What seeing the person adds to fine-tuning, where the figure, the surroundings, or both tell the class.

nice -n 19 python -m benchmarks.two_streams --workdir=runs/two_streams --seeds=3

Draws three sets in Emo8's layout (`synthetic.draw_cue`), with the boxes of the figures that were drawn, and fine-tunes
a tiny model from scratch on each, on the scene alone and on scene and person, by one recipe, seed by seed. A finished
cell (set, streams, seed) is never run again, an interrupted one resumes; two_streams.json and two_streams.md are
rewritten after each. docs/two_streams.md holds what was measured.
"""

import itertools
import os
import pathlib

from absl import flags
from ml_collections import ConfigDict
import numpy as np

from configs import demo
from data_pipelines import build
from data_pipelines.storage import exists, read_json, write_json, write_text
from data_pipelines.synthetic import datasets
from data_pipelines.synthetic.world import CUES
from uniemox_jax.finetune import finetune
from uniemox_jax.models.classifier import STREAMS
from uniemox_jax.runtime import cli

ENCODER = {'image_size': 48, 'patch_size': 8, 'width': 64, 'depth': 3, 'heads': 4}
EPOCHS, EVERY = 15, 3


def prepare(workdir: str) -> None:
  """Images and records of every cue, made once."""
  for cue in CUES:
    raw = pathlib.Path(workdir, 'raw', cue)
    datasets.draw_cue(raw, cue)
    build.build('emo8', raw / 'emo8', pathlib.Path(workdir, 'data', cue))


def cell_config(workdir: str, cue: str, streams: str, seed: int) -> ConfigDict:
  """The demo's recipe for a smaller model, and fewer epochs."""
  config = demo.get_config('finetune')
  config.data_dir, config.streams, config.seed = os.path.join(workdir, 'data', cue), streams, seed
  config.epochs, config.eval_every_epochs = EPOCHS, EVERY
  config.model.update(ENCODER)
  return config


def cell_folder(workdir: str, cue: str, streams: str, seed: int) -> str:
  """Where a cell's run lies."""
  return os.path.join(workdir, cue, streams, f'seed{seed}')


def mean_and_spread(values: list[float], form: str) -> str:
  """Mean and standard deviation over seeds as text, '-' for what is not defined."""
  spread = format(np.std(values, ddof=1), '.4f') if len(values) > 1 else '-'
  return f'{format(np.mean(values), form)} | {spread}' if values else '- | -'


def write_table(workdir: str, seeds: int) -> str:
  """Writes top-1 on test of all finished cells to two_streams.json, and a table to two_streams.md, which it returns.

  Differences are of runs with the same seed.
  """
  scores: dict[str, dict[str, dict[int, float]]] = {cue: {streams: {} for streams in STREAMS} for cue in CUES}
  for cue, streams, seed in itertools.product(CUES, STREAMS, range(seeds)):
    path = os.path.join(cell_folder(workdir, cue, streams, seed), 'result.json')
    if exists(path):
      scores[cue][streams][seed] = read_json(path)['top1']
  table = '| what tells the class | scene | spread | scene+person | spread | difference | spread | runs |\n'
  table += '|' + '---|' * 8 + '\n'
  for cue, by_streams in scores.items():
    one, two = by_streams.values()
    paired = [two[seed] - one[seed] for seed in one.keys() & two.keys()]
    alone = ' | '.join(mean_and_spread(list(by_seed.values()), '.4f') for by_seed in (one, two))
    table += f"| {cue} | {alone} | {mean_and_spread(paired, '+.4f')} | {len(one)} + {len(two)} |\n"
  write_json(os.path.join(workdir, 'two_streams.json'), {'top1': scores})
  write_text(os.path.join(workdir, 'two_streams.md'), table)
  return table


def main() -> None:
  """Entry point after flags are parsed."""
  workdir, seeds = flags.FLAGS.workdir, flags.FLAGS.seeds
  prepare(workdir)
  for seed, cue, streams in itertools.product(range(seeds), CUES, STREAMS):
    folder = cell_folder(workdir, cue, streams, seed)
    if not exists(os.path.join(folder, 'result.json')):
      finetune(cell_config(workdir, cue, streams, seed), folder)
    table = write_table(workdir, seeds)
  print(table)


if __name__ == '__main__':
  cli.define_workdir(default='runs/two_streams')
  flags.DEFINE_integer('seeds', 3, 'Repetitions of every cell.', lower_bound=1)
  cli.run(main)
