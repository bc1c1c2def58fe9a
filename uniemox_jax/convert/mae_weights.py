"""MAE's own names, which timm's ViT and the original UniEmoX share <-> every student of ours.

MAE: `patch_embed.proj`, `blocks.N.attn.qkv`, `norm`, `decoder_*`; fine-tuned: `fc_norm`, `head`. The original keeps its
fusion beside the model, under `att_fusion` (chincharles/u-emo, main_pretrain.py and models/attention_fusion.py).
"""

from collections.abc import Mapping
from typing import Any

from data_pipelines.errors import UserError
from uniemox_jax.convert import name_table
from uniemox_jax.convert.name_table import Row

NORM_EPS = 1e-6
CLIP_NORM_EPS = 1e-5
"""Of timm's image towers of CLIP (timm/models/vision_transformer.py, `vit_*_clip_*`)."""
FUSION_PREFIX = 'att_fusion.'


def _blocks(ours: str, theirs: str) -> list[Row]:
  return name_table.blocks(
      ours, theirs, norm1='norm1', qkv=('attn.qkv',), out='attn.proj', norm2='norm2', up='mlp.fc1', down='mlp.fc2')


ENCODER_ROWS = [
    Row('encoder/cls_token', ('cls_token',), name_table.BATCHED),
    Row('encoder/positions', ('pos_embed',), name_table.BATCHED),
    Row('encoder/patch_embed/kernel', ('patch_embed.proj.weight',), name_table.CONV),
    Row('encoder/patch_embed/bias', ('patch_embed.proj.bias',)), *_blocks('encoder/blocks', 'blocks.{}')
]
PRE_NORM_ROWS = name_table.layer_norm('encoder/pre_norm', 'norm_pre')
"""Of timm's image towers of CLIP, whose patch embedding has no bias."""
NORM_ROWS = name_table.layer_norm('encoder/norm', 'norm')
PROJECT_ROWS = name_table.linear('project', 'decoder_embed')
DECODER_ROWS = [
    Row('decoder/mask_token', ('mask_token',), name_table.BATCHED),
    Row('decoder/positions', ('decoder_pos_embed',),
        name_table.BATCHED), *_blocks('decoder/blocks', 'decoder_blocks.{}'),
    *name_table.layer_norm('decoder/norm', 'decoder_norm'), *name_table.linear('decoder/predict', 'decoder_pred')
]
CLASSIFIER_ROWS = [*name_table.layer_norm('fc_norm', 'fc_norm'), *name_table.linear('head', 'head')]


def fusion_rows(fusion: str, heads: int) -> list[Row]:
  """Rows of the original's fusion; `heads` separate layers there are one matrix here.

  Raises:
    UserError: the original has no such fusion.
  """

  def each(name: str) -> list[str]:
    return [f'{FUSION_PREFIX}{name}.{head}' for head in range(heads)]

  bias = Row('fusion/bias', (f'{FUSION_PREFIX}bias',), name_table.BATCHED)
  rows = {
      'none': [], 'additive': [
          *name_table.layer_norm('fusion/norm', f'{FUSION_PREFIX}bn'),
          *name_table.linear('fusion/linear', f'{FUSION_PREFIX}linear')
      ], 'weighted_sum': [
          Row('fusion/scene_weight', (f'{FUSION_PREFIX}alpha',), name_table.SPACED),
          Row('fusion/person_weight', (f'{FUSION_PREFIX}beta',), name_table.SPACED),
          *name_table.layer_norm('fusion/norm', f'{FUSION_PREFIX}layer_norm'), bias
      ], 'attention': [
          *name_table.linear('fusion/scene_score', *each('W_a')),
          *name_table.linear('fusion/person_score', *each('W_b')), bias
      ], 'glu': [
          *name_table.linear('fusion/scene_gate', *each('W_a')), *name_table.linear('fusion/person_gate', *each('W_b')),
          *name_table.linear('fusion/up', f'{FUSION_PREFIX}mlp.0'),
          *name_table.linear('fusion/down', f'{FUSION_PREFIX}mlp.2'),
          *name_table.linear('fusion/gate', f'{FUSION_PREFIX}gate'), bias
      ]
  }
  if fusion not in rows:
    raise UserError(f"the original has no fusion '{fusion}': its own are {', '.join(rows)}")
  return rows[fusion]


def find_fusion(shapes: Mapping[str, tuple[int, ...]]) -> tuple[str, int]:
  """(fusion, heads) that the names and shapes of the original's tensors say; ('none', 1) without `att_fusion`."""
  heads = sum(name.startswith(f'{FUSION_PREFIX}W_a.') and name.endswith('.weight') for name in shapes)
  if heads:
    return ('glu' if f'{FUSION_PREFIX}mlp.0.weight' in shapes else 'attention'), heads
  if f'{FUSION_PREFIX}alpha' in shapes:
    return 'weighted_sum', shapes[f'{FUSION_PREFIX}alpha'][0]
  return ('additive' if any(name.startswith(FUSION_PREFIX) for name in shapes) else 'none'), 1


def rows(kind: str, model: dict[str, Any]) -> list[Row]:
  """The table of one of our checkpoints.

  Args:
    kind: a key of `models.kinds.MODULES`.
    model: its arguments, as a checkpoint's description holds them.
  """
  encoder = ENCODER_ROWS
  if model.get('pre_norm'):
    encoder = [row for row in encoder if row.ours != 'encoder/patch_embed/bias'] + PRE_NORM_ROWS
  if kind == 'encoder':
    return encoder + NORM_ROWS
  if kind == 'classifier':
    return encoder + CLASSIFIER_ROWS
  decoder = DECODER_ROWS if model['reconstruct'] else []
  fusion = fusion_rows(model['fusion'], model['fusion_heads']) if model['semantic'] else []
  return encoder + NORM_ROWS + PROJECT_ROWS + decoder + fusion
