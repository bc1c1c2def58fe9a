"""The classifier's random regularisation: mixup, cutmix, label smoothing, drop-path, drawn for the whole batch."""

from typing import NamedTuple

import jax
import jax.numpy as jnp


class Mix(NamedTuple):
  """How each image is mixed with its partner, the one at the other end of the batch.

  weight_HxW: the weight of the image itself. share: its mean, which is the share of the image's target.
  """

  weight_HxW: jax.Array
  share: jax.Array

  def blend(self, images_BxHxWx3: jax.Array, partners_BxHxWx3: jax.Array) -> jax.Array:
    """Mixes the images; several views (B, V, H, W, 3) are all mixed in the same way."""
    weight_HxWx1 = self.weight_HxW[..., None]
    return weight_HxWx1 * images_BxHxWx3 + (1 - weight_HxWx1) * partners_BxHxWx3

  def blend_targets(self, target_BxC: jax.Array) -> jax.Array:
    """Mixes the targets of a whole batch as its images are mixed."""
    return self.share * target_BxC + (1 - self.share) * target_BxC[::-1]


def draw_mix(key: jax.Array, size: tuple[int, int], mixup: float, cutmix: float) -> Mix | None:
  """Draws a mixup (Zhang et al. 2018) or a cutmix (Yun et al. 2019) for a batch, each with probability 1/2 if both are
  on.

  Args:
    key: PRNG key.
    size: (H, W) of the images.
    mixup, cutmix: the parameter of the symmetric Beta distribution, 0 is off.

  Returns:
    The mix; None if both are off.
  """
  if not (mixup or cutmix):
    return None
  switch_key, mixup_key, cutmix_key = jax.random.split(key, 3)
  if not cutmix:
    return _mixup(mixup_key, size, mixup)
  if not mixup:
    return _cutmix(cutmix_key, size, cutmix)
  cut = jax.random.bernoulli(switch_key)
  blended, pasted = _mixup(mixup_key, size, mixup), _cutmix(cutmix_key, size, cutmix)
  return jax.tree.map(lambda a, b: jnp.where(cut, a, b), pasted, blended)


def _mixup(key: jax.Array, size: tuple[int, int], alpha: float) -> Mix:
  share = jax.random.beta(key, alpha, alpha)
  return Mix(jnp.full(size, share), share)


def _cutmix(key: jax.Array, size: tuple[int, int], alpha: float) -> Mix:
  """A box of area 1 - lambda around a uniform centre is the partner's; the share is what the clipped box leaves."""
  share_key, row_key, column_key = jax.random.split(key, 3)
  side = jnp.sqrt(1 - jax.random.beta(share_key, alpha, alpha))

  def inside(key: jax.Array, length: int) -> jax.Array:
    centre = jax.random.randint(key, (), 0, length)
    half = (side * length / 2).astype(jnp.int32)
    place = jnp.arange(length)
    return (place >= centre - half) & (place < centre + half)

  box_HxW = inside(row_key, size[0])[:, None] & inside(column_key, size[1])[None, :]
  weight_HxW = 1.0 - box_HxW.astype(jnp.float32)
  return Mix(weight_HxW, weight_HxW.mean())


def smooth_labels(label_B: jax.Array, classes: int, smoothing: float) -> jax.Array:
  """One-hot targets with `smoothing` spread evenly over all classes; float32 (B, classes)."""
  return jax.nn.one_hot(label_B, classes) * (1 - smoothing) + smoothing / classes


def draw_branch_scales(key: jax.Array, batch: int, depth: int, rate: float) -> jax.Array:
  """Draws stochastic depth (Huang et al. 2016): 0 where a branch is dropped, 1 / (1 - p) where it is kept.

  p grows linearly from 0 in the first block to `rate` in the last.

  Returns:
    float32 (batch, depth, 2): per example, block and branch (attention, MLP).
  """
  keep_N = 1 - jnp.linspace(0.0, rate, depth)
  kept = jax.random.bernoulli(key, keep_N[None, :, None], (batch, depth, 2))
  return kept / keep_N[None, :, None]
