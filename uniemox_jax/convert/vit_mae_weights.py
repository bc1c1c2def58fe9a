"""transformers' `ViTMAEForPreTraining` <-> `UniEmoX` without fusion; its and ViT's encoders; their configurations."""

import re
from typing import Any

import numpy as np

from data_pipelines.errors import UserError
from uniemox_jax.convert import name_table
from uniemox_jax.convert.name_table import Row


def _blocks(ours: str, theirs: str) -> list[Row]:
  attention = 'attention.attention'
  return name_table.blocks(
      ours, theirs, norm1='layernorm_before', qkv=(f'{attention}.query', f'{attention}.key', f'{attention}.value'),
      out='attention.output.dense', norm2='layernorm_after', up='intermediate.dense', down='output.dense')


ENCODER_ROWS = [
    Row('encoder/cls_token', ('vit.embeddings.cls_token',), name_table.BATCHED),
    Row('encoder/positions', ('vit.embeddings.position_embeddings',), name_table.BATCHED),
    Row('encoder/patch_embed/kernel', ('vit.embeddings.patch_embeddings.projection.weight',), name_table.CONV),
    Row('encoder/patch_embed/bias', ('vit.embeddings.patch_embeddings.projection.bias',)),
    *_blocks('encoder/blocks', 'vit.encoder.layer.{}'), *name_table.layer_norm('encoder/norm', 'vit.layernorm')
]
DECODER_ROWS = [
    *name_table.linear('project', 'decoder.decoder_embed'),
    Row('decoder/mask_token', ('decoder.mask_token',), name_table.BATCHED),
    Row('decoder/positions', ('decoder.decoder_pos_embed',),
        name_table.BATCHED), *_blocks('decoder/blocks', 'decoder.decoder_encoder.layer.{}'),
    *name_table.layer_norm('decoder/norm', 'decoder.decoder_norm'),
    *name_table.linear('decoder/predict', 'decoder.decoder_pred')
]
ROWS = ENCODER_ROWS + DECODER_ROWS

LEFT = r'vit\.pooler\.dense\.(weight|bias)|classifier\.(weight|bias)'
"""Parts of a supervised ViT that are left behind: the head reads CLS, which our classifier does not."""

ENCODER_SETTINGS = {
    'image_size': ('image_size', 224), 'patch_size': ('patch_size', 16), 'width': ('hidden_size', 768),
    'depth': ('num_hidden_layers', 12), 'heads': ('num_attention_heads', 12), 'norm_eps': ('layer_norm_eps', 1e-12)
}
DECODER_SETTINGS = {
    'decoder_width': ('decoder_hidden_size', 512), 'decoder_depth': ('decoder_num_hidden_layers', 8),
    'decoder_heads': ('decoder_num_attention_heads', 16), 'mask_ratio': ('mask_ratio', 0.75)
}
SETTINGS = ENCODER_SETTINGS | DECODER_SETTINGS
"""Our argument -> (config.json key, what transformers assumes where the file says nothing)."""


def canonical(name: str) -> str:
  """The table's name of a tensor: bare `ViTModel`s leave out `vit.`, published MAEs say `decoder_layers.N`."""
  name = re.sub(r'^(embeddings|encoder|layernorm|pooler)\.', r'vit.\1.', name)
  return re.sub(r'^decoder\.decoder_layers\.', 'decoder.decoder_encoder.layer.', name)


def encoder_arguments(hub: dict[str, Any]) -> dict[str, Any]:
  """Keyword arguments of an encoder from the contents of a ViT's or ViTMAE's `config.json`.

  Raises:
    UserError: another model's config, or a setting that our ViT does not have.
  """
  if hub.get('model_type') not in ('vit', 'vit_mae'):
    raise UserError(f"config.json is of model_type '{hub.get('model_type')}', not 'vit' or 'vit_mae'")
  arguments = _settings(hub, ENCODER_SETTINGS)
  _check_fixed(
      hub, {'hidden_act': 'gelu', 'num_channels': 3, 'qkv_bias': True, 'intermediate_size': 4 * arguments['width']},
      {'intermediate_size': 3072})
  return arguments


def model_arguments(hub: dict[str, Any]) -> dict[str, Any]:
  """Keyword arguments of `UniEmoX` from the contents of a ViTMAE `config.json`; errors as `encoder_arguments`."""
  if hub.get('model_type') != 'vit_mae':
    raise UserError(f"config.json is of model_type '{hub.get('model_type')}', not 'vit_mae'")
  arguments = encoder_arguments(hub) | _settings(hub, DECODER_SETTINGS)
  _check_fixed(hub, {'decoder_intermediate_size': 4 * arguments['decoder_width']}, {'decoder_intermediate_size': 2048})
  return arguments | {'fusion': 'none', 'semantic': False}


def _settings(hub: dict[str, Any], settings: dict[str, tuple[str, Any]]) -> dict[str, Any]:
  arguments = {ours: hub.get(theirs, default) for ours, (theirs, default) in settings.items()}
  for ours, (theirs, default) in settings.items():
    if not isinstance(arguments[ours], type(default)) or arguments[ours] <= 0:
      raise UserError(f'config.json: {theirs} is {arguments[ours]!r}, not a positive {type(default).__name__}')
  return arguments


def _check_fixed(hub: dict[str, Any], fixed: dict[str, Any], defaults: dict[str, Any]) -> None:
  for key, wanted in fixed.items():
    if (given := hub.get(key, defaults.get(key, wanted))) != wanted:
      raise UserError(f'config.json: {key} is {given!r}, this model has {wanted!r}')


def hub_config(arguments: dict[str, Any], *, norm_pix: bool = False) -> dict[str, Any]:
  """The inverse of `model_arguments`: a `config.json` that transformers reads; LayerNorm's epsilon is written out."""
  return {theirs: arguments[ours] for ours, (theirs, _) in SETTINGS.items()} | {
      'architectures': ['ViTMAEForPreTraining'], 'model_type': 'vit_mae', 'dtype': 'float32', 'hidden_act': 'gelu',
      'num_channels': 3, 'qkv_bias': True, 'norm_pix_loss': norm_pix, 'intermediate_size': 4 * arguments['width'],
      'decoder_intermediate_size': 4 * arguments['decoder_width']
  }


def import_mae(flat: dict[str, np.ndarray], template: dict[str, Any], *, source: str) -> dict[str, Any]:
  """transformers' tensors -> our parameters; positions come from the file. See `table.import_params`."""
  return name_table.import_params(ROWS, flat, template, source=source)


def export_mae(params: dict[str, Any]) -> dict[str, Any]:
  """Our parameters -> transformers' tensors; see `table.export_params`."""
  return name_table.export_params(ROWS, params)
