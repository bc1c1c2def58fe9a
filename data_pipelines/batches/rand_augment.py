"""RandAugment as in timm's `rand-m9-mstd0.5-inc1`, by the same Pillow operations; only the source of draws differs.

Shears and translations are our own, since Pillow's take long: the same pixels to 1 of 255. Where the devices make the
views, `choose` alone runs here (docs/method.md, Resizing on the devices).

Cubuk et al., "RandAugment", arXiv 1909.13719, with timm's changes: operations that all grow stronger with magnitude, a
magnitude drawn from a normal distribution, and each operation left out half of the time.
"""

from collections.abc import Callable
import functools
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageEnhance, ImageOps
from scipy import special

from data_pipelines.light_tensorflow import tf

LAYERS = 2
PROBABILITY = 0.5
MAX_MAGNITUDE = 10.0
DRAWS = (LAYERS, 4)
"""The shape of one image's uniform draws: for each layer, which operation, whether it is applied, how strong, and the
sign."""
_ROWS_IN_CACHE = 56
FILL = (124, 116, 104)
"""The colour of the area that geometric operations leave uncovered: ImageNet's mean."""

LEFT_OUT = -1
"""The place of a layer that changes nothing."""


class PillowOperation(NamedTuple):
  """One way to change an image.

  amount: a function (level in [0, 1], sign -1 or 1) -> how much is changed, in a unit of its own.
  change: a function (RGB image, amount) -> RGB image of the same size.
  """

  amount: Callable[[float, int], float]
  change: Callable[[Image.Image, float], Image.Image]


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


def choose(draws_Nx4: np.ndarray, magnitude: float, std: float) -> tuple[np.ndarray, np.ndarray]:
  """What each layer does, for the draws and strengths of `rand_augment`.

  Returns:
    Places in `OPERATIONS`, `LEFT_OUT` for none, int32 (N,); and the amounts, float64 (N,), 0 for none.
  """
  places_N, amounts_N = np.full(len(draws_Nx4), LEFT_OUT, np.int32), np.zeros(len(draws_Nx4))
  for layer, (which, applied, spread, sign) in enumerate(draws_Nx4):
    if applied < PROBABILITY:
      # The normal quantile of 0 is infinite. float64, because the operations truncate levels to integers.
      drawn = magnitude + std * float(special.ndtri(np.float64(max(spread, np.float32(2.0**-24)))))
      level = min(max(drawn, 0.0), MAX_MAGNITUDE) / MAX_MAGNITUDE
      places_N[layer] = int(which * len(_IN_ORDER))
      amounts_N[layer] = _IN_ORDER[places_N[layer]].amount(level, -1 if sign < 0.5 else 1)
  return places_N, amounts_N


def _apply(image_HxWx3: np.ndarray, draws_Lx4: np.ndarray, magnitude: float, std: float) -> np.ndarray:
  image = Image.fromarray(image_HxWx3)
  for place, amount in zip(*choose(draws_Lx4, magnitude, std)):
    if place != LEFT_OUT:
      image = _IN_ORDER[place].change(image, float(amount))
  return np.asarray(image)


def _solarize_add(image: Image.Image, added: float) -> Image.Image:
  return image.point([min(255, value + int(added)) if value < 128 else value for value in range(256)] * 3)


def _enhancing(enhancer: Callable[[Image.Image], ImageEnhance._Enhance]) -> PillowOperation:
  return PillowOperation(
      lambda level, sign: max(0.1, 1 + sign * level * 0.9), lambda image, factor: enhancer(image).enhance(factor))


def _signed(most: float, change: Callable[[Image.Image, float], Image.Image]) -> PillowOperation:
  """An operation that goes both ways, as far as `most`."""
  return PillowOperation(lambda level, sign: sign * level * most, change)


def _plain(change: Callable[[Image.Image], Image.Image]) -> PillowOperation:
  """An operation of one strength."""
  return PillowOperation(lambda level, sign: 0, lambda image, amount: change(image))


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


def _along_columns(change: Callable[[Image.Image, float], Image.Image]) -> Callable[[Image.Image, float], Image.Image]:
  turn = Image.Transpose.TRANSPOSE
  return lambda image, amount: change(image.transpose(turn), amount).transpose(turn)


OPERATIONS: dict[str, PillowOperation] = {
    'AutoContrast': _plain(ImageOps.autocontrast),
    'Equalize': _plain(ImageOps.equalize),
    'Invert': _plain(ImageOps.invert),
    'Rotate': _signed(30, lambda image, degrees: image.rotate(degrees, Image.Resampling.BICUBIC, fillcolor=FILL)),
    'Posterize':
        PillowOperation(
            lambda level, sign: 4 - int(level * 4), lambda image, bits: ImageOps.posterize(image, int(bits))),
    'Solarize':
        PillowOperation(
            lambda level, sign: 256 - int(level * 256),
            lambda image, threshold: ImageOps.solarize(image, int(threshold))),
    'SolarizeAdd': PillowOperation(lambda level, sign: int(level * 110), _solarize_add),
    'Color': _enhancing(ImageEnhance.Color),
    'Contrast': _enhancing(ImageEnhance.Contrast),
    'Brightness': _enhancing(ImageEnhance.Brightness),
    'Sharpness': _enhancing(ImageEnhance.Sharpness),
    'ShearX': _signed(0.3, _shear),
    'ShearY': _signed(0.3, _along_columns(_shear)),
    'TranslateX': _signed(0.45, _translate),
    'TranslateY': _signed(0.45, _along_columns(_translate)),}
"""timm's 15 "increasing" operations. Amounts are degrees, bits that stay, a threshold, what is added, a factor of
`ImageEnhance`, a slope, and a share of the side."""
_IN_ORDER = tuple(OPERATIONS.values())
