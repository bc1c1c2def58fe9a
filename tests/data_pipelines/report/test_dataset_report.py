"""The report says what the records hold, shows text of others as text, and needs no network."""

import csv
import html
import json
import re
import shutil

import numpy as np
import pytest

from benchmarks.near_duplicates.copies import COPIES, drawn_images, encoded
from data_pipelines.build import build
from data_pipelines.duplicates.finding import find_duplicates
from data_pipelines.errors import UserError
from data_pipelines.report import record_topics, target_topics
from data_pipelines.report.dataset_report import write_dataset_report
from data_pipelines.table.table_dataset_builder import TableOptions
from tests.support.raw_folders import draw_classes

SPLITS = ('train',) * 24 + ('val',) * 20 + ('test',) * 20
CLASSES = ('awe', 'fear', 'joy')


def write_table(path, rows):
  with path.open('w', newline='', encoding='utf-8') as file:
    writer = csv.DictWriter(file, rows[0])
    writer.writeheader()
    writer.writerows(rows)


def draw_table(folder, **columns):
  """64 different images, three classes in turn, each with a caption of its own; `columns` are made of the number."""
  folder.mkdir()
  rows = []
  for number, (image, split) in enumerate(zip(drawn_images(64, seed=2), SPLITS)):
    (folder / f'{number:02d}.jpg').write_bytes(encoded(image))
    row = {
        'image': f'{number:02d}.jpg', 'label': CLASSES[number % 3], 'split': split, 'caption': f'view number {number}'}
    rows.append(row | {name: make(number) for name, make in columns.items()})
  write_table(folder / 'table.csv', rows)
  return rows


@pytest.fixture(scope='module')
def good(tmp_path_factory):
  """Records without a fault, with domains, valence and arousal."""
  folder = tmp_path_factory.mktemp('good')
  draw_table(
      folder / 'raw', valence=lambda number: 1 + number % 8, arousal=lambda number: 1 + number % 5,
      domain=lambda number: ('photo', 'comic')[number % 2])
  build('table', folder / 'raw' / 'table.csv', folder / 'records', table=TableOptions(scale=(1, 9)))
  lines = write_dataset_report(folder / 'records', 'table', folder / 'report.html')
  return folder, lines, (folder / 'report.html').read_text(encoding='utf-8'), json.loads(
      (folder / 'report.json').read_text(encoding='utf-8'))


def kinds(facts):
  return [warning['kind'] for warning in facts['warnings']]


def test_a_good_data_set_has_its_numbers_and_no_warning(good):
  folder, lines, page, facts = good
  assert facts['warnings'] == [] and 'Nothing was found wrong' in page
  assert lines == [f'{folder}/report.html and {folder}/report.json: 64 records of table, 0 warnings']
  assert {name: split['examples'] for name, split in facts['splits'].items()} == {'train': 24, 'val': 20, 'test': 20}
  assert facts['splits']['val']['per_class'] == {'awe': 7, 'fear': 7, 'joy': 6}
  assert facts['domains'] == {
      'comic': {'train': 12, 'val': 10, 'test': 10}, 'photo': {'train': 12, 'val': 10, 'test': 10}}
  assert facts['sizes']['width'] == {'least': 96, 'median': 96, 'greatest': 96}
  assert facts['captions'] == {
      'words': {'least': 3, 'median': 3.0, 'greatest': 3}, 'own': 64, 'different': 64, 'commonest': 1, 'shared': 0,
      'token_limit': None, 'cut': None}
  assert facts['ratings']['valence']['scale'] == [1, 9] and facts['ratings']['valence']['mean'] == 4.5
  assert 'dominance' not in facts['ratings']
  assert facts['duplicates'] == {'equal': [], 'near': None} and facts['votes'] is facts['agreement'] is None


def test_the_page_needs_no_network_and_shows_images_of_each_class(good):
  _, _, page, _ = good
  assert not re.findall(r'(?:src|href)="(?!data:)', page) and '<script' not in page and 'http' not in page
  for label in CLASSES:
    assert page.split(f'<h3>{label}</h3>')[1].split('</div>')[0].count('<img') == 8
  assert page.count('data:image/svg+xml') == 3


def test_the_same_records_give_the_same_bytes(good):
  folder, _, page, _ = good
  write_dataset_report(folder / 'records', 'table', folder / 'again.html')
  assert (folder / 'again.html').read_text(encoding='utf-8') == page


def test_near_duplicates_and_annotators_are_shown(good, tmp_path):
  folder, *_ = good
  records = folder / 'records'
  find_duplicates(records, 'table', tmp_path / 'near.csv')
  votes = [{
      'image': f'{number:02d}.jpg', 'annotator': f'rater {rater}',
      'label': CLASSES[(number + (rater == number % 9)) % 3]}
           for number in range(64)
           for rater in range(3)]  # fmt: skip
  write_table(tmp_path / 'votes.csv', votes)
  write_dataset_report(
      records, 'table', tmp_path / 'report.html', duplicates=tmp_path / 'near.csv', votes=tmp_path / 'votes.csv')
  facts, page = json.loads((tmp_path / 'report.json').read_text()), (tmp_path / 'report.html').read_text()
  assert facts['duplicates'] == {'equal': [], 'near': []} and 'No two stored images are equal or nearly so' in page
  assert 0.6 < facts['agreement']['alpha'] < 0.8 and f'<strong>{facts["agreement"]["alpha"]:.3f}</strong>' in page
  assert page.count('<td>rater ') == 3


def test_a_table_of_duplicates_of_other_records_is_refused(good, tmp_path):
  (tmp_path /
   'near.csv').write_text('image,split,same_as,its_split,its_dataset,distance,mirrored\nx,train,y,val,table,2,0\n')
  with pytest.raises(UserError, match="has no 'x'"):
    write_dataset_report(good[0] / 'records', 'table', tmp_path / 'report.html', duplicates=tmp_path / 'near.csv')
  assert not (tmp_path / 'report.html').exists()


def test_copies_across_splits_are_warned_of(tmp_path):
  images = drawn_images(64)
  for number, image in enumerate(images):
    place = tmp_path / 'raw' / SPLITS[number] / CLASSES[number % 3]
    place.mkdir(parents=True, exist_ok=True)
    (place / f'{number}.jpg').write_bytes(encoded(image))
  (tmp_path / 'raw' / 'test' / 'joy' / 'same.jpg').write_bytes(encoded(images[2]))
  (tmp_path / 'raw' / 'val' / 'joy' / 'near.jpg').write_bytes(COPIES['mirrored'](images[5]))
  build('folder', tmp_path / 'raw', tmp_path / 'records')
  find_duplicates(tmp_path / 'records', 'folder', tmp_path / 'near.csv')
  lines = write_dataset_report(tmp_path / 'records', 'folder', tmp_path / 'r.html', duplicates=tmp_path / 'near.csv')
  facts = json.loads((tmp_path / 'r.json').read_text())
  assert facts['duplicates']['equal'] == [{'split': 'test', 'its_split': 'train', 'images': 1}]
  assert kinds(facts) == ['leakage', 'leakage', 'leakage']
  assert any('1 images of val are near-duplicates of images in train' in line for line in lines)


def test_votes_of_the_records_are_summed_by_their_commonest_class(tmp_path):
  draw_table(
      tmp_path / 'raw', yes=lambda number: 3 if number % 2 else 2, no=lambda number: 1
      if number % 2 else 2, maybe=lambda number: 0)
  build(
      'table', tmp_path / 'raw' / 'table.csv', tmp_path / 'records',
      table=TableOptions({'votes': 'yes,no,maybe', 'label': ''}))  # fmt: skip
  write_dataset_report(tmp_path / 'records', 'table', tmp_path / 'r.html')
  facts = json.loads((tmp_path / 'r.json').read_text())
  assert facts['votes']['images'] == 64 and facts['votes']['ties'] == 32
  assert facts['votes']['majority'] == pytest.approx((0.75 + 0.5) / 2)
  entropy = (-np.array([0.75, 0.25]) @ np.log([0.75, 0.25]) + np.log(2)) / 2 / np.log(len(facts['votes']['per_class']))
  assert facts['votes']['entropy'] == pytest.approx(entropy, abs=1e-4)
  assert facts['splits']['train']['without_class'] == 12 and 'without_class' in kinds(facts)


def test_hostile_labels_names_and_captions_are_text(tmp_path, capsys):
  hostile = '<script>alert(1)</script>', '"><img src=x onerror=alert(1)>', '{{ 7*7 }}$\\frac$'
  rows = draw_table(tmp_path / 'raw', domain=lambda number: hostile[number % 3])
  for number, row in enumerate(rows):
    row['label'] = hostile[number % 3]
    row['id'] = f'{row["image"]}"><b onmouseover=x>'
  write_table(tmp_path / 'raw' / 'table.csv', rows)
  build('table', tmp_path / 'raw' / 'table.csv', tmp_path / 'records')
  votes = [
      {'image': row['id'], 'annotator': f'<i>{rater}', 'label': row['label']} for row in rows for rater in range(2)]
  write_table(tmp_path / 'votes.csv', votes)
  write_dataset_report(tmp_path / 'records', 'table', tmp_path / 'r.html', votes=tmp_path / 'votes.csv')
  page = (tmp_path / 'r.html').read_text(encoding='utf-8')
  assert not re.search(r'<script|<b |<i>|onerror=alert\(1\)>', page) and '49' not in re.findall(r'<td>(.*?)</td>', page)
  for label in hostile:
    assert f'<td>{html.escape(label)}</td>' in page.replace('&#34;', '&quot;')


def test_images_without_classes_have_a_report(tmp_path):
  draw_classes(tmp_path, ('raw',), 4)
  build('folder', tmp_path / 'raw', tmp_path / 'records')
  write_dataset_report(tmp_path / 'records', 'folder', tmp_path / 'r.html')
  facts = json.loads((tmp_path / 'r.json').read_text())
  assert kinds(facts) == ['missing_split', 'small_split']
  assert 'Without a class' in (tmp_path / 'r.html').read_text()


@pytest.mark.parametrize(('text', 'shared'), [('two dogs', 3), ('a photo of {label}', 0), ('', 0)])
def test_only_texts_of_ones_own_are_shared_and_no_templates(text, shared):
  captions = target_topics.Captions(None)
  for _ in range(3):
    captions.add(
        record_topics.StoredRecord('train', 'a', b'', ('joy',), 'joy', 0, (), (), {'caption': text} if text else {}))
  found = captions.summary()
  assert found['shared'] == found['own'] == shared and found['commonest'] == 3


def test_captions_that_clip_cuts_are_counted_by_its_tokenizer(tmp_path, clip_folder):
  draw_table(tmp_path / 'raw', caption=lambda number: ' '.join(['word'] * (70 + number % 10)))
  build('table', tmp_path / 'raw' / 'table.csv', tmp_path / 'records')
  write_dataset_report(tmp_path / 'records', 'table', tmp_path / 'r.html', tokenizer=clip_folder)
  captions = json.loads((tmp_path / 'r.json').read_text())['captions']
  # A word is a token; 75 of them, a start and an end are the 77 that CLIP reads.
  assert captions['token_limit'] == 77 and captions['cut'] == sum(70 + number % 10 > 75 for number in range(64))


def test_a_tokenizer_that_is_not_what_was_written_is_named(tmp_path, clip_folder):
  draw_table(tmp_path / 'raw')
  build('table', tmp_path / 'raw' / 'table.csv', tmp_path / 'records')
  shutil.copytree(clip_folder, tmp_path / 'clip')
  merges = tmp_path / 'clip' / 'merges.txt'
  merges.write_text(merges.read_text().replace('t h', 't q', 1))
  with pytest.raises(UserError, match='merges.txt is missing, or is not what was written'):
    write_dataset_report(tmp_path / 'records', 'table', tmp_path / 'r.html', tokenizer=tmp_path / 'clip')


@pytest.mark.parametrize(('arguments', 'thing', 'remedy'), [
    ([], '--dataset is missing', '--help'), (['--dataset=nosuch'], "no records of 'nosuch'", 'data_pipelines.build'),
    (['--dataset=table', '--out=report.txt'], 'report.txt', 'report.html'),
    (['--dataset=table', '--votes=nosuch.csv'], 'nosuch.csv', 'save it'),
    (['--dataset=table', '--duplicates={folder}/raw/table.csv'], 'table.csv', 'first line must hold image,split'),
    (['--dataset=table', '--tokenizer={folder}/raw'], '/raw', 'vocab.json'),
    (['--dataset=table', '--tokenizer=nosuch'], 'nosuch', 'vocab.json')])
def test_mistake_is_one_line(arguments, thing, remedy, good, tmp_path, monkeypatch, command, capfd, assert_one_line):
  monkeypatch.chdir(tmp_path)
  arguments = [argument.format(folder=good[0]) for argument in arguments]
  code = command('data_pipelines.report', f'--data_dir={good[0]}/records', *arguments)
  told = '\n'.join(line for line in capfd.readouterr().err.splitlines() if 'records/s' not in line) + '\n'
  assert_one_line(code, told, thing, remedy)
  assert not list(tmp_path.iterdir())
