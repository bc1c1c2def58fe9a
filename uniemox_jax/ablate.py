"""Which part does what: python -m uniemox_jax.ablate --config=configs/demo.py --workdir=runs/ablation

Every row is one way to pretrain, or none, repeated over seeds; all rows are fine-tuned by one recipe and compared on
the Emo8-like test split. Records and teacher come from the demo's folder and are made there if missing. A finished
cell (row, seed) is never run again, an interrupted one resumes; ablation.md and ablation.json are rewritten after each.
The row without the emotion word has a teacher of its own, whose captions did not name the emotion either.
"""

import concurrent.futures
import os
import queue
import subprocess
import sys
import time
from typing import Any

from absl import flags
from ml_collections import ConfigDict
import numpy as np

from data_pipelines.errors import UserError
from uniemox_jax import cli
from uniemox_jax.demo import Stages, check_sections, place, prepare, without_semantics
from uniemox_jax.files import read_json, write_json, write_text
from uniemox_jax.finetune import finetune
from uniemox_jax.pretrain import pretrain
from uniemox_jax.train_clip import TEACHER_FOLDER, train_clip

LABELS_IN_PRETRAINING = {
    'full': 'in captions', 'no_emotion_word': 'none', 'no_contrastive': 'through the teacher',
    'no_similarity': 'in captions', 'no_reconstruction': 'in captions', 'no_fusion': 'in captions', 'mae_only': 'none',
    'supervised': 'as targets', 'scratch': '-'}
"""Every row, and where its pretraining meets the EmoSet-like labels."""


def pretrain_config(row: str, config: ConfigDict, teachers: dict[bool, str]) -> ConfigDict:
  """The pretraining of a row: the demo's, with one thing changed.

  Args:
    row: a key of `LABELS_IN_PRETRAINING` but for supervised and scratch.
    config: the demo's sections.
    teachers: folder of the teacher whose captions held the emotion word (True), or did not (False).
  """
  section = config.pretrain.copy_and_resolve_references()
  section.teacher = teachers[row != 'no_emotion_word']
  if row == 'no_emotion_word':
    section.emotion_in_caption = False
  elif row == 'no_fusion':
    section.model.fusion = 'none'
  elif row == 'mae_only':
    section = without_semantics(section)
  elif row != 'full':
    section.loss[row.removeprefix('no_')] = 0.0
  return section


def supervised_config(config: ConfigDict) -> ConfigDict:
  """Classification of the EmoSet-like labels as pretraining: the pretraining's epochs, batch and rate."""
  section = config.finetune.copy_and_resolve_references()
  for key in ('dataset', 'batch_size', 'epochs', 'warmup_epochs'):
    section[key] = config.pretrain[key]
  section.optimizer.base_lr = config.pretrain.optimizer.base_lr
  section.optimizer.layer_decay = 1.0
  section.eval_every_epochs = config.pretrain.epochs
  return section


def run_cell(row: str, seed: int, config: ConfigDict, teachers: dict[bool, str], folder: str) -> None:
  """Pretrains and fine-tunes one cell, from where an earlier try was stopped."""
  start = os.path.join(folder, 'pretrain')
  if row == 'supervised':
    section = supervised_config(config)
    section.seed = seed
    finetune(section, start)
  elif row != 'scratch':
    section = pretrain_config(row, config, teachers)
    section.seed = seed
    pretrain(section, start)
  section = config.finetune.copy_and_resolve_references()
  section.seed = seed
  section.init = 'none' if row == 'scratch' else start
  finetune(section, os.path.join(folder, 'finetune'))


def write_table(scores: dict[str, dict[int, float]], workdir: str) -> None:
  """ablation.json, and ablation.md with mean, spread (standard deviation over seeds) and difference from scratch."""
  rows: list[dict[str, Any]] = []
  scratch = list(scores.get('scratch', {}).values())
  for row, by_seed in scores.items():
    values = list(by_seed.values())
    spread = float(np.std(values, ddof=1)) if len(values) > 1 else None
    rows.append({'row': row, 'labels_in_pretraining': LABELS_IN_PRETRAINING[row], 'top1_by_seed': by_seed,
                 'mean': float(np.mean(values)), 'spread': spread, 'runs': len(values),
                 'over_scratch': float(np.mean(values) - np.mean(scratch)) if scratch else None})
  lines = ['| pretraining | labels in pretraining | top-1, mean | spread | over scratch | runs |',
           '|---|---|---|---|---|---|']
  for row in rows:
    spread, gain = (format(row[key], form) if row[key] is not None else '-'
                    for key, form in (('spread', '.4f'), ('over_scratch', '+.4f')))
    lines.append(f"| {row['row']} | {row['labels_in_pretraining']} | {row['mean']:.4f} | {spread} | {gain} "
                 f"| {row['runs']} |")
  write_json(os.path.join(workdir, 'ablation.json'), {'rows': rows})
  write_text(os.path.join(workdir, 'ablation.md'), '\n'.join(lines) + '\n')


def train_teacher_without_emotion_word(config: ConfigDict, teacher: str) -> None:
  """A teacher whose captions never named the emotion, so that its row sees no label at all; made once."""
  if not os.path.isdir(teacher):
    section = config.clip.copy_and_resolve_references()
    section.emotion_in_caption = False
    train_clip(section, os.path.dirname(teacher))


def cell_folder(workdir: str, row: str, seed: int) -> str:
  """Where a cell's runs and its log.txt lie."""
  return os.path.join(workdir, row, f'seed{seed}')


def read_scores(workdir: str, cells: list[tuple[str, int]]) -> dict[str, dict[int, float]]:
  """Top-1 on test of every finished cell, by row and seed, in the rows' order."""
  scores: dict[str, dict[int, float]] = {row: {} for row in LABELS_IN_PRETRAINING}
  for row, seed in cells:
    path = os.path.join(cell_folder(workdir, row, seed), 'finetune', 'result.json')
    if os.path.exists(path):
      scores[row][seed] = read_json(path)['top1']
  return {row: by_seed for row, by_seed in scores.items() if by_seed}


def _run_in_process(row: str, seed: int, folder: str, cpus: queue.Queue[list[int]]) -> str | None:
  """Runs one cell as a process of its own on the next free CPUs; the last line it wrote if it failed."""
  own = cpus.get()
  os.makedirs(folder, exist_ok=True)
  command = [sys.executable, '-m', 'uniemox_jax.ablate', *sys.argv[1:], f'--cell={row}:{seed}',
             f'--cpus={",".join(map(str, own))}']
  with open(os.path.join(folder, 'log.txt'), 'w+', encoding='utf-8') as log:
    failed = subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, check=False).returncode
    cpus.put(own)
    log.seek(0)
    return (log.read().strip().splitlines() or ['no output'])[-1] if failed else None


def _share_cpus(jobs: int) -> queue.Queue[list[int]]:
  """This process's CPUs dealt out to `jobs` processes: small steps run better one to a core than all over all."""
  available = sorted(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else []
  shares: queue.Queue[list[int]] = queue.Queue()
  for job in range(jobs):
    shares.put(available[job::jobs] or available)
  return shares


def ablate(workdir: str, seeds: int, jobs: int) -> None:
  """Runs all cells that are not finished, seed by seed, and keeps the table up to date.

  Raises:
    UserError: some cells failed; they are named, all others are finished.
  """
  cells = [(row, seed) for seed in range(seeds) for row in LABELS_IN_PRETRAINING]
  cpus, start, done = _share_cpus(jobs), time.perf_counter(), 0
  scores, failed = read_scores(workdir, cells), []
  todo = [cell for cell in cells if cell[1] not in scores.get(cell[0], {})]
  with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
    futures = {pool.submit(_run_in_process, *cell, cell_folder(workdir, *cell), cpus): cell for cell in todo}
    for future in concurrent.futures.as_completed(futures):
      row, seed = futures[future]
      done += 1
      if said := future.result():
        failed.append(f'{row} seed {seed} ({said})')
      scores = read_scores(workdir, cells)
      write_table(scores, workdir)
      left = (time.perf_counter() - start) / done * (len(todo) - done) / 60
      print(f'== {row} seed {seed}: top-1 {scores.get(row, {}).get(seed, float("nan")):.4f}  '
            f'{len(cells) - len(todo) + done}/{len(cells)} cells  {left:.0f} min left', flush=True)
  if failed:
    raise UserError(f'{len(failed)} cells failed: {"; ".join(failed)}; run the same command again for these alone')


def main() -> None:
  """Entry point after flags are parsed."""
  values = flags.FLAGS
  check_sections(values.config)
  config = place(values.config, values.demo_workdir)
  teachers = {True: config.pretrain.teacher,
              False: os.path.join(values.workdir, 'clip_no_emotion_word', TEACHER_FOLDER)}
  if values.cell:
    if values.cpus and hasattr(os, 'sched_setaffinity'):
      os.sched_setaffinity(0, map(int, values.cpus))
    row, seed = values.cell.split(':')
    run_cell(row, int(seed), config, teachers, cell_folder(values.workdir, row, int(seed)))
    return
  prepare(config, values.demo_workdir, Stages(values.demo_workdir))
  train_teacher_without_emotion_word(config, teachers[False])
  ablate(values.workdir, values.seeds, values.jobs)
  with open(os.path.join(values.workdir, 'ablation.md'), encoding='utf-8') as table:
    print(table.read())


if __name__ == '__main__':
  cli.define_config()
  cli.define_workdir(default='runs/ablation')
  flags.DEFINE_string('demo_workdir', 'runs/demo', "The demo's folder, whose records and teacher are used.")
  flags.DEFINE_integer('seeds', 3, 'Repetitions of every row.', lower_bound=1)
  flags.DEFINE_integer('jobs', 2, 'Cells that run side by side, each on its share of the CPUs.', lower_bound=1)
  flags.DEFINE_string('cell', None, 'ROW:SEED, one cell alone, in this process.')
  flags.DEFINE_list('cpus', None, 'CPUs of a single cell.')
  cli.run(main)
