"""The student's encoder: MAE's Vision Transformer (docs/method.md, One pretraining step)."""

from typing import Any

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np

from uniemox_jax.models import layers
from uniemox_jax.models.masking import patchify, take_tokens

MAX_POSITIONS = 2**27
"""The most numbers in a table of positions, which is copied before any weight is read: 95,000 patches of the widest
published ViT."""


def sincos_positions(width: int, side: int) -> np.ndarray:
  """MAE's fixed 2-D sine-cosine positions with a zero row for CLS: float32 (1 + side*side, width).

  The first half of the channels encodes the column, the second the row; each half is [sines, cosines] with
  frequencies 10000^(-i / (width/4)). big_vision's form differs in denominator and block order.
  """
  if width % 4:
    raise ValueError(f'sine-cosine positions need a width divisible by 4, not {width}')
  if side * side * width > MAX_POSITIONS:
    raise ValueError(f'{side * side} patches {width} wide are too many')
  frequencies = 1.0 / 10000**(np.arange(width // 4, dtype=np.float64) / (width / 4))
  rows, columns = np.meshgrid(np.arange(side), np.arange(side), indexing='ij')

  def encode(coordinate_L: np.ndarray) -> np.ndarray:
    angles = np.outer(coordinate_L, frequencies)
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=1)

  grid = np.concatenate([encode(columns.ravel()), encode(rows.ravel())], axis=1)
  return np.concatenate([np.zeros((1, width)), grid]).astype(np.float32)


class ViT(nnx.Module):
  """Patch embedding, CLS token, positions, blocks, final LayerNorm.

  Args:
    image_size, patch_size: pixels; the image is square and divisible by the patch.
    width, depth, heads: the width D, the number of layers, the attention heads. The MLP is 4 D wide.
    norm_eps: LayerNorm epsilon, 1e-6 in the files of MAE and of the original.
    final_norm: whether the last LayerNorm exists; fine-tuned classifiers drop it.
    train_positions: False keeps the sine-cosine positions fixed (pretraining).
    pre_norm: a LayerNorm before the blocks, and no bias in the patch embedding, as CLIP's image tower has it.
    activation: 'gelu', or 'quick_gelu' as OpenAI's CLIP has it.
    remat, scan, dtype: see `layers.Blocks`; dtype is that of the computation, parameters stay float32.
  """

  def __init__(
      self, *, image_size: int, patch_size: int, width: int, depth: int, heads: int, norm_eps: float = 1e-6,
      final_norm: bool = True, train_positions: bool = False, pre_norm: bool = False, activation: str = 'gelu',
      remat: str = 'none', scan: bool = False, dtype: Any = jnp.float32, rngs: nnx.Rngs):
    layers.check_sizes(image_size=image_size, patch_size=patch_size, width=width, depth=depth, heads=heads)
    if image_size % patch_size:
      raise ValueError(f'image_size {image_size} is not divisible by patch_size {patch_size}')
    if activation not in layers.ACTIVATIONS:
      raise ValueError(f"activation '{activation}' is not one of {', '.join(layers.ACTIVATIONS)}")
    self.image_size, self.patch_size = image_size, patch_size
    self.train_positions, self.dtype = train_positions, dtype
    side = image_size // patch_size
    self.patches = side * side
    self.patch_embed = layers.linear(3 * patch_size**2, width, use_bias=not pre_norm, dtype=dtype, rngs=rngs)
    self.cls_token = nnx.Param(nnx.initializers.normal(0.02)(rngs.params(), (1, width)))
    self.positions = nnx.Param(jnp.asarray(sincos_positions(width, side)))
    self.pre_norm = layers.LayerNorm(width, epsilon=norm_eps, dtype=dtype, rngs=rngs) if pre_norm else None
    self.blocks = layers.Blocks(
        width, depth, heads, 4 * width, eps=norm_eps, activation=activation, remat=remat, scan=scan, dtype=dtype,
        rngs=rngs)
    self.norm = layers.LayerNorm(width, epsilon=norm_eps, dtype=dtype, rngs=rngs) if final_norm else None

  @jax.named_scope('encoder')
  def __call__(
      self, images_BxHxWx3: jax.Array, ids_keep_BxK: jax.Array | None = None,
      branch_scale_NxBx2: jax.Array | None = None) -> jax.Array:
    """Encodes normalised float images; with `ids_keep_BxK` only those patches are embedded at all.

    Returns:
      Tokens (B, 1 + K, D), CLS first, after the final LayerNorm if there is one. Without masking, K is L.
    """
    positions = self.positions[...] if self.train_positions else jax.lax.stop_gradient(self.positions[...])
    patches_BxLxP = patchify(images_BxHxWx3, self.patch_size)
    grid_BxLxD = jnp.broadcast_to(positions[None, 1:], (images_BxHxWx3.shape[0], *positions[1:].shape))
    if ids_keep_BxK is not None:
      patches_BxLxP = take_tokens(patches_BxLxP, ids_keep_BxK)
      grid_BxLxD = take_tokens(grid_BxLxD, ids_keep_BxK)
    tokens = self.patch_embed(patches_BxLxP) + grid_BxLxD.astype(self.dtype)
    cls = jnp.broadcast_to(self.cls_token[...] + positions[:1], (tokens.shape[0], 1, tokens.shape[-1]))
    tokens = jnp.concatenate([cls.astype(tokens.dtype), tokens], axis=1)
    if self.pre_norm is not None:
      tokens = self.pre_norm(tokens)
    tokens = self.blocks(tokens, branch_scale_NxBx2)
    return tokens if self.norm is None else self.norm(tokens)
