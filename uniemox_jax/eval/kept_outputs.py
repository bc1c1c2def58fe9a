"""The file outputs.npz keeps what a run predicted for every tested example, and what is true, beside result.json.

For changed test images its name is outputs_CHANGE.npz, and for a transfer outputs_DATASET[_MAP].npz.

`compare` draws test images from it anew, to say how far a result depends on them. With 8 classes it takes some 40 bytes
an example, and twice that if records have votes and a majority, see `ambiguity`.
"""

from collections.abc import Mapping, Sequence
import hashlib
import os
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from data_pipelines.records.reader import Split
from data_pipelines.storage import exists
from uniemox_jax.eval.ambiguity import Answers, Truths, shared_columns
from uniemox_jax.objectives.tasks import Task, prepare_targets, split_columns
from uniemox_jax.runtime.array_cache import read_arrays, write_arrays
from uniemox_jax.runtime.distributed import is_primary


class KeptOutputs(NamedTuple):
  """The kept outputs of one task. example_N: uint64, see `example_keys`. outputs_NxC: the head's outputs, float32.
  target: for 'label' class indices int32 (N,), -1 for none; else float32 (N, C) of `tasks.prepare_targets`, NaN for
  none."""

  example_N: np.ndarray
  outputs_NxC: np.ndarray
  target: np.ndarray


def example_keys(split: Split) -> np.ndarray:
  """A number of each record that is the same in every split, fold and build: 8 bytes of its id's SHA-256, uint64."""
  digests = (hashlib.sha256(name.encode()).digest()[:8] for name in split.ids())
  return np.fromiter(map(int.from_bytes, digests), np.uint64, split.num_examples)


def _path(folder: str, tested_on: str) -> str:
  return os.path.join(folder, f'outputs_{tested_on}.npz' if tested_on else 'outputs.npz')


def keep_outputs(
    folder: str, config_hash: str, example_N: np.ndarray, tasks: Sequence[Task], found: Mapping[str, np.ndarray],
    truths: Truths | None = None, tested_on: str = '') -> None:
  """Writes outputs.npz, on the primary host alone.

  Args:
    folder: the run's folder.
    config_hash: the hash of its config, which result.json has too.
    example_N: see `example_keys`.
    tasks: the tasks whose outputs they are.
    found: 'outputs' (N, W), and the target of every task, as `split_outputs` returns them.
    truths: the truths of the examples, if they have votes and a majority.
    tested_on: a change of the images, or `Transfer.file_part` of another dataset; '' for the run's own test.
  """
  if not is_primary():
    return
  arrays = {'example': example_N}
  for name, outputs_NxC in split_columns(found['outputs'], tasks).items():
    task = next(task for task in tasks if task.name == name)
    arrays[f'{name}_outputs'] = outputs_NxC.astype(np.float32)
    if name == 'label':
      arrays[f'{name}_target'] = found[name].astype(np.int32)
    else:
      target_NxC, present_NxK = map(np.asarray, prepare_targets(task, jnp.asarray(found[name])))
      arrays[f'{name}_target'] = np.where(present_NxK > 0, target_NxC, np.nan).astype(np.float32)
  if columns := shared_columns(tasks, truths):
    assert truths
    arrays |= {'majority': truths.majority_N, 'votes': truths.votes_NxC}
    arrays |= {f'{name}_shared': places for name, places in columns.items()}
  write_arrays(_path(folder, tested_on), config_hash, **arrays)


def read_outputs(folder: str, config_hash: str, task: str, tested_on: str = '') -> KeptOutputs | None:
  """Reads what `keep_outputs` wrote of a task; None if an earlier version ran, which kept nothing.

  Raises:
    UserError: the file is damaged, or another run's.
  """
  shape: tuple[int | None, ...] = (None,) if task == 'label' else (None, None)
  found = _read(
      _path(folder, tested_on), config_hash, example=(None,),
      **{f'{task}_outputs': (None, None), f'{task}_target': shape})
  return KeptOutputs(*found) if found else None


def read_answers(folder: str, config_hash: str, task: str) -> tuple[np.ndarray, Answers] | None:
  """Reads the examples' keys and a task's answers, for a run whose result has 'ambiguity'; else as `read_outputs`."""
  names = {'example': (None,), f'{task}_outputs': (None, None), f'{task}_shared': (None,)}
  found = _read(_path(folder, ''), config_hash, **names, majority=(None,), votes=(None, None))
  if found is None:
    return None
  example_N, outputs_NxC, columns, majority_N, votes_NxC = found
  return example_N, Answers(outputs_NxC[:, columns], majority_N, votes_NxC)


def _read(path: str, config_hash: str, **shapes: tuple[int | None, ...]) -> tuple[np.ndarray, ...] | None:
  remedy = 'restore it, or delete it, and the run has no interval'
  return read_arrays(path, config_hash, remedy=remedy, **shapes) if exists(path) else None
