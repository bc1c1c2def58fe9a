"""SigLIP (Zhai et al. 2023) and SigLIP 2 of fixed size (Tschannen et al. 2025) in Flax, as frozen teachers.

Configuration and weights are those of transformers' `SiglipModel`; `convert.siglip_weights` renames the parameters.
"""

import dataclasses
import math
import reprlib
from typing import Any

from flax import nnx
import jax
import jax.numpy as jnp

from data_pipelines.errors import UserError
from uniemox_jax.models import layers
from uniemox_jax.models.clip import Tower, random_param, tower_blocks
from uniemox_jax.models.masking import patchify

# What transformers assumes where a config.json says nothing.
SIGLIP_TOWER_DEFAULTS = {
    'hidden_size': 768, 'intermediate_size': 3072, 'num_hidden_layers': 12, 'num_attention_heads': 12,
    'hidden_act': 'gelu_pytorch_tanh', 'layer_norm_eps': 1e-6}
SIGLIP_TEXT_DEFAULTS = SIGLIP_TOWER_DEFAULTS | {
    'vocab_size': 32000, 'max_position_embeddings': 64, 'projection_size': None}
SIGLIP_VISION_DEFAULTS = SIGLIP_TOWER_DEFAULTS | {
    'image_size': 224, 'patch_size': 16, 'num_channels': 3, 'vision_use_head': True}
OTHER_SIGLIPS = {
    'siglip2': 'it is a NaFlex model (model_type siglip2), which takes images of any shape',
    'siglip2_vision_model': 'it is the image tower of a NaFlex model (model_type siglip2_vision_model)',
    'siglip2_text_model': 'it is the text tower of a NaFlex model (model_type siglip2_text_model)',
    'siglip_vision_model': 'it is the image tower of a SigLIP alone (model_type siglip_vision_model)',
    'siglip_text_model': 'it is the text tower of a SigLIP alone (model_type siglip_text_model)'}
"""The SigLIPs that are not covered, by the `model_type` of a config.json."""
SCALE_INIT, BIAS_INIT = math.log(10.0), -10.0
"""The log scale and the bias of the logits from which training starts, as published."""


def check_siglip_type(model_type: Any) -> None:
  """Raises UserError if a `model_type` is that of a SigLIP which is not covered."""
  if isinstance(model_type, str) and model_type in OTHER_SIGLIPS:
    raise UserError(
        f'{OTHER_SIGLIPS[model_type]}: give a whole SigLIP of fixed size, such as google/siglip2-base-patch16-224')


@dataclasses.dataclass(frozen=True)
class SiglipConfig:
  """The shape of a SigLIP.

  image_size, patch_size: pixels; the rest of the image beside whole patches is not seen. context_length: the positions
  of the text tower, to which texts are padded. projection_dim: the width E, which is that of the image tower.
  """

  vision: Tower
  text: Tower
  image_size: int
  patch_size: int
  projection_dim: int
  context_length: int = 64
  vocab_size: int = 32000

  def __post_init__(self) -> None:
    layers.check_sizes(
        image_size=self.image_size, patch_size=self.patch_size, projection_dim=self.projection_dim,
        context_length=self.context_length, vocab_size=self.vocab_size)
    if self.image_size < self.patch_size:
      raise UserError(f'SigLIP: image_size {self.image_size} is smaller than patch_size {self.patch_size}')
    layers.check_sizes(patches=self.patches)
    if self.projection_dim != self.vision.width:
      raise UserError(
          f'SigLIP: texts are projected to projection_size {self.projection_dim}, images have hidden_size '
          f'{self.vision.width}: they must be equal')

  @property
  def patches(self) -> int:
    """The number of whole patches of an image."""
    return (self.image_size // self.patch_size)**2

  @classmethod
  def from_dict(cls, hub: dict[str, Any]) -> 'SiglipConfig':
    """Makes the shape of the contents of a transformers SigLIP `config.json`.

    Raises:
      UserError: another model's config, or a value that this implementation does not cover.
      ValueError, TypeError, AttributeError: a value of another type.
    """
    model_type = hub.get('model_type')
    check_siglip_type(model_type)
    if model_type != 'siglip':
      raise UserError(f'it is of model_type {reprlib.repr(model_type)}: give the folder of a SigLIP model')
    text = SIGLIP_TEXT_DEFAULTS | (hub.get('text_config') or {})
    vision = SIGLIP_VISION_DEFAULTS | (hub.get('vision_config') or {})
    if vision['num_channels'] != 3:
      raise UserError(f"num_channels is {reprlib.repr(vision['num_channels'])}, only 3 is supported")
    if vision['vision_use_head'] is not True:
      raise UserError(
          f"vision_use_head is {reprlib.repr(vision['vision_use_head'])}: without its head it embeds no images")
    projection = text['hidden_size'] if text['projection_size'] is None else text['projection_size']
    return cls(
        vision=Tower.from_dict(vision), text=Tower.from_dict(text), image_size=vision['image_size'],
        patch_size=vision['patch_size'], projection_dim=projection, context_length=text['max_position_embeddings'],
        vocab_size=text['vocab_size'])


class AttentionPool(nnx.Module):
  """A learned query, the probe, attends to all tokens; a residual MLP follows. (B, L, D) to (B, D)."""

  def __init__(self, tower: Tower, *, dtype: Any, rngs: nnx.Rngs):
    self.heads = tower.heads
    self.probe = random_param(0.02, 1, tower.width, rngs=rngs)
    self.qkv = layers.linear(tower.width, 3 * tower.width, dtype=dtype, rngs=rngs)
    self.out = layers.linear(tower.width, tower.width, dtype=dtype, rngs=rngs)
    self.norm = layers.LayerNorm(tower.width, epsilon=tower.norm_eps, dtype=dtype, rngs=rngs)
    self.mlp = layers.Mlp(tower.width, tower.hidden, activation=tower.activation, dtype=dtype, rngs=rngs)

  def __call__(self, tokens_BxLxD: jax.Array) -> jax.Array:
    batch, _, width = tokens_BxLxD.shape
    probe_Bx1xD = jnp.broadcast_to(self.probe[...], (batch, 1, width))
    query_Bx1xHxK = layers.project_part(self.qkv, probe_Bx1xD, self.heads, 0)
    key_BxLxHxK, value_BxLxHxK = (layers.project_part(self.qkv, tokens_BxLxD, self.heads, part) for part in (1, 2))
    mixed_Bx1xHxK = layers.attend(query_Bx1xHxK, key_BxLxHxK, value_BxLxHxK, False)
    pooled_BxD = self.out(mixed_Bx1xHxK.reshape(batch, width))
    return pooled_BxD + self.mlp(self.norm(pooled_BxD))


class SiglipImageTower(nnx.Module):
  """ViT without a class token: a LayerNorm after the blocks, then attention pooling."""

  def __init__(self, config: SiglipConfig, *, remat: str, scan: bool, dtype: Any, rngs: nnx.Rngs):
    tower = config.vision
    self.patch_size, self.dtype = config.patch_size, dtype
    self.seen = config.image_size // config.patch_size * config.patch_size
    self.patch_embed = layers.linear(3 * config.patch_size**2, tower.width, dtype=dtype, rngs=rngs)
    self.positions = random_param(0.01, config.patches, tower.width, rngs=rngs)
    self.blocks = tower_blocks(tower, causal=False, remat=remat, scan=scan, dtype=dtype, rngs=rngs)
    self.norm = layers.LayerNorm(tower.width, epsilon=tower.norm_eps, dtype=dtype, rngs=rngs)
    self.pool = AttentionPool(tower, dtype=dtype, rngs=rngs)

  def tokens(self, images_BxHxWx3: jax.Array) -> jax.Array:
    """The patches' tokens (B, L, D), after the LayerNorm."""
    # so400m-patch14-384 has 27 patches a side; a convolution without padding drops the last 6 pixels.
    patches_BxLxP = patchify(images_BxHxWx3[:, :self.seen, :self.seen], self.patch_size)
    tokens_BxLxD = self.patch_embed(patches_BxLxP) + self.positions[...].astype(self.dtype)
    return self.norm(self.blocks(tokens_BxLxD))

  def __call__(self, images_BxHxWx3: jax.Array) -> jax.Array:
    """The pooled tokens (B, E), of any norm."""
    return self.pool(self.tokens(images_BxHxWx3))


class SiglipTextTower(nnx.Module):
  """Transformer in which every token sees all others, padding too, pooled at the last one."""

  def __init__(self, config: SiglipConfig, *, remat: str, scan: bool, dtype: Any, rngs: nnx.Rngs):
    tower = config.text
    self.dtype = dtype
    self.token_embedding = random_param(0.02, config.vocab_size, tower.width, rngs=rngs)
    self.positions = random_param(0.01, config.context_length, tower.width, rngs=rngs)
    self.blocks = tower_blocks(tower, causal=False, remat=remat, scan=scan, dtype=dtype, rngs=rngs)
    self.norm = layers.LayerNorm(tower.width, epsilon=tower.norm_eps, dtype=dtype, rngs=rngs)
    self.project = layers.linear(tower.width, config.projection_dim, dtype=dtype, rngs=rngs)

  def __call__(self, ids_BxT: jax.Array) -> jax.Array:
    """The projected last token (B, E), of any norm."""
    tokens = self.token_embedding[...][ids_BxT] + self.positions[...][:ids_BxT.shape[1]]
    return self.project(self.norm(self.blocks(tokens.astype(self.dtype)))[:, -1])


class SigLIP(nnx.Module):
  """Both towers, the learned log temperature and the bias of the logits.

  Args:
    config: see `SiglipConfig`.
    remat, scan, dtype: see `layers.Blocks`; dtype is that of the computation, parameters stay float32.
  """

  def __init__(
      self, config: SiglipConfig, *, remat: str = 'none', scan: bool = False, dtype: Any = jnp.float32, rngs: nnx.Rngs):
    options = {'remat': remat, 'scan': scan, 'dtype': dtype, 'rngs': rngs}
    self.vision = SiglipImageTower(config, **options)
    self.language = SiglipTextTower(config, **options)
    self.logit_scale = nnx.Param(jnp.asarray(SCALE_INIT, jnp.float32))
    self.logit_bias = nnx.Param(jnp.asarray(BIAS_INIT, jnp.float32))

  def image(self, images_BxHxWx3: jax.Array) -> jax.Array:
    """Embeds float images normalised by SigLIP's mean and deviation: float32 (B, E) of unit norm."""
    return layers.unit(self.vision(images_BxHxWx3))

  def text(self, ids_BxT: jax.Array) -> jax.Array:
    """Embeds int32 token ids, padded to the context length as in training: float32 (B, E) of unit norm."""
    return layers.unit(self.language(ids_BxT))
