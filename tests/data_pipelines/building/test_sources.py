"""A folder of records belongs to the source that it was built from."""

import pathlib
import shutil

import pytest

from data_pipelines.build import build
from data_pipelines.errors import UserError
from data_pipelines.records.reader import open_split
from tests.support import raw_folders, tables


@pytest.fixture
def sources(tmp_path: pathlib.Path) -> tuple[pathlib.Path, pathlib.Path]:
  """Two folders with files of the same names."""
  return tuple(raw_folders.draw_classes(tmp_path / name, ('awe', 'joy'), 10) for name in ('one', 'two'))


def test_another_source_is_refused_by_name_and_the_first_is_left(sources, tmp_path, capsys):
  one, two = sources
  manifest = build('folder', one, tmp_path / 'out')
  assert manifest['source']['path'] == str(one) and manifest['source']['files'] == 20
  with pytest.raises(UserError, match=f'was built from {one}, not from {two}: choose another --data_dir, or a --name'):
    build('folder', two, tmp_path / 'out')
  assert build('folder', one, tmp_path / 'out') == manifest
  assert 'already built: left as it is' in capsys.readouterr().out
  assert build('folder', two, tmp_path / 'out', overwrite=True)['source']['path'] == str(two)


def test_moved_or_copied_source_is_the_same_one_and_a_changed_one_is_told(sources, tmp_path, capsys):
  manifest = build('folder', sources[0], tmp_path / 'out')
  copied = shutil.copytree(sources[0], tmp_path / 'copied', copy_function=shutil.copyfile)
  assert build('folder', copied, tmp_path / 'out') == manifest
  moved = tmp_path / 'moved'
  sources[0].rename(moved)
  assert build('folder', moved, tmp_path / 'out') == manifest
  moved.rename(sources[0])
  raw_folders.draw_picture(sources[0] / 'awe' / 'more.jpg')
  capsys.readouterr()
  assert build('folder', sources[0], tmp_path / 'out') == manifest
  assert 'has changed since (20 files then, 21 now)' in capsys.readouterr().out
  assert build('folder', sources[0], tmp_path / 'out', short_side=64) == manifest
  assert ', with short_side=256: left as it is (--overwrite' in capsys.readouterr().out


def test_several_datasets_of_ones_own_live_side_by_side_by_their_names(sources, tmp_path):
  one, two = sources
  shutil.rmtree(two / 'joy')
  raw_folders.draw_classes(two, ('fear',), 10)
  assert build('folder', one, tmp_path / 'out')['dataset'] == 'folder'
  assert build('folder', two, tmp_path / 'out', name='oasis')['dataset'] == 'oasis'
  assert open_split(tmp_path / 'out', 'folder', 'train').labels == ('awe', 'joy')
  assert open_split(tmp_path / 'out', 'oasis', 'train').labels == ('awe', 'fear')
  with pytest.raises(UserError, match=f'oasis/1.0.0 was built from {two}, not from {one}'):
    build('folder', one, tmp_path / 'out', name='oasis')


@pytest.mark.parametrize('place', ['raw/records', 'raw', '.'])
def test_records_that_lie_in_their_own_source_are_no_part_of_it(place, tmp_path, capsys):
  source = tables.FORMS['CSV'](tmp_path / 'raw').parent
  names = {'name': 'raw'} if place == '.' else {}  # Then they lie in a folder of the raw one itself.
  manifest = build('table', source, tmp_path / place, **names)
  build('table', source, tmp_path / place, name='another')
  capsys.readouterr()
  assert build('table', source, tmp_path / place, **names) == manifest
  assert 'already built: left as it is' in capsys.readouterr().out
  again = build('table', source, tmp_path / place, overwrite=True, **names)
  assert again['source'] == manifest['source'] and again['splits'] == manifest['splits']


def test_a_name_of_a_folder_is_none_of_a_table_in_it(sources, tmp_path):
  build('folder', sources[0], tmp_path / 'out', name='mine')
  (sources[0] / 'table.csv').write_text('image,split\nawe/0000.jpg,train\n')
  with pytest.raises(UserError, match='mine/1.0.0 was built from a folder, not from a table: choose another --name'):
    build('table', sources[0], tmp_path / 'out', name='mine')


@pytest.mark.parametrize(('dataset', 'name'), [('folder', 'emoset'), ('fi', 'mine'), ('folder', 'a b'),
                                               ('folder', '../x'), ('folder', '9lives'), ('folder', 'a-b'),
                                               ('folder', '')])
def test_name_that_cannot_be_used_is_refused_before_anything_is_read(dataset, name, sources, tmp_path):
  with pytest.raises(UserError, match='--name='):
    build(dataset, sources[0], tmp_path / 'out', name=name)
  assert not (tmp_path / 'out').exists()


def test_command_takes_a_name_in_the_place_of_a_dataset(sources, tmp_path, command):
  command('data_pipelines.build', '--name=oasis', f'--source={sources[0]}', f'--data_dir={tmp_path / "out"}')
  assert open_split(tmp_path / 'out', 'oasis', 'test').num_examples == 2
