"""Reads what a run leaves in its workdir beside the checkpoints: its config, its result, and a CLIP's own folder."""

from collections.abc import Mapping
import os
import sys
from typing import Any

from etils import epath

from data_pipelines.storage import absolute, read_json_object
from uniemox_jax.train.checkpoint import FOLDER
from uniemox_jax.train.kept_config import is_of_run

TEACHER_FOLDER = 'teacher'
"""The folder to which `train_clip` writes its CLIP, in a form that `--config.teacher` takes."""


def run_folder(checkpoint: str | os.PathLike) -> epath.Path:
  """The workdir of a checkpoint PATH, which is the path itself or that of a step folder."""
  path = absolute(checkpoint)
  return path.parents[1] if path.parent.name == FOLDER else path


def read_run_config(run: epath.Path) -> dict[str, Any]:
  """Reads the config that a run was trained with; {} for another kind of folder, such as an `import_torch` output."""
  config = _read_object(run / 'config.json')
  return config if 'epochs' in config else {}


def predicts_normalised_patches(checkpoint: str | os.PathLike, description: Mapping[str, Any]) -> bool:
  """Whether a decoder was trained on normalised patches, as its run or the weights of another library say."""
  stated = description.get('norm_pix')
  run = read_run_config(run_folder(checkpoint)) if stated is None else {}
  return bool(stated or run.get('loss', {}).get('norm_pix'))


def read_run_result(run: epath.Path, step: int | None) -> dict[str, Any]:
  """Reads the result.json of a run; {} without one, or if it says that it is about another step or run."""
  if step is None or not (run / 'result.json').exists():
    return {}
  result, config = _read_object(run / 'result.json'), _read_object(run / 'config.json')
  if result.get('checkpoint_step') == step and is_of_run(result, config or None):
    return result
  print(f'{run}/result.json is about another step than {step}, or another run: not used', file=sys.stderr, flush=True)
  return {}


def _read_object(path: epath.Path) -> dict[str, Any]:
  return read_json_object(path) if path.exists() else {}
