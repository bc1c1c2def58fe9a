"""The fine-tuned model: encoder, mean over patch tokens, `fc_norm`, linear head (method section 3)."""

from typing import Any

from flax import nnx
import jax
import jax.numpy as jnp

from uniemox_jax.models import layers
from uniemox_jax.models.vit import ViT


class Classifier(nnx.Module):
  """A ViT classifier whose positions train and whose final LayerNorm gives way to `fc_norm` after pooling.

  Args:
    image_size, patch_size, width, depth, heads, norm_eps, pre_norm, activation, remat, scan, dtype: see `vit.ViT`.
    classes: number of classes.
  """

  def __init__(self, *, image_size: int, patch_size: int, width: int, depth: int, heads: int, classes: int,
               norm_eps: float = 1e-6, pre_norm: bool = False, activation: str = 'gelu', remat: str = 'none',
               scan: bool = False, dtype: Any = jnp.float32, rngs: nnx.Rngs):
    self.encoder = ViT(image_size=image_size, patch_size=patch_size, width=width, depth=depth, heads=heads,
                       norm_eps=norm_eps, final_norm=False, train_positions=True, pre_norm=pre_norm,
                       activation=activation, remat=remat, scan=scan, dtype=dtype, rngs=rngs)
    self.fc_norm = layers.layer_norm(width, eps=norm_eps, dtype=dtype, rngs=rngs)
    self.head = nnx.Linear(width, classes, dtype=dtype, kernel_init=nnx.initializers.normal(2e-5), rngs=rngs)

  def features(self, images_BxHxWx3: jax.Array, branch_scale_NxBx2: jax.Array | None = None) -> jax.Array:
    """Pooled features (B, D): mean over patch tokens of the last block's output, then `fc_norm`."""
    tokens = self.encoder(images_BxHxWx3, branch_scale_NxBx2=branch_scale_NxBx2)
    return self.fc_norm(tokens[:, 1:].mean(axis=1))

  def __call__(self, images_BxHxWx3: jax.Array, branch_scale_NxBx2: jax.Array | None = None) -> jax.Array:
    """Logits, float32 (B, classes), of normalised float images."""
    return self.head(self.features(images_BxHxWx3, branch_scale_NxBx2)).astype(jnp.float32)
