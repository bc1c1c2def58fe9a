"""Views that the devices augment are those that the host makes of the same draws, on any number of devices."""

import itertools

import jax
from jax.sharding import NamedSharding
import numpy as np
import pytest

from data_pipelines.batches.pipeline import train_batches
from uniemox_jax.models.preprocess import resize_crops
from uniemox_jax.objectives.augmentation import FIELDS, augment_views
from uniemox_jax.runtime import sharding

SIDE, BATCH, STEPS = 32, 8, 6
RECIPE = {'randaugment': (9.0, 0.5), 'erase': 0.5}
VIEWS = ('image', 'person')


def take(split, **options):
  batches = train_batches(
      split, **{'batch_size': BATCH, 'seed': 3, 'image_size': SIDE, 'mode': 'finetune', 'person': True} | options)
  return list(itertools.islice(batches, STEPS))


@pytest.fixture(scope='module')
def crops(train):
  """Batches of crops with the draws of a whole recipe."""
  return take(train, canvas=132, **RECIPE)


def drawn(batch):
  return {name: rows for name, rows in batch.items() if name.endswith(FIELDS)}


def erased(batch, view):
  """Which pixels lie in the erased boxes."""
  place = np.arange(SIDE)
  first, last = batch[f'{view}_erased'][:, :2], batch[f'{view}_erased'][:, :2] + batch[f'{view}_erased'][:, 2:]
  rows, columns = ((place >= first[:, axis, None]) & (place < last[:, axis, None]) for axis in range(2))
  return rows[:, :, None] & columns[:, None]


def test_augmented_views_are_the_hosts_to_one_of_255_a_layer(train, crops):
  augment, changed = jax.jit(augment_views), []
  for batch, plain, augmented in zip(crops, take(train), take(train, **RECIPE), strict=True):
    # The host's own views, so that what resizing rounds otherwise does not count.
    ours = augment(drawn(batch) | {view: plain[view] for view in VIEWS})
    assert ours.keys() == set(VIEWS)
    for view in VIEWS:
      assert ours[view].dtype == np.uint8
      difference = np.abs(np.asarray(ours[view]).astype(int) - augmented[view])[~erased(batch, view)]
      assert (difference <= 1).mean() > 0.998 and (difference == 0).mean() > 0.99
      changed.append((augmented[view] != plain[view]).any((1, 2, 3)))
  assert 0.6 < np.mean(changed) < 1


def test_augmented_crops_are_close_to_the_hosts_views(train, crops):
  augment = jax.jit(lambda batch: augment_views(resize_crops(batch, SIDE)))
  for batch, expected in zip(crops[:2], take(train, **RECIPE)):
    ours = augment(batch)
    assert ours.keys() == expected.keys()
    for view in VIEWS:
      difference = np.abs(np.asarray(ours[view]).astype(int) - expected[view])[~erased(batch, view)]
      # An operation may make much of the 1 of 255 that resizing leaves.
      assert (difference <= 2).mean() > 0.98


def test_without_a_person_both_views_are_the_same(crops):
  for batch in crops[:2]:
    ours = augment_views(resize_crops(batch, SIDE))
    alone = batch['example_id'] // 5 % 3 == 0
    np.testing.assert_array_equal(ours['person'][alone], ours['image'][alone])
    assert (ours['person'] != ours['image']).any((1, 2, 3))[~alone].all()


def test_erased_boxes_hold_noise_of_the_hosts_distribution_and_of_each_view_its_own():
  rng, count = np.random.default_rng(0), 16
  batch = {
      'image': np.full((count, SIDE, SIDE, 3), 7,
                       np.uint8), 'image_erased': np.tile(np.int32([3, 5, 20, 24]), (count, 1)),
      'image_noise': rng.integers(0, 2**32, (count, 4), dtype=np.uint32)}
  batch['image_erased'][0] = 0
  batch['image_noise'][1] = batch['image_noise'][2]
  batch['image_noise'][3] = batch['image_noise'][4] ^ np.uint32([0, 0, 1, 0])  # the next example
  ours = np.asarray(augment_views(batch)['image'])
  inside = erased(batch, 'image')
  assert (ours[~inside] == 7).all() and (ours[0] == 7).all()
  noise = ours[1:, 3:23, 5:29].astype(float)
  np.testing.assert_allclose(noise.mean((0, 1, 2)), 255 * np.array([0.485, 0.456, 0.406]), atol=3)
  np.testing.assert_allclose(noise.std((0, 1, 2)), 255 * np.array([0.229, 0.224, 0.225]), rtol=0.05)
  similar = np.abs(np.corrcoef(noise.reshape(count - 1, -1)) - np.eye(count - 1)) > 0.15
  assert [tuple(pair) for pair in np.argwhere(similar)] == [(0, 1), (1, 0)]


@pytest.mark.parametrize('field', ['operation', 'erased'])
def test_each_augmentation_goes_alone(crops, field):
  batch = crops[0]
  resized = resize_crops(batch, SIDE)
  others = [name for name in batch if name.endswith(FIELDS) and not name.startswith(f'image_{field}')]
  kept = {'operation': 'image_amount', 'erased': 'image_noise'}[field]
  alone = {name: rows for name, rows in resized.items() if name not in others or name == kept}
  ours = augment_views(alone)
  np.testing.assert_array_equal(ours['person'], resized['person'])
  assert (np.asarray(ours['image']) != resized['image']).any()


def test_devices_change_their_own_images_alike_and_send_none(crops):
  batch = {name: rows for name, rows in crops[0].items() if name != 'example_id'}
  augment = jax.jit(lambda batch: augment_views(resize_crops(batch, SIDE)))
  whole = augment(batch)
  mesh = sharding.make_mesh(2, 2, jax.devices()[:4])
  with jax.set_mesh(mesh):
    divided = jax.device_put(batch, NamedSharding(mesh, sharding.BATCH))
    text = augment.lower(divided).compile().as_text()
    parts = augment(divided)
  for view in VIEWS:
    np.testing.assert_array_equal(parts[view], whole[view])
    assert parts[view].sharding.spec == sharding.BATCH
  assert not any(sent in text for sent in ('all-gather', 'all-to-all', 'collective-permute', 'all-reduce'))
