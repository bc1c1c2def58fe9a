"""Chooses the demo's fine-tuning recipe: the one that is best for *scratch* on val, then frozen for all.

python -m benchmarks.scratch_recipe --config=configs/demo.py:finetune --workdir=runs/recipe

Twenty epochs are the most that the demo has time for. Every recipe of the grid trains from scratch over `--seeds`
seeds; recipes.md ranks them by mean top-1 on val. Test is not looked at here. Finished runs are not repeated.
"""

import itertools
import os

from absl import flags
from ml_collections import ConfigDict
import numpy as np

from data_pipelines.storage import read_json, write_text
from uniemox_jax.eval.run_evaluation import evaluate
from uniemox_jax.finetune import finetune
from uniemox_jax.runtime import cli

GRID = {
    'epochs': (10, 20),
    'optimizer.base_lr': (4e-3, 8e-3),
    'optimizer.layer_decay': (0.75, 1.0),}


def val_accuracy(config: ConfigDict, recipe: dict[str, float], seed: int, workdir: str) -> float:
  """Top-1 on val of the best epoch of one run from scratch."""
  config = config.copy_and_resolve_references()
  config.update_from_flattened_dict(recipe)
  config.seed = seed
  folder = os.path.join(workdir, '_'.join(f'{key.split(".")[-1]}={value}' for key, value in recipe.items()), str(seed))
  if not os.path.exists(os.path.join(folder, 'result_val.json')):
    finetune(config, folder)
    evaluate(folder, 'val')
  return read_json(os.path.join(folder, 'result_val.json'))['top1']


def main() -> None:
  """Entry point after flags are parsed."""
  values = flags.FLAGS
  rows = []
  for setting in itertools.product(*GRID.values()):
    recipe = dict(zip(GRID, setting))
    scores = [val_accuracy(values.config, recipe, seed, values.workdir) for seed in range(values.seeds)]
    rows.append((float(np.mean(scores)), float(np.std(scores)), recipe))
    rows.sort(key=lambda row: -row[0])
    lines = [
        f'| {" | ".join(str(value) for value in recipe.values())} | {mean:.4f} | {spread:.4f} |'
        for mean, spread, recipe in rows]
    head = f'| {" | ".join(GRID)} | val top-1, mean of {values.seeds} | spread |\n|{"---|" * (len(GRID) + 2)}\n'
    write_text(os.path.join(values.workdir, 'recipes.md'), head + '\n'.join(lines) + '\n')
  print('\n'.join(lines))


if __name__ == '__main__':
  cli.define_config()
  cli.define_workdir()
  flags.DEFINE_integer('seeds', 2, 'Seeds a recipe.')
  cli.run(main)
