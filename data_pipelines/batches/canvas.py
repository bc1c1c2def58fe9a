"""Prepares what the devices make views of: a crop, decoded into a canvas's corner, and what is drawn for its view.

Source: docs/method.md, Resizing on the devices.
"""

import functools

from data_pipelines.batches import augment, rand_augment
from data_pipelines.light_tensorflow import tf

_SCALES = (1, 2, 4, 8)
"""A JPEG decoder gives an image at 1/2, 1/4 and 1/8 of its size for less work than the whole."""


def crop_for_canvas(jpeg: tf.Tensor, box: tf.Tensor, size: int, canvas: int) -> tuple[tf.Tensor, tf.Tensor]:
  """Decodes a crop, and says which part of the pixels is the crop.

  A crop that is larger than the canvas is decoded at the JPEG's smallest scale that leaves both sides at least `size`.
  If it is still too large, it is resized here, as `augment.resize` does.

  Args:
    jpeg: the whole image.
    box: (top, left, height, width) of the crop, pixels, int32 (4,).
    size: the side S of the view.
    canvas: the side C of the canvas, at least S.

  Returns:
    The pixels, uint8 (H, W, 3), no side larger than C; and the crop's (top, left, height, width) in them, float32 (4,).
  """
  corner_2, sides_2 = box[:2], box[2:]
  level = tf.reduce_sum(tf.cast(tf.reduce_min(sides_2) >= size * tf.constant(_SCALES[1:]), tf.int32))
  level = tf.where(tf.reduce_max(sides_2) > canvas, level, 0)
  scale = tf.gather(_SCALES, level)
  first_2 = corner_2 // scale
  window_4 = tf.concat([first_2, -(-(corner_2 + sides_2) // scale) - first_2], axis=0)
  fits = tf.reduce_all(window_4[2:] <= canvas)
  decoders = [lambda scale=scale: augment.decode_crop(jpeg, window_4, scale) for scale in _SCALES]
  pixels = tf.switch_case(
      tf.where(fits, level, len(_SCALES)),
      [*decoders, lambda: augment.resize(augment.decode_crop(jpeg, box), size, size)])
  shown_4 = tf.cast(box, tf.float32) / tf.cast(scale, tf.float32) - tf.cast(
      tf.concat([first_2, [0, 0]], axis=0), tf.float32)
  return pixels, tf.where(fits, shown_4, tf.constant([0, 0, size, size], tf.float32))


def resolve_draws(batch: dict[str, tf.Tensor], randaugment: tuple[float, float] | None) -> dict[str, tf.Tensor]:
  """Replaces a batch's draws by what they choose, and its seeds by numbers of 32 bits, the largest that jax takes.

  Once a batch, and not for each example, since a call into Python takes long.

  Args:
    batch: holds for some views NAME_draws, float32 (B, L, 4), see `rand_augment.rand_augment`; or NAME_noise, int64
      (B, 2).
    randaugment: mean and deviation of the magnitude.

  Returns:
    NAME_operation int32 (B, L) and NAME_amount float32 (B, L), see `rand_augment.choose`; NAME_noise uint32 (B, 4); and
    what else the batch holds, such as NAME_erased int32 (B, 4), the box of `augment.erased_box`.
  """
  fields = dict(batch)
  for name, values in batch.items():
    if name.endswith('_noise'):
      fields[name] = tf.reshape(tf.bitcast(values, tf.uint32), [-1, 4])
    elif randaugment and name.endswith('_draws'):
      choose = functools.partial(rand_augment.choose, magnitude=randaugment[0], std=randaugment[1])
      draws_Nx4 = tf.reshape(fields.pop(name), [-1, 4])
      places_N, amounts_N = tf.numpy_function(choose, [draws_Nx4], (tf.int32, tf.float64), stateful=False)
      view, layers = name.removesuffix('_draws'), values.shape[1]
      fields[f'{view}_operation'] = tf.reshape(places_N, [-1, layers])
      fields[f'{view}_amount'] = tf.cast(tf.reshape(amounts_N, [-1, layers]), tf.float32)
  return fields
