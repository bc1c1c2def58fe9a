"""The result.json that every evaluation leaves, always with the same first keys."""

import os
from typing import Any

from data_pipelines.storage import write_json
from uniemox_jax.runtime.distributed import is_primary


def result_path(workdir: str, split: str, dataset: str = '', label_map: str = '') -> str:
  """result.json; for another split, dataset or label map result_[DATASET]_[SPLIT]_[MAP].json."""
  parts = ('result', dataset, split if split != 'test' else '', label_map)
  return os.path.join(workdir, '_'.join(filter(None, parts)) + '.json')


def write_result(
    path: str, *, dataset: str, split: str, init: str, checkpoint_step: int | None, config_hash: str,
    **metrics: Any) -> dict[str, Any]:
  """Writes a result, on the primary host alone, and returns it.

  dataset, split: what was evaluated. init: where the weights, or the training that made them, started.
  checkpoint_step: of the evaluated checkpoint; None if there is none. config_hash: of the run's config.
  """
  result = {
      'dataset': dataset, 'split': split, 'init': init, 'checkpoint_step': checkpoint_step, 'config_hash': config_hash,
      **metrics}
  if is_primary():
    write_json(path, result)
  return result
