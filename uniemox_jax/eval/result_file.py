"""The result.json that every evaluation leaves, always with the same first keys."""

import os
from typing import Any

from data_pipelines.storage import exists, parsing, read_json_object, write_sealed
from uniemox_jax.runtime.distributed import is_primary
from uniemox_jax.train import run_folder


def result_path(
    workdir: str, split: str, dataset: str = '', label_map: str = '', final: str = 'test', change: str = '') -> str:
  """The path of result.json, or of result_[DATASET]_[SPLIT]_[MAP]_[CHANGE].json for another split, dataset, label map
  or changed images.

  `final` is the split of the run's own result, which is not named.
  """
  parts = ('result', dataset, split if split != final else '', label_map, change)
  return os.path.join(workdir, '_'.join(filter(None, parts)) + '.json')


def write_result(
    path: str, *, dataset: str, split: str, init: str, checkpoint_step: int | None, config_hash: str,
    **metrics: Any) -> dict[str, Any]:
  """Writes a result, on the primary host alone, and returns it.

  dataset, split: what was evaluated. init: where the weights, or the training that made them, started.
  checkpoint_step: that of the evaluated checkpoint, or None. config_hash: the hash of the run's config.
  """
  result = {
      'dataset': dataset, 'split': split, 'init': init, 'checkpoint_step': checkpoint_step, 'config_hash': config_hash,
      **metrics}
  if is_primary():
    write_sealed(path, result)
  return result


def read_result(folder: str, tested_on: str = '') -> dict[str, Any] | None:
  """Reads the result.json in a run's folder, or that on changed test images, or on another dataset; None without one.

  `tested_on` is the change, or `Transfer.file_part` of the dataset.

  Raises:
    UserError: the file is damaged, or another run's.
  """
  path, config_path = result_path(folder, 'test', change=tested_on), os.path.join(folder, 'config.json')
  if not exists(path):
    return None
  result = read_json_object(path)
  with parsing(path):
    if not run_folder.is_of_run(result, read_json_object(config_path) if exists(config_path) else None):
      raise ValueError('it is not of the run whose config.json lies beside it')
  return result
