import pathlib
import shutil

import pytest
import tensorflow_datasets as tfds

from data_pipelines.build import build
from data_pipelines.errors import UserError
from data_pipelines.folder import folder_dataset_builder
from data_pipelines.records.label_sets import EMOTIONS
from data_pipelines.records.reader import open_split
from tests.support import raw_folders

SPLITS = ('train', 'val', 'test')
LABELS = {
    'fi': EMOTIONS, 'heco': ('Surprise', 'Excitement', 'Happiness', 'Peace', 'Disgust', 'Anger', 'Fear', 'Sadness'),
    'unbiasedemo': ('anger', 'fear', 'joy', 'love', 'sadness', 'surprise'),
    'caers': ('Anger', 'Disgust', 'Fear', 'Happy', 'Neutral', 'Sad', 'Surprise')}
SIZES = {'fi': (128, 8, 24), 'heco': (112, 16, 32), 'unbiasedemo': (84, 12, 24), 'caers': (28, 14, 28)}


@pytest.fixture(scope='module')
def raw(tmp_path_factory):
  """One small raw folder for each dataset in its true layout."""
  root = tmp_path_factory.mktemp('raw')
  for dataset in ('fi', 'heco'):
    raw_folders.draw_classes(root / dataset, LABELS[dataset], 20)
  for emotion in LABELS['unbiasedemo']:
    raw_folders.draw_classes(root / 'unbiasedemo' / emotion, (f'{emotion} cat', f'{emotion} street'), 10)
  for split, count in {'train': 4, 'test': 6}.items():
    raw_folders.draw_classes(root / 'caers' / split, LABELS['caers'], count, '.png')
  return root


@pytest.fixture
def copy(raw, tmp_path):
  """Copies the raw folder of a dataset, to be changed."""
  return lambda dataset: shutil.copytree(raw / dataset, tmp_path / dataset)


def _stored(data_dir: pathlib.Path, dataset: str, split: str) -> dict[str, str | None]:
  """Id -> class name."""
  records = open_split(data_dir, dataset, split)
  return {name: records.labels[label] if label >= 0 else None for name, label, *_ in records.annotations()}


@pytest.mark.parametrize('dataset', LABELS)
def test_labels_come_from_folders_in_the_order_of_the_table_and_splits_have_their_shares(dataset, raw, tmp_path):
  manifest = build(dataset, raw / dataset, tmp_path)
  assert manifest['labels'] == list(LABELS[dataset])
  assert manifest['split_seed'] == 0
  assert manifest['ignored'] == {}
  for split, size in zip(SPLITS, SIZES[dataset], strict=True):
    stored = _stored(tmp_path, dataset, split)
    assert len(stored) == size == manifest['splits'][split]['examples']
    assert set(manifest['splits'][split]['per_class'].values()) == {size // len(LABELS[dataset])}
    for name, label in stored.items():
      assert name.split('/')[1 if dataset == 'caers' else 0] == label


def test_published_splits_of_caers_are_kept_and_val_comes_from_test_alone(raw, tmp_path):
  build('caers', raw / 'caers', tmp_path)
  folders = {split: {name.split('/')[0] for name in _stored(tmp_path, 'caers', split)} for split in SPLITS}
  assert folders == {'train': {'train'}, 'val': {'test'}, 'test': {'test'}}


def test_every_query_of_unbiasedemo_is_split_in_the_same_shares(raw, tmp_path):
  build('unbiasedemo', raw / 'unbiasedemo', tmp_path)
  for split, share in zip(SPLITS, (7, 1, 2)):
    queries = [name.rpartition('/')[0] for name in _stored(tmp_path, 'unbiasedemo', split)]
    assert {query: queries.count(query) for query in queries} == dict.fromkeys(queries, share)
    assert len(set(queries)) == 12


def test_splits_are_the_same_for_ever_and_in_whatever_order_a_file_system_lists_folders(raw, tmp_path, monkeypatch):
  listing = pathlib.Path.iterdir
  first = build('fi', raw / 'fi', tmp_path / 'first')
  monkeypatch.setattr(pathlib.Path, 'iterdir', lambda self: reversed(list(listing(self))))
  assert build('fi', raw / 'fi', tmp_path / 'second') == first
  hashes = {split: summary['ids_sha256'][:16] for split, summary in first['splits'].items()}
  assert hashes == {'train': '705dca0fee1a3d5e', 'val': '61eb8e2d82eff0ac', 'test': '7641fd3c03f8d6ae'}


def test_litter_changes_nothing_but_the_count_of_what_was_ignored(copy, tmp_path):
  source = copy('heco')
  before = build('heco', source, tmp_path / 'before')
  (source / '__MACOSX' / 'Peace').mkdir(parents=True)
  (source / '.git').mkdir()
  for litter in ('README.txt', '.DS_Store', 'Peace/.DS_Store', 'Peace/0001.jpg~', 'Anger/Thumbs.db', '.git/HEAD'):
    (source / litter).write_bytes(b'x')
  (source / 'person_boxes.csv').write_text('image,xmin,ymin,xmax,ymax,score\n')
  after = build('heco', source, tmp_path / 'after')
  ignored = {'.DS_Store': 1, '.git': 1, '__MACOSX': 1, 'README.txt': 1, '.*': 1, '*~': 1, 'Thumbs.db': 1}
  assert after == before | {'ignored': ignored, 'source': after['source']}


def test_class_folders_may_be_spelled_in_other_case(copy, tmp_path):
  source = copy('caers')
  for split in ('train', 'test'):
    (source / split / 'Anger').rename(source / split / 'anger')
    (source / split / 'Sad').rename(source / split / 'SAD')
  manifest = build('caers', source, tmp_path)
  assert manifest['labels'] == list(LABELS['caers'])
  assert set(manifest['splits']['train']['per_class'].values()) == {4}


def _break(source: pathlib.Path, dataset: str, how: str) -> str:
  """Breaks a raw folder; returns what the message must say."""
  folder = source / 'test' if dataset == 'caers' else source
  first, last = LABELS[dataset][0], LABELS[dataset][-1]
  if how == 'missing':
    shutil.rmtree(folder / last)
    return f'{folder / last} is missing or empty'
  if how == 'empty':
    shutil.rmtree(folder / first)
    (folder / first).mkdir()
    (folder / first / '.DS_Store').write_bytes(b'x')
    return f'{folder / first} is missing or empty'
  (folder / 'Rage').mkdir()
  return f"{folder} holds the unknown class 'Rage'"


@pytest.mark.parametrize('how', ['missing', 'empty', 'unknown'])
@pytest.mark.parametrize('dataset', LABELS)
def test_a_wrong_layout_is_named_in_one_line_that_says_where_to_ask(dataset, how, copy, tmp_path):
  source = copy(dataset)
  expected = _break(source, dataset, how)
  with pytest.raises(UserError) as error:
    build(dataset, source, tmp_path / 'out')
  message = str(error.value)
  assert message.startswith(expected) and '\n' not in message
  assert all(label in message for label in LABELS[dataset])
  assert 'ask its authors for it, see https://' in message


def test_a_missing_published_split_of_caers_is_named(copy, tmp_path):
  source = copy('caers')
  shutil.rmtree(source / 'test')
  with pytest.raises(UserError, match='has no folder test/. CAER-S holds'):
    build('caers', source, tmp_path / 'out')


def test_an_image_outside_the_query_folders_of_unbiasedemo_is_named(copy, tmp_path):
  source = copy('unbiasedemo')
  raw_folders.draw_picture(source / 'joy' / 'lost.jpg')
  with pytest.raises(UserError, match='joy/lost.jpg lies in no query folder.*<emotion>/<query>/'):
    build('unbiasedemo', source, tmp_path / 'out')


def test_ones_own_folder_with_splits_keeps_them_and_takes_its_labels_from_the_sorted_folders_of_train(tmp_path):
  source = tmp_path / 'own'
  for split, count in zip(SPLITS, (3, 1, 2)):
    raw_folders.draw_classes(source / split, ('warm', 'Übermut', 'cold war'), count)
  shutil.rmtree(source / 'val' / 'warm')
  raw_folders.draw_classes(source / 'extra', ('warm',), 1)
  manifest = build('folder', source, tmp_path / 'out')
  assert manifest['labels'] == ['cold war', 'warm', 'Übermut']
  assert manifest['split_seed'] is None
  assert manifest['ignored'] == {'in extra/': 1}
  per_class = {split: list(summary['per_class'].values()) for split, summary in manifest['splits'].items()}
  assert per_class == {'train': [3, 3, 3], 'val': [1, 0, 1], 'test': [2, 2, 2]}
  for split in SPLITS:
    assert all(name.split('/')[1] == label for name, label in _stored(tmp_path / 'out', 'folder', split).items())


def test_ones_own_folder_with_classes_is_split_with_a_seed(tmp_path):
  source = raw_folders.draw_classes(tmp_path / 'own', ('b', 'a'), 10)
  manifest = build('folder', source, tmp_path / 'out')
  assert manifest['labels'] == ['a', 'b']
  assert manifest['split_seed'] == 0
  per_class = {split: summary['per_class'] for split, summary in manifest['splits'].items()}
  assert per_class == {'train': {'a': 8, 'b': 8}, 'val': {'a': 1, 'b': 1}, 'test': {'a': 1, 'b': 1}}


def test_ones_own_images_without_folders_become_an_unlabelled_train(tmp_path):
  source = tmp_path / 'own'
  for number in range(5):
    raw_folders.draw_picture(source / f'{number}.jpg')
  for litter in ('.DS_Store', 'Thumbs.db'):
    (source / litter).write_bytes(b'x')
  (source / 'person_boxes.csv').write_text('image,xmin,ymin,xmax,ymax,score\n0.jpg,0,0,9,9,1\n')
  manifest = build('folder', source, tmp_path / 'out')
  assert (manifest['labels'], manifest['split_seed'], list(manifest['splits'])) == ([], None, ['train'])
  assert manifest['ignored'] == {'.*': 1, 'Thumbs.db': 1}
  assert manifest['splits']['train']['with_person'] == 1
  assert _stored(tmp_path / 'out', 'folder', 'train') == {f'{number}.jpg': None for number in range(5)}


def test_ones_own_folder_can_be_built_again_with_other_classes(tmp_path):
  source = raw_folders.draw_classes(tmp_path / 'own', ('b', 'a'), 10)
  build('folder', source, tmp_path / 'out')
  raw_folders.draw_classes(source, ('c',), 10)
  assert build('folder', source, tmp_path / 'out', overwrite=True)['labels'] == ['a', 'b', 'c']
  assert open_split(tmp_path / 'out', 'folder', 'train').labels == ('a', 'b', 'c')


def test_tfds_itself_takes_the_labels_of_ones_own_folder_too(tmp_path):
  source = raw_folders.draw_classes(tmp_path / 'own', ('b', 'a'), 10)
  builder = folder_dataset_builder.Builder(data_dir=tmp_path)
  builder.download_and_prepare(
      download_dir=tmp_path / 'downloads', download_config=tfds.download.DownloadConfig(manual_dir=source))
  labels = tfds.builder_from_directory(tmp_path / 'folder' / '1.0.0').info.features['label'].names
  assert labels == ['a', 'b']
  assert len(_stored(tmp_path, 'folder', 'train')) == 16


@pytest.mark.parametrize('label', ['\x1b[2J', 'a\nb', 'a\u202eb'], ids=['escape', 'line end', 'direction'])
def test_hostile_class_folder_is_refused(label, tmp_path):
  for name in (label, 'awe'):
    (tmp_path / 'raw' / name).mkdir(parents=True)
  with pytest.raises(UserError, match='rename it'):
    build('folder', tmp_path / 'raw', tmp_path / 'data')
