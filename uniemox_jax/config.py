"""Configs as the verbs take them: every key is known and does something, and a run's own config is kept with it."""

import hashlib
import json
import os
from typing import Any

import jax.numpy as jnp
from ml_collections import ConfigDict

from data_pipelines.errors import UserError
from uniemox_jax.distributed import is_primary, wait_for_all
from uniemox_jax.files import exists, read_json, write_json
from uniemox_jax.models.classifier import STREAMS

_RUN = {'seed': int, 'data_dir': str, 'dataset': str, 'batch_size': int, 'epochs': int, 'warmup_epochs': int,
        'dtype': str, 'mesh': {'data': int, 'fsdp': int}, 'log_every': int, 'min_crop_area': float,
        'max_gradient_norm': float, 'max_skipped_steps': int}
_ENCODER = {'image_size': int, 'patch_size': int, 'width': int, 'depth': int, 'heads': int, 'remat': str, 'scan': bool,
            'norm_eps': float}
_OPTIONAL = ('norm_eps', 'teacher_shape', 'tasks', 'task_loss', 'streams')
_OPTIMIZER = {'base_lr': float, 'final_lr': float, 'b1': float, 'b2': float, 'weight_decay': float}

PRETRAIN_KEYS = _RUN | {
    'split': str, 'accum_steps': int, 'init': str, 'teacher': str, 'teacher_sharded': bool, 'emotion_in_caption': bool,
    'save_every': int, 'images_every': int, 'person_jitter': float, 'optimizer': _OPTIMIZER,
    'teacher_shape': {'image_size': int, 'patch_size': int, 'width': int, 'depth': int, 'heads': int,
                      'projection': int},
    'model': _ENCODER | {'decoder_width': int, 'decoder_depth': int, 'decoder_heads': int, 'mask_ratio': float,
                         'fusion': str, 'fusion_heads': int, 'decode': str},
    'loss': {'contrastive': float, 'similarity': float, 'reconstruction': float, 'form': str, 'negatives': str,
             'local_batch': int, 'norm_pix': bool}}
FINETUNE_KEYS = _RUN | {
    'accum_steps': int, 'init': str, 'model': _ENCODER, 'streams': str, 'eval_every_epochs': int, 'fraction': float,
    'augment': {'randaugment': float, 'erase': float},
    'tasks': str, 'task_loss': {'label': float, 'labels': float, 'distribution': float, 'vad': float,
                                'labels_form': str, 'class_weights': str, 'vad_form': str},
    'optimizer': _OPTIMIZER | {'layer_decay': float},
    'regularisation': {'drop_path': float, 'mixup': float, 'cutmix': float, 'smoothing': float}}
CLIP_KEYS = _RUN | {
    'split': str, 'init': str, 'emotion_in_caption': bool, 'save_every': int, 'optimizer': _OPTIMIZER,
    'model': {'image_size': int, 'patch_size': int, 'projection': int, 'context': int,
              'vision': {'width': int, 'depth': int, 'heads': int}, 'text': {'width': int, 'depth': int, 'heads': int}}}

ABSENT = {'streams': 'scene'}
"""What configs mean that were written before the key was."""

# What a resumed run may change: none of it changes the numbers a step computes.
_FREE_KEYS = ('data_dir', 'teacher', 'teacher_shape', 'teacher_sharded', 'init', 'mesh', 'log_every', 'save_every',
              'images_every', 'max_skipped_steps')


def check_keys(config: ConfigDict, keys: dict[str, Any], prefix: str = '') -> None:
  """Raises UserError for a key that no verb reads, that is missing, or that holds another type."""
  for name in config:
    if name not in keys:
      raise UserError(f"config key '{prefix}{name}' is unknown and would do nothing: remove it; "
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


def streams_of(config: ConfigDict) -> str:
  """The views that a fine-tuned model sees, a key of `classifier.STREAMS`; 'scene' where the config does not say.

  Raises:
    UserError: another value.
  """
  streams = config.get('streams', ABSENT['streams'])
  if streams not in STREAMS:
    raise UserError(f"config key 'streams' is '{streams}': choose {' or '.join(STREAMS)}")
  return streams


def check_positive(config: ConfigDict, *names: str) -> None:
  """Raises UserError unless each named key, and those that every training verb has, are at least 1."""
  for name in ('batch_size', 'epochs', 'log_every', 'max_skipped_steps', *names):
    if config[name] < 1:
      raise UserError(f"config key '{name}' is {config[name]}: it must be at least 1")


def config_hash(config: dict[str, Any]) -> str:
  """First 16 hex digits of the sha256 of the config as sorted JSON."""
  return hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()[:16]


def keep_config(config: ConfigDict, workdir: str) -> None:
  """Writes `config.json`, or checks that a resumed run's config says the same.

  Raises:
    UserError: the workdir belongs to a run with other values, named.
  """
  path = os.path.join(workdir, 'config.json')
  new = config.to_dict()
  if exists(path):
    before, now = (ABSENT | values for values in (read_json(path), new))
    changed = sorted(key for key in before.keys() | now.keys()
                     if key not in _FREE_KEYS and json.dumps(before.get(key)) != json.dumps(now.get(key)))
    if changed:
      raise UserError(f"{workdir} holds a run with other values of {', '.join(changed)}: "
                      'restore them to resume it, or choose another --workdir')
  wait_for_all('config compared')
  if is_primary():
    write_json(path, new)
