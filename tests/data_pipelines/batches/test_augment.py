"""Crops follow torchvision, resizing follows Pillow, and random streams are independent."""

import io
import math

import numpy as np
from PIL import Image
import pytest

from data_pipelines import images
from data_pipelines.batches import augment
from data_pipelines.light_tensorflow import tf
from tests.support.predictions import torchvision_view


def texture(height, width):
  """An image with detail at every scale, uint8 (height, width, 3), away from 0 and 255 so that nothing is clipped."""
  rng = np.random.default_rng(height * 1000 + width)
  coarse = Image.fromarray(rng.integers(70, 186, (9, 9, 3), dtype=np.uint8)).resize((width, height), Image.BICUBIC)
  return np.clip(np.asarray(coarse) + rng.normal(0, 12, (height, width, 3)), 0, 255).astype(np.uint8)


def jpeg(pixels):
  file = io.BytesIO()
  Image.fromarray(pixels).save(file, 'JPEG', quality=95)
  return file.getvalue()


def torchvision_crop(draws, height, width, area=(0.2, 1.0), ratio=(3 / 4, 4 / 3)):
  """RandomResizedCrop.get_params as torchvision writes it, fed with given draws."""
  for area_draw, ratio_draw in draws[:, :augment.TRIES].T:
    target = height * width * (area[0] + (area[1] - area[0]) * area_draw)
    aspect = math.exp(math.log(ratio[0]) + (math.log(ratio[1]) - math.log(ratio[0])) * ratio_draw)
    w, h = round(math.sqrt(target * aspect)), round(math.sqrt(target / aspect))
    if 0 < w <= width and 0 < h <= height:
      return int(draws[0, -1] * (height - h + 1)), int(draws[1, -1] * (width - w + 1)), h, w
  if width / height < min(ratio):
    w, h = width, round(width / min(ratio))
  elif width / height > max(ratio):
    w, h = round(height * max(ratio)), height
  else:
    w, h = width, height
  return (height - h) // 2, (width - w) // 2, h, w


def draws_of(key, shape, count):
  """What each of the examples 0 .. count - 1 draws, float32 (count, *shape)."""

  @tf.function
  def draw(ids):
    return tf.map_fn(lambda i: augment.uniform(key, i, shape), ids, fn_output_signature=tf.float32)

  return draw(tf.range(count, dtype=tf.int64)).numpy()


@pytest.fixture(scope='module')
def crop():
  """`random_crop` compiled once: (draws, height, width) to a box."""
  return tf.function(
      augment.random_crop,
      input_signature=[tf.TensorSpec([2, augment.TRIES + 1]),
                       tf.TensorSpec([], tf.int32),
                       tf.TensorSpec([], tf.int32)])


@pytest.mark.parametrize('height, width', [(96, 96), (256, 341), (400, 150), (20, 300), (300, 20), (1, 1)])
def test_crop_is_the_box_torchvision_would_take_for_the_same_draws(crop, height, width):
  draws = np.random.default_rng(0).random((200, 2, augment.TRIES + 1), np.float32)
  ours = np.array([crop(tf.constant(draw), height, width) for draw in draws])
  theirs = np.array([torchvision_crop(draw, height, width) for draw in draws])
  # Pixels may fall to either side of a half in float32: at most a rare draw, by one pixel.
  assert np.abs(ours - theirs).max() <= 1
  assert (ours == theirs).all(1).mean() >= 0.99
  assert (ours[:, :2] >= 0).all() and (ours[:, 2:] > 0).all()
  assert (ours[:, :2] + ours[:, 2:] <= (height, width)).all()


def test_crops_cover_the_asked_areas_shapes_and_places_evenly(crop):
  keys = augment.epoch_keys(7, 0)
  drawn = draws_of(keys[augment.CROP], [2, augment.TRIES + 1], 1500)
  boxes = np.array([crop(draws, 240, 320) for draws in drawn], float)
  area, ratio = boxes[:, 2] * boxes[:, 3] / (240 * 320), boxes[:, 3] / boxes[:, 2]
  assert 0.195 < area.min() < 0.22 and 0.9 < area.max() <= 1.0
  assert 0.74 < ratio.min() < 0.78 and 1.28 < ratio.max() < 1.35
  assert abs(np.log(ratio).mean()) < 0.05
  centre = (boxes[:, :2] + boxes[:, 2:] / 2).mean(0)
  np.testing.assert_allclose(centre, (120, 160), atol=4)


def test_draws_of_neighbours_epochs_seeds_and_streams_are_uncorrelated():

  def stream(seed, epoch, which):
    return draws_of(augment.epoch_keys(seed, epoch)[which], [], 2000)

  base = stream(0, 0, augment.FLIP)
  others = (stream(0, 1, augment.FLIP), stream(1, 0, augment.FLIP), stream(0, 0, augment.CROP), np.roll(base, 1))
  assert abs(base.mean() - 0.5) < 0.03
  for other in others:
    assert abs(np.corrcoef(base, other)[0, 1]) < 0.1


def test_orders_of_epochs_are_unrelated_to_each_other_and_to_the_records():
  count = 94_481
  ids = np.arange(count)
  orders = [
      augment.shuffled(tf.constant(ids),
                       augment.epoch_keys(0, epoch)[augment.ORDER], count).numpy() for epoch in range(12)]
  assert all((np.sort(order) == ids).all() for order in orders)
  correlated = np.abs(np.corrcoef([ids, *orders]) - np.eye(13)).max()
  assert correlated < 0.02
  assert max(abs(np.corrcoef(order[:-lag], order[lag:])[0, 1]) for order in orders for lag in (1, 64)) < 0.02


@pytest.mark.parametrize(
    'source, target', [((60, 71), (96, 96)), ((256, 341), (224, 224)), ((96, 96), (110, 110)), ((200, 30), (96, 96)),
                       ((500, 375), (96, 96))])
def test_resize_is_tensorflows_and_within_rounding_of_pillows(source, target):
  pixels = texture(*source)
  ours = augment.resize(tf.constant(pixels), *target).numpy()
  pillow = np.asarray(Image.fromarray(pixels).resize(target[::-1], Image.BICUBIC))
  plain = tf.saturate_cast(tf.round(tf.image.resize(pixels, target, 'bicubic', antialias=True)), tf.uint8).numpy()
  assert ours.shape == (*target, 3) and ours.dtype == np.uint8
  assert np.abs(ours.astype(int) - plain).max() <= 1
  difference = np.abs(ours.astype(int) - pillow)
  # Pillow rounds between its two passes, so most pixels agree and nearly all the rest differ by one.
  assert difference.mean() < 0.25 and difference.max() <= 2


@pytest.mark.parametrize('height, width', [(375, 500), (256, 341), (96, 96)])
def test_random_resized_crop_is_pillows_within_rounding_but_for_the_rim(crop, height, width):
  """Against torchvision's order: Pillow decodes the whole image, cuts the box out and resizes it to 224 x 224.

  Measured over 1,200 crops, in steps of 255: 0.2 on average, at most 1 inside. Along the rim up to 13: the decoder
  interpolates colour, which JPEG stores at half resolution, without the neighbours that lie outside the box.
  """
  data = jpeg(texture(height, width))
  image = Image.open(io.BytesIO(data))
  view = tf.function(
      lambda box: augment.resize(augment.decode_crop(data, box), 224, 224),
      input_signature=[tf.TensorSpec([4], tf.int32)])
  differences = []
  for draws in np.random.default_rng(1).random((12, 2, augment.TRIES + 1), np.float32):
    box = crop(tf.constant(draws), height, width)
    top, left, h, w = box.numpy().tolist()
    pillow = image.crop((left, top, left + w, top + h)).resize((224, 224), Image.BICUBIC)
    differences.append(np.abs(view(box).numpy().astype(int) - np.asarray(pillow)))
  differences = np.array(differences)
  assert differences.mean() < 0.3 and differences.max() <= 20
  assert differences[:, 10:-10, 10:-10].max() <= 2


def test_decoding_gives_pillows_pixels():
  for height, width in ((96, 96), (61, 40)):
    data = jpeg(texture(height, width))
    np.testing.assert_array_equal(augment.decode(data).numpy(), np.asarray(Image.open(io.BytesIO(data))))


def test_decoding_a_part_gives_that_part():
  data = jpeg(texture(96, 128))
  part = augment.decode_crop(data, tf.constant([13, 29, 50, 61])).numpy().astype(int)
  whole = augment.decode(data).numpy()[13:63, 29:90].astype(int)
  # Colour is stored at half resolution and is interpolated without neighbours along the border of the part.
  np.testing.assert_array_equal(part[2:-2, 2:-2], whole[2:-2, 2:-2])
  assert np.abs(part - whole).mean() < 1


@pytest.mark.parametrize('height, width, size', [(96, 96, 96), (256, 341, 224), (300, 256, 224), (96, 140, 32)])
def test_evaluation_view_is_the_centre_of_the_resized_image(height, width, size):
  data = jpeg(texture(height, width))
  theirs = torchvision_view(Image.open(io.BytesIO(data)), size, images.short_side_of(size))
  view = augment.evaluation_view(data, size).numpy()
  assert view.shape == (size, size, 3) and view.dtype == np.uint8
  assert np.abs(view.astype(int) - theirs).max() <= 1


@pytest.mark.parametrize('height, width', [(256, 171), (60, 40), (1, 1), (3, 2)])
@pytest.mark.parametrize('inset', [0.1, 0.499])
def test_inner_box_moves_every_edge_inwards_by_at_most_the_inset(height, width, inset):
  draws = np.random.default_rng(0).random((200, 4), np.float32)
  boxes = np.array([augment.inner_box(tf.constant(draw), height, width, inset) for draw in draws])
  margins = np.concatenate([boxes[:, :2], (height, width) - boxes[:, :2] - boxes[:, 2:]], axis=1)
  assert (boxes[:, 2:] >= 1).all() and (margins >= 0).all()
  assert (margins <= inset * np.array([height, width] * 2)).all()
  if min(height, width) * inset > 3:  # Every edge moves, each by its own draw.
    np.testing.assert_allclose(margins.mean(0), inset / 2 * np.array([height, width] * 2), rtol=0.15, atol=0.5)
    assert np.abs(np.corrcoef(margins.T) - np.eye(4)).max() < 0.3


def test_erasing_fills_one_rectangle_of_the_promised_sizes_with_noise_and_leaves_the_rest():
  size, count = 64, 400
  image = tf.fill([size, size, 3], tf.constant(7, tf.uint8))
  erase = tf.function(
      lambda draws, example: augment.erase(image, augment.erased_box(draws, size, 0.25), tf.stack([5, example])))
  draws = np.random.default_rng(0).random((count, 2, augment.TRIES + 2), np.float32)
  shares, ratios, noise = [], [], []
  for example, draw in enumerate(draws):
    result = erase(tf.constant(draw), tf.constant(example, tf.int64)).numpy()
    changed = (result != 7).any(axis=2)
    assert changed.any() == (draw[0, 0] < 0.25)
    if changed.any():
      rows, columns = np.flatnonzero(changed.any(1)), np.flatnonzero(changed.any(0))
      box = result[rows[0]:rows[-1] + 1, columns[0]:columns[-1] + 1]
      assert (box != 7).any(axis=2).mean() > 0.99
      shares.append(box.shape[0] * box.shape[1] / size**2)
      ratios.append(box.shape[1] / box.shape[0])
      noise.append(box.reshape(-1, 3))
  assert 0.19 < len(shares) / count < 0.31
  assert 0.015 < min(shares) < 0.05 and 0.28 < max(shares) < 0.35
  assert 0.28 < min(ratios) < 0.5 and 2 < max(ratios) < 3.6 and abs(np.log(ratios).mean()) < 0.2
  noise = np.concatenate(noise)
  np.testing.assert_allclose(noise.mean(0), 255 * np.array([0.485, 0.456, 0.406]), atol=3)
  # Slightly narrower than N(0, 1), because pixels end at 0 and 255.
  np.testing.assert_allclose(noise.std(0), 255 * np.array([0.229, 0.224, 0.225]), rtol=0.05)
  assert np.abs(np.corrcoef(noise.T) - np.eye(3)).max() < 0.02
  assert len({pixels.tobytes() for pixels in (noise[:50], noise[50:100])}) == 2


@pytest.mark.parametrize('probability, erased', [(0.0, False), (1.0, True)])
def test_erasing_never_and_always(probability, erased):
  image, seed = tf.zeros([32, 32, 3], tf.uint8), tf.constant([1, 2], tf.int64)
  draws = np.random.default_rng(3).random((20, 2, augment.TRIES + 2), np.float32)
  boxes = [augment.erased_box(tf.constant(draw), 32, probability) for draw in draws]
  changed = [tf.reduce_any(augment.erase(image, box, seed) > 0) for box in boxes]
  assert [bool(change) for change in changed] == [erased] * 20
