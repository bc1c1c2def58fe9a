"""Draws the harder world as two tables: images with captions to pretrain on, and labelled images."""

from collections.abc import Iterator
import concurrent.futures
import csv
import multiprocessing
import os
import pathlib
import signal
from typing import Any

import numpy as np
import tqdm

from data_pipelines import storage
from data_pipelines.building import base_builder
from data_pipelines.synthetic import datasets, hard_oracle
from data_pipelines.synthetic.hard_rows import draw_rows, majority_labels, plan_scene

REVISION = 1
"""The revision, which must be raised whenever the same seed gives other images or rows."""
SIZES = {'unlabelled': 20000, 'train': 800, 'val': 400, 'test': 2000}
TABLE = 'table.csv'
_CHUNK = 100
"""Images that a worker draws before it takes others."""


def draw_hard(out: str | os.PathLike, sizes: dict[str, int] | None = None, seed: int = 0,
              workers: int | None = None) -> dict[str, Any]:
  """Draws `out/unlabelled` and `out/labelled`, each with `table.csv` for `data_pipelines.build --dataset=table`.

  Each appears whole or not at all; one with the same settings is kept. It prints what the oracle reaches on test.

  Args:
    out: the folder of the two.
    sizes: the number of images by part; `SIZES` has those that are missing.
    seed: every image is a function of (seed, part, its index), so a larger part begins with the smaller one.
    workers: the number of processes; None for one per CPU core. They change no byte.

  Returns:
    The provenance of `out/labelled`, with the oracle's results.

  Raises:
    UserError: a folder holds something else.
  """
  sizes = SIZES | (sizes or {})
  workers = workers or os.cpu_count() or 1
  common = {'synthetic': True, 'world': 'hard', 'revision': REVISION, 'seed': seed}
  labelled = {part: sizes[part] for part in ('train', 'val', 'test')}
  unlabelled = {'unlabelled': sizes['unlabelled']}
  oracle = _oracle_of_test(sizes['test'], seed)
  provenance = {**common, 'examples': labelled, 'oracle': oracle}
  _write_table(pathlib.Path(out) / 'unlabelled', unlabelled, {**common, 'examples': unlabelled}, workers)
  _write_table(pathlib.Path(out) / 'labelled', labelled, provenance, workers)
  for line in _lines(oracle):
    print(line)
  return provenance


def _oracle_of_test(examples: int, seed: int) -> dict[str, Any]:
  planned = [plan_scene('test', index, seed) for index in range(examples)]
  said = np.array([one.said for one in planned])
  expected = {
      name: round(hard_oracle.expected_accuracy(target, sees), 4)
      for name, (target, sees) in hard_oracle.QUESTIONS.items()}
  found = hard_oracle.scores([one.scene for one in planned], said, majority_labels(said))
  return found | {'expected': expected}


def _lines(oracle: dict[str, Any]) -> Iterator[str]:
  yield 'the best possible accuracy on test, from what is drawn (of infinitely many images):'
  for name, expected in oracle['expected'].items():
    yield f'  {name:12} {oracle[name]:.4f} ({expected:.4f})'
  yield f"  {'domain':12} {oracle['domain']:.4f} (1.0000)"
  yield f"divergence of the votes from the best shares: {oracle['votes_kl']:.4f}"
  for kind, found in oracle['by_cues'].items():
    yield f'  cues {kind}: ' + ', '.join(f'{name} {value:.4f}' for name, value in found.items())


def _write_table(folder: pathlib.Path, parts: dict[str, int], provenance: dict, workers: int) -> None:
  if datasets.is_drawn(folder, provenance):
    return
  jobs = [(part, range(start, min(start + _CHUNK, size)))
          for part, size in parts.items()
          for start in range(0, size, _CHUNK)]
  with storage.whole_folder(folder) as unfinished:
    rows: list[dict[str, Any]] = []
    with tqdm.tqdm(total=sum(parts.values()), desc=f'drawing {folder.name}', unit=' images') as bar:
      for drawn in _drawn(unfinished, jobs, provenance['seed'], workers):
        rows += drawn
        bar.update(len(drawn))
    with storage.open_local(unfinished / TABLE, 'w', newline='', encoding='utf-8') as file:
      writer = csv.DictWriter(file, list(rows[0]))
      writer.writeheader()
      writer.writerows(rows)
    storage.write_json(unfinished / base_builder.PROVENANCE, provenance)


def _drawn(folder: pathlib.Path, jobs: list[tuple[str, range]], seed: int,
           workers: int) -> Iterator[list[dict[str, Any]]]:
  """The rows of each job, in order."""
  if workers == 1:
    yield from (draw_rows(folder, part, indices, seed) for part, indices in jobs)
    return
  # Processes that begin anew: a fork would copy the threads' locks of the libraries that are loaded here.
  context = multiprocessing.get_context('spawn')
  ignore_interrupt = signal.SIGINT, signal.SIG_IGN  # Ctrl-C is this process's to handle.
  with concurrent.futures.ProcessPoolExecutor(workers, context, signal.signal, ignore_interrupt) as pool:
    parts, indices = zip(*jobs)
    count = len(jobs)
    try:
      yield from pool.map(draw_rows, [folder] * count, parts, indices, [seed] * count)
    except BaseException:
      pool.shutdown(cancel_futures=True)
      raise
