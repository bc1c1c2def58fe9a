"""RandAugment as in timm's `rand-m9-mstd0.5-inc1`, by the same Pillow operations; only the source of draws differs.

Cubuk et al., "RandAugment", arXiv 1909.13719, with timm's changes: operations that all grow stronger with magnitude, a
magnitude drawn from a normal distribution, and each operation left out half of the time.
"""

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageEnhance, ImageOps
import tensorflow as tf

LAYERS = 2
PROBABILITY = 0.5
MAX_MAGNITUDE = 10.0
DRAWS = (LAYERS, 4)
"""Uniform draws for one image: of each layer, which operation, whether it is applied, how strong, and the sign."""
FILL = (124, 116, 104)
"""Colour of the area that geometric operations leave uncovered: ImageNet's mean."""

Operation = Callable[[Image.Image, float, int], Image.Image]
"""(RGB image, level in [0, 1], sign -1 or 1) -> RGB image of the same size."""


def rand_augment(image_HxWx3: tf.Tensor, draws_Lx4: tf.Tensor, magnitude: float, std: float) -> tf.Tensor:
  """Two operations, drawn with replacement from `OPERATIONS`, each applied with probability 0.5; uint8 in and out.

  Args:
    image_HxWx3: uint8.
    draws_Lx4: uniform in [0, 1), float32 of shape DRAWS.
    magnitude: mean strength in [0, 10].
    std: its standard deviation; draws are clipped to [0, 10].
  """
  which_L, applied_L, spread_L, sign_L = tf.unstack(draws_Lx4, axis=1)
  kept_L = applied_L < PROBABILITY
  # The normal quantile of 0 is infinite. float64, because the operations truncate levels to integers.
  spread_L = tf.math.ndtri(tf.cast(tf.maximum(spread_L, 2.0**-24), tf.float64))
  level_L = tf.clip_by_value(magnitude + std * spread_L, 0, MAX_MAGNITUDE) / MAX_MAGNITUDE
  # Few operations of TensorFlow, each of which costs more than what it computes.
  chosen = [kept_L, which_L * len(OPERATIONS), level_L, sign_L < 0.5]

  def run() -> tf.Tensor:
    return tf.ensure_shape(
        tf.numpy_function(_apply, [image_HxWx3, *chosen], tf.uint8, stateful=False), image_HxWx3.shape)

  return tf.cond(tf.reduce_any(kept_L), run, lambda: image_HxWx3)


def _apply(
    image_HxWx3: np.ndarray, kept_L: np.ndarray, which_L: np.ndarray, level_L: np.ndarray,
    negative_L: np.ndarray) -> np.ndarray:
  image = Image.fromarray(image_HxWx3)
  for kept, which, level, negative in zip(*(values_L.tolist() for values_L in (kept_L, which_L, level_L, negative_L))):
    if kept:
      image = OPERATIONS[_NAMES[int(which)]](image, level, -1 if negative else 1)
  return np.asarray(image)


def _solarize_add(image: Image.Image, level: float, sign: int) -> Image.Image:
  del sign
  added = int(level * 110)
  return image.point([min(255, value + added) if value < 128 else value for value in range(256)] * 3)


def _enhancing(enhancer: Callable[[Image.Image], ImageEnhance._Enhance]) -> Operation:
  return lambda image, level, sign: enhancer(image).enhance(max(0.1, 1 + sign * level * 0.9))


def _affine(image: Image.Image, *matrix: float) -> Image.Image:
  return image.transform(image.size, Image.Transform.AFFINE, matrix, Image.Resampling.BICUBIC, fillcolor=FILL)


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
    'ShearX': lambda image, level, sign: _affine(image, 1, sign * level * 0.3, 0, 0, 1, 0),
    'ShearY': lambda image, level, sign: _affine(image, 1, 0, 0, sign * level * 0.3, 1, 0),
    'TranslateX': lambda image, level, sign: _affine(image, 1, 0, sign * level * 0.45 * image.width, 0, 1, 0),
    'TranslateY': lambda image, level, sign: _affine(image, 1, 0, 0, 0, 1, sign * level * 0.45 * image.height),}
"""timm's 15 "increasing" operations."""
_NAMES = tuple(OPERATIONS)
