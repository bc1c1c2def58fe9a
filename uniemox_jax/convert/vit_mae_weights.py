"""transformers' `ViTMAEForPreTraining` <-> `UniEmoX` without fusion; its and ViT's encoders; ViT's classifier; their
configurations."""

import re
import reprlib
from typing import Any

from data_pipelines.errors import UserError, join_names
from uniemox_jax.convert import name_table
from uniemox_jax.convert.name_table import NameRule, block_rules, layer_norm_rules, linear_rules
from uniemox_jax.objectives.tasks import VAD

_BLOCK = name_table.BlockNames(
    norm1='layernorm_before', qkv=('attention.attention.query', 'attention.attention.key', 'attention.attention.value'),
    out='attention.output.dense', norm2='layernorm_after', up='intermediate.dense', down='output.dense')
ENCODER_RULES = [
    NameRule('encoder/cls_token', ('vit.embeddings.cls_token',), name_table.BATCHED),
    NameRule('encoder/positions', ('vit.embeddings.position_embeddings',), name_table.BATCHED),
    NameRule('encoder/patch_embed/kernel', ('vit.embeddings.patch_embeddings.projection.weight',), name_table.CONV),
    NameRule('encoder/patch_embed/bias', ('vit.embeddings.patch_embeddings.projection.bias',))]
ENCODER_RULES += block_rules('encoder/blocks', 'vit.encoder.layer.{}', _BLOCK)
CLASSIFIER_RULES = ENCODER_RULES + layer_norm_rules('fc_norm', 'vit.layernorm') + linear_rules('head', 'classifier')
"""The rules of `ViTForImageClassification`, whose head reads the class token after the LayerNorm."""
ENCODER_RULES += layer_norm_rules('encoder/norm', 'vit.layernorm')
DECODER_RULES = linear_rules('project', 'decoder.decoder_embed') + [
    NameRule('decoder/mask_token', ('decoder.mask_token',), name_table.BATCHED),
    NameRule('decoder/positions', ('decoder.decoder_pos_embed',), name_table.BATCHED)]
DECODER_RULES += block_rules('decoder/blocks', 'decoder.decoder_encoder.layer.{}', _BLOCK)
DECODER_RULES += layer_norm_rules('decoder/norm', 'decoder.decoder_norm')
DECODER_RULES += linear_rules('decoder/predict', 'decoder.decoder_pred')
RULES = ENCODER_RULES + DECODER_RULES

POOLER = r'vit\.pooler\.dense\.(weight|bias)'
"""The pooler of bare `ViTModel`s, which no classifier reads."""
LEFT = rf'{POOLER}|classifier\.(weight|bias)'
"""The parts of a ViT that an encoder does not need."""

ENCODER_SETTINGS = {
    'image_size': ('image_size', 224), 'patch_size': ('patch_size', 16), 'width': ('hidden_size', 768),
    'depth': ('num_hidden_layers', 12), 'heads': ('num_attention_heads', 12), 'norm_eps': ('layer_norm_eps', 1e-12)}
DECODER_SETTINGS = {
    'decoder_width': ('decoder_hidden_size', 512), 'decoder_depth': ('decoder_num_hidden_layers', 8),
    'decoder_heads': ('decoder_num_attention_heads', 16), 'mask_ratio': ('mask_ratio', 0.75)}
"""Our arguments by name -> (key in config.json, transformers' default)."""


def canonical(name: str) -> str:
  """A tensor's name in the table: bare `ViTModel`s leave out `vit.`, published MAEs have `decoder_layers.N`."""
  name = re.sub(r'^(embeddings|encoder|layernorm|pooler)\.', r'vit.\1.', name)
  return re.sub(r'^decoder\.decoder_layers\.', 'decoder.decoder_encoder.layer.', name)


def vit_arguments(hub: dict[str, Any]) -> dict[str, Any]:
  """Reads the keyword arguments of an encoder from the contents of a ViT's or ViTMAE's `config.json`.

  Raises:
    UserError: it is another model's config, or has a setting that our ViT does not have.
  """
  if hub.get('model_type') not in ('vit', 'vit_mae'):
    raise UserError(f"it is of model_type '{hub.get('model_type')}', not 'vit' or 'vit_mae'")
  arguments = _settings(hub, ENCODER_SETTINGS)
  _check_fixed(
      hub, {'hidden_act': 'gelu', 'num_channels': 3, 'qkv_bias': True, 'intermediate_size': 4 * arguments['width']},
      {'intermediate_size': 3072})
  return arguments


def vit_mae_arguments(hub: dict[str, Any]) -> dict[str, Any]:
  """Reads the keyword arguments of `UniEmoX` from a ViTMAE's `config.json`; errors as for `vit_arguments`."""
  if hub.get('model_type') != 'vit_mae':
    raise UserError(f"it is of model_type '{hub.get('model_type')}', not 'vit_mae'")
  if type(hub.get('norm_pix_loss', False)) is not bool:
    raise UserError(f"norm_pix_loss is {reprlib.repr(hub['norm_pix_loss'])}, not true or false")
  arguments = vit_arguments(hub) | _settings(hub, DECODER_SETTINGS)
  _check_fixed(hub, {'decoder_intermediate_size': 4 * arguments['decoder_width']}, {'decoder_intermediate_size': 2048})
  return arguments | {'fusion': 'none', 'semantic': False}


def class_names(hub: dict[str, Any]) -> list[str] | None:
  """Reads the names of a classifier's classes in the head's order, from `id2label`; None without it.

  Raises:
    UserError: they are not numbered 0, 1, 2, …
  """
  names = hub.get('id2label')
  if not names:
    return None
  numbers = sorted(names, key=int)
  if list(map(int, numbers)) != list(range(len(numbers))):
    raise UserError(f'id2label has the numbers {join_names(numbers)}, wanted 0 to {len(numbers) - 1}')
  return [names[number] for number in numbers]


def task_of_head(hub: dict[str, Any]) -> str:
  """Finds the task of a classifier's head, as in `objectives.tasks`, by `problem_type`; without it, 'label'.

  Raises:
    UserError: the head predicts numbers other than valence, arousal and dominance, or something unknown.
  """
  problem = hub.get('problem_type')
  if problem == 'regression':
    names = class_names(hub) or []
    if not names or not set(names) <= set(VAD):
      raise UserError(
          f'problem_type is regression: it predicts numbers ({join_names(names)}) and no classes; of numbers, only '
          f'{", ".join(VAD)} are read')
    return 'vad'
  tasks = {None: 'label', 'single_label_classification': 'label', 'multi_label_classification': 'labels'}
  if not isinstance(problem, str | None) or problem not in tasks:
    raise UserError(f'problem_type is {reprlib.repr(problem)}: wanted {join_names(list(filter(None, tasks)))}')
  return tasks[problem]


def _settings(hub: dict[str, Any], settings: dict[str, tuple[str, Any]]) -> dict[str, Any]:
  arguments = {ours: hub.get(theirs, default) for ours, (theirs, default) in settings.items()}
  for ours, (theirs, default) in settings.items():
    value = arguments[ours]
    if theirs in ('image_size', 'patch_size') and isinstance(value, list) and value == value[:1] * 2:
      arguments[ours] = value = value[0]  # height and width
    if type(value) is not type(default) or value <= 0 or isinstance(value, float) and not value < 1:
      below = ' below 1' if isinstance(default, float) else ''
      raise UserError(f'{theirs} is {reprlib.repr(value)}, not a positive {type(default).__name__}{below}')
  return arguments


def _check_fixed(hub: dict[str, Any], fixed: dict[str, Any], defaults: dict[str, Any]) -> None:
  for key, wanted in fixed.items():
    if (given := hub.get(key, defaults.get(key, wanted))) != wanted:
      why = ', four times the width,' if key.endswith('intermediate_size') else ''
      raise UserError(f'{key} is {given!r}: only {wanted!r}{why} is read')


def hub_config(arguments: dict[str, Any], *, norm_pix: bool = False) -> dict[str, Any]:
  """The inverse of `vit_mae_arguments`: the contents of a `config.json` that transformers reads."""
  return {theirs: arguments[ours] for ours, (theirs, _) in (ENCODER_SETTINGS | DECODER_SETTINGS).items()} | {
      'architectures': ['ViTMAEForPreTraining'], 'model_type': 'vit_mae', 'dtype': 'float32', 'hidden_act': 'gelu',
      'num_channels': 3, 'qkv_bias': True, 'norm_pix_loss': norm_pix, 'intermediate_size': 4 * arguments['width'],
      'decoder_intermediate_size': 4 * arguments['decoder_width']}
