"""CLIP: transformers' `CLIPModel` names, and OpenAI's, which open_clip shares <-> `uniemox_jax.models.clip.CLIP`."""

from collections.abc import Mapping
import re
from typing import Any

from data_pipelines.errors import UserError
from uniemox_jax.convert import name_table
from uniemox_jax.convert.name_table import NameRule, block_rules, layer_norm_rules
from uniemox_jax.convert.position_embeddings import side_of
from uniemox_jax.models.clip import CLIPConfig, Tower
from uniemox_jax.models.layers import ACTIVATIONS, check_sizes

LEFT = r'logit_bias|n_averaged|(.*\.)?num_batches_tracked'
"""Tensors that embeddings do not need, and that are named: the bias of a sigmoid loss (open_clip), counters."""
IGNORED = (
    r'(vision|text)_model\.embeddings\.position_ids|input_resolution|context_length|vocab_size|attn_mask|' + LEFT)
"""Buffers that are dropped: those of transformers before 4.31, and of OpenAI's archives."""
HEAD_WIDTH = 64
LARGEST_ID_ENDS = 2
"""The `eos_token_id` under which a text ends at its largest id, as in OpenAI's and open_clip's code."""

BLOCK = name_table.BlockNames(
    norm1='layer_norm1', qkv=('self_attn.q_proj', 'self_attn.k_proj', 'self_attn.v_proj'), out='self_attn.out_proj',
    norm2='layer_norm2', up='mlp.fc1', down='mlp.fc2')
RULES = [
    NameRule('logit_scale', ('logit_scale',)),
    NameRule('vision/class_embedding', ('vision_model.embeddings.class_embedding',)),
    NameRule('vision/patch_embed/kernel', ('vision_model.embeddings.patch_embedding.weight',), name_table.CONV),
    NameRule('vision/positions', ('vision_model.embeddings.position_embedding.weight',)),
    NameRule('vision/project/kernel', ('visual_projection.weight',), name_table.TRANSPOSE),
    NameRule('language/token_embedding', ('text_model.embeddings.token_embedding.weight',)),
    NameRule('language/positions', ('text_model.embeddings.position_embedding.weight',)),
    NameRule('language/project/kernel', ('text_projection.weight',), name_table.TRANSPOSE)]
RULES += layer_norm_rules('vision/pre_norm', 'vision_model.pre_layrnorm')
RULES += block_rules('vision/blocks', 'vision_model.encoder.layers.{}', BLOCK)
RULES += layer_norm_rules('vision/post_norm', 'vision_model.post_layernorm')
RULES += block_rules('language/blocks', 'text_model.encoder.layers.{}', BLOCK)
RULES += layer_norm_rules('language/norm', 'text_model.final_layer_norm')

_OPENAI_BLOCK = name_table.BlockNames(
    norm1='ln_1', qkv=('attn.in_proj',), qkv_joint='_', out='attn.out_proj', norm2='ln_2', up='mlp.c_fc',
    down='mlp.c_proj')
# The projections are parameters of their own there, not layers, and so are stored as ours are.
OPENAI_RULES = [
    NameRule('logit_scale', ('logit_scale',)),
    NameRule('vision/class_embedding', ('visual.class_embedding',)),
    NameRule('vision/patch_embed/kernel', ('visual.conv1.weight',), name_table.CONV),
    NameRule('vision/positions', ('visual.positional_embedding',)),
    NameRule('vision/project/kernel', ('visual.proj',)),
    NameRule('language/token_embedding', ('token_embedding.weight',)),
    NameRule('language/positions', ('positional_embedding',)),
    NameRule('language/project/kernel', ('text_projection',))]
OPENAI_RULES += layer_norm_rules('vision/pre_norm', 'visual.ln_pre')
OPENAI_RULES += block_rules('vision/blocks', 'visual.transformer.resblocks.{}', _OPENAI_BLOCK)
OPENAI_RULES += layer_norm_rules('vision/post_norm', 'visual.ln_post')
OPENAI_RULES += block_rules('language/blocks', 'transformer.resblocks.{}', _OPENAI_BLOCK)
OPENAI_RULES += layer_norm_rules('language/norm', 'ln_final')


def openai_name(name: str) -> str:
  """A tensor's name in OpenAI's table. In open_clip's CustomTextCLIP the text tower has the prefix `text.`."""
  return name.removeprefix('text.')


def _tower(shapes: Mapping[str, tuple[int, ...]], prefix: str, width: int, activation: str) -> Tower:
  blocks = (re.match(rf'{re.escape(prefix)}\.(\d+)\.', name) for name in shapes)
  depth = 1 + max((int(block[1]) for block in blocks if block), default=-1)
  hidden = shapes.get(f'{prefix}.0.mlp.c_fc.weight', (4 * width,))[0]
  if width % HEAD_WIDTH:
    raise UserError(
        f"{prefix} is {width} wide, which OpenAI's heads of {HEAD_WIDTH} do not divide: an "
        'open_clip_config.json beside the weights says how many there are')
  return Tower(width, depth, width // HEAD_WIDTH, hidden, activation)


def openai_config(shapes: Mapping[str, tuple[int, ...]], *, source: str, activation: str | None) -> CLIPConfig:
  """Finds the configuration of a CLIP in OpenAI's names by its tensors' shapes (clip/model.py, `build_model`).

  What shapes do not determine follows OpenAI's choices: heads are 64 wide, and the activation is QuickGELU if
  `input_resolution` shows that the file is OpenAI's own archive.

  Args:
    shapes: the shapes of the file's tensors, by name.
    source: what an error calls the file.
    activation: 'gelu' or 'quick_gelu' for a file that does not name it, or None.

  Raises:
    UserError: the activation is not known, or a tensor is missing whose shape gives a size.
  """
  chosen = 'quick_gelu' if 'input_resolution' in shapes else activation
  if chosen not in ACTIVATIONS:
    raise UserError(
        f'{source} does not say its activation: put its open_clip_config.json beside it, or give '
        "activation=quick_gelu (OpenAI's weights) or activation=gelu (most others) to load_clip, or "
        '--activation to import_torch and use what that writes')
  ranks = {
      'visual.conv1.weight': 4, 'visual.positional_embedding': 2, 'visual.proj': 2, 'token_embedding.weight': 2,
      'positional_embedding': 2}
  missing = [name for name, rank in ranks.items() if len(shapes.get(name, ())) != rank]
  if missing:
    raise UserError(
        f'{source} has no {", ".join(missing)} to take the size of its CLIP from: give a CLIP with a ViT image tower, '
        'whole')
  width, _, _, patch = shapes['visual.conv1.weight']
  vocabulary, text_width = shapes['token_embedding.weight']
  vision = _tower(shapes, 'visual.transformer.resblocks', width, chosen)
  text = _tower(shapes, 'transformer.resblocks', text_width, chosen)
  side = side_of(shapes['visual.positional_embedding'][0], source)
  return CLIPConfig(
      vision=vision, text=text, image_size=patch * side, patch_size=patch, projection_dim=shapes['visual.proj'][1],
      context_length=shapes['positional_embedding'][0], vocab_size=vocabulary, eos_token_id=LARGEST_ID_ENDS)


OPEN_CLIP_DEFAULTS = {
    'vision_cfg': {
        'layers': 12, 'width': 768, 'head_width': HEAD_WIDTH, 'mlp_ratio': 4.0, 'patch_size': 16, 'image_size': 224},
    'text_cfg': {'context_length': 77, 'vocab_size': 49408, 'width': 512, 'heads': 8, 'layers': 12, 'mlp_ratio': 4.0}}
"""Defaults of open_clip's CLIPVisionCfg and CLIPTextCfg (open_clip/model.py)."""
OPEN_CLIP_FIXED = {'pool_type': ('tok', 'argmax'), 'proj_type': ('linear',), 'pos_embed_type': ('learnable',)}
OPEN_CLIP_FREE = (
    'patch_dropout', 'output_tokens', 'hf_tokenizer_name', 'tokenizer_kwargs', 'timm_pool', 'timm_proj',
    'timm_model_pretrained', 'pad_id')
"""Settings that are not needed here: only training, other models or the tokenizer read them."""


def open_clip_config(hub: dict[str, Any]) -> CLIPConfig:
  """Reads the configuration in an `open_clip_config.json`.

  Raises:
    UserError: it describes something that this CLIP does not have.
    ValueError, TypeError, AttributeError: a value has another type.
  """
  model = hub.get('model_cfg')
  if not isinstance(model, dict):
    raise UserError('it has no model_cfg: fetch it again')
  towers = {}
  for name, defaults in OPEN_CLIP_DEFAULTS.items():
    given = model.get(name) or {}
    for key, value in given.items():
      if key not in defaults and key not in OPEN_CLIP_FREE and value and value not in OPEN_CLIP_FIXED.get(key, ()):
        raise UserError(f'{name}.{key} is {value!r}, which the CLIP here does not have')
    towers[name] = defaults | given
    check_sizes(**{f'{name}.{key}': towers[name][key] for key in defaults if key != 'mlp_ratio'})
  vision, text = towers['vision_cfg'], towers['text_cfg']
  activation = 'quick_gelu' if model.get('quick_gelu', False) else 'gelu'

  def tower(settings: dict[str, Any], heads: int) -> Tower:
    return Tower(
        settings['width'], settings['layers'], heads, int(settings['width'] * settings['mlp_ratio']), activation)

  return CLIPConfig(
      vision=tower(vision, vision['width'] // vision['head_width']), text=tower(text, text['heads']),
      image_size=vision['image_size'], patch_size=vision['patch_size'], projection_dim=model.get('embed_dim', 512),
      context_length=text['context_length'], vocab_size=text['vocab_size'], eos_token_id=LARGEST_ID_ENDS)
