"""Resizes position embeddings for another image size, as `interpolate_pos_embed` of MAE and the original does."""

import math

import numpy as np

from data_pipelines.errors import UserError
from uniemox_jax.models.vit import sincos_positions

CUBIC = -0.75
"""The coefficient of PyTorch's bicubic kernel; jax.image.resize has -0.5."""
TOLERANCE = 1e-6


def side_of(count: int, source: str) -> int:
  """The number of patches along one side, from the `count` of positions, CLS included.

  Raises:
    UserError: the patches do not form a square.
  """
  side = math.isqrt(max(count - 1, 0))
  if side * side + 1 != count or not side:
    raise UserError(f'{source} has {count} positions: wanted one for CLS and a square of patches')
  return side


def are_sincos(positions_NxD: np.ndarray) -> bool:
  """Whether these are MAE's fixed sine-cosine positions, within 1e-6."""
  count, width = positions_NxD.shape
  side = math.isqrt(count - 1)
  return (
      width % 4 == 0 and side * side + 1 == count and
      np.allclose(positions_NxD, sincos_positions(width, side), rtol=0, atol=TOLERANCE))


def resize_positions(positions_NxD: np.ndarray, count: int, source: str) -> np.ndarray:
  """Makes `count` positions of N: sine-cosine ones are computed again, others interpolated; the CLS row is kept.

  The interpolation equals torch.nn.functional.interpolate(mode='bicubic', align_corners=False) in float32.

  Args:
    positions_NxD: the positions, float32, CLS first.
    count: the number of new positions, CLS included.
    source: what an error calls the file.

  Raises:
    UserError: the patches form no square.
  """
  old, new = side_of(len(positions_NxD), source), side_of(count, source)
  if are_sincos(positions_NxD):
    return sincos_positions(positions_NxD.shape[1], new)
  weights_nxo = _cubic_weights(old, new)
  grid = positions_NxD[1:].reshape(old, old, -1)
  resized = np.einsum('yi,xj,ijd->yxd', weights_nxo, weights_nxo, grid, optimize=True)
  return np.concatenate([positions_NxD[:1], resized.reshape(new * new, -1)])


def _cubic_weights(old: int, new: int) -> np.ndarray:
  """(new, old) float32: rows are the cubic convolution kernel around each new pixel's centre, clamped at the border."""
  weights = np.zeros((new, old), np.float32)
  centres = ((np.arange(new, dtype=np.float32) + np.float32(0.5)) * np.float32(old / new) - np.float32(0.5))
  for row, centre in enumerate(centres):
    first = math.floor(centre) - 1
    for tap in range(first, first + 4):
      weights[row, min(max(tap, 0), old - 1)] += _kernel(abs(centre - tap))
  return weights


def _kernel(x: float) -> float:
  if x <= 1:
    return ((CUBIC + 2) * x - (CUBIC + 3)) * x * x + 1
  return ((CUBIC * x - 5 * CUBIC) * x + 8 * CUBIC) * x - 4 * CUBIC
