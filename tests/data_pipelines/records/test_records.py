"""Random access gives what was written, and a damaged shard is named instead of read past."""

import collections
import hashlib
import json
import random
import shutil
import subprocess
import sys

import pytest
import tensorflow_datasets as tfds

from data_pipelines.errors import UserError
from data_pipelines.light_tensorflow import tf
from data_pipelines.records import index
from data_pipelines.records.reader import open_split

COUNTS = {'train': 27, 'val': 11}


@pytest.fixture(params=['indexed', 'without index'])
def copied(data_dir, tmp_path, request):
  """A copy to damage, and the paths of its train shards; earlier versions of the package wrote no index."""
  shutil.copytree(data_dir / 'tiny', tmp_path / 'tiny')
  if request.param == 'without index':
    for path in [*tmp_path.rglob(f'*{index.INDEX}'), *tmp_path.rglob(f'*{index.ANNOTATIONS}')]:
      path.unlink()
  shards = sorted((tmp_path / 'tiny' / '1.0.0').glob('*train.tfrecord*'))
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


def test_joined_splits_follow_each_other(data_dir, train):
  val = open_split(data_dir, 'tiny', 'val')
  both = open_split(data_dir, 'tiny', 'train+val')
  assert list(both.annotations()) == [*train.annotations(), *val.annotations()]
  assert both.read(COUNTS['train']) == val.read(0)


def test_annotations_hold_id_label_and_attributes(train):
  annotations = list(train.annotations())
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
  for shard in (folder / 'tiny' / '1.10.0').glob('*train.tfrecord*'):
    shard.unlink()
  with pytest.raises(UserError, match=r'1\.10\.0'):
    open_split(folder, 'tiny', 'train')


def test_shard_cut_at_a_record_boundary_is_named(copied):
  folder, shards = copied
  shards[1].write_bytes(shards[1].read_bytes()[:record_starts(shards[1])[-2]])
  with pytest.raises(UserError) as error:
    open_split(folder, 'tiny', 'train')
  assert_one_line_names(error, shards[1], 'build')
  assert 'holds 8 records where dataset_info.json promises 9' in str(error.value) or 'it ends before' in str(
      error.value)


@pytest.mark.parametrize('kept', [5, 13, -1])
def test_shard_cut_inside_a_record_is_named(copied, kept):
  folder, shards = copied
  starts = record_starts(shards[2])
  cut = starts[-1] - 1 if kept < 0 else starts[-2] + kept
  shards[2].write_bytes(shards[2].read_bytes()[:cut])
  with pytest.raises(UserError) as error:
    open_split(folder, 'tiny', 'train')
  assert_one_line_names(error, shards[2], 'ends', 'build')


def test_a_flipped_bit_is_named_when_its_record_is_read(copied):
  folder, shards = copied
  open_split(folder, 'tiny', 'train')  # makes the index where there is none
  raw = bytearray(shards[0].read_bytes())
  raw[record_starts(shards[0])[4] + 200] ^= 4
  shards[0].write_bytes(raw)
  split = open_split(folder, 'tiny', 'train')
  assert split.read(3)
  with pytest.raises(UserError) as error:
    split.read(4)
  assert_one_line_names(error, shards[0], 'checksum', 'build')


@pytest.mark.parametrize('byte, what', [(0, 'record length'), (200, 'record at byte')])
def test_no_index_is_made_of_a_damaged_shard(copied, byte, what):
  folder, shards = copied
  raw = bytearray(shards[0].read_bytes())
  raw[record_starts(shards[0])[2] + byte] ^= 1
  shards[0].write_bytes(raw)
  for path in folder.rglob(f'*{index.INDEX}'):
    path.unlink()
  with pytest.raises(UserError) as error:
    open_split(folder, 'tiny', 'train')
  assert_one_line_names(error, shards[0], what, 'checksum', 'build')
  assert not list(folder.rglob(f'*train{index.INDEX}'))


def test_a_shard_of_other_records_is_named_when_it_is_read(copied):
  folder, shards = copied
  open_split(folder, 'tiny', 'train')
  shards[0].write_bytes(shards[1].read_bytes() + b'-' * 1000)
  with pytest.raises(UserError) as error:
    open_split(folder, 'tiny', 'train').read(0)
  assert_one_line_names(error, shards[0], 'checksum', 'build')


def test_an_index_made_again_is_the_same(data_dir, train, tmp_path):
  shutil.copytree(data_dir / 'tiny', tmp_path / 'tiny')
  built = {path.name: path.read_bytes() for path in (tmp_path / 'tiny' / '1.0.0').glob('*train[.]*[xl]')}
  assert len(built) == 2
  for name in built:
    (tmp_path / 'tiny' / '1.0.0' / name).unlink()
  assert open_split(tmp_path, 'tiny', 'train').fingerprint == train.fingerprint
  assert built == {name: (tmp_path / 'tiny' / '1.0.0' / name).read_bytes() for name in built}


@pytest.mark.parametrize('ending', [index.INDEX, index.ANNOTATIONS])
def test_any_change_of_an_index_is_one_line(data_dir, train, tmp_path, ending):
  del train  # the index was made for it
  shutil.copytree(data_dir / 'tiny', tmp_path / 'tiny')
  path = next((tmp_path / 'tiny').rglob(f'*train{ending}'))
  whole, draw = path.read_bytes(), random.Random(0)
  for trial in range(60):
    changed = bytearray(whole)
    changed[draw.randrange(len(whole))] ^= 1 << draw.randrange(8)
    path.write_bytes(changed if trial % 3 else whole[:draw.randrange(len(whole))])
    with pytest.raises(UserError) as error:
      list(open_split(tmp_path, 'tiny', 'train').annotations())
    assert_one_line_names(error, path, 'delete')


def test_records_without_an_index_in_a_folder_that_cannot_be_written_are_one_line(copied, monkeypatch):
  folder, _ = copied
  for path in folder.rglob(f'*{index.INDEX}'):
    path.unlink()
  monkeypatch.setattr(index.storage, 'new_file', lambda path: (_ for _ in ()).throw(PermissionError(13, 'no', path)))
  with pytest.raises(UserError) as error:
    open_split(folder, 'tiny', 'train')
  assert_one_line_names(error, folder, 'no index')


def test_a_thousand_shards_open_few_files(data_dir, tmp_path):
  """The records of many shards are read with 64 file descriptors."""
  code = (
      'import os, resource, sys; resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64));'
      'from data_pipelines.records.index import Shard; from data_pipelines.byte_ranges import Ranges;'
      'found = Ranges(sys.argv[1]).read([(f"{n}", 0, 4) for n in range(1000)]); assert len(set(found)) == 1000')
  for number in range(1000):
    (tmp_path / str(number)).write_text(f'{number:04d}')
  subprocess.run([sys.executable, '-c', code, str(tmp_path)], check=True)


@pytest.mark.parametrize('named', ['os.system', 'data.emo8.evil.X', 7])
def test_features_that_name_code_are_refused_before_tfds_imports_it(data_dir, tmp_path, named):
  shutil.copytree(data_dir / 'tiny', tmp_path / 'tiny')
  path = tmp_path / 'tiny' / '1.0.0' / 'features.json'
  features = json.loads(path.read_text())
  features['featuresDict']['features']['image']['pythonClassName'] = named
  path.write_text(json.dumps(features))
  with pytest.raises(UserError) as error:
    open_split(tmp_path, 'tiny', 'train')
  assert_one_line_names(error, path, repr(named))


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


def test_a_fraction_is_of_the_ids_that_hash_lowest_with_the_seed_in_each_class(data_dir):
  whole = open_split(data_dir, 'tiny', 'train+val')
  expected = set()
  for label in range(-1, len(whole.labels)):
    members = [found.id for found in whole.annotations() if found.label == label]
    members.sort(key=lambda name: hashlib.sha256(f'fraction 3:{name}'.encode()).digest())
    expected |= set(members[:max(1, round(0.25 * len(members)))])
  assert set(ids(whole.fraction(0.25, seed=3))) == expected


def test_ids_are_read_as_the_annotations_have_them(tmp_path):
  written = ['plain.jpg', 'a "quoted" \\ name.jpg', 'Straße/日本 😀.jpg', 'line\nbreak\u2028.jpg', '']
  lines = b''.join(json.dumps([name, 0, {}, [], [], []], ensure_ascii=False).encode() + b'\n' for name in written)
  (tmp_path / f'x{index.ANNOTATIONS}').write_bytes(lines)
  arguments = str(tmp_path), 'x', hashlib.sha256(lines).hexdigest()
  assert list(index.read_ids(*arguments)) == [one.id for one in index.read_annotations(*arguments)] == written


def test_a_fraction_reads_as_a_split_of_its_own(train):
  annotations = list(train.annotations())
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
