"""Stateless image operations: every random draw is a function of (seed, epoch, example id) alone."""

import math

from PIL import Image

from data_pipelines import images
from data_pipelines.light_tensorflow import tf

ORDER, CROP, FLIP, PERSON, JITTER = slice(0, 3), *range(3, 7)
"""The places of the streams in `epoch_keys`; each is an independent stream of draws."""
RANDAUGMENT, ERASE, NOISE = {'image': 7, 'person': 10}, {'image': 8, 'person': 11}, {'image': 9, 'person': 12}
"""The places of the streams that each view has by itself."""
KEYS = 13
SHUFFLE_ROUNDS = 12
TRIES = 10
"""How many crops torchvision's RandomResizedCrop tries before it falls back to the centre."""
_KERNELS = {Image.Resampling.BILINEAR: 'triangle', Image.Resampling.BICUBIC: 'keyscubic'}
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's, as shares of 255.


def epoch_keys(seed: tf.Tensor | int, epoch: tf.Tensor | int) -> tf.Tensor:
  """The keys of one epoch's random streams, int64 (KEYS,), unrelated to those of any other seed or epoch."""
  seed_2 = tf.stack([tf.cast(seed, tf.int64), tf.cast(epoch, tf.int64)])
  return tf.random.stateless_uniform([KEYS], seed_2, minval=None, maxval=None, dtype=tf.int64, alg='philox')


def with_crop_of(keys_K: tf.Tensor, other_K: tf.Tensor) -> tf.Tensor:
  """Replaces one epoch's keys by another's for the scene's crop and the flip."""
  return tf.concat([keys_K[:CROP], other_K[CROP:FLIP + 1], keys_K[FLIP + 1:]], axis=0)


def uniform(key: tf.Tensor, example_id: tf.Tensor, shape: list[int]) -> tf.Tensor:
  """Draws in [0, 1), float32, from one example's part of a stream; key and example id are int64 scalars."""
  return tf.random.stateless_uniform(shape, tf.stack([key, example_id]), alg='philox')


def shuffled(index: tf.Tensor, key_3: tf.Tensor, count: int) -> tf.Tensor:
  """Permutes each index (int64, any shape) by the permutation of [0, count) that belongs to this key (int64).

  It is the op behind tf.random.experimental.index_shuffle, which runs only 4 rounds of its cipher. At EmoSet's size, 4
  leave the permutations of two epochs correlated by up to 0.3; from 8 rounds on, no correlation was measured.
  """
  return tf.raw_ops.RandomIndexShuffle(
      index=index, seed=key_3, max_index=tf.constant(count - 1, tf.int64), rounds=SHUFFLE_ROUNDS)


def random_crop(
    draws: tf.Tensor, height: tf.Tensor, width: tf.Tensor, area: tuple[float, float] = (0.2, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3)) -> tf.Tensor:
  """Finds the box of torchvision's RandomResizedCrop: the first of ten tries that fits, else the largest centred one.

  Args:
    draws: uniform in [0, 1), float32 (2, TRIES + 1): areas and shapes of the tries, then the place (y, x).
    height, width: the image's sides in pixels, int32 scalars.
    area: the range of the share of the image's area that a try takes.
    ratio: the range of width / height, drawn log-uniformly.

  Returns:
    (top, left, height, width) in pixels, int32 (4,), within the image.
  """
  image_2 = tf.cast(tf.stack([height, width]), tf.float32)
  areas_T = (area[0] + (area[1] - area[0]) * draws[0, :TRIES]) * tf.reduce_prod(image_2)
  low, high = math.log(ratio[0]), math.log(ratio[1])
  slants_T = tf.exp((low + (high - low) * draws[1, :TRIES]) / 2)
  tries_Tx2 = tf.round(tf.sqrt(areas_T)[:, None] * tf.stack([1 / slants_T, slants_T], axis=1))
  fits_T = tf.reduce_all((tries_Tx2 <= image_2) & (tries_Tx2 > 0), axis=1)
  widest_2 = tf.round(tf.minimum(image_2, tf.stack([image_2[1] / ratio[0], image_2[0] * ratio[1]])))
  first = tf.argmax(tf.concat([fits_T, [True]], axis=0))
  box_2 = tf.concat([tries_Tx2, widest_2[None]], axis=0)[first]
  room_2 = image_2 - box_2
  corner_2 = tf.where(first < TRIES, tf.minimum(tf.floor(draws[:, TRIES] * (room_2 + 1)), room_2), tf.floor(room_2 / 2))
  return tf.cast(tf.concat([corner_2, box_2], axis=0), tf.int32)


def inner_box(draws_4: tf.Tensor, height: tf.Tensor, width: tf.Tensor, inset: float) -> tf.Tensor:
  """Finds the box after each edge of the image has moved inwards by `inset` times its own draw, as a share of the side.

  Args:
    draws_4: uniform in [0, 1), float32, for the edges top, left, bottom and right.
    height, width: the image's sides in pixels, int32 scalars.
    inset: the largest share, in [0, 0.5).

  Returns:
    (top, left, height, width) in pixels, int32 (4,): within the image, at least one pixel.
  """
  image_2 = tf.cast(tf.stack([height, width]), tf.float32)
  first_2 = tf.floor(inset * draws_4[:2] * image_2)
  last_2 = tf.math.ceil((1 - inset * draws_4[2:]) * image_2)
  return tf.cast(tf.concat([first_2, last_2 - first_2], axis=0), tf.int32)


def erased_box(draws: tf.Tensor, size: int, probability: float) -> tf.Tensor:
  """Finds the rectangle that random erasing takes (Zhong et al., arXiv 1708.04896), as timm does.

  It takes 2 % to 1/3 of the area, with sides in a ratio of 0.3 to 1/0.3.

  Args:
    draws: uniform in [0, 1), float32 (2, TRIES + 2): whether to erase, then the box as for `random_crop`.
    size: the side of the square view.
    probability: the probability of erasing at all.

  Returns:
    (top, left, height, width) in pixels, int32 (4,), all zero for none.
  """
  return tf.cond(
      draws[0, 0] < probability, lambda: random_crop(draws[:, 1:], size, size, (0.02, 1 / 3), (0.3, 1 / 0.3)),
      lambda: tf.zeros([4], tf.int32))


def erase(image_SxSx3: tf.Tensor, box_4: tf.Tensor, noise_seed_2: tf.Tensor) -> tf.Tensor:
  """Fills a rectangle with noise, as random erasing in timm's `pixel` mode; uint8.

  timm fills it with N(0, 1) after normalisation by ImageNet's mean and standard deviation. Here the noise is converted
  to pixels: rounded, and clipped to [0, 255], at about 2 standard deviations to either side.

  Args:
    image_SxSx3: uint8, square.
    box_4: that of `erased_box`.
    noise_seed_2: int64, key and example id.
  """
  size = image_SxSx3.shape[0]

  def erased() -> tf.Tensor:
    top, left, height, width = tf.unstack(box_4)
    noise_HxWx3 = tf.random.stateless_normal([height, width, 3], noise_seed_2, alg='philox')
    pixels_HxWx3 = _rounded(255 * (noise_HxWx3 * _STD + _MEAN))
    above, between, below = tf.split(image_SxSx3, [top, height, size - top - height])
    before, _, after = tf.split(between, [left, width, size - left - width], axis=1)
    return tf.concat([above, tf.concat([before, pixels_HxWx3, after], axis=1), below], axis=0)

  return tf.ensure_shape(tf.cond(box_4[2] > 0, erased, lambda: image_SxSx3), [size, size, 3])


def resize(image_HxWx3: tf.Tensor, height: tf.Tensor | int, width: tf.Tensor | int) -> tf.Tensor:
  """Resizes uint8 to uint8 (height, width, 3): bicubic, antialiased, rounded and clipped once, at the end.

  These are the numbers of tf.image.resize, for training. Pillow and `centre_view` also round and clip between the two
  axes: docs/method.md, Resizing.
  """
  size_2 = tf.stack([height, width])
  scale_2 = tf.cast(size_2, tf.float32) / tf.cast(tf.shape(image_HxWx3)[:2], tf.float32)
  return _resample(image_HxWx3, size_2, scale_2, tf.zeros([2]), round_between=False)


def decode(jpeg: tf.Tensor) -> tf.Tensor:
  """Decodes JPEG bytes to uint8 (H, W, 3) pixels, by the exact inverse transform, as in Pillow."""
  return tf.io.decode_jpeg(jpeg, 3, dct_method='INTEGER_ACCURATE')


def decode_crop(jpeg: tf.Tensor, box: tf.Tensor, scale: int = 1) -> tf.Tensor:
  """Decodes the pixels within (top, left, height, width) only, uint8; the rest of the JPEG is not decoded.

  The image is first shrunk to 1 / `scale` of its size, which may be 1, 2, 4 or 8.
  """
  return tf.image.decode_and_crop_jpeg(jpeg, box, 3, ratio=scale, dct_method='INTEGER_ACCURATE')


def evaluation_view(image: tf.Tensor, size: int) -> tf.Tensor:
  """Makes `images.evaluation_view`, to 2 of 255, of what `centre_view` takes: uint8 (size, size, 3) (docs/method.md,
  Recipes)."""
  return centre_view(image, size, images.short_side_of(size))


def squashed_view(image: tf.Tensor, size: int) -> tf.Tensor:
  """Squashes a whole person crop, as `centre_view` takes it, to both sides `size`: uint8 (size, size, 3)."""
  return centre_view(image, size, size, squash=True)


def centre_view(
    image: tf.Tensor, size: int, short_side: int, squash: bool = False, floor: bool = False,
    resample: int = Image.Resampling.BICUBIC) -> tf.Tensor:
  """Makes `images.centre_view` of a JPEG, to 2 of 255: uint8 (size, size, 3). Only what the crop needs is resized.

  The `image` may also be the pixels themselves, uint8 (H, W, 3).
  """
  image = tf.convert_to_tensor(image)
  image = decode(image) if image.dtype == tf.string else image
  sides_2 = tf.cast(tf.shape(image)[:2], tf.int64)
  resized_2 = tf.fill([2], tf.constant(short_side,
                                       tf.int64)) if squash else short_side * sides_2 // tf.reduce_min(sides_2)
  half_2 = (resized_2 - size) / 2
  # In pixels of the image, float64: long sides are beyond what float32 counts.
  step_2 = sides_2 / resized_2
  start_2 = (tf.floor(half_2) if floor else tf.round(half_2)) * step_2
  reach_2 = tf.math.ceil(2 * tf.maximum(step_2, 1))
  first_2 = tf.maximum(tf.floor(start_2) - reach_2, 0)
  last_2 = tf.minimum(tf.math.ceil(start_2 + size * step_2) + reach_2, tf.cast(sides_2, tf.float64))
  (top, left), (bottom, right) = (tf.unstack(tf.cast(corner_2, tf.int32)) for corner_2 in (first_2, last_2))
  scale_2, translation_2 = (tf.cast(values_2, tf.float32) for values_2 in (1 / step_2, (first_2 - start_2) / step_2))
  view = _resample(
      image[top:bottom, left:right], tf.stack([size, size]), scale_2, translation_2, round_between=True,
      kernel=_KERNELS[Image.Resampling(resample)])
  return tf.ensure_shape(view, [size, size, 3])


def _resample(
    image_HxWx3: tf.Tensor, size_2: tf.Tensor, scale_2: tf.Tensor, translation_2: tf.Tensor, round_between: bool,
    kernel: str = 'keyscubic') -> tf.Tensor:
  """uint8 (*size_2, 3) of pixels that are scaled, then moved by `translation_2`, rounded and clipped.

  At under half the cost of tf.image.resize: one axis at a time, columns first as in Pillow, with everything else as
  channels, since the kernel is fast along channels only.
  """
  (rows, columns), (height, width) = tf.unstack(tf.shape(image_HxWx3)[:2]), tf.unstack(size_2)
  lines_Hx3W = tf.reshape(image_HxWx3, tf.stack([rows, columns * 3]))
  lines_Wx3H = tf.reshape(tf.transpose(lines_Hx3W), tf.stack([columns, 3 * rows]))
  lines_Wx3H = _resample_first(lines_Wx3H, width, scale_2[1], translation_2[1], kernel)
  if round_between:
    lines_Wx3H = tf.clip_by_value(tf.round(lines_Wx3H), 0, 255)
  lines_Hx3W = tf.transpose(tf.reshape(lines_Wx3H, tf.stack([width * 3, rows])))
  resized = _resample_first(lines_Hx3W, height, scale_2[0], translation_2[0], kernel)
  return _rounded(tf.reshape(resized, tf.stack([height, width, 3])))


def _rounded(values: tf.Tensor) -> tf.Tensor:
  """uint8, clipped; tf.saturate_cast clips by an operation that takes twice as long as all of this."""
  return tf.cast(tf.minimum(tf.maximum(tf.round(values), 0), 255), tf.uint8)


def _resample_first(
    lines_NxK: tf.Tensor, size: tf.Tensor, scale: tf.Tensor, translation: tf.Tensor, kernel: str) -> tf.Tensor:
  """float32 (size, K): the first axis resampled, all numbers along the second as channels."""
  count, channels = tf.unstack(tf.shape(lines_NxK))
  resized = tf.raw_ops.ScaleAndTranslate(
      images=tf.reshape(lines_NxK, tf.stack([1, 1, count, channels])), size=tf.stack([1, size]),
      scale=tf.stack([1.0, scale]), translation=tf.stack([0.0, translation]), kernel_type=kernel, antialias=True)
  return tf.reshape(resized, tf.stack([size, channels]))
