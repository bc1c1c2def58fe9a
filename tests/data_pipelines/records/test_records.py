"""Random access gives what was written, and a damaged shard is named instead of read past."""

import collections
import shutil

import pytest
import tensorflow as tf
import tensorflow_datasets as tfds

from data_pipelines.errors import UserError
from data_pipelines.records.reader import Split, open_split

COUNTS = {'train': 27, 'val': 11}


@pytest.fixture
def copied(data_dir, tmp_path):
  """A copy to damage, and the paths of its train shards."""
  shutil.copytree(data_dir / 'tiny', tmp_path / 'tiny')
  shards = sorted((tmp_path / 'tiny' / '1.0.0').glob('*train*'))
  assert len(shards) == 3
  return tmp_path, shards


def record_starts(shard):
  """Byte at which each record's frame begins, from TensorFlow's own reader."""
  starts = [0]
  for record in tf.data.TFRecordDataset(str(shard)):
    starts.append(starts[-1] + len(record.numpy()) + 16)
  return starts


def assert_one_line_names(error, *parts):
  assert '\n' not in str(error.value)
  for part in parts:
    assert str(part) in str(error.value)


def test_every_record_is_what_tfds_reads_in_the_same_order(data_dir, train):
  builder = tfds.builder_from_directory(data_dir / 'tiny' / '1.0.0')
  decoders = {'image': tfds.decode.SkipDecoding()}
  theirs = list(builder.as_dataset(split='train', decoders=decoders).as_numpy_iterator())
  assert train.num_examples == len(theirs) == COUNTS['train']
  for position, their in enumerate(theirs):
    example = tf.train.Example.FromString(train.read(position)).features.feature
    assert example['image'].bytes_list.value[0] == their['image']
    assert list(example['persons'].bytes_list.value) == list(their['persons'])
    assert example['example_id'].int64_list.value[0] == their['example_id']


def test_records_of_an_older_schema_are_named(data_dir, tmp_path):
  shutil.copytree(data_dir, tmp_path, dirs_exist_ok=True)
  features = tmp_path / 'tiny' / '1.0.0' / 'features.json'
  features.write_text(features.read_text().replace('"persons"', '"person"'))
  with pytest.raises(UserError) as error:
    open_split(tmp_path, 'tiny', 'train')
  assert_one_line_names(error, tmp_path, "'persons'", '--overwrite')


def test_a_path_with_a_scheme_is_read_to_the_same_bytes(data_dir, train):
  shards = sorted((data_dir / 'tiny' / '1.0.0').glob('*train*'))
  remote = Split('train', train.features, [(f'file://{shard}', 9) for shard in shards])
  assert [remote.read(i) for i in (26, 0, 13)] == [train.read(i) for i in (26, 0, 13)]


def test_joined_splits_follow_each_other(data_dir, train):
  val = open_split(data_dir, 'tiny', 'val')
  both = open_split(data_dir, 'tiny', 'train+val')
  assert both.annotations() == train.annotations() + val.annotations()
  assert both.read(COUNTS['train']) == val.read(0)


def test_annotations_hold_id_label_and_attributes(train):
  annotations = train.annotations()
  assert len(annotations) == len({annotation.id for annotation in annotations}) == COUNTS['train']
  for annotation in annotations:
    n = int(annotation.id.removeprefix('bild/').removesuffix(' ä.jpg'))
    assert annotation.label == (-1 if n % 7 == 6 else n % 3)
    assert annotation.attributes == ({'object': ['Alarm clock'], 'brightness': 0.5} if n % 2 else {})
  assert train.labels == ('amusement', 'awe', 'contentment')


def test_newest_finished_version_is_opened(copied):
  folder, _ = copied
  for version in ('0.9.0', '1.0.0.incompleteA1'):
    shutil.copytree(folder / 'tiny' / '1.0.0', folder / 'tiny' / version)
  shutil.copytree(folder / 'tiny' / '1.0.0', folder / 'tiny' / '1.10.0')
  shutil.rmtree(folder / 'tiny' / '1.0.0')
  open_split(folder, 'tiny', 'train')
  for shard in (folder / 'tiny' / '1.10.0').glob('*train*'):
    shard.unlink()
  with pytest.raises(UserError, match=r'1\.10\.0'):
    open_split(folder, 'tiny', 'train')


def test_shard_cut_at_a_record_boundary_is_named(copied):
  folder, shards = copied
  shards[1].write_bytes(shards[1].read_bytes()[:record_starts(shards[1])[-2]])
  with pytest.raises(UserError) as error:
    open_split(folder, 'tiny', 'train')
  assert_one_line_names(error, shards[1], 'holds 8 records', 'promises 9', 'build')


@pytest.mark.parametrize('kept', [5, 13, -1])
def test_shard_cut_inside_a_record_is_named(copied, kept):
  folder, shards = copied
  starts = record_starts(shards[2])
  cut = starts[-1] - 1 if kept < 0 else starts[-2] + kept
  shards[2].write_bytes(shards[2].read_bytes()[:cut])
  with pytest.raises(UserError) as error:
    open_split(folder, 'tiny', 'train')
  assert_one_line_names(error, shards[2], 'ends inside', 'build')


def test_flipped_bit_is_named_when_its_record_is_read(copied):
  folder, shards = copied
  raw = bytearray(shards[0].read_bytes())
  raw[record_starts(shards[0])[4] + 200] ^= 4
  shards[0].write_bytes(raw)
  split = open_split(folder, 'tiny', 'train')
  assert split.read(3)
  with pytest.raises(UserError) as error:
    split.read(4)
  assert_one_line_names(error, shards[0], 'checksum', 'build')


def test_flipped_length_is_named_on_opening(copied):
  folder, shards = copied
  raw = bytearray(shards[0].read_bytes())
  raw[record_starts(shards[0])[2]] ^= 1
  shards[0].write_bytes(raw)
  with pytest.raises(UserError) as error:
    open_split(folder, 'tiny', 'train')
  assert_one_line_names(error, shards[0], 'length', 'build')


def test_missing_shard_is_named(copied):
  folder, shards = copied
  shards[0].unlink()
  with pytest.raises(UserError) as error:
    open_split(folder, 'tiny', 'train')
  assert_one_line_names(error, shards[0], 'build')


def ids(split):
  return [annotation.id for annotation in split.annotations()]


def test_fractions_are_nested_seeded_and_take_a_share_of_every_class(data_dir):
  whole = open_split(data_dir, 'tiny', 'train+val')
  shares = (0.01, 0.05, 0.1, 0.25, 0.5, 1.0)
  parts = [whole.fraction(share, seed=3) for share in shares]
  per_class = collections.Counter(annotation.label for annotation in whole.annotations())
  for share, part, larger in zip(shares, parts, parts[1:] + [whole]):
    assert set(ids(part)) <= set(ids(larger)) and len(set(ids(part))) == part.num_examples
    assert collections.Counter(annotation.label for annotation in part.annotations()) == {
        label: max(1, round(share * count)) for label, count in per_class.items()}
  assert ids(parts[-1]) == ids(whole)
  assert ids(whole.fraction(0.25, seed=3)) == ids(parts[3]) != ids(whole.fraction(0.25, seed=4))


def test_a_fraction_reads_as_a_split_of_its_own(train):
  annotations = train.annotations()
  part = train.fraction(0.5, seed=0)
  assert part.num_examples < train.num_examples == 27 and part.labels == train.labels and '50 %' in part.name
  positions = [annotations.index(annotation) for annotation in part.annotations()]
  assert positions == sorted(positions)
  assert [part.read(i) for i in range(part.num_examples)] == [train.read(position) for position in positions]


@pytest.mark.parametrize('fraction', [0, -0.1, 1.5, float('nan')])
def test_impossible_fraction_is_one_line(train, fraction):
  with pytest.raises(UserError) as error:
    train.fraction(fraction, seed=0)
  assert_one_line_names(error, fraction, 'more than 0 and at most 1')


@pytest.mark.parametrize(
    'dataset, split, parts', [
        ('absent', 'train', ('absent', 'data_pipelines.build', '--dataset=absent')),
        ('tiny', 'test', ('test', 'train, val')),
        ('tiny', 'train+nothing', ('nothing', 'train, val')),
        ('tiny', 'train+train', ('train+train', 'once')),])
def test_what_is_not_there_is_one_line_with_the_remedy(data_dir, dataset, split, parts):
  with pytest.raises(UserError) as error:
    open_split(data_dir, dataset, split)
  assert_one_line_names(error, *parts)
