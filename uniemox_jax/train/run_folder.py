"""What lies in a run's folder beside its checkpoints: `config.json`, `inputs.json` (digests of files), the result."""

from collections.abc import Mapping
import dataclasses
import hashlib
import json
import os
import sys
from typing import Any, TypeVar

from etils import epath
import jax

from data_pipelines.errors import UserError
from data_pipelines.storage import absolute, exists, parsing, read_json_object, write_sealed
from uniemox_jax.runtime.distributed import is_primary, is_same_everywhere, wait_for_all
from uniemox_jax.runtime.hardware import best_dtype
from uniemox_jax.train.checkpoint import FOLDER
from uniemox_jax.train.config import AUTO, DTYPES, DataConfig, config_class

Config = TypeVar('Config', bound=DataConfig)

TEACHER_FOLDER = 'teacher'
"""The folder to which `train_clip` writes its CLIP, in a form that `--config.teacher` takes."""
_INPUTS = 'inputs.json'
# What a resumed run may change: none of it changes the numbers that a step computes.
_FREE_KEYS = frozenset({
    'data_dir', 'teacher', 'teacher_shape', 'teacher_sharded', 'init', 'mesh', 'log_every', 'save_every',
    'images_every', 'max_skipped_steps', 'features_dir'})
# What is measured after a run, in files of its own. It may change even where config.json may not, whose hash they hold.
_LATER_KEYS = frozenset({'test_changes', 'transfers'})


def config_hash(config: Mapping[str, Any]) -> str:
  """The first 16 hex digits of the SHA-256 of the config as sorted JSON."""
  return hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()[:16]


def run_hash(config: Mapping[str, Any]) -> str:
  """The `config_hash` of the keys that a resumed run may not change. Its checkpoints keep it."""
  return config_hash({
      key: value for key, value in config.items() if key == 'init' or key not in _FREE_KEYS | _LATER_KEYS})


def is_of_run(result: Mapping[str, Any], config: Mapping[str, Any] | None) -> bool:
  """Whether a result belongs to the run with this config. A config of None, or a result without a hash, fits any."""
  return config is None or result.get('config_hash', config_hash(config)) == config_hash(config)


def read_kept_config(workdir: str, description: Mapping[str, Any]) -> dict[str, Any]:
  """Reads the `config.json` of the run's folder in which a checkpoint with this description lies.

  Raises:
    UserError: it is missing, damaged, or another run's.
  """
  path = os.path.join(workdir, 'config.json')
  if not exists(path):
    raise UserError(f'{workdir} has no config.json: give the --workdir of a run, not a step folder')
  config = read_json_object(path)
  if description.get('run_hash', run_hash(config)) != run_hash(config):
    raise UserError(f'{path} is not what the checkpoints beside it were trained with: restore it')
  return config


def _with_defaults(config: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
  return dict(defaults) | {
      name: _with_defaults(value,
                           defaults.get(name) or {}) if isinstance(value, Mapping) else value
      for name, value in config.items()}


def changed_keys(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
  """The keys whose values differ, except those that change no number that a step computes.

  A key that one config leaves out has its default, so a run that is older than the key resumes. If the new dtype is
  auto, the run keeps its own, see `settle_dtype`.
  """
  free = _FREE_KEYS | _LATER_KEYS | ({'dtype'} if new.get('dtype') == AUTO else set())
  old, new = (_with_defaults(config, dataclasses.asdict(config_class(config)())) for config in (old, new))
  return sorted(key for key in old.keys() | new.keys() if key not in free and old.get(key) != new.get(key))


def settle_dtype(config: Config, workdir: str | None) -> Config:
  """Replaces the dtype `auto` by that of the run in `workdir`, else by the devices' best one, and prints it.

  So a run keeps the dtype that it began with, wherever it goes on.
  """
  if config.dtype != AUTO:
    return config
  path, device = os.path.join(workdir, 'config.json') if workdir else None, jax.devices()[0]
  kept = read_json_object(path).get('dtype') if path and exists(path) else None
  began = kept in DTYPES
  dtype = str(kept) if began else best_dtype(device)
  if is_primary():
    print(f"dtype: {dtype}, {'as the run began' if began else f'chosen for {device.device_kind}'}", flush=True)
  return dataclasses.replace(config, dtype=dtype)


def _has_steps(workdir: str) -> bool:
  folder = epath.Path(workdir) / FOLDER
  return folder.exists() and any(path.name.isdigit() for path in folder.iterdir())


def keep_config(config: DataConfig, workdir: str, inputs: Mapping[str, str | None] | None = None) -> dict[str, Any]:
  """Writes `config.json` and `inputs.json`, or checks that a resumed run's config and inputs are the same.

  Once steps are saved, `config.json` keeps the `init` that they began from. Nothing is written after an error.
  `inputs` holds, by config key, a digest of the files that the key names, or None where it is not known.

  Returns:
    The content that `config.json` has now.

  Raises:
    UserError: the workdir belongs to a run with other values, which are named; the files that it was trained from have
      changed; or processes read different files.
  """
  inputs = dict(inputs or {})
  if different := [f'--config.{key}' for key in sorted(inputs) if not is_same_everywhere(inputs[key])]:
    raise UserError(f'{" and ".join(different)} names other files on some hosts: give all of them the same')
  path = os.path.join(workdir, 'config.json')
  kept = dataclasses.asdict(config)
  if exists(path):
    old = read_json_object(path)
    with parsing(path):
      changed = changed_keys(old, kept)
    if changed:
      longer = f' with --config.init={workdir}, a new schedule from its end' if 'epochs' in changed else ''
      raise UserError(
          f"{workdir} holds a run with other values of {', '.join(changed)}: "
          f'restore them to resume it, or choose another --workdir{longer}')
    if kept['init'] != old.get('init') and _has_steps(workdir):
      if is_primary():
        print(
            f"--config.init={kept['init']} is not used: the run in {workdir} began from {old['init']}, and resumes",
            flush=True)
      kept['init'] = old['init']
    # All else says the same, perhaps by leaving it out: the run's hash stays as it was.
    kept = {name: kept[name] if name in _FREE_KEYS else value for name, value in old.items()}
  if _has_steps(workdir):
    inputs = _same_inputs(workdir, inputs)
  wait_for_all('config compared')
  if is_primary():
    write_sealed(path, kept)
    if inputs:
      write_sealed(os.path.join(workdir, _INPUTS), inputs)
  return kept


def _same_inputs(workdir: str, inputs: dict[str, str | None]) -> dict[str, str | None]:
  """What is known of the inputs of the run that is resumed.

  Raises:
    UserError: they are not those that it was trained with.
  """
  path = os.path.join(workdir, _INPUTS)
  old = read_json_object(path) if exists(path) else {}
  compared = {key for key in inputs if old.get(key) and inputs[key]}
  if changed := [f'--config.{key}' for key in sorted(compared) if inputs[key] != old[key]]:
    raise UserError(
        f'{workdir} was trained with other files than {" and ".join(changed)} names now: name those again, '
        f'or delete {path} to go on with these')
  if is_primary() and (unknown := [f'--config.{key}' for key in sorted(inputs.keys() - compared)]):
    print(
        f'{" and ".join(unknown)}: not compared with what {workdir} was trained with, which is not known',
        file=sys.stderr, flush=True)
  return {key: inputs[key] or old.get(key) for key in inputs}


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
