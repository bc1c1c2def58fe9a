"""What a batch holds depends on seed and step alone, evaluation sees every example once, views agree."""

import itertools
import shutil
import time

import numpy as np
import pytest

from data_pipelines.errors import UserError
from data_pipelines.pipeline import eval_batches, eval_step_count, train_batches
from data_pipelines.records import open_split

SIDE = 32
BATCH = 8
EPOCH = 27 // BATCH


def take(split, steps, **options):
  """The first `steps` training batches."""
  options = {'batch_size': BATCH, 'seed': 1, 'image_size': SIDE} | options
  return list(itertools.islice(train_batches(split, **options), steps))


def assert_same(ours, theirs):
  assert len(ours) == len(theirs) > 0
  for our, their in zip(ours, theirs):
    assert our.keys() == their.keys()
    for name in our:
      assert our[name].dtype == their[name].dtype
      np.testing.assert_array_equal(our[name], their[name], err_msg=name)


def joined(hosts):
  """Each global batch from the rows that the hosts made, in host order."""
  return [{name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
          for parts in zip(*hosts, strict=True)]


def slopes(images_BxSxSx3):
  """How red grows from left to right: positive as drawn, negative flipped."""
  red = images_BxSxSx3[..., 0].astype(float)
  return red[..., SIDE // 2:].mean((1, 2)) - red[..., :SIDE // 2].mean((1, 2))


@pytest.fixture(scope='module')
def two_epochs(train):
  return take(train, 2 * EPOCH + 1)


@pytest.mark.parametrize('count', [2, 4])
def test_global_batch_is_the_same_bytes_on_1_2_and_4_hosts(train, two_epochs, count):
  hosts = [take(train, len(two_epochs), process_index=index, process_count=count) for index in range(count)]
  assert_same(joined(hosts), two_epochs)


@pytest.mark.parametrize('step', [1, EPOCH, EPOCH + 2])
def test_batches_from_a_later_step_are_those_of_an_unbroken_run(train, two_epochs, step):
  assert_same(take(train, len(two_epochs) - step, start_step=step), two_epochs[step:])


@pytest.mark.parametrize('parallelism', [1, 3])
def test_number_of_threads_changes_nothing(train, two_epochs, parallelism):
  assert_same(take(train, len(two_epochs), parallelism=parallelism), two_epochs)


def test_pretraining_batch_has_the_promised_shapes_and_types(two_epochs):
  described = {name: (value.dtype.name, value.shape) for name, value in two_epochs[0].items()}
  assert described == {
      'scene': ('uint8', (BATCH, SIDE, SIDE, 3)), 'person': ('uint8', (BATCH, SIDE, SIDE, 3)),
      'position': ('int32', (BATCH,)), 'example_id': ('int64', (BATCH,)), 'label': ('int32', (BATCH,))}


def test_finetuning_and_scene_only_batches_hold_the_same_view_and_nothing_else(train, two_epochs):
  finetune, = take(train, 1, mode='finetune')
  scene_only, = take(train, 1, person=False)
  assert set(finetune) == {'image', 'label', 'position', 'example_id'}
  assert set(scene_only) == {'scene', 'label', 'position', 'example_id'}
  np.testing.assert_array_equal(finetune['image'], two_epochs[0]['scene'])
  np.testing.assert_array_equal(scene_only['scene'], two_epochs[0]['scene'])


def test_position_finds_the_annotation_of_the_same_example(train, two_epochs):
  annotations = train.annotations()
  for batch in two_epochs:
    for row, position in enumerate(batch['position']):
      assert annotations[position].id == f'bild/{batch["example_id"][row] // 5:02d} ä.jpg'
      assert annotations[position].label == batch['label'][row]


def test_an_epoch_shows_no_record_twice_and_drops_another_tail_each_time(train):
  seen = np.concatenate([batch['position'] for batch in take(train, 20 * EPOCH, person=False)]).reshape(20, -1)
  assert all(len(set(epoch)) == EPOCH * BATCH for epoch in seen.tolist())
  assert set(seen.ravel()) == set(range(27))
  assert len({tuple(epoch) for epoch in seen.tolist()}) == 20


def test_another_seed_gives_another_order_and_other_views(train, two_epochs):
  other = take(train, EPOCH, seed=2)
  assert any((ours['position'] != theirs['position']).any() for ours, theirs in zip(other, two_epochs))
  ours, theirs = ({i: scene for batch in batches for i, scene in zip(batch['example_id'], batch['scene'])}
                  for batches in (other, two_epochs[:EPOCH]))
  assert sum((ours[i] == theirs[i]).all() for i in ours.keys() & theirs.keys()) <= 1


def test_an_example_is_augmented_anew_each_epoch(two_epochs):
  first, second = ({i: scene for batch in batches for i, scene in zip(batch['example_id'], batch['scene'])}
                   for batches in (two_epochs[:EPOCH], two_epochs[EPOCH:2 * EPOCH]))
  both = first.keys() & second.keys()
  assert len(both) > 15
  assert sum((first[i] == second[i]).all() for i in both) <= 1


def test_person_is_flipped_as_its_scene_is_and_is_the_scene_where_there_is_none(two_epochs):
  flips = []
  for batch in two_epochs:
    without = batch['example_id'] // 5 % 3 == 0
    np.testing.assert_array_equal(batch['person'][without], batch['scene'][without])
    scene, person = slopes(batch['scene'][~without]), slopes(batch['person'][~without])
    assert (np.sign(scene) == np.sign(person)).all()
    # The person view is the whole crop, whose red spans the full range; no scene crop could stand in for it.
    assert (np.abs(person) > 120).all()
    flips += (person < 0).tolist()
  assert 0.2 < np.mean(flips) < 0.8


@pytest.mark.parametrize('batch_size, count', [(4, 1), (4, 2), (8, 4), (16, 4), (11, 1)])
def test_evaluation_counts_every_example_once_over_all_hosts(data_dir, batch_size, count):
  val = open_split(data_dir, 'tiny', 'val')
  hosts = [list(eval_batches(val, batch_size=batch_size, image_size=SIDE, process_index=index, process_count=count))
           for index in range(count)]
  assert all(len(batches) == eval_step_count(val, batch_size) for batches in hosts)
  batches = joined(hosts)
  assert all(batch['image'].shape == (batch_size, SIDE, SIDE, 3) for batch in batches)
  whole = {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}
  real = whole['mask'] == 1
  np.testing.assert_array_equal(whole['position'][real], np.arange(val.num_examples))
  np.testing.assert_array_equal(whole['label'][real], [annotation.label for annotation in val.annotations()])
  assert whole['mask'].dtype == np.float32
  assert all(not value[~real].any() for value in whole.values())


@pytest.mark.parametrize('parallelism', [1, 2])
def test_damaged_record_stops_training_with_one_line(data_dir, tmp_path, capfd, parallelism):
  shutil.copytree(data_dir / 'tiny', tmp_path / 'tiny')
  shard = next((tmp_path / 'tiny' / '1.0.0').glob('*train*'))
  raw = bytearray(shard.read_bytes())
  raw[500] ^= 1
  shard.write_bytes(raw)
  split = open_split(tmp_path, 'tiny', 'train')
  with pytest.raises(UserError) as error:
    take(split, 4 * EPOCH, parallelism=parallelism)
  assert str(shard) in str(error.value) and '\n' not in str(error.value)
  assert capfd.readouterr().err == ''


@pytest.mark.parametrize('options, message', [
    ({'batch_size': 28}, 'batch_size 28 is more than the 27 examples'),
    ({'batch_size': 9, 'process_count': 2}, 'batch_size 9 does not divide by 2 hosts'),
    ({'mode': 'train'}, "mode is 'train'"),
])
def test_impossible_request_is_one_line_before_any_batch(train, options, message):
  with pytest.raises(UserError, match=message):
    train_batches(train, **{'batch_size': BATCH, 'seed': 1, 'image_size': SIDE} | options)


def test_closing_a_stream_is_immediate(train):
  """tf.data's autotuner would be waited for: longer, the longer the stream has run."""
  batches = train_batches(train, batch_size=BATCH, seed=1, image_size=SIDE)
  started = time.monotonic()
  while time.monotonic() - started < 4:
    next(batches)
  closing = time.monotonic()
  batches.close()
  assert time.monotonic() - closing < 0.5
