"""RandAugment's operations on a device: those of Pillow to 1 of 255, for one image, one at a time.

The host's are `data_pipelines.batches.rand_augment.OPERATIONS`; docs/method.md, Resizing on the devices, says how far
apart the two are. All of Pillow's own numbers are integers, or float32 that it cuts to integers.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

FILL = (124, 116, 104)
"""The colour of the area that geometric operations leave uncovered: ImageNet's mean."""
_DIGITS = 16
"""A value of 0..255 is two digits of so many values each."""

Operation = Callable[[jax.Array, jax.Array], jax.Array]
"""A function (the planes of an image, 0..255, int32 (3, S, S); amount, float32) -> planes of the same size."""


def _autocontrast(image_3xSxS: jax.Array, amount: jax.Array) -> jax.Array:
  del amount
  low_3, high_3 = (reduce(image_3xSxS, axis=(1, 2), keepdims=True) for reduce in (jnp.min, jnp.max))
  # Half a unit keeps a quotient that is an integer from being rounded to below it.
  stretched_3xSxS = (255 * (image_3xSxS - low_3) + 0.5) / jnp.maximum(high_3 - low_3, 1)
  return jnp.where(high_3 > low_3, stretched_3xSxS.astype(jnp.int32), image_3xSxS)


def _equalize(image_3xSxS: jax.Array, amount: jax.Array) -> jax.Array:
  """By products of one-hot digits, which are exact: a TPU counts and looks up slowly otherwise."""
  del amount
  values_3xP = image_3xSxS.reshape(3, -1)
  high_3xDxP, low_3xDxP = ((digit_3xP[:, None] == jnp.arange(_DIGITS)[:, None]).astype(jnp.float32)
                           for digit_3xP in (values_3xP // _DIGITS, values_3xP % _DIGITS))
  count_3xV = jnp.einsum('chp,clp->chl', high_3xDxP, low_3xDxP).astype(jnp.int32).reshape(3, -1)
  of_last_3x1 = jnp.take_along_axis(count_3xV, values_3xP.max(axis=1, keepdims=True), axis=1)
  step_3x1 = (values_3xP.shape[1] - of_last_3x1) // 255
  before_3xV = jnp.cumsum(count_3xV, axis=1) - count_3xV
  table_3xV = jnp.minimum((step_3x1 // 2 + before_3xV) // jnp.maximum(step_3x1, 1), 255)
  table_3xV = jnp.where(step_3x1 > 0, table_3xV, jnp.arange(_DIGITS**2))
  row_3xDxP = jnp.einsum('chp,chl->clp', high_3xDxP, table_3xV.reshape(3, _DIGITS, _DIGITS).astype(jnp.float32))
  return (row_3xDxP * low_3xDxP).sum(axis=1).astype(jnp.int32).reshape(image_3xSxS.shape)


def _posterize(image_3xSxS: jax.Array, bits: jax.Array) -> jax.Array:
  lost = 8 - bits.astype(jnp.int32)
  return (image_3xSxS >> lost) << lost


def _solarize(image_3xSxS: jax.Array, threshold: jax.Array) -> jax.Array:
  return jnp.where(image_3xSxS < threshold, image_3xSxS, 255 - image_3xSxS)


def _solarize_add(image_3xSxS: jax.Array, added: jax.Array) -> jax.Array:
  return jnp.where(image_3xSxS < 128, jnp.minimum(image_3xSxS + added.astype(jnp.int32), 255), image_3xSxS)


def _enhancing(degenerate: Callable[[jax.Array], jax.Array | int]) -> Operation:
  """Moves the image away from its degenerate form, or towards it, as Pillow's `ImageEnhance`."""

  def enhance(image_3xSxS: jax.Array, factor: jax.Array) -> jax.Array:
    start = degenerate(image_3xSxS)
    return _cut(start + factor * (image_3xSxS - start))

  return enhance


def _cut(values: jax.Array) -> jax.Array:
  """Pixels of float32 values: limited to 0..255, then cut to int32, not rounded."""
  return jnp.clip(values, 0, 255).astype(jnp.int32)


def _grey(image_3xSxS: jax.Array) -> jax.Array:
  red, green, blue = image_3xSxS
  return (19595 * red + 38470 * green + 7471 * blue + 2**15) >> 16


def _mean_grey(image_3xSxS: jax.Array) -> jax.Array:
  pixels = image_3xSxS[0].size
  return (2 * _grey(image_3xSxS).sum() + pixels) // (2 * pixels)


def _smooth(image_3xSxS: jax.Array) -> jax.Array:
  """The mean over 3 x 3 pixels, of which the middle one counts 5 times; the border stays."""
  sums = image_3xSxS[:, :-2] + image_3xSxS[:, 1:-1] + image_3xSxS[:, 2:]
  sums = sums[..., :-2] + sums[..., 1:-1] + sums[..., 2:] + 4 * image_3xSxS[:, 1:-1, 1:-1]
  return image_3xSxS.at[:, 1:-1, 1:-1].set((2 * sums + 13) // 26)


def _cubic(values: list[jax.Array], d: jax.Array) -> jax.Array:
  """Between the second and the third of four values, at the share d of the way, by the cubic of Pillow's transforms."""
  a, b, c, e = values
  left, right, far = ((2 - d) * d - 1) * d, ((1 - d) * d + 1) * d, (d - 1) * d * d
  # In this form an even area keeps its value exactly, which is then cut to an integer.
  return b + (left * (a - b) + right * (c - b) + far * (e - b))


def _packed(image_3xSxS: jax.Array) -> jax.Array:
  """One number a pixel, so that it is fetched at once."""
  return image_3xSxS[0] | image_3xSxS[1] << 8 | image_3xSxS[2] << 16


def _unpacked(pixels_SxS: jax.Array) -> jax.Array:
  return ((pixels_SxS >> np.array([0, 8, 16])[:, None, None]) & 255).astype(jnp.float32)


def _filled(covered_SxS: jax.Array, image_3xSxS: jax.Array) -> jax.Array:
  return jnp.where(covered_SxS, image_3xSxS, np.array(FILL)[:, None, None])


def _move_rows(image_3xSxS: jax.Array, shift_S: jax.Array) -> jax.Array:
  """Pixel x of each row becomes that at x + shift, which is at most half of a row."""
  side = len(shift_S)
  whole_S, room, bits = jnp.floor(shift_S).astype(jnp.int32), side // 2 + 2, side.bit_length()
  # Each row is moved by its own number of pixels, one power of two at a time: a TPU would slice row after row.
  early_Sx1 = (room - 1 + whole_S)[:, None]
  near_SxN = jnp.pad(_packed(image_3xSxS), ((0, 0), (room, 2**bits + 2 - room)), mode='edge')
  for bit in range(bits):
    near_SxN = jnp.where(early_Sx1 >> bit & 1, near_SxN[:, 2**bit:], near_SxN[:, :-2**bit])
  moved_3xSxS = _cut(_cubic([_unpacked(near_SxN[:, tap:tap + side]) for tap in range(4)], (shift_S - whole_S)[:, None]))
  x_SxS = jnp.arange(side) + (shift_S[:, None] + 0.5)
  return _filled((x_SxS >= 0) & (x_SxS < side), moved_3xSxS)


def _shear(image_3xSxS: jax.Array, slope: jax.Array) -> jax.Array:
  return _move_rows(image_3xSxS, slope * (jnp.arange(image_3xSxS.shape[1]) + 0.5))


def _translate(image_3xSxS: jax.Array, share: jax.Array) -> jax.Array:
  side = image_3xSxS.shape[1]
  return _move_rows(image_3xSxS, jnp.full(side, share * side))


def _along_columns(operation: Operation) -> Operation:
  return lambda image_3xSxS, amount: operation(image_3xSxS.swapaxes(1, 2), amount).swapaxes(1, 2)


def _rotate(image_3xSxS: jax.Array, degrees: jax.Array) -> jax.Array:
  """Counterclockwise, about the centre; 16 neighbours of a pixel count."""
  side, angle = image_3xSxS.shape[1], -degrees * (jnp.pi / 180)
  offset_S = jnp.arange(side) + 0.5 - side / 2
  across_1xS, down_Sx1 = offset_S[None], offset_S[:, None]
  x_SxS = jnp.cos(angle) * across_1xS + jnp.sin(angle) * down_Sx1 + side / 2
  y_SxS = jnp.cos(angle) * down_Sx1 - jnp.sin(angle) * across_1xS + side / 2
  covered_SxS = (x_SxS >= 0) & (x_SxS < side) & (y_SxS >= 0) & (y_SxS < side)
  column_SxS, row_SxS = (jnp.floor(place - 0.5).astype(jnp.int32) for place in (x_SxS, y_SxS))
  # All 16 lie side by side, so that a pixel takes one access to memory.
  pixels = jnp.pad(_packed(image_3xSxS), 2, mode='edge')
  taps = [pixels[down:down + side + 1, across:across + side + 1] for down in range(4) for across in range(4)]
  first_SxS = jnp.where(covered_SxS, (row_SxS + 1) * (side + 1) + column_SxS + 1, 0)
  near_SxSx16 = jnp.stack(taps, axis=-1).reshape(-1, 16).at[first_SxS].get(mode='promise_in_bounds')
  near = [_unpacked(near_SxSx16[..., tap]) for tap in range(16)]
  lines = [_cubic(near[tap:tap + 4], x_SxS - 0.5 - column_SxS) for tap in range(0, 16, 4)]
  turned_3xSxS = _cut(_cubic(lines, y_SxS - 0.5 - row_SxS))
  return _filled(covered_SxS, turned_3xSxS)


OPERATIONS: dict[str, Operation] = {
    'AutoContrast': _autocontrast,
    'Equalize': _equalize,
    'Invert': lambda image_3xSxS, amount: 255 - image_3xSxS,
    'Rotate': _rotate,
    'Posterize': _posterize,
    'Solarize': _solarize,
    'SolarizeAdd': _solarize_add,
    'Color': _enhancing(_grey),
    'Contrast': _enhancing(_mean_grey),
    'Brightness': _enhancing(lambda image_3xSxS: 0),
    'Sharpness': _enhancing(_smooth),
    'ShearX': _shear,
    'ShearY': _along_columns(_shear),
    'TranslateX': _translate,
    'TranslateY': _along_columns(_translate),}
"""The operations, in the order and with the amounts of the host's."""
