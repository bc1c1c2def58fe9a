"""The fine-tuned model: encoder, mean over patch tokens, `fc_norm`, linear head (docs/method.md, Recipes).

It sees the scene alone, as published, or scene and person (docs/two_streams.md), through the same encoder. Classifiers
of other libraries pool in two other ways.
"""

from typing import Any

from flax import nnx
import jax
import jax.numpy as jnp

from uniemox_jax.models import layers
from uniemox_jax.models.vit import ViT

POOLINGS = ('mean', 'class_token', 'mean_of_normed')
"""What `fc_norm` and the head read: the mean over patch tokens; the class token, as in the published ViT and DeiT; or
the mean over patch tokens after the LayerNorm of each, as in timm's ViTs with `global_pool` 'avg' and no `fc_norm`."""
STREAMS = {'scene': ('image',), 'scene+person': ('image', 'person')}
"""The views of a batch that the model takes, by the name of the choice."""


def stack_views(batch: dict[str, jax.Array]) -> jax.Array:
  """Takes the views of a batch: its 'image' (B, H, W, 3), or with a 'person' both as (B, 2, H, W, 3), scene first.

  The view axis follows the batch axis so that a batch sharded over devices stays where it is.
  """
  return jnp.stack([batch['image'], batch['person']], axis=1) if 'person' in batch else batch['image']


class Classifier(nnx.Module):
  """A ViT classifier whose positions train and whose final LayerNorm gives way to `fc_norm` after pooling.

  Args:
    width, norm_eps, dtype, encoder: the arguments of `vit.ViT` but for its positions and final norm.
    classes: number of classes.
    streams: a key of `STREAMS`: the scene, or scene and person, whose features the head reads side by side.
    pooling: one of `POOLINGS`.

  Raises:
    ValueError: an option is none of its choices.
  """

  def __init__(
      self, *, width: int, classes: int, streams: str = 'scene', pooling: str = 'mean', norm_eps: float = 1e-6,
      dtype: Any = jnp.float32, rngs: nnx.Rngs, **encoder: Any):
    if streams not in STREAMS:
      raise ValueError(f"streams '{streams}' is not one of {', '.join(STREAMS)}")
    if pooling not in POOLINGS:
      raise ValueError(f"pooling '{pooling}' is not one of {', '.join(POOLINGS)}")
    layers.check_sizes(width=width, classes=classes)
    self.view_count, self.pooling = len(STREAMS[streams]), pooling
    self.encoder = ViT(
        width=width, norm_eps=norm_eps, final_norm=False, train_positions=True, dtype=dtype, rngs=rngs, **encoder)
    self.fc_norm = layers.LayerNorm(width, epsilon=norm_eps, dtype=dtype, rngs=rngs)
    self.head = nnx.Linear(
        self.view_count * width, classes, dtype=dtype, kernel_init=nnx.initializers.normal(2e-5), rngs=rngs)

  def features(self, views_BxVxHxWx3: jax.Array, branch_scale_NxBx2: jax.Array | None = None) -> jax.Array:
    """The pooled features of each view: the last block's tokens, pooled by `pooling`, through `fc_norm`.

    Args:
      views_BxVxHxWx3: normalised float images, encoded in one call; or one image each, (B, H, W, 3).
      branch_scale_NxBx2: drop-path, see `layers.Blocks`; its B counts every view of every example, in that order.

    Returns:
      (B, V D), views side by side.
    """
    images_BxHxWx3 = views_BxVxHxWx3.reshape(-1, *views_BxVxHxWx3.shape[-3:])
    tokens = self.encoder(images_BxHxWx3, branch_scale_NxBx2=branch_scale_NxBx2)
    if self.pooling == 'mean_of_normed':
      pooled = self.fc_norm(tokens[:, 1:]).mean(axis=1)
    else:
      pooled = self.fc_norm(tokens[:, 0] if self.pooling == 'class_token' else tokens[:, 1:].mean(axis=1))
    return pooled.reshape(views_BxVxHxWx3.shape[0], -1)

  @jax.named_scope('head')
  def __call__(self, views_BxVxHxWx3: jax.Array, branch_scale_NxBx2: jax.Array | None = None) -> jax.Array:
    """The logits, float32 (B, classes), of normalised float images (B, H, W, 3), or of V = 2 views, scene first."""
    return self.head(self.features(views_BxVxHxWx3, branch_scale_NxBx2)).astype(jnp.float32)
