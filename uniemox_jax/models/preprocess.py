"""Pixels to what a model reads: normalisation on the device, and the evaluation view of any image."""

from collections.abc import Callable
import functools
import reprlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from data_pipelines import images as image_files

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


def normalise(images_BxHxWx3: jax.Array, mean: Statistics = IMAGENET_MEAN, std: Statistics = IMAGENET_STD) -> jax.Array:
  """0..255 pixels, uint8 or float, to (x/255 - mean) / std in float32; the student uses ImageNet's statistics."""
  return (images_BxHxWx3.astype(jnp.float32) / 255.0 - jnp.array(mean)) / jnp.array(std)


def denormalise(images_BxHxWx3: np.ndarray) -> np.ndarray:
  """The inverse of `normalise` with ImageNet's statistics, as uint8, clipped."""
  pixels = (np.asarray(images_BxHxWx3) * np.array(IMAGENET_STD) + np.array(IMAGENET_MEAN)) * 255.0
  return np.clip(np.round(pixels), 0, 255).astype(np.uint8)


def resize(images_BxHxWx3: jax.Array, height: int, width: int, method: str = 'bicubic') -> jax.Array:
  """'bicubic' or 'bilinear', antialiased; float32, rounded and clipped to 0..255 as an image file would be."""
  shape = (images_BxHxWx3.shape[0], height, width, 3)
  resized = jax.image.resize(images_BxHxWx3.astype(jnp.float32), shape, method, antialias=True)
  return jnp.clip(jnp.round(resized), 0, 255)


def as_model_input(
    images: Any, size: int, view: Callable[[Image.Image], np.ndarray], mean: Statistics, std: Statistics,
    name: str = 'images') -> jax.Array:
  """The `images` argument of every `load_*` model (docs/commands.md, Python) as normalised float32 (B, size, size, 3).

  Args:
    images: uint8 (B, H, W, 3) pixels, or float32 (B, size, size, 3) taken as already normalised.
    size: the model's input size.
    view: the model's evaluation view of an RGB image, uint8 (size, size, 3).
    mean, std: as in `normalise`.
    name: of the argument, for the message.

  Raises:
    ValueError: anything else.
  """
  images = np.asarray(images) if not isinstance(images, jax.Array) else images
  if images.ndim == 4 and images.shape[-1] == 3:
    if images.dtype == np.uint8:
      # By Pillow, as `predict` does it: the same view, in memory that does not depend on the shape of the image.
      views = [view(Image.fromarray(pixels)) for pixels in np.asarray(images)]
      return normalise(jnp.asarray(np.reshape(np.array(views, np.uint8), (-1, size, size, 3))), mean, std)
    if images.dtype == np.float32 and images.shape[1:3] == (size, size):
      _check_normalised(images, mean, std, name)
      return jnp.asarray(images)
  raise ValueError(
      f'{name} are {images.dtype} {images.shape}; wanted uint8 (B, H, W, 3), or float32 '
      f'(B, {size}, {size}, 3) already normalised')


def _check_normalised(images: Any, mean: Statistics, std: Statistics, name: str) -> None:
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


def student_view(images: Any, size: int, mean: Statistics = IMAGENET_MEAN, std: Statistics = IMAGENET_STD) -> jax.Array:
  """uint8 or normalised images as the student's evaluation sees them; see `as_model_input`."""
  return as_model_input(images, size, functools.partial(image_files.evaluation_view, size=size), mean, std)


def person_view(persons: Any, size: int, mean: Statistics = IMAGENET_MEAN, std: Statistics = IMAGENET_STD) -> jax.Array:
  """uint8 or normalised images of persons, squashed to the square as person crops are; see `as_model_input`."""
  squashed = functools.partial(image_files.centre_view, size=size, short_side=size, squash=True)
  return as_model_input(persons, size, squashed, mean, std, 'persons')
