"""With `Views`, crops and flips come again after so many epochs, and everything else stays as it was."""

import itertools

import numpy as np
import pytest

from data_pipelines.batches.pipeline import RecurringCrops, recurring_batches, train_batches
from data_pipelines.errors import UserError

SIDE, BATCH = 32, 9
EPOCH = 27 // BATCH
AREA = (0.3, 1.0)


def epochs(split, count, **options):
  """By epoch, the batches of whole epochs, in each of which all 27 records are."""
  options = {'batch_size': BATCH, 'seed': 1, 'image_size': SIDE, 'crop_area': AREA, 'person_jitter': 0.2} | options
  batches = list(itertools.islice(train_batches(split, **options), count * EPOCH))
  return [{name: np.concatenate([batch[name]
                                 for batch in batches[first:first + EPOCH]])
           for name in batches[0]}
          for first in range(0, len(batches), EPOCH)]


def by_position(epoch, name):
  """The rows in the order of the split."""
  return epoch[name][np.argsort(epoch['position'])]


@pytest.fixture(scope='module')
def fresh(train):
  """Three epochs as published."""
  return epochs(train, 3)


@pytest.fixture(scope='module')
def repeated(train):
  """Four epochs of two views."""
  return epochs(train, 4, recurring=RecurringCrops(2, seed=1))


def test_epochs_that_are_so_many_apart_show_the_same_scenes_in_another_order(repeated):
  for first, again in ((0, 2), (1, 3)):
    assert (repeated[first]['position'] != repeated[again]['position']).any()
    np.testing.assert_array_equal(by_position(repeated[first], 'scene'), by_position(repeated[again], 'scene'))
  other = (by_position(repeated[0], 'scene') != by_position(repeated[1], 'scene')).any((1, 2, 3))
  assert other.sum() > 24
  assert [set(epoch['crop']) for epoch in repeated] == [{0}, {1}, {0}, {1}]


def test_the_person_is_cut_anew_and_flipped_as_the_scene_that_came_again(repeated):
  with_person = np.arange(27)[by_position(repeated[0], 'example_id') // 5 % 3 > 0]
  first, again = (by_position(repeated[epoch], 'person')[with_person] for epoch in (0, 2))
  assert (first != again).any((1, 2, 3)).sum() > 15
  # Red grows to the right where nothing is flipped.
  right = [views[..., 0].astype(float) @ np.linspace(-1, 1, SIDE) for views in (first, again)]
  assert (np.sign(right[0].mean(1)) == np.sign(right[1].mean(1))).all()


def test_the_first_epochs_are_those_without_views_where_the_seeds_agree(fresh, repeated):
  for ours, theirs in zip(repeated[:2], fresh):
    assert ours.keys() == theirs.keys() | {'crop'}
    for name, rows in theirs.items():
      np.testing.assert_array_equal(ours[name], rows, err_msg=name)
  assert (by_position(repeated[2], 'scene') != by_position(fresh[2], 'scene')).any()
  np.testing.assert_array_equal(repeated[2]['position'], fresh[2]['position'])


def test_another_seed_of_the_views_changes_crops_and_flips_alone(train, repeated):
  other, = epochs(train, 1, recurring=RecurringCrops(2, seed=2))
  np.testing.assert_array_equal(other['position'], repeated[0]['position'])
  assert (other['scene'] != repeated[0]['scene']).any((1, 2, 3)).sum() > 24


def test_another_run_with_the_same_seed_of_the_views_sees_the_same_scenes(train, repeated):
  other, = epochs(train, 1, seed=5, recurring=RecurringCrops(2, seed=1))
  assert (other['position'] != repeated[0]['position']).any()
  np.testing.assert_array_equal(by_position(other, 'scene'), by_position(repeated[0], 'scene'))


@pytest.mark.parametrize('hosts', [1, 2])
def test_views_by_position_are_those_that_training_shows(train, repeated, hosts):
  starts = [(view, first) for view in (0, 1) for first in range(0, 27, 8)]
  parts = [
      list(
          recurring_batches(
              train, 1, starts, batch_size=8, image_size=SIDE, crop_area=AREA, process_index=index, process_count=hosts,
              parallelism=index + 1)) for index in range(hosts)]
  scenes = [np.concatenate([batch['scene'] for batch in rows]) for rows in zip(*parts, strict=True)]
  for view, epoch in enumerate(repeated[:2]):
    shown = np.concatenate(scenes[4 * view:4 * view + 4])
    np.testing.assert_array_equal(shown[:27], by_position(epoch, 'scene'))


def test_a_batch_that_hosts_cannot_share_is_one_line(train):
  with pytest.raises(UserError, match='batch_size 9 does not divide by 2 hosts'):
    recurring_batches(train, 1, [], batch_size=9, image_size=SIDE, crop_area=AREA, process_count=2)
