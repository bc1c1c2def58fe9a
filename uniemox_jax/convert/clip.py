"""CLIP: transformers' `CLIPModel` names <-> `uniemox_jax.models.clip.CLIP`."""

from typing import Any

import numpy as np

from uniemox_jax.convert import table
from uniemox_jax.convert.table import Row

IGNORED = r'(vision|text)_model\.embeddings\.position_ids'
"""Buffers in files published before transformers 4.31."""


def _blocks(ours: str, theirs: str) -> list[Row]:
  return table.blocks(ours, theirs, norm1='layer_norm1', qkv=('self_attn.q_proj', 'self_attn.k_proj',
                                                              'self_attn.v_proj'),
                      out='self_attn.out_proj', norm2='layer_norm2', up='mlp.fc1', down='mlp.fc2')


ROWS = [
    Row('logit_scale', ('logit_scale',)),
    Row('vision/class_embedding', ('vision_model.embeddings.class_embedding',)),
    Row('vision/patch_embed/kernel', ('vision_model.embeddings.patch_embedding.weight',), table.CONV),
    Row('vision/positions', ('vision_model.embeddings.position_embedding.weight',)),
    *table.layer_norm('vision/pre_norm', 'vision_model.pre_layrnorm'),
    *_blocks('vision/blocks', 'vision_model.encoder.layers.{}'),
    *table.layer_norm('vision/post_norm', 'vision_model.post_layernorm'),
    Row('vision/project/kernel', ('visual_projection.weight',), table.TRANSPOSE),
    Row('language/token_embedding', ('text_model.embeddings.token_embedding.weight',)),
    Row('language/positions', ('text_model.embeddings.position_embedding.weight',)),
    *_blocks('language/blocks', 'text_model.encoder.layers.{}'),
    *table.layer_norm('language/norm', 'text_model.final_layer_norm'),
    Row('language/project/kernel', ('text_projection.weight',), table.TRANSPOSE),
]


def import_clip(flat: dict[str, np.ndarray], template: dict[str, Any], *, source: str) -> dict[str, Any]:
  """transformers' tensors -> our parameters; see `table.import_params`."""
  return table.import_params(ROWS, flat, template, source=source, ignored=IGNORED)


def export_clip(params: dict[str, Any]) -> dict[str, Any]:
  """Our parameters -> transformers' tensors; see `table.export_params`."""
  return table.export_params(ROWS, params)
