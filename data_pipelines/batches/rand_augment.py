"""RandAugment as in timm's `rand-m9-mstd0.5-inc1`, by the same Pillow operations; only the source of draws differs.

Shears and translations are our own, since Pillow's take long: the same pixels to 1 of 255.

Cubuk et al., "RandAugment", arXiv 1909.13719, with timm's changes: operations that all grow stronger with magnitude, a
magnitude drawn from a normal distribution, and each operation left out half of the time.
"""

from collections.abc import Callable
import functools

import numpy as np
from PIL import Image, ImageEnhance, ImageOps
from scipy import special
import tensorflow as tf

LAYERS = 2
PROBABILITY = 0.5
MAX_MAGNITUDE = 10.0
DRAWS = (LAYERS, 4)
"""The shape of one image's uniform draws: for each layer, which operation, whether it is applied, how strong, and the
sign."""
_ROWS_IN_CACHE = 56
FILL = (124, 116, 104)
"""The colour of the area that geometric operations leave uncovered: ImageNet's mean."""

Operation = Callable[[Image.Image, float, int], Image.Image]
"""A function (RGB image, level in [0, 1], sign -1 or 1) -> RGB image of the same size."""


def rand_augment(image_HxWx3: tf.Tensor, draws_Lx4: tf.Tensor, magnitude: float, std: float) -> tf.Tensor:
  """Applies two operations, drawn with replacement from `OPERATIONS`, each with probability 0.5; uint8 in and out.

  Args:
    image_HxWx3: uint8.
    draws_Lx4: uniform in [0, 1), float32 of shape DRAWS.
    magnitude: the mean strength, in [0, 10].
    std: the strength's standard deviation; draws are clipped to [0, 10].
  """

  def run() -> tf.Tensor:
    apply = functools.partial(_apply, magnitude=magnitude, std=std)
    return tf.ensure_shape(
        tf.numpy_function(apply, [image_HxWx3, draws_Lx4], tf.uint8, stateful=False), image_HxWx3.shape)

  return tf.cond(tf.reduce_any(draws_Lx4[:, 1] < PROBABILITY), run, lambda: image_HxWx3)


def _apply(image_HxWx3: np.ndarray, draws_Lx4: np.ndarray, magnitude: float, std: float) -> np.ndarray:
  image = Image.fromarray(image_HxWx3)
  for which, applied, spread, sign in draws_Lx4:
    if applied < PROBABILITY:
      # The normal quantile of 0 is infinite. float64, because the operations truncate levels to integers.
      drawn = magnitude + std * float(special.ndtri(np.float64(max(spread, np.float32(2.0**-24)))))
      level = min(max(drawn, 0.0), MAX_MAGNITUDE) / MAX_MAGNITUDE
      image = OPERATIONS[_NAMES[int(which * len(_NAMES))]](image, level, -1 if sign < 0.5 else 1)
  return np.asarray(image)


def _solarize_add(image: Image.Image, level: float, sign: int) -> Image.Image:
  del sign
  added = int(level * 110)
  return image.point([min(255, value + added) if value < 128 else value for value in range(256)] * 3)


def _enhancing(enhancer: Callable[[Image.Image], ImageEnhance._Enhance]) -> Operation:
  return lambda image, level, sign: enhancer(image).enhance(max(0.1, 1 + sign * level * 0.9))


def _move_rows(image: Image.Image, shift_H: np.ndarray) -> Image.Image:
  """Pixel x of each row becomes that at x + shift, as by Pillow's bicubic AFFINE, in less than half of its time.

  Along one axis 4 neighbours count in place of 16. At most 1 of 255 apart, since this is float32.
  """
  width, height = image.size
  whole_H = np.floor(shift_H).astype(np.int32)
  d = (shift_H - whole_H).astype(np.float32)[:, None]
  left, right, far = ((2 - d) * d - 1) * d, ((1 - d) * d + 1) * d, (d - 1) * d * d
  # A pixel is four bytes, or one number of 32 bits.
  pixels = np.asarray(image.convert('RGBX')).view(np.uint32).ravel()
  x = np.arange(-1, width + 2, dtype=np.int32) + whole_H[:, None]
  np.clip(x, 0, width - 1, out=x)
  near = pixels.take(x + np.arange(0, pixels.size, width, dtype=np.int32)[:, None]).view(np.uint8)
  moved = np.empty((height, 4 * width), np.uint8)
  for rows in (slice(start, start + _ROWS_IN_CACHE) for start in range(0, height, _ROWS_IN_CACHE)):
    values = near[rows].astype(np.float32)
    a, b, c, e = (values[:, 4 * k:4 * (k + width)] for k in range(4))
    # In this form an even area keeps its value exactly, which is then cut to an integer.
    value = b + (left[rows] * (a - b) + right[rows] * (c - b) + far[rows] * (e - b))
    moved[rows] = value.astype(np.int16).clip(0, 255)
  centre = np.arange(width, dtype=np.int16)
  first, last = (np.ceil(edge - 0.5 - shift_H).astype(np.int16)[:, None] for edge in (0, width))
  moved.view(np.uint32)[(centre < first) | (centre >= last)] = np.frombuffer(bytes((*FILL, 0)), np.uint32)
  return Image.frombytes('RGB', image.size, moved, 'raw', 'RGBX')


def _shear(image: Image.Image, slope: float) -> Image.Image:
  return _move_rows(image, slope * (np.arange(image.height) + 0.5))


def _translate(image: Image.Image, share: float) -> Image.Image:
  return _move_rows(image, np.full(image.height, share * image.width))


def _along_columns(
    operation: Callable[[Image.Image, float], Image.Image], image: Image.Image, amount: float) -> Image.Image:
  return operation(image.transpose(Image.Transpose.TRANSPOSE), amount).transpose(Image.Transpose.TRANSPOSE)


OPERATIONS: dict[str, Operation] = {
    'AutoContrast': lambda image, level, sign: ImageOps.autocontrast(image),
    'Equalize': lambda image, level, sign: ImageOps.equalize(image),
    'Invert': lambda image, level, sign: ImageOps.invert(image),
    'Rotate': lambda image, level, sign: image.rotate(sign * level * 30, Image.Resampling.BICUBIC, fillcolor=FILL),
    'Posterize': lambda image, level, sign: ImageOps.posterize(image, 4 - int(level * 4)),
    'Solarize': lambda image, level, sign: ImageOps.solarize(image, 256 - int(level * 256)),
    'SolarizeAdd': _solarize_add,
    'Color': _enhancing(ImageEnhance.Color),
    'Contrast': _enhancing(ImageEnhance.Contrast),
    'Brightness': _enhancing(ImageEnhance.Brightness),
    'Sharpness': _enhancing(ImageEnhance.Sharpness),
    'ShearX': lambda image, level, sign: _shear(image, sign * level * 0.3),
    'ShearY': lambda image, level, sign: _along_columns(_shear, image, sign * level * 0.3),
    'TranslateX': lambda image, level, sign: _translate(image, sign * level * 0.45),
    'TranslateY': lambda image, level, sign: _along_columns(_translate, image, sign * level * 0.45),}
"""timm's 15 "increasing" operations."""
_NAMES = tuple(OPERATIONS)
