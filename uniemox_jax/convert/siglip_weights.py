"""SigLIP: transformers' `SiglipModel` names <-> `uniemox_jax.models.siglip.SigLIP`."""

from uniemox_jax.convert import name_table
from uniemox_jax.convert.clip_weights import BLOCK
from uniemox_jax.convert.name_table import NameRule, block_rules, layer_norm_rules, linear_rules

IGNORED = r'(vision|text)_model\.embeddings\.position_ids'
"""The buffers that some versions of transformers save."""

RULES = [
    NameRule('logit_scale', ('logit_scale',), name_table.BATCHED),
    NameRule('logit_bias', ('logit_bias',), name_table.BATCHED),
    NameRule('vision/patch_embed/kernel', ('vision_model.embeddings.patch_embedding.weight',), name_table.CONV),
    NameRule('vision/patch_embed/bias', ('vision_model.embeddings.patch_embedding.bias',)),
    NameRule('vision/positions', ('vision_model.embeddings.position_embedding.weight',)),
    NameRule('vision/pool/probe', ('vision_model.head.probe',), name_table.BATCHED),
    NameRule('language/token_embedding', ('text_model.embeddings.token_embedding.weight',)),
    NameRule('language/positions', ('text_model.embeddings.position_embedding.weight',))]
RULES += block_rules('vision/blocks', 'vision_model.encoder.layers.{}', BLOCK)
RULES += layer_norm_rules('vision/norm', 'vision_model.post_layernorm')
RULES += linear_rules('vision/pool/qkv', 'vision_model.head.attention.in_proj', joint='_')
RULES += linear_rules('vision/pool/out', 'vision_model.head.attention.out_proj')
RULES += layer_norm_rules('vision/pool/norm', 'vision_model.head.layernorm')
RULES += linear_rules('vision/pool/mlp/up', 'vision_model.head.mlp.fc1')
RULES += linear_rules('vision/pool/mlp/down', 'vision_model.head.mlp.fc2')
RULES += block_rules('language/blocks', 'text_model.encoder.layers.{}', BLOCK)
RULES += layer_norm_rules('language/norm', 'text_model.final_layer_norm')
RULES += linear_rules('language/project', 'text_model.head')
