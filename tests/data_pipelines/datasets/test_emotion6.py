import csv
import math
from pathlib import Path

import pytest
import tensorflow_datasets as tfds

from data_pipelines.build import build
from data_pipelines.emotion6.emotion6_dataset_builder import Builder
from data_pipelines.errors import UserError
from tests.support import raw_folders

PER_CLASS = 10
HEADER = '[image_filename]\t[valence]\t[arousal]\t' + '\t'.join(f'[prob. {name}]' for name in Builder.DISTRIBUTION)
# The authors' readme gives this very line as its example.
SHARES = '0.133333\t0.7\t0\t0.0666667\t0.1\t0\t0'


def draw(source: Path) -> None:
  """Ten images a class in the true layout; valence tells them apart."""
  lines = [HEADER]
  for label in Builder.LABELS:
    for number in range(1, PER_CLASS + 1):
      raw_folders.draw_picture(source / 'images' / label / f'{number}.jpg')
      lines.append(f'{label}/{number}.jpg\t{len(lines) / 10}\t3.8\t{SHARES}')
  (source / 'ground_truth.txt').write_text('\n'.join(lines) + '\n')


@pytest.fixture
def source(tmp_path):
  draw(tmp_path / 'raw')
  return tmp_path / 'raw'


def _records(data_dir: Path, split: str) -> dict[str, dict]:
  builder = tfds.builder_from_directory(data_dir / 'emotion6' / '1.0.0')
  return {record['id'].decode(): record for record in builder.as_dataset(split=split).as_numpy_iterator()}


def _edit(source: Path, line: int, new: str) -> None:
  lines = (source / 'ground_truth.txt').read_text().splitlines()
  lines[line] = new
  (source / 'ground_truth.txt').write_text('\n'.join(lines))


def test_records_hold_class_votes_valence_and_arousal(source, tmp_path):
  manifest = build('emotion6', source, tmp_path / 'out')
  assert {split: tally['examples'] for split, tally in manifest['splits'].items()
         } == {'train': 42, 'val': 6, 'test': 12}  # fmt: skip
  assert manifest['splits']['val']['per_class'] == dict.fromkeys(Builder.LABELS, 1)
  assert manifest['distribution'] == [*Builder.LABELS, 'neutral']
  assert isinstance(manifest['split_seed'], int) and manifest['ignored'] == {}
  wanted = {}
  for line in (source / 'ground_truth.txt').read_text().splitlines()[1:]:
    name, valence, *_ = line.split('\t')
    wanted[f'images/{name}'] = (Builder.LABELS.index(name.split('/')[0]), pytest.approx(float(valence)))
  found = {}
  for split in manifest['splits']:
    for name, record in _records(tmp_path / 'out', split).items():
      found[name] = (record['label'], record['vad'][0])
      assert record['vad'][1] == pytest.approx(3.8) and math.isnan(record['vad'][2])
      assert record['distribution'] == pytest.approx([0.133333, 0.7, 0, 0.0666667, 0.1, 0, 0])
  assert found == wanted


def test_the_splits_are_these_on_every_machine(source, tmp_path):
  build('emotion6', source, tmp_path / 'out')
  val = sorted(_records(tmp_path / 'out', 'val'))
  assert val == [
      'images/anger/2.jpg', 'images/disgust/6.jpg', 'images/fear/9.jpg', 'images/joy/1.jpg', 'images/sadness/6.jpg',
      'images/surprise/4.jpg']  # fmt: skip


def test_ground_truth_reads_the_same_without_its_header(source, tmp_path):
  first = build('emotion6', source, tmp_path / 'first')
  table = source / 'ground_truth.txt'
  table.write_text(table.read_text().split('\n', 1)[1])
  second = build('emotion6', source, tmp_path / 'second')
  assert raw_folders.without_source(second) == raw_folders.without_source(first)
  assert len(_records(tmp_path / 'second', 'train')) == 42


def test_images_without_votes_are_rejected_by_name_and_lines_without_images_counted(source, tmp_path):
  _edit(source, 1, f'anger/999.jpg\t2.5\t3.8\t{SHARES}')  # anger/1.jpg loses its line.
  _edit(source, 2, 'anger/2.jpg\t2.5\t3.8\t0.5\t0.7\t0\t0\t0.1\t0\t0')
  _edit(source, 3, 'anger/3.jpg\t2.5\t3.8\t-0.2\t1.2\t0\t0\t0\t0\t0')
  _edit(source, 4, 'anger/4.jpg\t2.5\t3.8\tnan\t1\t0\t0\t0\t0\t0')
  manifest = build('emotion6', source, tmp_path / 'out', max_rejects=0.1)
  assert (manifest['found'], manifest['read'], manifest['rejected']) == (60, 56, 4)
  assert manifest['ignored'] == {'lines of ground_truth.txt without an image': 1}
  with (tmp_path / 'out' / 'emotion6' / '1.0.0' / 'rejects.csv').open(newline='') as file:
    rejects = {row['path']: row['reason'] for row in csv.DictReader(file)}
  assert rejects.keys() == {f'images/anger/{number}.jpg' for number in (1, 2, 3, 4)}
  assert rejects['images/anger/1.jpg'] == 'no line in ground_truth.txt'
  assert 'sum to 1.3' in rejects['images/anger/2.jpg']


@pytest.mark.parametrize(('line', 'message'), [
    ('anger/3.jpg\t2.5\t3.8\t1', 'line 4 is not a file name and 9 numbers'),
    (f'anger/3.jpg\tnice\t3.8\t{SHARES}', 'line 4 is not a file name and 9 numbers'),
    (f'anger/1.jpg\t2.5\t3.8\t{SHARES}', "line 4 names 'anger/1.jpg' again"),])
def test_a_line_that_cannot_be_read_is_named(source, tmp_path, line, message):
  _edit(source, 3, line)
  with pytest.raises(UserError, match=message) as error:
    build('emotion6', source, tmp_path / 'out')
  assert '\n' not in str(error.value)


@pytest.mark.parametrize('missing', ['ground_truth.txt', 'images', 'images/joy'])
def test_a_wrong_folder_is_named_in_one_line_that_says_where_to_ask(source, tmp_path, missing):
  (source / missing).rename(tmp_path / 'elsewhere')
  with pytest.raises(UserError, match=f'{missing}.*ask its authors') as error:
    build('emotion6', source, tmp_path / 'out')
  assert '\n' not in str(error.value)


@pytest.mark.parametrize(
    'change', [
        lambda text: text.encode('utf-16'), lambda text: text.encode('utf-8-sig'),
        lambda text: text.encode('utf-16-be'), lambda text: text.replace('\n', '\r\n').encode(),
        lambda text: text.replace('\n', '\r').encode(), lambda text: text.replace('/', '\\').encode(),
        lambda text: text.replace('.jpg', '.JPG').encode(), lambda text: text.replace('\t0.', '\t0,').encode(),
        lambda text: text.replace('\t', '  ').encode(), *(
            lambda text, label=label: text.replace('\nfear/', label).encode()
            for label in ('\n./fear/', '\nimages/fear/')),
        lambda text: '\n'.join(f'{line} ' for line in text.splitlines()).encode()])  # fmt: skip
def test_ground_truth_says_the_same_however_it_was_saved(change, source, tmp_path):
  table = source / 'ground_truth.txt'
  first = build('emotion6', source, tmp_path / 'first')
  table.write_bytes(change(table.read_text()))
  second = build('emotion6', source, tmp_path / 'second')
  assert raw_folders.without_source(second) == raw_folders.without_source(first)


@pytest.mark.parametrize(('content', 'message'), [
    (bytes(90), 'zero bytes.*fetch it again'), (b'anger/\xe91.jpg', 'is not in UTF-8, .*fetch it again'),
    (f'joy/1001.jpg\t1\t1\t{SHARES}'.encode(), "names no image that is here: it says 'images/joy/1001.jpg'")])
def test_ground_truth_that_fits_nothing_is_one_line(content, message, source, tmp_path):
  (source / 'ground_truth.txt').write_bytes(content)
  with pytest.raises(UserError, match=message) as error:
    build('emotion6', source, tmp_path / 'out')
  assert '\n' not in str(error.value)
