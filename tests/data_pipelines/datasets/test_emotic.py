import csv
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import tensorflow_datasets as tfds

from data_pipelines.build import build
from data_pipelines.emotic.emotic_dataset_builder import Builder
from data_pipelines.errors import UserError
from tests.support import raw_folders

WIDTH, HEIGHT = 60, 40
# Split -> images: folder, file name, persons: box, categories, (valence, arousal, dominance).
PEOPLE = {
    'train': [
        (
            'mscoco/images', 'COCO_1.jpg', [
                ([1, 2, 21, 32], ['Peace', 'Affection'], (8, 4, 10)),
                ([-5, 10, 70, 40], ['Yearning'], (1, 2, 3)),]),
        ('framesdb/images', 'frame_é.jpg', [([0, 0, 20, 20], ['Engagement'], (5, 5, 5))]),
        ('ade20k/images', 'ADE_1.jpg', [([0, 0, 20, 20], ['Engagement'], (5, 5, 5))]),],
    'val': [('emodb_small/images', 'a.jpg', [([0, 0, 20, 20], ['Doubt/Confusion'], (5.333, 6, 4.5))])], 'test': [(
        'emodb_small/images', 'b.jpg', [
            ([10, 0, 30, 20], ['Fear', 'Anger', 'Pain'], (2, 9, 1)),
            ([30, 0, 50, 20], ['Happiness'], (9, 6, 7)),])]}  # fmt: skip


def _structs(rows: list[dict]) -> np.ndarray:
  """A 1 x N MATLAB struct array."""
  array = np.empty((1, len(rows)), [(name, object) for name in rows[0]])
  for index, row in enumerate(rows):
    for name, value in row.items():
      array[0, index][name] = value
  return array


def _cell(values: list[str]) -> np.ndarray:
  array = np.empty((1, len(values)), object)
  array[0, :] = values
  return array


def _continuous(vad: tuple) -> dict:
  return dict(zip(('valence', 'arousal', 'dominance'), map(float, vad)))


def _person(split: str, box: list, categories: list[str], vad: tuple) -> dict:
  who = {'gender': 'Female', 'age': 'Adult'}
  if split == 'train':
    only = {'annotations_categories': {'categories': _cell(categories)}, 'annotations_continuous': _continuous(vad)}
    return {'body_bbox': box} | only | who
  # Several annotators, who disagree with what was combined of them.
  several = [{'categories': _cell(['Surprise'])}, {'categories': _cell(['Esteem', 'Fatigue'])}]
  return {
      'body_bbox': box, 'annotations_categories': _structs(several), 'combined_categories': _cell(categories),
      'annotations_continuous': _structs([_continuous((1, 1, 1)), _continuous(
          (10, 10, 10))]), 'combined_continuous': _continuous(vad)} | who


def write_mat(source: Path, people: dict) -> None:
  """Annotations.mat with the fields and the nesting that its public readers expect."""
  (source / 'Annotations').mkdir(parents=True, exist_ok=True)
  content = {
      split:
          _structs([{
              'filename': name, 'folder': folder, 'image_size': {'n_col': WIDTH, 'n_row': HEIGHT},
              'original_database': {'name': folder.split('/')[0], 'info': {'image_id': 7}},
              'person': _structs([_person(split, *person) for person in persons])} for folder, name, persons in images])
      for split, images in people.items()}  # fmt: skip
  scipy.io.savemat(source / 'Annotations' / 'Annotations.mat', content, do_compression=True)


def write_csv(folder: Path, people: dict) -> None:
  """train.csv, val.csv and test.csv as mat2py.py writes them: lists as Python prints them."""
  folder.mkdir(parents=True, exist_ok=True)
  for split, images in people.items():
    with (folder / f'{split}.csv').open('w', newline='') as file:
      writer = csv.writer(file)
      columns = 'Index,Folder,Filename,Image Size,BBox,Categorical_Labels,Continuous_Labels,Gender,Age'
      writer.writerow(columns.split(','))
      for place, name, persons in images:
        for box, categories, vad in persons:
          row = [0, place, name, [WIDTH, HEIGHT], box, categories, list(vad), 'Female', 'Adult']
          writer.writerow(row)


def draw(source: Path) -> None:
  """Images and Annotations.mat in the true layout."""
  for images in PEOPLE.values():
    for folder, name, _ in images:
      raw_folders.draw_picture(source / 'emotic' / folder / name, (WIDTH, HEIGHT))
  write_mat(source, PEOPLE)


@pytest.fixture
def source(tmp_path):
  draw(tmp_path / 'raw')
  return tmp_path / 'raw'


def _records(data_dir: Path) -> dict[str, dict]:
  builder = tfds.builder_from_directory(data_dir / 'emotic' / '1.0.0')
  return {
      record['id'].decode(): record | {'split': split} for split in PEOPLE
      for record in builder.as_dataset(split=split).as_numpy_iterator()}


def _labels(record: dict) -> list[str]:
  return [Builder.LABELS[index] for index in record['labels']]


def test_every_annotated_person_is_a_record_with_several_labels_and_vad(source, tmp_path):
  manifest = build('emotic', source, tmp_path / 'out')
  records = _records(tmp_path / 'out')
  assert {name: record['split'] for name, record in records.items()} == {
      'emotic/mscoco/images/COCO_1.jpg#0': 'train', 'emotic/mscoco/images/COCO_1.jpg#1': 'train',
      'emotic/framesdb/images/frame_é.jpg#0': 'train', 'emotic/ade20k/images/ADE_1.jpg#0': 'train',
      'emotic/emodb_small/images/a.jpg#0': 'val', 'emotic/emodb_small/images/b.jpg#0': 'test',
      'emotic/emodb_small/images/b.jpg#1': 'test'}
  assert manifest['split_seed'] is None and manifest['ignored'] == {}
  assert manifest['splits']['train']['per_class']['Peace'] == 1
  first = records['emotic/mscoco/images/COCO_1.jpg#0']
  assert _labels(first) == ['Affection', 'Peace'] and first['label'] == -1
  assert first['vad'].tolist() == [8, 4, 10]
  # Of val and test, what the annotators agreed on.
  assert _labels(records['emotic/emodb_small/images/b.jpg#0']) == ['Anger', 'Fear', 'Pain']
  assert _labels(records['emotic/emodb_small/images/a.jpg#0']) == ['Doubt/Confusion']
  assert records['emotic/emodb_small/images/a.jpg#0']['vad'] == pytest.approx([5.333, 6, 4.5])


def test_boxes_hold_the_subject_first_then_the_others_inside_the_image(source, tmp_path):
  build('emotic', source, tmp_path / 'out')
  records = _records(tmp_path / 'out')
  one = [2 / 40, 1 / 60, 32 / 40, 21 / 60]
  other = [10 / 40, 0, 1, 1]  # Clamped.
  assert records['emotic/mscoco/images/COCO_1.jpg#0']['boxes'] == pytest.approx(np.array([one, other]))
  assert records['emotic/mscoco/images/COCO_1.jpg#1']['boxes'] == pytest.approx(np.array([other, one]))
  assert all(len(record['persons']) == 1 for record in records.values())


def test_the_categories_are_26_in_alphabetical_order():
  assert len(Builder.LABELS) == 26 and sorted(Builder.LABELS) == list(Builder.LABELS)


@pytest.mark.parametrize('folder', ['.', 'Annotations', 'emotic_pre'])
def test_csv_files_build_the_same_records_as_the_mat(source, tmp_path, folder):
  from_mat = build('emotic', source, tmp_path / 'mat')
  (source / 'Annotations' / 'Annotations.mat').unlink()
  write_csv(source / folder, PEOPLE)
  from_csv = build('emotic', source, tmp_path / 'csv')
  assert raw_folders.without_source(from_csv) == raw_folders.without_source(from_mat)
  np.testing.assert_equal(_records(tmp_path / 'csv'), _records(tmp_path / 'mat'))


def test_the_mat_is_used_where_csv_files_lie_beside_it(source, tmp_path):
  write_csv(source, {split: [] for split in PEOPLE})
  manifest = build('emotic', source, tmp_path / 'out')
  assert manifest['read'] == 7
  assert manifest['ignored'] == {'CSV files: Annotations/Annotations.mat is there too, and used': 3}


def _lacking() -> dict:
  """Persons who lack something stand before those who do not: numbers and boxes skip them."""
  lacking = [
      ([0, 0, 9, 9], ['Peace'], (5, float('nan'), 5)),
      ([0, 0, 9, 9], [], (5, 5, 5)),
      ([9, 9, 0, 0], ['Peace'], (5, 5, 5)),
      ([-9, 0, -1, 9], ['Peace'], (5, 5, 5)),]
  (folder, name, persons), *others = PEOPLE['train']
  return PEOPLE | {'train': [(folder, name, lacking + persons), *others]}


@pytest.mark.parametrize('form', ['mat', 'csv'])
def test_persons_who_lack_box_categories_or_vad_are_left_out_and_counted(source, tmp_path, form):
  complete = build('emotic', source, tmp_path / 'complete')
  if form == 'mat':
    write_mat(source, _lacking())
  else:
    (source / 'Annotations' / 'Annotations.mat').unlink()
    write_csv(source, _lacking())
  (source / 'emotic' / 'mscoco' / 'images' / 'unlisted.jpg').write_bytes(b'')
  (source / 'emotic' / 'mscoco' / 'images' / 'Thumbs.db').write_bytes(b'')
  manifest = build('emotic', source, tmp_path / 'out')
  assert manifest.pop('ignored') == {
      'Thumbs.db': 1, 'persons without a box': 2, 'persons without categories': 1,
      'persons without valence, arousal and dominance': 1, 'images without annotation': 1}
  complete.pop('ignored')
  assert raw_folders.without_source(manifest) == raw_folders.without_source(complete)


def test_a_person_in_two_splits_keeps_one_number_per_image(source, tmp_path):
  again = ('emodb_small/images', 'a.jpg', [([20, 0, 50, 20], ['Peace'], (5, 5, 5))])
  write_mat(source, PEOPLE | {'test': [*PEOPLE['test'], again]})
  build('emotic', source, tmp_path / 'out')
  record = _records(tmp_path / 'out')['emotic/emodb_small/images/a.jpg#1']
  assert record['split'] == 'test' and len(record['boxes']) == 2


def test_a_listed_image_that_is_not_there_is_rejected_for_each_of_its_persons(source, tmp_path):
  (source / 'emotic' / 'emodb_small' / 'images' / 'b.jpg').unlink()
  write_mat(source, PEOPLE | {'test': [*PEOPLE['test'], *PEOPLE['val']]})
  manifest = build('emotic', source, tmp_path / 'out', max_rejects=0.5)
  assert (manifest['found'], manifest['rejected']) == (8, 2)
  with (tmp_path / 'out' / 'emotic' / '1.0.0' / 'rejects.csv').open(newline='') as file:
    assert [row['path'] for row in csv.DictReader(file)] == [f'emotic/emodb_small/images/b.jpg#{k}' for k in (0, 1)]


def test_a_person_whose_box_lies_outside_the_image_is_rejected_by_name(source, tmp_path):
  away = ('mscoco/images', 'COCO_1.jpg', [([WIDTH + 1, 0, WIDTH + 9, 9], ['Peace'], (5, 5, 5))])
  write_mat(source, PEOPLE | {'val': [*PEOPLE['val'], away]})
  build('emotic', source, tmp_path / 'out', max_rejects=0.2)
  with (tmp_path / 'out' / 'emotic' / '1.0.0' / 'rejects.csv').open(newline='') as file:
    assert [row['path'] for row in csv.DictReader(file)] == ['emotic/mscoco/images/COCO_1.jpg#2']


def _break(source: Path, how: str) -> None:
  mat = source / 'Annotations' / 'Annotations.mat'
  if how == 'neither':
    mat.unlink()
  elif how == 'no folder emotic/ade20k/images':
    (source / 'emotic' / 'ade20k' / 'images' / 'ADE_1.jpg').unlink()
    (source / 'emotic' / 'ade20k' / 'images').rmdir()
  elif how == "unknown category 'Boredom'":
    write_mat(source, PEOPLE | {'val': [('mscoco/images', 'COCO_1.jpg', [([0, 0, 9, 9], ['Boredom'], (5, 5, 5))])]})
  elif how == 'cannot be read':
    mat.write_bytes(mat.read_bytes()[:300])
  elif how == "lacks 'val'":
    write_mat(source, {'train': PEOPLE['train']})
  elif how == '7.3':
    mat.write_bytes(b'MATLAB 7.3 MAT-file'.ljust(124) + b'\x00\x02IM')


@pytest.mark.parametrize(
    'how',
    ['neither', 'no folder emotic/ade20k/images', "unknown category 'Boredom'", 'cannot be read', "lacks 'val'", '7.3'])
def test_a_wrong_folder_is_named_in_one_line(source, tmp_path, how):
  _break(source, how)
  with pytest.raises(UserError, match=how) as error:
    build('emotic', source, tmp_path / 'out')
  assert '\n' not in str(error.value)


@pytest.mark.parametrize(('old', 'new', 'message'), [
    ('Categorical_Labels', 'Labels', "lacks column 'Categorical_Labels'"),
    ("['Engagement']", '[Engagement', 'train.csv line 4 holds no lists'),
    ("['Engagement']", "__import__('os')", 'train.csv line 4 holds no lists'),
    ('"[1, 2, 21, 32]"', '"[1, 2, x, 32]"', 'train.csv line 2 holds no lists'),])
def test_a_csv_that_cannot_be_read_is_named_with_its_line(source, tmp_path, old, new, message):
  (source / 'Annotations' / 'Annotations.mat').unlink()
  write_csv(source, PEOPLE)
  table = source / 'train.csv'
  assert old in table.read_text()
  table.write_text(table.read_text().replace(old, new, 1))
  with pytest.raises(UserError, match=message):
    build('emotic', source, tmp_path / 'out')
