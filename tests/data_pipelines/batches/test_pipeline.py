"""What a batch holds depends on seed and step alone, evaluation sees every example once, views agree."""

import hashlib
import io
import itertools
import math
import os
import platform
import shutil
import time

import numpy as np
from PIL import Image
import pytest

from data_pipelines.batches.pipeline import eval_batches, train_batches
from data_pipelines.errors import UserError
from data_pipelines.light_tensorflow import tf
from data_pipelines.records import index
from data_pipelines.records.reader import Split, open_split

SIDE = 32
BATCH = 8
EPOCH = 27 // BATCH
MODES = {
    'pretrain': {'mode': 'pretrain', 'person_jitter': 0.14},
    'finetune': {'mode': 'finetune', 'randaugment': (9, 0.5), 'erase': 0.25}}
"""Each mode with everything random switched on."""


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
  return [
      {name: np.concatenate([part[name] for part in parts]) for name in parts[0]} for parts in zip(*hosts, strict=True)]


def jpeg(height, width, colour=(0, 0, 0)):
  file = io.BytesIO()
  Image.new('RGB', (width, height), colour).save(file, 'JPEG')
  return file.getvalue()


def write_split(folder, features, examples):
  """A split of one shard that holds what training reads: (image, persons, label) of each example."""
  path = str(folder / 'written.tfrecord')
  with tf.io.TFRecordWriter(path) as writer:
    for count, (image, persons, label) in enumerate(examples, 1):
      example = tf.train.Example()
      feature = example.features.feature
      feature['image'].bytes_list.value.append(image)
      feature['persons'].bytes_list.value.extend(persons)
      feature['label'].int64_list.value.append(label)
      feature['example_id'].int64_list.value.append(count)
      feature['id'].bytes_list.value.append(str(count).encode())
      feature['attributes'].bytes_list.value.append(b'{}')
      writer.write(example.SerializeToString())
  shards = [('written.tfrecord', count)]
  assert len(list(index.make_index(str(folder), 'written', shards))) == count
  return Split('written', features, str(folder), {'written': index.read_index(str(folder), 'written', shards)})


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


@pytest.fixture(scope='module')
def several_persons(train, tmp_path_factory):
  """21 examples with no, one or four persons of one colour each, so that a view shows who was drawn."""
  rng = np.random.default_rng(0)
  crops = [jpeg(60, 40, (80 * k, 40, 250 - 80 * k)) for k in range(4)]
  photographs = [train.read(n) for n in range(21)]
  images = [tf.train.Example.FromString(record).features.feature['image'].bytes_list.value[0] for record in photographs]
  return write_split(
      tmp_path_factory.mktemp('persons'), train.features,
      [(image, crops[:(0, 1, 4)[n % 3]], int(rng.integers(3))) for n, image in enumerate(images)])


def assert_same_however_it_is_made(split, rng, draws, batch_size=4):
  """Host count, parallelism and first step drawn at random, against unbroken runs on one host, over two epochs."""
  steps = 2 * (split.num_examples // batch_size)
  whole = {mode: take(split, steps, batch_size=batch_size, **options) for mode, options in MODES.items()}
  for _ in range(draws):
    mode, count = rng.choice(list(MODES)), int(rng.choice([1, 2, 4]))
    start = int(rng.integers(steps))
    hosts = [
        take(
            split, min(2, steps - start), batch_size=batch_size, start_step=start, process_index=index,
            process_count=count, parallelism=int(rng.integers(1, 5)), **MODES[mode]) for index in range(count)]
    assert_same(joined(hosts), whole[mode][start:start + 2])


def test_fully_augmented_batches_are_the_same_on_any_hosts_and_threads_and_from_any_step(several_persons):
  assert_same_however_it_is_made(several_persons, np.random.default_rng(0), draws=3)


@pytest.mark.slow
def test_a_hundred_ways_to_make_a_batch_give_the_same_bytes(data_dir):
  split = open_split(data_dir, 'tiny', 'train+val')
  assert_same_however_it_is_made(split, np.random.default_rng(0), draws=100)


@pytest.mark.skipif(platform.machine() != 'x86_64', reason='elsewhere, TensorFlow rounds floats differently')
@pytest.mark.parametrize(
    'options, golden', [({}, 'a2ac41d09af68003'), ({'mode': 'finetune'}, '4aae037574dc75e4'),
                        ({'start_step': EPOCH + 1, 'crop_area': (0.5, 1.0)}, '2fcaf3aa5142d493'),
                        (MODES['pretrain'], '684ddf0f4b7508de'), (MODES['finetune'], '393b9a7c7cbeae65')])
def test_bytes_are_those_that_measured_runs_were_trained_on(train, options, golden):
  """A new golden value means that those runs cannot be repeated; another TensorFlow or Pillow may round differently."""
  digest = hashlib.sha256()
  for batch in take(train, 2 * EPOCH, **options):
    for name in sorted(batch):
      digest.update(name.encode() + batch[name].tobytes())
  assert digest.hexdigest()[:16] == golden


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
  annotations = list(train.annotations())
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
  ours, theirs = ({i: scene
                   for batch in batches
                   for i, scene in zip(batch['example_id'], batch['scene'])}
                  for batches in (other, two_epochs[:EPOCH]))
  assert sum((ours[i] == theirs[i]).all() for i in ours.keys() & theirs.keys()) <= 1


def test_an_example_is_augmented_anew_each_epoch(two_epochs):
  first, second = ({i: scene
                    for batch in batches
                    for i, scene in zip(batch['example_id'], batch['scene'])}
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


def test_one_of_several_persons_is_drawn_anew_each_epoch(several_persons):
  shown = {}
  for batch in take(several_persons, 40, batch_size=several_persons.num_examples):
    for example_id, person in zip(batch['example_id'], batch['person']):
      shown.setdefault(example_id, []).append(round(person[..., 0].mean() / 80))
  four = [drawn for example_id, drawn in shown.items() if example_id % 3 == 0]
  assert all(set(drawn) == {0, 1, 2, 3} for drawn in four)
  shares = np.bincount(np.concatenate(four)) / np.size(four)
  assert (np.abs(shares - 0.25) < 0.08).all()
  assert len({tuple(drawn) for drawn in four}) == len(four)
  assert all(set(drawn) == {0} for example_id, drawn in shown.items() if example_id % 3 == 2)


def test_person_jitter_cuts_the_stored_crop_and_leaves_the_scene(train, two_epochs):
  for batch, whole in zip(take(train, EPOCH, person_jitter=0.14), two_epochs):
    np.testing.assert_array_equal(batch['scene'], whole['scene'])
    alone = batch['example_id'] // 5 % 3 == 0
    np.testing.assert_array_equal(batch['person'][alone], whole['person'][alone])
    cut, stored = (np.abs(slopes(views['person'][~alone])) for views in (batch, whole))
    # Red spans what is left of the crop's width: at least 72 % of it, and rarely all.
    assert (cut < stored + 2).all() and (cut > 0.68 * stored).all()
    assert cut.mean() < 0.95 * stored.mean()


def test_randaugment_and_erasing_change_their_share_of_the_images_and_not_the_crop(train):
  plain, changed, erased = (
      np.concatenate([batch['image']
                      for batch in take(train, 8 * EPOCH, mode='finetune', **options)])
      for options in ({}, {'randaugment': (9, 0.5)}, {'erase': 0.25}))
  # A quarter has neither layer; some layers change nothing, such as autocontrast where contrast is full.
  assert 0.55 < (plain != changed).any((1, 2, 3)).mean() < 0.85
  assert 0.15 < (plain != erased).any((1, 2, 3)).mean() < 0.35


def by_mode(split, steps, **options):
  """Fine-tuning batches with persons, and the same without."""
  options = {'mode': 'finetune'} | options
  return take(split, steps, person=True, **options), take(split, steps, **options)


@pytest.mark.parametrize('options', [{}, {'randaugment': (9, 0.5), 'erase': 0.25}], ids=str)
def test_finetuning_on_persons_leaves_the_scene_as_it_is(train, options):
  for two, one in zip(*by_mode(train, EPOCH, **options), strict=True):
    assert two.keys() == one.keys() | {'person'}
    for name in one:
      np.testing.assert_array_equal(two[name], one[name])
    without = two['example_id'] // 5 % 3 == 0
    np.testing.assert_array_equal(two['person'][without], two['image'][without])
    assert (two['person'] != two['image']).any((1, 2, 3))[~without].all()


def test_finetuning_sees_the_person_that_pretraining_sees(train, several_persons, two_epochs):
  for split, batches in ((train, two_epochs), (several_persons, take(several_persons, 4))):
    for ours, theirs in zip(by_mode(split, len(batches))[0], batches, strict=True):
      np.testing.assert_array_equal(ours['person'], theirs['person'])


def test_person_is_augmented_by_draws_of_its_own(several_persons):
  plain, erased = (
      take(several_persons, 12, mode='finetune', person=True, **options) for options in ({}, {'erase': 0.5}))
  image, person = (
      np.concatenate([(one[view] != other[view]).any((1, 2, 3))[one['example_id'] % 3 != 1]
                      for one, other in zip(plain, erased)])
      for view in ('image', 'person'))
  assert 0.3 < image.mean() < 0.7 and 0.3 < person.mean() < 0.7 and 0.3 < (image != person).mean() < 0.7


def test_finetuning_on_persons_is_the_same_on_any_hosts_and_from_any_step(several_persons):
  options = {'batch_size': 4, 'person': True} | MODES['finetune']
  whole = take(several_persons, 6, **options)
  hosts = [
      take(several_persons, 3, start_step=3, process_index=index, process_count=2, parallelism=index + 1, **options)
      for index in range(2)]
  assert_same(joined(hosts), whole[3:])


def test_evaluation_shows_the_first_person_squashed_and_nothing_in_padding(several_persons, data_dir):
  whole, plain = (
      list(eval_batches(several_persons, batch_size=8, image_size=SIDE, **options))
      for options in ({'person': True}, {}))
  for batch, without in zip(whole, plain, strict=True):
    assert batch.keys() == without.keys() | {'person'}
    np.testing.assert_array_equal(batch['image'], without['image'])
    alone, padding = batch['example_id'] % 3 == 1, batch['mask'] == 0
    np.testing.assert_array_equal(batch['person'][alone], batch['image'][alone])
    # The first of the persons has the least red, whichever training draws.
    assert (np.abs(batch['person'][~alone & ~padding].mean((1, 2)) - (0, 40, 250)) < 4).all()
    assert not batch['person'][padding].any()
  val = next(eval_batches(open_split(data_dir, 'tiny', 'val'), batch_size=8, image_size=SIDE, person=True))
  one = val['example_id'] // 5 % 3 > 0
  assert (slopes(val['person'][one]) > 120).all()  # Squashed whole, and never flipped.


def test_images_without_labels_serve_for_pretraining(train, tmp_path):
  split = write_split(tmp_path, train.features, [(jpeg(40, 40), [], -1)] * 9)
  batches = take(split, 3, batch_size=4)
  assert all((batch['label'] == -1).all() and batch['scene'].shape == (4, SIDE, SIDE, 3) for batch in batches)


@pytest.mark.slow
def test_resuming_deep_in_an_epoch_of_100_000_records_takes_seconds(train, tmp_path):
  write_split(tmp_path, train.features, itertools.repeat((jpeg(8, 8), [], 0), 100_000))
  started = time.monotonic()
  read = index.read_index(str(tmp_path), 'written', [('written.tfrecord', 100_000)])
  split = Split('written', train.features, str(tmp_path), {'written': read})
  batch = next(train_batches(split, batch_size=50, seed=1, image_size=SIDE, start_step=1990))
  seconds = time.monotonic() - started
  print(f'opened and resumed in {seconds:.1f} s')
  assert seconds < 30 and len(set(batch['position'])) == 50


@pytest.mark.slow
def test_memory_is_flat_over_20_000_images(several_persons):

  def resident_mib():
    with open('/proc/self/statm', encoding='ascii') as file:
      return int(file.read().split()[1]) * os.sysconf('SC_PAGE_SIZE') / 2**20

  for options in MODES.values():
    batches = train_batches(several_persons, batch_size=20, seed=1, image_size=96, **options)
    after = []
    for count in range(20, 20_001, 20):
      next(batches)
      if count % 2000 == 0:
        after.append(resident_mib())
    batches.close()
    print([round(mib) for mib in after])
    assert max(after) - after[0] < 50


@pytest.mark.parametrize('batch_size, count', [(4, 1), (4, 2), (8, 4), (16, 4), (11, 1)])
def test_evaluation_counts_every_example_once_over_all_hosts(data_dir, batch_size, count):
  val = open_split(data_dir, 'tiny', 'val')
  hosts = [
      list(eval_batches(val, batch_size=batch_size, image_size=SIDE, process_index=index, process_count=count))
      for index in range(count)]
  assert all(len(batches) == math.ceil(val.num_examples / batch_size) for batches in hosts)
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
  open_split(data_dir, 'tiny', 'train')  # makes the index, which would read the damaged record
  capfd.readouterr()
  shutil.copytree(data_dir / 'tiny', tmp_path / 'tiny')
  shard = next((tmp_path / 'tiny' / '1.0.0').glob('*train.tfrecord*'))
  raw = bytearray(shard.read_bytes())
  raw[500] ^= 1
  shard.write_bytes(raw)
  split = open_split(tmp_path, 'tiny', 'train')
  with pytest.raises(UserError) as error:
    take(split, 4 * EPOCH, parallelism=parallelism)
  assert str(shard) in str(error.value) and '\n' not in str(error.value)
  assert capfd.readouterr().err == ''


@pytest.mark.parametrize(
    'options, message', [
        ({'batch_size': 28}, 'batch_size 28 is more than the 27 examples'),
        ({'batch_size': 9, 'process_count': 2}, 'batch_size 9 does not divide by 2 hosts'),
        ({'mode': 'train'}, "mode is 'train'"),
        ({'erase': 0.25}, "belong to mode 'finetune'"),
        ({'randaugment': (9, 0.5)}, "belong to mode 'finetune'"),
        ({'mode': 'finetune', 'person_jitter': 0.1}, "belongs to mode 'pretrain'"),
        ({'person_jitter': 0.5}, 'person_jitter is 0.5'),
        ({'mode': 'finetune', 'erase': 1.5}, 'erase is 1.5'),
        ({'mode': 'finetune', 'randaugment': (11, 0.5)}, r'randaugment is \(11, 0.5\)'),
        ({'canvas': SIDE - 1}, 'canvas is 31'),])
def test_impossible_request_is_one_line_before_any_batch(train, options, message):
  with pytest.raises(UserError, match=message):
    train_batches(train, **{'batch_size': BATCH, 'seed': 1, 'image_size': SIDE} | options)
