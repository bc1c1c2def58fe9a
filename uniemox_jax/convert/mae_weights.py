"""MAE's own names, which timm's ViT and the original UniEmoX share <-> every student of ours.

MAE: `patch_embed.proj`, `blocks.N.attn.qkv`, `norm`, `decoder_*`; fine-tuned: `fc_norm`, `head`. The original keeps its
fusion beside the model, under `att_fusion` (chincharles/u-emo, main_pretrain.py and models/attention_fusion.py).
"""

from collections.abc import Mapping
from typing import Any

from uniemox_jax.convert import name_table
from uniemox_jax.convert.name_table import NameRule, block_rules, layer_norm_rules, linear_rules

NORM_EPS = 1e-6
CLIP_NORM_EPS = 1e-5
"""The epsilon of timm's image towers of CLIP (timm/models/vision_transformer.py, `vit_*_clip_*`)."""
FUSION_PREFIX = 'att_fusion.'
FUSIONS = ('additive', 'weighted_sum', 'attention', 'glu')
"""Those that the original's code has."""

_BLOCK = name_table.BlockNames(
    norm1='norm1', qkv=('attn.qkv',), out='attn.proj', norm2='norm2', up='mlp.fc1', down='mlp.fc2')
ENCODER_RULES = [
    NameRule('encoder/cls_token', ('cls_token',), name_table.BATCHED),
    NameRule('encoder/positions', ('pos_embed',), name_table.BATCHED),
    NameRule('encoder/patch_embed/kernel', ('patch_embed.proj.weight',), name_table.CONV),
    NameRule('encoder/patch_embed/bias',
             ('patch_embed.proj.bias',))] + block_rules('encoder/blocks', 'blocks.{}', _BLOCK)
PRE_NORM_RULES = layer_norm_rules('encoder/pre_norm', 'norm_pre')
"""The rules of timm's image towers of CLIP, whose patch embedding has no bias."""
NORM_RULES = layer_norm_rules('encoder/norm', 'norm')
PROJECT_RULES = linear_rules('project', 'decoder_embed')
DECODER_RULES = [
    NameRule('decoder/mask_token', ('mask_token',), name_table.BATCHED),
    NameRule('decoder/positions', ('decoder_pos_embed',), name_table.BATCHED)]
DECODER_RULES += block_rules('decoder/blocks', 'decoder_blocks.{}', _BLOCK)
DECODER_RULES += layer_norm_rules('decoder/norm', 'decoder_norm') + linear_rules('decoder/predict', 'decoder_pred')
HEAD_RULES = linear_rules('head', 'head')
CLASSIFIER_RULES = layer_norm_rules('fc_norm', 'fc_norm') + HEAD_RULES
NORMED_HEAD_RULES = layer_norm_rules('fc_norm', 'norm') + HEAD_RULES
"""The rules of a head that reads what went through the LayerNorm after the blocks."""

ALL_RULES = [*ENCODER_RULES, *PRE_NORM_RULES, *NORM_RULES, *PROJECT_RULES, *DECODER_RULES, *CLASSIFIER_RULES]
"""The rules of every kind, without the fusions."""


def fusion_rules(fusion: str, heads: int) -> list[NameRule]:
  """The rules of a fusion of the original, one of `FUSIONS`; its `heads` separate layers are one matrix here."""

  def each_head(ours: str, theirs: str) -> list[NameRule]:
    return linear_rules(f'fusion/{ours}', *(f'att_fusion.{theirs}.{head}' for head in range(heads)))

  bias = [NameRule('fusion/bias', ('att_fusion.bias',), name_table.BATCHED)]
  additive = layer_norm_rules('fusion/norm', 'att_fusion.bn') + linear_rules('fusion/linear', 'att_fusion.linear')
  weights = [
      NameRule('fusion/scene_weight', ('att_fusion.alpha',), name_table.SPACED),
      NameRule('fusion/person_weight', ('att_fusion.beta',), name_table.SPACED)]
  mlp = linear_rules('fusion/up', 'att_fusion.mlp.0') + linear_rules('fusion/down', 'att_fusion.mlp.2')
  gates = each_head('scene_gate', 'W_a') + each_head('person_gate', 'W_b')
  tables: dict[str, list[NameRule]] = {
      'additive': additive, 'weighted_sum': weights + layer_norm_rules('fusion/norm', 'att_fusion.layer_norm') + bias,
      'attention': each_head('scene_score', 'W_a') + each_head('person_score', 'W_b') + bias,
      'glu': gates + mlp + linear_rules('fusion/gate', 'att_fusion.gate') + bias}
  return tables[fusion]


def find_fusion(shapes: Mapping[str, tuple[int, ...]]) -> tuple[str, int]:
  """Finds (fusion, heads) by the names and shapes of the original's tensors; ('none', 1) without `att_fusion`."""
  heads = sum(name.startswith(f'{FUSION_PREFIX}W_a.') and name.endswith('.weight') for name in shapes)
  if heads:
    return ('glu' if f'{FUSION_PREFIX}mlp.0.weight' in shapes else 'attention'), heads
  if f'{FUSION_PREFIX}alpha' in shapes:
    return 'weighted_sum', shapes[f'{FUSION_PREFIX}alpha'][0]
  return ('additive' if any(name.startswith(FUSION_PREFIX) for name in shapes) else 'none'), 1


def student_rules(kind: str, model: Mapping[str, Any]) -> list[NameRule]:
  """The rules for one of our checkpoints.

  Args:
    kind: a key of `models.registry.MODULES`.
    model: its arguments, as a checkpoint's description holds them. A fusion that the original lacks has no rules.
  """
  encoder = ENCODER_RULES
  if model.get('pre_norm'):
    encoder = [rule for rule in encoder if rule.ours != 'encoder/patch_embed/bias'] + PRE_NORM_RULES
  if kind == 'encoder':
    return encoder + NORM_RULES
  if kind == 'classifier':
    return encoder + (CLASSIFIER_RULES if model.get('pooling', 'mean') == 'mean' else NORMED_HEAD_RULES)
  decoder = DECODER_RULES if model['reconstruct'] else []
  fuses = model['semantic'] and model['fusion'] in FUSIONS
  fusion = fusion_rules(model['fusion'], model['fusion_heads']) if fuses else []
  return encoder + NORM_RULES + PROJECT_RULES + decoder + fusion
