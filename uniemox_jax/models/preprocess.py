"""Pixels to what a model reads: their statistics, normalisation on the device, and resizing."""

import reprlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

WIDEST = 10.0
"""The range of normalised values that are taken for such, beyond what pixels give, so that noise is, too."""
Statistics = tuple[float, ...]
"""Mean or standard deviation of the red, green and blue channels."""


def check_statistics(mean: Any, std: Any) -> dict[str, list[float]]:
  """{'mean', 'std'} as lists.

  Raises:
    ValueError: not three numbers each that pixels in 0..1 can have.
  """
  for name, values, low, high in (('mean', mean, -10, 10), ('std', std, 1e-3, 10)):
    numbers = isinstance(values, list | tuple) and all(type(value) in (int, float) for value in values)
    if not numbers or len(values) != 3 or not all(low <= value <= high for value in values):
      raise ValueError(f'{name} of the pixels is {reprlib.repr(values)}, not three numbers from {low} to {high}')
  return {'mean': list(mean), 'std': list(std)}


@jax.named_scope('inputs')
def normalise(
    images_BxHxWx3: jax.Array | np.ndarray, mean: Statistics = IMAGENET_MEAN,
    std: Statistics = IMAGENET_STD) -> jax.Array:
  """0..255 pixels, uint8 or float, to (x/255 - mean) / std in float32; the student uses ImageNet's statistics."""
  return (jnp.asarray(images_BxHxWx3).astype(jnp.float32) / 255.0 - jnp.array(mean)) / jnp.array(std)


def denormalise(images_BxHxWx3: np.ndarray) -> np.ndarray:
  """The inverse of `normalise` with ImageNet's statistics, as uint8, clipped."""
  pixels = (np.asarray(images_BxHxWx3) * np.array(IMAGENET_STD) + np.array(IMAGENET_MEAN)) * 255.0
  return np.clip(np.round(pixels), 0, 255).astype(np.uint8)


@jax.named_scope('inputs')
def resize(images_BxHxWx3: jax.Array, height: int, width: int, method: str = 'bicubic') -> jax.Array:
  """'bicubic' or 'bilinear', antialiased; float32, rounded and clipped to 0..255 as an image file would be."""
  shape = (images_BxHxWx3.shape[0], height, width, 3)
  resized = jax.image.resize(images_BxHxWx3.astype(jnp.float32), shape, method, antialias=True)
  return jnp.clip(jnp.round(resized), 0, 255)


def check_normalised(images: Any, mean: Statistics, std: Statistics, name: str) -> None:
  """Raises ValueError for floats that no normalised pixels are: far out of their range, or all in 0..1."""
  if not images.size:
    return
  low, high = float(images.min()), float(images.max())
  ends = [(end - m) / s for end in (0, 1) for m, s in zip(mean, std)]
  most = max(WIDEST, 2 * max(map(abs, ends)))
  # All of 0..1 and no more, or levels of 1/255: normalised pixels hit neither.
  unscaled = 0 <= low < high <= 1 and min(ends) < -0.5 and (
      low < 0.02 and high > 0.98 or bool((abs(images * 255 - (images * 255).round()) < 1e-3).all()))
  if unscaled or not -most <= low <= high <= most:
    raise ValueError(
        f'{name} are float32 from {low:.4g} to {high:.4g}, which normalised pixels are not: give uint8, or '
        f'(x / 255 - mean) / std with mean {mean} and std {std}')
