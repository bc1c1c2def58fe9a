"""Crops that the devices resize give the host's views: within 1 of 255 where the canvas holds them, else as stated."""

import io
import itertools

import jax
import numpy as np
from PIL import Image
import pytest

from data_pipelines.batches import augment
from data_pipelines.batches.canvas import crop_for_canvas
from data_pipelines.batches.pipeline import RecurringCrops, recurring_batches, train_batches
from data_pipelines.light_tensorflow import tf
from uniemox_jax.models.preprocess import resize_crops

SIDE, CANVAS, BATCH = 32, 132, 9
AUGMENTED = {'mode': 'finetune', 'person_jitter': 0.0, 'person': True, 'randaugment': (9.0, 0.5), 'erase': 0.5}
RANDOM = {'batch_size': BATCH, 'seed': 1, 'image_size': SIDE, 'crop_area': (0.3, 1.0), 'person_jitter': 0.14}


def photograph(height, width, edges=True):
  """A JPEG with detail at every scale, and with edges between saturated colours if asked."""
  rng = np.random.default_rng(height * 1000 + width)
  coarse = Image.fromarray(rng.integers(0, 256, (9, 9, 3), dtype=np.uint8)).resize((width, height), Image.BICUBIC)
  pixels = np.clip(np.asarray(coarse) + rng.normal(0, 12, (height, width, 3)), 0, 255)
  if edges:
    pixels[height // 3:height // 2] = 255 * (pixels[height // 3:height // 2] > 128)
  file = io.BytesIO()
  Image.fromarray(pixels.astype(np.uint8)).save(file, 'JPEG', quality=95)
  return file.getvalue()


def views_of(boxes, jpeg, size, canvas):
  """Of every box the host's view, the device's, and what is left to the device; every second one is flipped."""
  flip = np.arange(len(boxes)) % 2 == 1
  hosts = [augment.resize(augment.decode_crop(jpeg, box), size, size).numpy() for box in boxes]
  hosts = np.array([view[:, ::-1] if flipped else view for view, flipped in zip(hosts, flip)])
  crops = [crop_for_canvas(jpeg, tf.constant(box), size, canvas) for box in boxes]
  pixels = np.zeros((len(boxes), canvas, canvas, 3), np.uint8)
  for row, (crop, _) in zip(pixels, crops):
    row[:crop.shape[0], :crop.shape[1]] = crop
  batch = {'scene': pixels, 'scene_box': np.array([box for _, box in crops]), 'flip': flip}
  views = jax.jit(resize_crops, static_argnums=1)(batch, size)
  assert views.keys() == {'scene'} and views['scene'].dtype == np.uint8
  return hosts, np.asarray(views['scene']), crops


@pytest.mark.parametrize('height, width', [(256, 341), (341, 256), (90, 200), (60, 50)])
def test_a_crop_that_fits_becomes_the_hosts_view_to_one_of_255(height, width):
  rng = np.random.default_rng(0)
  boxes = []
  for _ in range(6):
    sides = np.array([rng.integers(20, height + 1), rng.integers(20, width + 1)])
    corner = rng.integers(0, [height, width] - sides + 1)
    boxes.append([*corner, *sides])
  boxes.append([0, 0, height, width])
  hosts, devices, crops = views_of(np.array(boxes, np.int32), photograph(height, width), 224, 344)
  assert [crop.shape[:2] for crop, _ in crops] == [tuple(box[2:]) for box in boxes]
  difference = np.abs(hosts.astype(int) - devices)
  assert difference.max() <= 1 and (difference == 0).mean() > 0.99


@pytest.mark.parametrize('box, scale', [((3, 5, 150, 180), 2), ((40, 41, 301, 280), 4), ((0, 0, 600, 560), 8)])
def test_a_crop_that_is_too_large_is_decoded_at_the_smallest_scale_that_suffices(box, scale):
  hosts, devices, [(crop, _)] = views_of(np.array([box], np.int32), photograph(600, 800, edges=False), 64, 96)
  assert min(crop.shape[:2]) >= 64
  assert [-(-side // scale) for side in box[2:]] == pytest.approx(crop.shape[:2], abs=1)
  # A little sharper or softer, but nowhere moved.
  assert apart(hosts, devices) < 2 and apart(hosts, devices) < apart(hosts[:, :, 1:], devices[:, :, :-1]) / 3


def apart(ours, theirs):
  """Mean difference, of 255."""
  return np.abs(ours.astype(int) - theirs).mean()


@pytest.mark.parametrize('box', [(0, 0, 127, 200), (10, 20, 60, 700)])
def test_a_crop_that_no_scale_makes_fit_is_resized_on_the_host(box):
  hosts, devices, [(crop, shown)] = views_of(np.array([box], np.int32), photograph(600, 800), 64, 96)
  np.testing.assert_array_equal(devices, hosts)
  assert crop.shape == (64, 64, 3) and shown.numpy().tolist() == [0, 0, 64, 64]


def take(split, steps, **options):
  return list(itertools.islice(train_batches(split, **RANDOM | options), steps))


def assert_close(ours, theirs):
  difference = np.abs(np.asarray(ours).astype(int) - theirs)
  assert difference.max() <= 1 and (difference == 0).mean() > 0.99


def test_batches_of_crops_become_those_of_views_and_everything_else_stays(train):
  for crops, views in zip(take(train, 6, canvas=CANVAS), take(train, 6), strict=True):
    assert crops['scene'].shape == (BATCH, CANVAS, CANVAS, 3) and crops['person_box'].shape == (BATCH, 4)
    resized = resize_crops(crops, SIDE)
    assert resized.keys() == views.keys()
    for name in views:
      assert resized[name].dtype == views[name].dtype
      if name in ('scene', 'person'):
        assert_close(resized[name], views[name])
      else:
        np.testing.assert_array_equal(resized[name], views[name])
    alone = views['example_id'] // 5 % 3 == 0
    np.testing.assert_array_equal(resized['person'][alone], resized['scene'][alone])


def test_crops_for_finetuning_are_those_of_its_views(train):
  options = {'mode': 'finetune', 'person_jitter': 0.0}
  crops, views = take(train, 1, canvas=CANVAS, **options)[0], take(train, 1, **options)[0]
  assert_close(resize_crops(crops, SIDE)['image'], views['image'])


@pytest.mark.parametrize('hosts, options', [(2, {}), (4, {}), (2, AUGMENTED)], ids=str)
def test_crops_and_draws_are_the_same_bytes_on_any_hosts_and_from_any_step(train, hosts, options):
  options = {'batch_size': 8, 'canvas': CANVAS} | options
  whole = take(train, 4, **options)
  parts = [take(train, 2, start_step=2, process_index=index, process_count=hosts, **options) for index in range(hosts)]
  for batch, rows in zip(whole[2:], zip(*parts, strict=True), strict=True):
    for name in batch:
      np.testing.assert_array_equal(np.concatenate([row[name] for row in rows]), batch[name], err_msg=name)


def test_crops_of_views_that_come_again_are_those_that_training_shows(train):
  recurring = RecurringCrops(2, seed=1)
  batches = take(train, 3, canvas=CANVAS, recurring=recurring)
  shown = next(
      recurring_batches(
          train, recurring.seed, [(0, 0)], batch_size=27, image_size=SIDE, crop_area=RANDOM['crop_area'],
          canvas=CANVAS))
  assert shown.keys() == {'scene', 'scene_box', 'flip'}
  order = np.argsort(np.concatenate([batch['position'] for batch in batches]))
  for name in shown:
    np.testing.assert_array_equal(np.concatenate([batch[name] for batch in batches])[order], shown[name])


def test_parts_are_resized_as_the_whole(train):
  crops = take(train, 1, batch_size=12, canvas=CANVAS)[0]
  whole, parts = resize_crops(crops, SIDE), resize_crops(crops, SIDE, parts=3)
  for name in ('scene', 'person'):
    np.testing.assert_array_equal(whole[name], parts[name])
