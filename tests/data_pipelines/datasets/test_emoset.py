"""EmoSet's files as they circulate: earlier ones, and those that other programs have saved again."""

import json
from pathlib import Path
import shutil
import unicodedata

import pytest

from data_pipelines.build import build
from data_pipelines.errors import UserError
from data_pipelines.records.label_sets import EMOTIONS
from data_pipelines.synthetic import datasets
from tests.support import raw_folders

SIZES = {'train': 16, 'val': 8, 'test': 8}


@pytest.fixture(scope='module')
def drawn(tmp_path_factory):
  source = tmp_path_factory.mktemp('raw') / 'emoset'
  datasets.write_dataset(source, 'emoset', datasets.plan_images('emoset', SIZES, seed=1), {'seed': 1})
  return source


@pytest.fixture
def source(drawn, tmp_path):
  return shutil.copytree(drawn, tmp_path / 'raw')


@pytest.fixture(scope='module')
def plain(drawn, tmp_path_factory):
  """The manifest of a build of the folder as it was drawn."""
  return build('emoset', drawn, tmp_path_factory.mktemp('plain'))


def _same(manifest: dict, plain: dict) -> bool:
  return raw_folders.without_source(manifest) == raw_folders.without_source(plain)


NUMBERED = {label: index for index, label in enumerate(EMOTIONS)}


@pytest.mark.parametrize(
    'info', [{'label2idx': NUMBERED, 'idx2label': {index: label for label, index in NUMBERED.items()}}, {
        'label2idx': NUMBERED}, {'emotion': {'label2idx': NUMBERED}, 'scene': {}}])
def test_earlier_info_with_the_emotions_at_the_top_is_read(info, source, plain, tmp_path):
  (source / 'info.json').write_text(json.dumps(info))
  assert _same(build('emoset', source, tmp_path / 'out'), plain)


@pytest.mark.parametrize(
    'info', [{'label2idx': NUMBERED | {'awe': 7}}, {'label2idx': list(EMOTIONS)}, {'emotion': 3}, [], {'idx2label': 1}])
def test_info_with_another_order_is_refused(info, source, tmp_path):
  (source / 'info.json').write_text(json.dumps(info))
  with pytest.raises(UserError, match='does not number the emotions amusement'):
    build('emoset', source, tmp_path / 'out')


@pytest.mark.parametrize('encoding', ['utf-8-sig', 'utf-16', 'utf-16-le', 'utf-32'])
def test_json_is_read_in_every_unicode_encoding(encoding, source, plain, tmp_path):
  for path in [*source.glob('*.json'), *source.rglob('annotation/*/*.json')]:
    path.write_text(path.read_text(encoding='utf-8'), encoding=encoding)
  assert _same(build('emoset', source, tmp_path / 'out'), plain)


def _respelled(source: Path, change) -> None:
  for split in SIZES:
    path = source / f'{split}.json'
    entries = [[emotion, *map(change, paths)] for emotion, *paths in json.loads(path.read_text())]
    path.write_text(json.dumps(entries))


@pytest.mark.parametrize(
    'change', [
        lambda name: name.replace('/', '\\'), lambda name: f'./{name}', lambda name: name.replace('/', '//'),
        lambda name: name.replace('image/', 'Image/').replace('.jpg', '.JPG')],
    ids=['backslashes', 'dot and slash', 'doubled slashes', 'other case'])  # fmt: skip
def test_entries_find_their_files_however_they_are_spelled(change, source, plain, tmp_path):
  _respelled(source, change)
  assert _same(build('emoset', source, tmp_path / 'out'), plain)


def test_entries_find_files_whose_letters_are_decomposed(source, tmp_path):
  entries = json.loads((source / 'val.json').read_text())
  for entry in entries:
    (source / entry[1]).rename((source / entry[1]).with_name(unicodedata.normalize('NFD', f'ä{Path(entry[1]).name}')))
    entry[1] = str(Path(entry[1]).with_name(f'ä{Path(entry[1]).name}'))
  (source / 'val.json').write_text(json.dumps(entries))
  (source / 'person_boxes.csv').unlink()
  manifest = build('emoset', source, tmp_path / 'out')
  assert (manifest['read'], manifest['rejected'], manifest['ignored']) == (32, 0, {})


def test_the_same_image_in_two_spellings_is_in_two_splits(source, tmp_path):
  (source / 'val.json').write_text((source / 'train.json').read_text())
  path = source / 'val.json'
  path.write_text(json.dumps([[emotion, f'./{image}', note] for emotion, image, note in json.loads(path.read_text())]))
  with pytest.raises(UserError, match='twice: every image belongs to one split'):
    build('emoset', source, tmp_path / 'out')


def test_entries_of_which_none_has_a_file_are_one_line(source, tmp_path):
  _respelled(source, lambda name: f'data/{name}')
  with pytest.raises(
      UserError,
      match="train.json names no image that is here: it says 'data/image/.*images are named like 'image/amusement"
  ) as error:
    build('emoset', source, tmp_path / 'out')
  assert '\n' not in str(error.value)
