"""Makes of pixels what a model reads: their statistics, normalisation on the device, and resizing."""

import functools
import reprlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)

WIDEST = 10.0
"""The largest size of a value that is taken as normalised. Pixels give less; the room is for noise."""
Statistics = tuple[float, ...]
"""The mean or the standard deviation of the red, green and blue channels."""


def check_statistics(mean: Any, std: Any) -> dict[str, list[float]]:
  """Returns {'mean', 'std'} as lists.

  Raises:
    ValueError: one of them is not three numbers that pixels in 0..1 can have.
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
  """Turns 0..255 pixels, uint8 or float, into (x/255 - mean) / std, float32; the student uses ImageNet's statistics."""
  return (jnp.asarray(images_BxHxWx3).astype(jnp.float32) / 255.0 - jnp.array(mean)) / jnp.array(std)


def denormalise(images_BxHxWx3: np.ndarray) -> np.ndarray:
  """The inverse of `normalise` with ImageNet's statistics, as uint8, clipped."""
  pixels = (np.asarray(images_BxHxWx3) * np.array(IMAGENET_STD) + np.array(IMAGENET_MEAN)) * 255.0
  return np.clip(np.round(pixels), 0, 255).astype(np.uint8)


@jax.named_scope('inputs')
def resize(images_BxHxWx3: jax.Array, height: int, width: int, method: str = 'bicubic') -> jax.Array:
  """Resizes by 'bicubic' or 'bilinear', antialiased; float32, rounded and clipped to 0..255 like an image file."""
  shape = (images_BxHxWx3.shape[0], height, width, 3)
  resized = jax.image.resize(images_BxHxWx3.astype(jnp.float32), shape, method, antialias=True)
  return jnp.clip(jnp.round(resized), 0, 255)


def resize_and_normalise(
    images_BxHxWx3: jax.Array, size: int, mean: Statistics, std: Statistics, method: str = 'bicubic') -> jax.Array:
  """Makes square views as another model sees them inside a train step (docs/method.md, One pretraining step).

  Args:
    images_BxHxWx3: pixels 0..255, uint8 or float; resized if their side is not `size`.
    size, mean, std: those of the other model.
    method: see `resize`.

  Returns:
    float32 (B, size, size, 3).
  """
  if images_BxHxWx3.shape[1:3] != (size, size):
    images_BxHxWx3 = resize(images_BxHxWx3, size, size, method)
  return normalise(images_BxHxWx3, mean, std)


@jax.named_scope('inputs')
def resize_crops(batch: dict[str, jax.Array], size: int, parts: int = 1) -> dict[str, jax.Array]:
  """Replaces a batch's crops by views; a batch without crops stays (docs/method.md, Resizing on the devices).

  Args:
    batch: holds for every crop NAME, uint8 (B, C, C, 3), and NAME_box, float32 (B, 4), its (top, left, height, width)
      in pixels; and 'flip' bool (B,), whether its views are flipped.
    size: the side S of the views.
    parts: the number of parts of the batch, which are resized one after the other to save memory.

  Returns:
    NAME uint8 (B, S, S, 3), and what else the batch holds.
  """
  if 'flip' not in batch:
    return batch
  views = {}
  for name in [name for name in batch if f'{name}_box' in batch]:
    # Part i takes rows i, i + parts, ...: every device keeps its own rows.
    crops = [
        x.reshape(-1, parts, *x.shape[1:]).swapaxes(0, 1) for x in (batch[name], batch[f'{name}_box'], batch['flip'])]
    views_PxBxSxSx3 = jax.lax.map(functools.partial(_resize_boxes, size=size), crops)
    views[name] = views_PxBxSxSx3.swapaxes(0, 1).reshape(-1, size, size, 3)
  return {name: rows for name, rows in batch.items() if name != 'flip' and not name.endswith('_box')} | views


def _resize_boxes(crops: list[jax.Array], size: int) -> jax.Array:
  """uint8 (B, S, S, 3), bicubic and antialiased, by two matrix products a view: columns, then rows."""
  pixels_BxCxCx3, box_Bx4, flip_B = crops
  canvas = pixels_BxCxCx3.shape[1]
  rows_BxSxC = _bicubic_weights(box_Bx4[:, 0], box_Bx4[:, 2], jnp.zeros_like(flip_B), size, canvas)
  columns_BxSxC = _bicubic_weights(box_Bx4[:, 1], box_Bx4[:, 3], flip_B, size, canvas)
  # A TPU would round the factors to bfloat16 unless asked not to.
  product = functools.partial(jnp.einsum, precision=jax.lax.Precision.HIGHEST)
  lines_BxCxSx3 = product('bhwc,bsw->bhsc', pixels_BxCxCx3.astype(jnp.float32), columns_BxSxC)
  view_BxSxSx3 = product('bhsc,brh->brsc', lines_BxCxSx3, rows_BxSxC)
  return jnp.clip(jnp.round(view_BxSxSx3), 0, 255).astype(jnp.uint8)


def _bicubic_weights(first_B: jax.Array, side_B: jax.Array, flip_B: jax.Array, size: int, canvas: int) -> jax.Array:
  """What each pixel of an axis of the canvas counts in each of the view, float32 (B, S, C); rows sum to 1.

  The kernel is that of `data_pipelines.batches.augment.resize`: Keys' cubic, as wide as the scale where it shrinks,
  cut off where the pixels of the crop end.
  """
  step_Bx1 = (side_B / size)[:, None]
  index_S, place_C = jnp.arange(size), jnp.arange(canvas)
  index_BxS = jnp.where(flip_B[:, None], index_S[::-1], index_S)
  centre_BxS = first_B[:, None] + (index_BxS + 0.5) * step_Bx1 - 0.5
  x = jnp.abs(place_C - centre_BxS[..., None]) / jnp.maximum(step_Bx1, 1)[..., None]
  near, far = (1.5 * x - 2.5) * x * x + 1, ((-0.5 * x + 2.5) * x - 4) * x + 2
  inside_Bx1xC = place_C < jnp.ceil(first_B + side_B)[:, None, None]
  weights_BxSxC = jnp.where(inside_Bx1xC & (x < 2), jnp.where(x < 1, near, far), 0)
  return weights_BxSxC / weights_BxSxC.sum(axis=-1, keepdims=True)


def check_normalised(images: Any, mean: Statistics, std: Statistics, name: str) -> None:
  """Raises ValueError for floats that cannot be normalised pixels: far out of their range, or all in 0..1."""
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
