"""Configs as the verbs take them: every key is known and does something, and a run's own config is kept with it."""

import hashlib
import json
import os
import sys
from typing import Any

from etils import epath
import jax.numpy as jnp
from ml_collections import ConfigDict

from data_pipelines.errors import UserError
from uniemox_jax.models.classifier import STREAMS
from uniemox_jax.runtime.distributed import is_primary, is_same_everywhere, wait_for_all
from uniemox_jax.runtime.files import exists, read_json, write_json

_RUN = {
    'seed': int, 'data_dir': str, 'dataset': str, 'batch_size': int, 'epochs': int, 'warmup_epochs': int, 'dtype': str,
    'mesh': {'data': int, 'fsdp': int}, 'log_every': int, 'min_crop_area': float, 'max_gradient_norm': float,
    'max_skipped_steps': int
}
_ENCODER = {
    'image_size': int, 'patch_size': int, 'width': int, 'depth': int, 'heads': int, 'remat': str, 'scan': bool,
    'norm_eps': float, 'pre_norm': bool, 'activation': str
}
_ABSENT = {
    'norm_eps': 1e-6, 'pre_norm': False, 'activation': 'gelu', 'ema_decay': 0.0, 'streams': 'scene',
    'person_view': 'crop', 'teacher_statistics': 'clip'
}
"""What it means where a config leaves these out."""
_OPTIONAL = (*_ABSENT, 'teacher_shape', 'tasks', 'task_loss')
_OPTIMIZER = {'base_lr': float, 'final_lr': float, 'b1': float, 'b2': float, 'weight_decay': float}

PRETRAIN_KEYS = _RUN | {
    'split': str, 'accum_steps': int, 'init': str, 'teacher': str, 'teacher_sharded': bool, 'emotion_in_caption': bool,
    'save_every': int, 'images_every': int, 'person_jitter': float, 'person_view': str, 'teacher_statistics': str,
    'optimizer': _OPTIMIZER, 'teacher_shape':
        {'image_size': int, 'patch_size': int, 'width': int, 'depth': int, 'heads': int, 'projection': int}, 'model':
            _ENCODER | {
                'decoder_width': int, 'decoder_depth': int, 'decoder_heads': int, 'mask_ratio': float, 'fusion': str,
                'fusion_heads': int, 'decode': str
            }, 'loss': {
                'contrastive': float, 'similarity': float, 'reconstruction': float, 'form': str, 'negatives': str,
                'local_batch': int, 'norm_pix': bool
            }
}
FINETUNE_KEYS = _RUN | {
    'accum_steps': int, 'init': str, 'model': _ENCODER, 'streams': str, 'eval_every_epochs': int, 'fraction': float,
    'ema_decay': float, 'augment': {'randaugment': float, 'erase': float}, 'tasks': str, 'task_loss': {
        'label': float, 'labels': float, 'distribution': float, 'vad': float, 'labels_form': str, 'class_weights': str,
        'vad_form': str
    }, 'optimizer': _OPTIMIZER | {'layer_decay': float},
    'regularisation': {'drop_path': float, 'mixup': float, 'cutmix': float, 'smoothing': float}
}
PROBE_KEYS = {name: _RUN[name] for name in ('seed', 'data_dir', 'dataset', 'batch_size', 'dtype', 'mesh')
             } | {'init': str, 'model': _ENCODER, 'fraction': float, 'protocol': str, 'features_dir': str}
CLIP_KEYS = _RUN | {
    'split': str, 'init': str, 'emotion_in_caption': bool, 'save_every': int, 'optimizer': _OPTIMIZER, 'model': {
        'image_size': int, 'patch_size': int, 'projection': int, 'context': int,
        'vision': {'width': int, 'depth': int, 'heads': int}, 'text': {'width': int, 'depth': int, 'heads': int}
    }
}

_INPUTS = 'inputs.json'
# What a resumed run may change: none of it changes the numbers a step computes.
_FREE_KEYS = (
    'data_dir', 'teacher', 'teacher_shape', 'teacher_sharded', 'init', 'mesh', 'log_every', 'save_every',
    'images_every', 'max_skipped_steps', 'features_dir')


def check_keys(config: ConfigDict, keys: dict[str, Any], prefix: str = '') -> None:
  """Raises UserError for a key that no verb reads, that is missing, or that holds another type."""
  for name in config:
    if name not in keys:
      raise UserError(
          f"config key '{prefix}{name}' is unknown and would do nothing: remove it; "
          f"known here: {', '.join(sorted(keys))}")
  for name, kind in keys.items():
    if name not in config:
      if name in _OPTIONAL:
        continue
      raise UserError(f"config key '{prefix}{name}' is missing: add it to the config file")
    value = config[name]
    if isinstance(kind, dict):
      if not isinstance(value, ConfigDict):
        raise UserError(f"config key '{prefix}{name}' must hold the keys {', '.join(sorted(kind))}")
      check_keys(value, kind, f'{prefix}{name}.')
    elif not (isinstance(value, kind) or (kind is float and type(value) is int)):
      raise UserError(f"config key '{prefix}{name}' is {value!r}: it must be of type {kind.__name__}")


def compute_dtype(config: ConfigDict) -> Any:
  """The dtype of the computation; parameters are float32 always.

  Raises:
    UserError: neither float32 nor bfloat16.
  """
  if config.dtype not in ('float32', 'bfloat16'):
    raise UserError(f"config key 'dtype' is '{config.dtype}': choose float32 or bfloat16")
  return jnp.dtype(config.dtype)


def ema_decay(config: ConfigDict) -> float:
  """The decay of the averaged weights, 0 without.

  Raises:
    UserError: it is none.
  """
  decay = config.get('ema_decay', _ABSENT['ema_decay'])
  if not 0 <= decay < 1:
    raise UserError(f"config key 'ema_decay' is {decay}: choose 0, which is off, or below 1, such as 0.9999")
  return decay


def streams_of(config: ConfigDict) -> str:
  """The views that a fine-tuned model sees, a key of `classifier.STREAMS`; 'scene' where the config does not say.

  Raises:
    UserError: another value.
  """
  streams = config.get('streams', _ABSENT['streams'])
  if streams not in STREAMS:
    raise UserError(f"config key 'streams' is '{streams}': choose {' or '.join(STREAMS)}")
  return streams


def check_positive(config: ConfigDict, *names: str) -> None:
  """Raises UserError unless each named key, and those of the training verbs that it has, are at least 1."""
  for name in ('batch_size', 'epochs', 'log_every', 'max_skipped_steps', *names):
    if config.get(name, 1) < 1:
      raise UserError(f"config key '{name}' is {config[name]}: it must be at least 1")


def check_trainable(config: ConfigDict) -> None:
  """Raises UserError unless this is a config of `pretrain` or `finetune`, as far as one can see without running it."""
  if 'loss' not in config and 'regularisation' not in config:
    raise UserError(
        'a plan needs a config of pretrain or finetune, with a section loss or regularisation: '
        'configs/demo.py, for one, wants :pretrain or :finetune after its name')
  check_keys(config, PRETRAIN_KEYS if 'loss' in config else FINETUNE_KEYS)
  check_positive(config, 'accum_steps')


def config_hash(config: dict[str, Any]) -> str:
  """First 16 hex digits of the sha256 of the config as sorted JSON."""
  return hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()[:16]


def _without_defaults(config: dict[str, Any]) -> dict[str, Any]:
  """Without the optional keys that say what their absence means, so that runs from before these keys resume."""
  return {
      name: _without_defaults(value) if isinstance(value, dict) else value
      for name, value in config.items()
      if name not in _ABSENT or value != _ABSENT[name]
  }


def changed_keys(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
  """Keys whose values differ, but for those that change no number that a step computes."""
  old, new = _without_defaults(old), _without_defaults(new)
  return sorted(
      key for key in old.keys() | new.keys()
      if key not in _FREE_KEYS and json.dumps(old.get(key)) != json.dumps(new.get(key)))


def _has_steps(workdir: str) -> bool:
  folder = epath.Path(workdir) / 'checkpoints'
  return folder.exists() and any(path.name.isdigit() for path in folder.iterdir())


def keep_config(config: ConfigDict, workdir: str, inputs: dict[str, str | None] | None = None) -> None:
  """Writes `config.json` and `inputs.json`, or checks that a resumed run's config and inputs are the same.

  Where steps are saved, `config.json` goes on naming what they began from. Nothing is written where something is wrong.

  Args:
    config: of the run.
    workdir: its folder.
    inputs: by config key, a digest of what lies at the place that the key names, None where it is not known.

  Raises:
    UserError: the workdir belongs to a run with other values, named, or what it was trained with lies elsewhere; or
      processes read different files.
  """
  inputs = inputs or {}
  if different := [f'--config.{key}' for key in sorted(inputs) if not is_same_everywhere(inputs[key])]:
    raise UserError(f'{" and ".join(different)} names other files on some hosts: give all of them the same')
  path = os.path.join(workdir, 'config.json')
  new = config.to_dict()
  if exists(path):
    old = read_json(path)
    if changed := changed_keys(old, new):
      raise UserError(
          f"{workdir} holds a run with other values of {', '.join(changed)}: "
          'restore them to resume it, or choose another --workdir')
    if new.get('init') != old.get('init') and _has_steps(workdir):
      if is_primary():
        print(
            f"--config.init={new['init']} is not used: the run in {workdir} began from {old['init']}, and resumes",
            flush=True)
      new['init'] = old['init']
  if _has_steps(workdir):
    inputs = _same_inputs(workdir, inputs)
  wait_for_all('config compared')
  if is_primary():
    write_json(path, new)
    if inputs:
      write_json(os.path.join(workdir, _INPUTS), inputs)


def _same_inputs(workdir: str, inputs: dict[str, str | None]) -> dict[str, str | None]:
  """What is known of the inputs of the run that is resumed.

  Raises:
    UserError: they are not those that it was trained with.
  """
  path = os.path.join(workdir, _INPUTS)
  old = read_json(path) if exists(path) else {}
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
