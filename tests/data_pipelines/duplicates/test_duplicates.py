"""Copies of images are found as people make them, different images are not, and a rebuild keeps copies together."""

import csv
import sys

import numpy as np
from PIL import Image
import pytest

from benchmarks.near_duplicates.copies import COPIES, drawn_images, encoded
from data_pipelines.build import build
from data_pipelines.duplicates.duplicate_tables import read_copies
from data_pipelines.duplicates.finding import find_duplicates
from data_pipelines.duplicates.image_hashes import hash_image, image_hash_library
from data_pipelines.errors import UserError
from data_pipelines.records.reader import open_split, split_names
from tests.support.raw_folders import draw_picture

FOUND = [name for name in COPIES if name not in ('5 % cropped', '10 % cropped')]
"""Copies of which nearly all are found; those cropped further are, less often."""


def write_image(path, content):
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_bytes(content)


def rows(path):
  with path.open(newline='', encoding='utf-8') as file:
    return list(csv.DictReader(file))


def splits_of(data_dir, dataset):
  return {
      found.id: split for split in split_names(data_dir, dataset)
      for found in open_split(data_dir, dataset, split).annotations()}


@pytest.fixture(scope='module')
def raw(tmp_path_factory):
  """A folder of two classes, 72 different images, and a copy of each in some form: c07.jpg of 07.jpg."""
  folder = tmp_path_factory.mktemp('raw')
  for number, image in enumerate(drawn_images(72)):
    label = 'joy' if number % 2 else 'fear'
    write_image(folder / label / f'{number:02d}.jpg', encoded(image))
    write_image(folder / label / f'c{number:02d}.jpg', COPIES[FOUND[number % len(FOUND)]](image))
  return folder


@pytest.fixture(scope='module')
def built(raw, tmp_path_factory):
  """Its records, and what was found in them."""
  data_dir = tmp_path_factory.mktemp('records')
  build('folder', raw, data_dir)
  lines = find_duplicates(data_dir, 'folder', data_dir / 'near.csv')
  return data_dir, lines


def test_every_kind_of_copy_is_found_and_no_different_image(built):
  data_dir, _ = built
  copies = list(read_copies(data_dir / 'near.csv'))
  assert len(copies) == 72 and all(copy.distance <= 6 for copy in copies)
  for copy in copies:
    assert copy.image.replace('/c', '/') == copy.same_as.replace('/c', '/') and copy.image != copy.same_as
  kinds = {int(copy.image.rpartition('/')[2].strip('c')[:2]) % len(FOUND): copy.mirrored for copy in copies}
  assert kinds == {number: 'mirrored' in name for number, name in enumerate(FOUND)}


def test_counts_are_printed_within_and_across_splits(built):
  data_dir, lines = built
  copies = list(read_copies(data_dir / 'near.csv'))
  across = sum(copy.split != copy.its_split for copy in copies)
  assert 0 < across < len(copies)
  assert lines[0] == 'folder: 144 images compared'
  within = sum(copy.split == copy.its_split == 'train' for copy in copies)
  assert f'  train: {within} images are near-duplicates of one earlier in train' in lines
  assert sum(int(line.split()[1]) for line in lines[1:-3]) == len(copies)


@pytest.mark.parametrize('dataset', ['folder', 'table'])
def test_a_rebuild_with_the_groups_keeps_copies_in_one_split(dataset, raw, built, tmp_path):
  data_dir, _ = built
  source = raw
  if dataset == 'table':
    source = tmp_path / 'table.csv'
    paths = sorted(path.relative_to(raw).as_posix() for path in raw.rglob('*.jpg'))
    source.write_text('\n'.join(['image,label', *(f'{path},{path.partition("/")[0]}' for path in paths)]))
  build(
      dataset, source, tmp_path / 'records', groups_file=data_dir / 'near_groups.csv',
      images_dir=raw if dataset == 'table' else None)  # fmt: skip
  split_of = splits_of(tmp_path / 'records', dataset)
  assert set(split_of.values()) == {'train', 'val', 'test'}
  for row in rows(data_dir / 'near_groups.csv'):
    assert split_of[row['image']] == split_of[row['group']]
  lines = find_duplicates(tmp_path / 'records', dataset, tmp_path / 'again.csv')
  assert all(copy.split == copy.its_split for copy in read_copies(tmp_path / 'again.csv')), lines


def test_records_with_names_of_their_own_take_groups_and_exclusions(raw, tmp_path):
  lines = ['image,id,label']
  for n in range(48):
    kind = 'joy' if n % 2 else 'fear'
    lines += [f'{kind}/c{n:02d}.jpg,r{n},{kind}', f'{kind}/{n:02d}.jpg,s{n},{kind}']
  (tmp_path / 'table.csv').write_text('\n'.join(lines))
  build('table', tmp_path / 'table.csv', tmp_path / 'first', images_dir=raw)
  find_duplicates(tmp_path / 'first', 'table', tmp_path / 'near.csv')
  groups = {row['image']: row['group'] for row in rows(tmp_path / 'near_groups.csv')}
  assert len(groups) == 96 and all(image[1:] == group[1:] for image, group in groups.items())
  (tmp_path / 'out.csv').write_text('image\nr3\ns4\n')
  manifest = build(
      'table', tmp_path / 'table.csv', tmp_path / 'second', images_dir=raw, groups_file=tmp_path / 'near_groups.csv',
      exclude_file=tmp_path / 'out.csv')
  split_of = splits_of(tmp_path / 'second', 'table')
  assert split_of.keys() == groups.keys() - {'r3', 's4'}
  assert manifest['ignored']['images that --exclude names'] == 2
  assert all(split_of[f'r{n}'] == split_of[f's{n}'] for n in range(48) if n not in (3, 4))


def test_what_a_benchmark_holds_is_left_out_of_pretraining(raw, built, tmp_path, capsys):
  data_dir, _ = built
  images = drawn_images(72)
  for number, image in enumerate(drawn_images(16, seed=5)):
    write_image(tmp_path / 'raw' / f'own{number}.jpg', encoded(image))
  for number in (3, 4):
    write_image(tmp_path / 'raw' / f'=leak{number}.jpg', COPIES['mirrored'](images[number]))
  build('folder', tmp_path / 'raw', data_dir, name='pool')
  test = split_names(data_dir, 'folder')[0]
  assert test == 'test'
  lines = find_duplicates(data_dir, 'pool', tmp_path / 'near.csv', [f'{data_dir}/folder'])
  leaks = {row['image'] for row in rows(tmp_path / 'near_exclude.csv')}
  assert leaks == {"'=leak3.jpg", "'=leak4.jpg"}  # as text, for spreadsheets
  assert lines[0] == 'pool: 18 images compared with each other and with 144 of others'
  assert {copy.its_dataset for copy in read_copies(tmp_path / 'near.csv')} == {'folder'}
  manifest = build(
      'folder', tmp_path / 'raw', data_dir, name='pool', exclude_file=tmp_path / 'near_exclude.csv', overwrite=True)
  assert manifest['ignored']['images that --exclude names'] == 2 and manifest['read'] == 16
  assert '2 images are left out' in capsys.readouterr().out
  find_duplicates(data_dir, 'pool', tmp_path / 'again.csv', [f'{data_dir}/folder:test', f'{data_dir}/folder:train'])
  assert not rows(tmp_path / 'again.csv')


def test_without_others_what_a_later_split_holds_is_left_out_of_an_earlier_one(tmp_path):
  images = drawn_images(24)
  for number, image in enumerate(images):
    split = ('train', 'val', 'test')[number % 3]
    write_image(tmp_path / 'raw' / split / 'joy' / f'{number}.jpg', encoded(image))
  for split in ('train', 'val'):
    write_image(tmp_path / 'raw' / split / 'joy' / 'copy.jpg', COPIES['half the size'](images[2]))
  write_image(tmp_path / 'raw' / 'test' / 'joy' / 'copy.jpg', COPIES['mirrored'](images[5]))
  build('folder', tmp_path / 'raw', tmp_path / 'records')
  find_duplicates(tmp_path / 'records', 'folder', tmp_path / 'near.csv')
  assert {row['image'] for row in rows(tmp_path / 'near_exclude.csv')} == {'train/joy/copy.jpg', 'val/joy/copy.jpg'}
  build(
      'folder', tmp_path / 'raw', tmp_path / 'records', exclude_file=tmp_path /
      'near_exclude.csv', overwrite=True, groups_file=tmp_path / 'near_groups.csv') if False else build(
          'folder', tmp_path / 'raw', tmp_path / 'records', exclude_file=tmp_path / 'near_exclude.csv', overwrite=True)
  find_duplicates(tmp_path / 'records', 'folder', tmp_path / 'near.csv')
  assert [(copy.split, copy.its_split) for copy in read_copies(tmp_path / 'near.csv')] == [('test', 'test')]


def test_names_to_leave_out_that_mean_no_image_are_told(tmp_path, capsys):
  for number, image in enumerate(drawn_images(8)):
    write_image(tmp_path / 'raw' / f'{number}.jpg', encoded(image))
  (tmp_path / 'some.csv').write_text('image\n1.jpg\nother/2.jpg\n')
  manifest = build('folder', tmp_path / 'raw', tmp_path / 'records', exclude_file=tmp_path / 'some.csv')
  assert manifest['read'] == 7 and '1 of its 2 names are of no image here: other/2.jpg' in capsys.readouterr().err
  for content, says in (('image\nx.jpg\n', 'names no image that is here'),
                        ('image\n' + ''.join(f'{n}.jpg\n' for n in range(8)), "every image of split 'train'")):
    (tmp_path / 'bad.csv').write_text(content)
    with pytest.raises(UserError, match=says):
      build('folder', tmp_path / 'raw', tmp_path / 'other', exclude_file=tmp_path / 'bad.csv')


def test_images_of_one_colour_are_counted_and_not_compared(tmp_path):
  for number, image in enumerate(drawn_images(8)):
    write_image(tmp_path / 'raw' / f'{number}.jpg', encoded(image))
    draw_picture(tmp_path / 'raw' / f'flat{number}.png', (64, 64))
  build('folder', tmp_path / 'raw', tmp_path / 'records')
  lines = find_duplicates(tmp_path / 'records', 'folder', tmp_path / 'near.csv')
  assert lines[:3] == [
      'folder: 8 images compared', '  8 are nearly of one colour, and were not', '  no near-duplicates']
  assert (tmp_path / 'near.csv').read_text().splitlines() == [
      'image,split,same_as,its_split,its_dataset,distance,mirrored']


def test_different_images_are_rarely_taken_for_copies():
  library = image_hash_library()
  hashes_Nx2xH = np.array([hash_image(library, encoded(image)) for image in drawn_images(240, seed=1)])
  for view in (0, 1):
    differ = np.bitwise_count(hashes_Nx2xH[:, None, view] ^ hashes_Nx2xH[None, :, 0])
    near = (differ[..., 0] <= 6) & (differ[..., 1:].sum(-1) <= 16)
    assert np.triu(near, 1).sum() <= 1


@pytest.mark.parametrize(('arguments', 'thing', 'remedy'), [
    (['--out=near.csv'], '--dataset is missing', '--help'),
    (['--dataset=nosuch', '--out=near.csv'], "no records of 'nosuch'", 'data_pipelines.build'),
    (['--dataset=folder', '--out=near.txt'], 'near.txt', 'near.csv'),
    (['--dataset=folder', '--out=near.csv', '--distance=40'], 'distance', '--help'),
    (['--dataset=folder', '--out=near.csv', '--against={data_dir}/folder'], 'another dataset', 'copy one'),
    (['--dataset=folder', '--out=near.csv', '--against={data_dir}/nosuch'], "no records of 'nosuch'", 'build'),])
def test_mistake_is_one_line(arguments, thing, remedy, built, tmp_path, monkeypatch, command, capsys, assert_one_line):
  monkeypatch.chdir(tmp_path)
  arguments = [argument.format(data_dir=built[0]) for argument in arguments]
  assert_one_line(
      command('data_pipelines.duplicates', f'--data_dir={built[0]}', *arguments),
      capsys.readouterr().err, thing, remedy)
  assert not list(tmp_path.iterdir())


def test_without_the_library_the_command_to_install_it_is_told(built, tmp_path, monkeypatch):
  monkeypatch.setitem(sys.modules, 'imagehash', None)
  with pytest.raises(UserError, match=r"pip install 'uniemox_jax\[report\]'"):
    find_duplicates(built[0], 'folder', tmp_path / 'near.csv')


def test_an_image_of_any_size_and_an_alpha_free_record_is_hashed():
  library = image_hash_library()
  rng = np.random.default_rng(0)
  for size in ((1, 300), (300, 1), (17, 23), (2000, 1500)):
    pixels = rng.integers(0, 255, (*size, 3), np.uint8)
    assert hash_image(library, encoded(Image.fromarray(pixels))).shape == (2, 3)
