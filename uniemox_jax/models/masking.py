"""Patches and random masking (docs/method.md, One pretraining step; MAE section 3)."""

from typing import NamedTuple

import jax
import jax.numpy as jnp


class Masking(NamedTuple):
  """One random choice of visible patches per example.

  ids_keep_BxK: indices of the visible patches, in noise order.
  ids_restore_BxL: for each patch, its rank in noise order; ranks below K are visible.
  mask_BxL: float32, 1 where the patch is hidden, 0 where it is visible.
  """

  ids_keep_BxK: jax.Array
  ids_restore_BxL: jax.Array
  mask_BxL: jax.Array


def visible_patches(patches: int, mask_ratio: float) -> int:
  """The number of visible patches, K = int(L * (1 - ratio)): 19 of 196 at 0.9. `L - int(ratio * L)` would give 20."""
  return int(patches * (1 - mask_ratio))


@jax.named_scope('inputs')
def random_masking(noise_BxL: jax.Array, visible: int) -> Masking:
  """Keeps the `visible` patches of lowest noise in every row."""
  ids_shuffle_BxL = jnp.argsort(noise_BxL, axis=1)
  ids_restore_BxL = jnp.argsort(ids_shuffle_BxL, axis=1)
  mask_BxL = (ids_restore_BxL >= visible).astype(jnp.float32)
  return Masking(ids_shuffle_BxL[:, :visible], ids_restore_BxL, mask_BxL)


def take_tokens(tokens_BxLxD: jax.Array, ids_BxK: jax.Array) -> jax.Array:
  """Gathers tokens by row. `take_along_axis` stays on the device; indexing all-gathers (docs/method.md, Parity traps).
  """
  return jnp.take_along_axis(tokens_BxLxD, ids_BxK[:, :, None], axis=1)


@jax.named_scope('inputs')
def patchify(images_BxHxWxC: jax.Array, patch_size: int) -> jax.Array:
  """Cuts (B, H, W, C) into patches (B, L, p*p*C), row by row, their pixels as (row, column, channel): MAE's order."""
  batch, height, width, channels = images_BxHxWxC.shape
  rows, columns = height // patch_size, width // patch_size
  lines = images_BxHxWxC.reshape(batch, rows, patch_size, columns, patch_size * channels)
  return lines.transpose(0, 1, 3, 2, 4).reshape(batch, rows * columns, patch_size * patch_size * channels)


def unpatchify(patches_BxLxP: jax.Array, patch_size: int) -> jax.Array:
  """The inverse of `patchify` for square RGB images."""
  batch, length, _ = patches_BxLxP.shape
  side = round(length**0.5)
  grid = patches_BxLxP.reshape(batch, side, side, patch_size, patch_size, 3)
  return grid.transpose(0, 1, 3, 2, 4, 5).reshape(batch, side * patch_size, side * patch_size, 3)
