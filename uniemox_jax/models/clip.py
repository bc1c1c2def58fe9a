"""CLIP (Radford et al. 2021) in Flax: the frozen teacher, and what `train_clip` trains from scratch.

Configuration and weights are those of transformers' `CLIPModel`; `convert.clip_weights` renames the parameters.
"""

import dataclasses
from typing import Any

from flax import nnx
import jax
import jax.numpy as jnp

from data_pipelines.errors import UserError
from uniemox_jax.models import layers
from uniemox_jax.models.masking import patchify

TOWER_KEYS = {
    'width': 'hidden_size', 'depth': 'num_hidden_layers', 'heads': 'num_attention_heads', 'hidden': 'intermediate_size',
    'activation': 'hidden_act', 'norm_eps': 'layer_norm_eps'}
"""The fields of `Tower` by transformers' names."""
# What transformers assumes where a config.json says nothing.
TOWER_DEFAULTS = {'hidden_act': 'quick_gelu', 'layer_norm_eps': 1e-5, 'num_hidden_layers': 12}
TEXT_DEFAULTS = TOWER_DEFAULTS | {
    'hidden_size': 512, 'intermediate_size': 2048, 'num_attention_heads': 8, 'vocab_size': 49408,
    'max_position_embeddings': 77, 'eos_token_id': 49407}
VISION_DEFAULTS = TOWER_DEFAULTS | {
    'hidden_size': 768, 'intermediate_size': 3072, 'num_attention_heads': 12, 'image_size': 224, 'patch_size': 32,
    'num_channels': 3}


@dataclasses.dataclass(frozen=True)
class Tower:
  """One transformer of a CLIP or SigLIP; `hidden` is the MLP's width, `activation` a key of `layers.ACTIVATIONS`."""

  width: int
  depth: int
  heads: int
  hidden: int
  activation: str = 'quick_gelu'
  norm_eps: float = 1e-5

  def __post_init__(self) -> None:
    sizes = {'width': self.width, 'depth': self.depth, 'heads': self.heads, 'hidden': self.hidden}
    layers.check_sizes(**{f'{name} ({TOWER_KEYS[name]})': size for name, size in sizes.items()})
    if self.width % self.heads:
      raise UserError(f'width (hidden_size) {self.width} is not divisible by {self.heads} heads (num_attention_heads)')
    if self.activation not in list(layers.ACTIVATIONS):  # a list, which looks for what cannot be hashed, too
      raise UserError(f"hidden_act '{self.activation}' is not one of {', '.join(layers.ACTIVATIONS)}")
    if not (isinstance(self.norm_eps, float) and 0 < self.norm_eps < 1):
      raise UserError(f'layer_norm_eps is {self.norm_eps!r}, not between 0 and 1')

  @classmethod
  def from_dict(cls, hub: dict[str, Any]) -> 'Tower':
    """Makes a tower of a transformers `text_config` or `vision_config` in which every key is present."""
    return cls(**{ours: hub[theirs] for ours, theirs in TOWER_KEYS.items()})

  def to_dict(self) -> dict[str, Any]:
    """The inverse of `from_dict`."""
    return {theirs: getattr(self, ours) for ours, theirs in TOWER_KEYS.items()}


def _tower_dict(hub: dict[str, Any], name: str, defaults: dict[str, Any]) -> dict[str, Any]:
  """One tower's settings; a non-null `*_config_dict` of old files wins, defaults included, as in transformers."""
  settings = defaults | (hub.get(name) or {})
  legacy = hub.get(f'{name}_dict')
  return settings if legacy is None else settings | defaults | legacy


@dataclasses.dataclass(frozen=True)
class CLIPConfig:
  """The shape of a CLIP.

  image_size, patch_size: pixels. context_length: the positions of the text tower. projection_dim: the width E of the
  shared space. eos_token_id: the id at which texts are pooled; 2 means the largest id, OpenAI's legacy rule.
  """

  vision: Tower
  text: Tower
  image_size: int
  patch_size: int
  projection_dim: int
  context_length: int = 77
  vocab_size: int = 49408
  eos_token_id: int = 49407
  logit_scale_init: float = 2.6592

  def __post_init__(self) -> None:
    layers.check_sizes(
        image_size=self.image_size, patch_size=self.patch_size, projection_dim=self.projection_dim,
        context_length=self.context_length, vocab_size=self.vocab_size, eos_token_id=self.eos_token_id)
    if self.image_size % self.patch_size:
      raise UserError(f'CLIP: image_size {self.image_size} is not divisible by patch_size {self.patch_size}')

  @classmethod
  def from_dict(cls, hub: dict[str, Any]) -> 'CLIPConfig':
    """Makes the shape of the contents of a transformers CLIP `config.json`.

    Raises:
      UserError: another model's config, or a value that this implementation does not cover.
      ValueError, TypeError, AttributeError: a value of another type.
    """
    if hub.get('model_type') != 'clip':
      raise UserError(f"it is of model_type '{hub.get('model_type')}': give the folder of a CLIP model")
    text = _tower_dict(hub, 'text_config', TEXT_DEFAULTS)
    vision = _tower_dict(hub, 'vision_config', VISION_DEFAULTS)
    if vision['num_channels'] != 3:
      raise UserError(f"num_channels is {vision['num_channels']}, only 3 is supported")
    return cls(
        vision=Tower.from_dict(vision), text=Tower.from_dict(text), image_size=vision['image_size'],
        patch_size=vision['patch_size'], projection_dim=hub.get('projection_dim', 512),
        context_length=text['max_position_embeddings'], vocab_size=text['vocab_size'],
        eos_token_id=text['eos_token_id'], logit_scale_init=float(hub.get('logit_scale_init_value', 2.6592)))

  def to_dict(self) -> dict[str, Any]:
    """The contents of a `config.json` that transformers' `CLIPModel.from_pretrained` reads."""
    text = self.text.to_dict() | {
        'model_type': 'clip_text_model', 'vocab_size': self.vocab_size, 'max_position_embeddings': self.context_length,
        'eos_token_id': self.eos_token_id, 'projection_dim': self.projection_dim}
    vision = self.vision.to_dict() | {
        'model_type': 'clip_vision_model', 'image_size': self.image_size, 'patch_size': self.patch_size, 'num_channels':
            3, 'projection_dim': self.projection_dim}
    return {
        'architectures': ['CLIPModel'], 'model_type': 'clip', 'dtype': 'float32', 'projection_dim': self.projection_dim,
        'logit_scale_init_value': self.logit_scale_init, 'text_config': text, 'vision_config': vision}


def tower_blocks(tower: Tower, *, causal: bool, remat: str, scan: bool, dtype: Any, rngs: nnx.Rngs) -> layers.Blocks:
  """The blocks of one tower; options as in `layers.Blocks`."""
  return layers.Blocks(
      tower.width, tower.depth, tower.heads, tower.hidden, eps=tower.norm_eps, activation=tower.activation,
      causal=causal, remat=remat, scan=scan, dtype=dtype, rngs=rngs)


def random_param(stddev: float, *shape: int, rngs: nnx.Rngs) -> nnx.Param:
  """A parameter of this shape, normally distributed around 0."""
  return nnx.Param(nnx.initializers.normal(stddev)(rngs.params(), shape))


class ImageTower(nnx.Module):
  """ViT with a LayerNorm before the blocks, one after them on the class token, and bias-free projections."""

  def __init__(self, config: CLIPConfig, *, remat: str, scan: bool, dtype: Any, rngs: nnx.Rngs):
    tower = config.vision
    self.patch_size, self.dtype = config.patch_size, dtype
    patches = (config.image_size // config.patch_size)**2
    self.patch_embed = layers.linear(3 * config.patch_size**2, tower.width, use_bias=False, dtype=dtype, rngs=rngs)
    self.class_embedding = random_param(0.02, tower.width, rngs=rngs)
    self.positions = random_param(0.01, 1 + patches, tower.width, rngs=rngs)
    self.pre_norm = layers.LayerNorm(tower.width, epsilon=tower.norm_eps, dtype=dtype, rngs=rngs)
    self.blocks = tower_blocks(tower, causal=False, remat=remat, scan=scan, dtype=dtype, rngs=rngs)
    self.post_norm = layers.LayerNorm(tower.width, epsilon=tower.norm_eps, dtype=dtype, rngs=rngs)
    self.project = layers.linear(tower.width, config.projection_dim, use_bias=False, dtype=dtype, rngs=rngs)

  def tokens(self, images_BxHxWx3: jax.Array) -> jax.Array:
    """The output of the last block, (B, 1 + L, D), class token first."""
    patches_BxLxD = self.patch_embed(patchify(images_BxHxWx3, self.patch_size))
    cls = jnp.broadcast_to(self.class_embedding[...], (patches_BxLxD.shape[0], 1, patches_BxLxD.shape[-1]))
    tokens = jnp.concatenate([cls.astype(self.dtype), patches_BxLxD], axis=1) + self.positions[...].astype(self.dtype)
    return self.blocks(self.pre_norm(tokens))

  def pool(self, tokens_BxNxD: jax.Array) -> jax.Array:
    """The projected class token (B, E), of any norm, of the output of `tokens`."""
    return self.project(self.post_norm(tokens_BxNxD[:, 0]))

  def __call__(self, images_BxHxWx3: jax.Array) -> jax.Array:
    """The projected class token (B, E), of any norm."""
    return self.pool(self.tokens(images_BxHxWx3))


class TextTower(nnx.Module):
  """Causal transformer pooled at the end-of-text token, which no padding after it can reach."""

  def __init__(self, config: CLIPConfig, *, remat: str, scan: bool, dtype: Any, rngs: nnx.Rngs):
    tower = config.text
    self.eos_token_id, self.dtype = config.eos_token_id, dtype
    self.token_embedding = random_param(0.02, config.vocab_size, tower.width, rngs=rngs)
    self.positions = random_param(0.01, config.context_length, tower.width, rngs=rngs)
    self.blocks = tower_blocks(tower, causal=True, remat=remat, scan=scan, dtype=dtype, rngs=rngs)
    self.norm = layers.LayerNorm(tower.width, epsilon=tower.norm_eps, dtype=dtype, rngs=rngs)
    self.project = layers.linear(tower.width, config.projection_dim, use_bias=False, dtype=dtype, rngs=rngs)

  def __call__(self, ids_BxT: jax.Array) -> jax.Array:
    """The projected end-of-text token (B, E), of any norm."""
    tokens = self.token_embedding[...][ids_BxT] + self.positions[...][:ids_BxT.shape[1]]
    tokens_BxTxD = self.norm(self.blocks(tokens.astype(self.dtype)))
    # OpenAI's configs carry a wrong eos_token_id of 2; there the end of text is the largest id of the vocabulary.
    end_B = jnp.argmax(ids_BxT if self.eos_token_id == 2 else ids_BxT == self.eos_token_id, axis=1)
    pooled_BxD = jnp.take_along_axis(tokens_BxTxD, end_B[:, None, None], axis=1)[:, 0]
    return self.project(pooled_BxD)


class CLIP(nnx.Module):
  """Both towers and the learned log temperature.

  Args:
    config: see `CLIPConfig`.
    remat, scan, dtype: see `layers.Blocks`; dtype is that of the computation, parameters stay float32.
  """

  def __init__(
      self, config: CLIPConfig, *, remat: str = 'none', scan: bool = False, dtype: Any = jnp.float32, rngs: nnx.Rngs):
    options = {'remat': remat, 'scan': scan, 'dtype': dtype, 'rngs': rngs}
    self.vision = ImageTower(config, **options)
    self.language = TextTower(config, **options)
    self.logit_scale = nnx.Param(jnp.asarray(config.logit_scale_init, jnp.float32))

  def image(self, images_BxHxWx3: jax.Array) -> jax.Array:
    """Embeds float images normalised by CLIP's mean and deviation: float32 (B, E) of unit norm."""
    return layers.unit(self.vision(images_BxHxWx3))

  def text(self, ids_BxT: jax.Array) -> jax.Array:
    """Embeds int32 token ids (B, T), T at most the context length: float32 (B, E) of unit norm.

    A row without the end-of-text id is pooled at its first token, as transformers does.
    """
    return layers.unit(self.language(ids_BxT))
