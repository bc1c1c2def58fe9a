"""The pixel decoder of masked image modelling (docs/method.md, One pretraining step; MAE section 3)."""

from typing import Any

from flax import nnx
import jax
import jax.numpy as jnp

from uniemox_jax.models import layers
from uniemox_jax.models.masking import take_tokens
from uniemox_jax.models.vit import sincos_positions


class Decoder(nnx.Module):
  """Predicts the pixels of every patch from the visible ones, already projected to the decoder's width.

  Args:
    patches: the number L of patches of the whole image.
    patch_size: pixels; each prediction has 3 * patch_size^2 values; 0 predicts none.
    width, depth, heads: the width E, the number of layers, the attention heads.
    teacher_token_width: the width of the teacher's patch tokens; 0 if they are not predicted.
    norm_eps, remat, scan, dtype: as in `vit.ViT`.
  """

  def __init__(
      self, *, patches: int, patch_size: int, width: int, depth: int, heads: int, teacher_token_width: int = 0,
      norm_eps: float = 1e-6, remat: str = 'none', scan: bool = False, dtype: Any = jnp.float32, rngs: nnx.Rngs):
    layers.check_sizes(decoder_width=width, decoder_depth=depth, decoder_heads=heads)
    if teacher_token_width:
      layers.check_sizes(teacher_token_width=teacher_token_width)
    self.dtype = dtype
    self.mask_token = nnx.Param(nnx.initializers.normal(0.02)(rngs.params(), (1, width)))
    self.positions = nnx.Param(jnp.asarray(sincos_positions(width, round(patches**0.5))))
    self.blocks = layers.Blocks(
        width, depth, heads, 4 * width, eps=norm_eps, remat=remat, scan=scan, dtype=dtype, rngs=rngs)
    self.norm = layers.LayerNorm(width, epsilon=norm_eps, dtype=dtype, rngs=rngs)
    self.predict = layers.linear(width, 3 * patch_size**2, dtype=dtype, rngs=rngs) if patch_size else None
    self.predict_tokens = layers.linear(
        width, teacher_token_width, dtype=dtype, rngs=rngs) if teacher_token_width else None

  @jax.named_scope('decoder')
  def __call__(self, tokens_BxKxE: jax.Array, ids_restore_BxL: jax.Array) -> tuple[jax.Array | None, jax.Array | None]:
    """Fills hidden places with the mask token and decodes.

    Args:
      tokens_BxKxE: (B, 1 + K, E), CLS first.
      ids_restore_BxL: see `masking.Masking`.

    Returns:
      The predicted pixels of *all* patches, float32 (B, L, 3 p^2), and the predicted tokens of the teacher, float32
      (B, L, D); None for what is not predicted. (The original keeps `[:, :1]`, one prediction broadcast to all patches,
      and so learns nothing: docs/method.md, Differences from the original.)
    """
    batch, visible, width = tokens_BxKxE.shape
    hidden = ids_restore_BxL.shape[1] - (visible - 1)
    mask_tokens = jnp.broadcast_to(self.mask_token[...].astype(tokens_BxKxE.dtype), (batch, hidden, width))
    patches_BxLxE = take_tokens(jnp.concatenate([tokens_BxKxE[:, 1:], mask_tokens], axis=1), ids_restore_BxL)
    tokens_BxLxE = jnp.concatenate([tokens_BxKxE[:, :1], patches_BxLxE], axis=1)
    positions = jax.lax.stop_gradient(self.positions[...]).astype(self.dtype)
    decoded_BxLxE = self.norm(self.blocks(tokens_BxLxE + positions))[:, 1:]
    pixels, tokens = (
        None if head is None else head(decoded_BxLxE).astype(jnp.float32)
        for head in (self.predict, self.predict_tokens))
    return pixels, tokens
