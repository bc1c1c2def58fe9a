"""EMOTIC in arrays, as it circulates: annots_arrs/annot_arrs_*.csv, and img_arrs/*.npy in the place of images."""

import csv
import io
from pathlib import Path
import pickle
import re
import shutil

import numpy as np
from PIL import Image
import pytest
import tensorflow_datasets as tfds

from data_pipelines.build import build
from data_pipelines.emotic.emotic_dataset_builder import Builder
from data_pipelines.errors import UserError
from tests.data_pipelines.datasets import test_emotic
from tests.support import raw_folders

PEOPLE, WIDTH, HEIGHT = test_emotic.PEOPLE, test_emotic.WIDTH, test_emotic.HEIGHT
BOX = ('X_min', 'Y_min', 'X_max', 'Y_max')


def write_tables(source: Path, size: tuple[int, int] | None = None, backslashes: bool = False) -> None:
  """The tables of PEOPLE, with or without the images' size."""
  (source / 'annots_arrs').mkdir(parents=True, exist_ok=True)
  for split, images in PEOPLE.items():
    with (source / 'annots_arrs' / f'annot_arrs_{split}.csv').open('w', newline='') as file:
      writer = csv.writer(file)
      writer.writerow([
          '', 'Folder', 'Filename', *(('Width', 'Height') if size else ()), *BOX, *Builder.LABELS, 'Valence', 'Arousal',
          'Dominance', 'Gender', 'Age', 'Arr_name', 'Crop_name'])
      for number, (folder, name, persons) in enumerate(images):
        for box, categories, vad in persons:
          marks = [float(label in categories) for label in Builder.LABELS]
          folder = folder.replace('/', '\\') if backslashes else folder
          writer.writerow([
              number, folder, name, *(size or ()), *box, *marks, *vad, 'Female', 'Adult', f'{split}_{number}.npy',
              f'crop_{split}_{number}.npy'])


def write_arrays(source: Path, size: tuple[int, int]) -> None:
  """Red to the left, blue to the right."""
  (source / 'img_arrs').mkdir()
  pixels = np.zeros((size[1], size[0], 3), np.uint8)
  pixels[:, :size[0] // 2, 0], pixels[:, size[0] // 2:, 2] = 220, 220
  for split, images in PEOPLE.items():
    for number in range(len(images)):
      np.save(source / 'img_arrs' / f'{split}_{number}.npy', pixels)
      np.save(source / 'img_arrs' / f'crop_{split}_{number}.npy', pixels[:9, :9])


def _records(data_dir: Path) -> dict[str, dict]:
  builder = tfds.builder_from_directory(data_dir / 'emotic' / '1.0.0')
  return {
      record['id'].decode(): record for split in PEOPLE
      for record in builder.as_dataset(split=split).as_numpy_iterator()}


@pytest.fixture
def source(tmp_path: Path) -> Path:
  return tmp_path / 'raw'


@pytest.mark.parametrize('backslashes', [False, True])
def test_tables_beside_the_images_build_the_same_records_as_the_mat(source, tmp_path, backslashes):
  test_emotic.draw(source)
  from_mat = build('emotic', source, tmp_path / 'mat')
  shutil.rmtree(source / 'Annotations')
  write_tables(source, backslashes=backslashes)
  from_tables = build('emotic', source, tmp_path / 'tables')
  assert raw_folders.without_source(from_tables) == raw_folders.without_source(from_mat)
  np.testing.assert_equal(_records(tmp_path / 'tables'), _records(tmp_path / 'mat'))


def test_arrays_take_the_place_of_images_that_are_not_there(source, tmp_path, capsys):
  write_tables(source)
  write_arrays(source, (WIDTH, HEIGHT))
  manifest = build('emotic', source, tmp_path / 'out')
  assert (manifest['found'], manifest['read'], manifest['rejected']) == (7, 7, 0)
  assert manifest['ignored'] == {'arrays not used': 5}  # The crops.
  assert '5 images are read from the arrays in img_arrs/' in capsys.readouterr().out
  records = _records(tmp_path / 'out')
  first = records['img_arrs/train_0.npy#0']
  assert [Builder.LABELS[index] for index in first['labels']] == ['Affection', 'Peace']
  assert first['vad'].tolist() == [8, 4, 10]
  assert first['boxes'] == pytest.approx(np.array([[2 / 40, 1 / 60, 32 / 40, 21 / 60], [10 / 40, 0, 1, 1]]))
  left, right = first['image'][20, 5].astype(int), first['image'][20, 55].astype(int)
  assert np.abs(left - [220, 0, 0]).max() < 9 and np.abs(right - [0, 0, 220]).max() < 9


def test_image_is_read_where_both_are_there(source, tmp_path):
  test_emotic.draw(source)
  shutil.rmtree(source / 'Annotations')
  write_tables(source)
  write_arrays(source, (WIDTH, HEIGHT))
  (source / 'emotic' / 'ade20k' / 'images' / 'ADE_1.jpg').unlink()
  build('emotic', source, tmp_path / 'out')
  assert {name.partition('/')[0] for name in _records(tmp_path / 'out')} == {'emotic', 'img_arrs'}
  assert 'img_arrs/train_2.npy#0' in _records(tmp_path / 'out')


def test_boxes_fit_arrays_that_were_resized_where_the_table_says_the_size(source, tmp_path):
  write_tables(source, size=(WIDTH, HEIGHT))
  write_arrays(source, (32, 32))
  build('emotic', source, tmp_path / 'out')
  record = _records(tmp_path / 'out')['img_arrs/train_0.npy#0']
  assert record['image'].shape == (32, 32, 3)
  assert record['boxes'][0] == pytest.approx([2 / 40, 1 / 60, 32 / 40, 21 / 60])


def _npy(array: np.ndarray, **options) -> bytes:
  buffer = io.BytesIO()
  np.save(buffer, array, **options)
  return buffer.getvalue()


class _Trap:

  def __reduce__(self):
    return exec, ('import pathlib; pathlib.Path("run").touch()',)


def _bad_arrays() -> dict[str, tuple[bytes, str]]:
  good = _npy(np.zeros((9, 9, 3), np.uint8))
  return {
      'objects': (_npy(np.array([_Trap()], object), allow_pickle=True), 'cannot be decoded'),
      'a pickle': (pickle.dumps(_Trap()), 'cannot be decoded'), 'half': (good[:-9], 'cannot be decoded'), 'empty':
          (b'', 'cannot be decoded'), 'a huge shape': (good.replace(b'(9, 9, 3)', b'(99999,3)'), 'cannot be decoded'),
      'floats': (_npy(np.zeros((9, 9, 3))), r'no array uint8 .*float64 \(9, 9, 3\)'), 'channels first':
          (_npy(np.zeros((3, 9, 9), np.uint8)), r'no array uint8 .*\(3, 9, 9\)'), 'no pixels':
              (_npy(np.zeros((0, 9, 3), np.uint8)), r'no array uint8 .*\(0, 9, 3\)'), 'a bomb':
                  (_npy(np.zeros((9000, 9000), np.uint8)), '9000 x 9000 pixels: over 64 megapixels')}  # fmt: skip


@pytest.mark.parametrize('kind', _bad_arrays())
def test_array_that_is_no_image_is_rejected_by_name_and_runs_nothing(kind, source, tmp_path, monkeypatch):
  content, reason = _bad_arrays()[kind]
  write_tables(source)
  write_arrays(source, (WIDTH, HEIGHT))
  (source / 'img_arrs' / 'train_1.npy').write_bytes(content)
  monkeypatch.chdir(tmp_path)
  manifest = build('emotic', source, tmp_path / 'out', max_rejects=0.2)
  assert (manifest['found'], manifest['read'], manifest['rejected']) == (7, 6, 1)
  with (tmp_path / 'out' / 'emotic' / '1.0.0' / 'rejects.csv').open(newline='') as file:
    row, = csv.DictReader(file)
  assert row['path'] == 'img_arrs/train_1.npy#0'
  assert re.search(reason, row['reason'])
  assert not (tmp_path / 'run').exists()


def test_other_tables_are_used_before_these_and_these_are_counted(source, tmp_path):
  test_emotic.draw(source)
  write_tables(source)
  ignored = build('emotic', source, tmp_path / 'mat')['ignored']
  assert ignored == {'CSV files: Annotations/Annotations.mat is there too, and used': 3}
  shutil.rmtree(source / 'Annotations')
  test_emotic.write_csv(source, PEOPLE)
  assert build('emotic', source, tmp_path / 'csv')['ignored'] == {'CSV files: train.csv is there too, and used': 3}


def test_grey_array_is_an_image(source, tmp_path):
  write_tables(source)
  write_arrays(source, (WIDTH, HEIGHT))
  np.save(source / 'img_arrs' / 'val_0.npy', np.full((HEIGHT, WIDTH), 99, np.uint8))
  build('emotic', source, tmp_path / 'out')
  image = Image.fromarray(_records(tmp_path / 'out')['img_arrs/val_0.npy#0']['image'])
  assert image.getpixel((30, 20)) == (99, 99, 99)


@pytest.mark.parametrize(('old', 'new', 'message'),
                         [('X_max', 'Right', "lacks column 'X_max'"), ('Peace', 'Calm', "lacks column 'Peace'"),
                          ('Valence', 'V', "lacks column 'Valence'"),
                          (',21,', ',twenty,', 'annot_arrs_train.csv line 2 holds no numbers')])
def test_table_that_cannot_be_read_is_named(source, tmp_path, old, new, message):
  write_tables(source)
  table = source / 'annots_arrs' / 'annot_arrs_train.csv'
  assert old in table.read_text()
  table.write_text(table.read_text().replace(old, new))
  with pytest.raises(UserError, match=message) as error:
    build('emotic', source, tmp_path / 'out')
  assert '\n' not in str(error.value)


def test_missing_images_and_arrays_are_one_line(source, tmp_path):
  write_tables(source)
  with pytest.raises(UserError, match='has no folder img_arrs'):
    build('emotic', source, tmp_path / 'out')
  (source / 'annots_arrs' / 'annot_arrs_val.csv').unlink()
  with pytest.raises(UserError, match='has no file annot_arrs_val.csv: it must hold annot_arrs_train.csv'):
    build('emotic', source, tmp_path / 'out')
