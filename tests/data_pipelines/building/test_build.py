import csv
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import time

from PIL import Image
import pytest
import tensorflow_datasets as tfds

from data_pipelines import images
from data_pipelines.build import build, print_summary
from data_pipelines.building.raw_example import RawExample, WorkItem
from data_pipelines.emotic import emotic_dataset_builder
from data_pipelines.errors import UserError
from data_pipelines.person_boxes import detection
from data_pipelines.records.label_sets import EMOTIONS
from data_pipelines.synthetic import datasets
from tests.support import raw_folders

SIZES = {'train': 16, 'val': 8, 'test': 8}


@pytest.fixture(scope='module')
def raw(tmp_path_factory):
  """Small raw folders in the true layouts."""
  root = tmp_path_factory.mktemp('raw')
  for dataset in ('emoset', 'emo8'):
    datasets.write_dataset(root / dataset, dataset, datasets.plan_images(dataset, SIZES, seed=1), {'seed': 1})
  return root


@pytest.fixture
def emoset(raw, tmp_path):
  return shutil.copytree(raw / 'emoset', tmp_path / 'emoset')


@pytest.fixture
def emo8(raw, tmp_path):
  return shutil.copytree(raw / 'emo8', tmp_path / 'emo8')


def _records(data_dir, dataset, split) -> list[dict]:
  builder = tfds.builder_from_directory(data_dir / dataset / '1.0.0')
  return list(builder.as_dataset(split=split, decoders={'image': tfds.decode.SkipDecoding()}).as_numpy_iterator())


def _rejects(folder) -> dict[str, str]:
  with (folder / 'rejects.csv').open(newline='') as file:
    return {row['path']: row['reason'] for row in csv.DictReader(file)}


def _entries(source, split) -> list[list[str]]:
  return json.loads((source / f'{split}.json').read_text())


def test_emoset_records_hold_what_the_folder_holds(emoset, tmp_path):
  manifest = build('emoset', emoset, tmp_path / 'out')
  ids = []
  for split, size in SIZES.items():
    records = {record['id'].decode(): record for record in _records(tmp_path / 'out', 'emoset', split)}
    assert len(records) == size == manifest['splits'][split]['examples']
    ids += records
    for emotion, image, annotation in _entries(emoset, split):
      record = records[image]
      assert EMOTIONS[record['label']] == emotion
      assert record['image'] == (emoset / image).read_bytes()
      annotated = json.loads((emoset / annotation).read_text())
      expected = {name: value for name, value in annotated.items() if name not in ('image_id', 'emotion')}
      assert json.loads(record['attributes']) == expected
      assert bool(len(record['persons'])) == bool(len(record['boxes']))
    digest = hashlib.sha256('\n'.join(sorted(records)).encode()).hexdigest()
    assert manifest['splits'][split]['ids_sha256'] == digest
  assert manifest['labels'] == list(EMOTIONS)
  assert manifest['provenance'] == {'seed': 1}
  assert len(set(ids)) == manifest['found'] == manifest['read'] == 32


def test_both_forms_of_split_entries_build_the_same_records(emoset, tmp_path):
  first = build('emoset', emoset, tmp_path / 'three')
  for split in SIZES:
    longer = [[emotion, 'some_id', *paths] for emotion, *paths in _entries(emoset, split)]
    (emoset / f'{split}.json').write_text(json.dumps(longer))
  second = build('emoset', emoset, tmp_path / 'four')
  assert raw_folders.without_source(second) == raw_folders.without_source(first)


def test_emo8_takes_labels_and_splits_from_folders_and_has_no_attributes(emo8, tmp_path):
  build('emo8', emo8, tmp_path / 'out')
  for split in SIZES:
    for record in _records(tmp_path / 'out', 'emo8', split):
      assert record['id'].decode().split('/')[:2] == [split, EMOTIONS[record['label']]]
      assert record['attributes'] == b'{}'


def test_example_ids_are_ranks_of_sorted_paths_and_rejects_leave_gaps(emo8, tmp_path):
  paths = sorted(path.relative_to(emo8).as_posix() for path in emo8.rglob('*.jpg'))
  (emo8 / paths[3]).write_bytes(b'')
  build('emo8', emo8, tmp_path / 'out', max_rejects=0.1)
  ids = {}
  for split in SIZES:
    ids |= {record['id'].decode(): record['example_id'] for record in _records(tmp_path / 'out', 'emo8', split)}
  assert ids == {path: rank for rank, path in enumerate(paths) if rank != 3}


def test_rejects_are_counted_and_named_and_litter_is_not_a_image(emo8, tmp_path):
  awe = emo8 / 'train' / 'awe'
  shutil.copy(next(awe.glob('*.jpg')), awe / 'Strandcafé ☂.JPEG')
  (awe / '.ipynb_checkpoints').mkdir()
  for litter in ('.DS_Store', 'Thumbs.db', 'old.jpg~', '.ipynb_checkpoints/a.jpg'):
    (awe / litter).write_bytes(b'x')
  (awe / 'empty.jpg').write_bytes(b'')
  (awe / 'text.jpg').write_text('hello')
  (emo8 / 'more').mkdir()
  manifest = build('emo8', emo8, tmp_path / 'out', max_rejects=0.1)
  assert (manifest['found'], manifest['read'], manifest['rejected']) == (35, 33, 2)
  assert manifest['ignored'] == {'*~': 1, '.*': 2, 'Thumbs.db': 1, 'folder more/': 1}
  rejects = _rejects(tmp_path / 'out' / 'emo8' / '1.0.0')
  assert rejects == {'train/awe/empty.jpg': 'empty file', 'train/awe/text.jpg': 'not an image in a known format'}
  ids = {record['id'].decode() for record in _records(tmp_path / 'out', 'emo8', 'train')}
  assert 'train/awe/Strandcafé ☂.JPEG' in ids


def test_too_many_rejects_fail_in_one_line_and_leave_the_list_but_no_build(emo8, tmp_path):
  for path in (emo8 / 'train' / 'fear').glob('*.jpg'):
    path.write_bytes(b'')
  with pytest.raises(UserError) as error:
    build('emo8', emo8, tmp_path / 'out')
  message = str(error.value)
  listed = tmp_path / 'out' / 'emo8' / 'rejects.csv'
  assert '\n' not in message and '2 of 32' in message
  assert str(listed) in message and min(_rejects(listed.parent)) in message
  assert [path.name for path in listed.parent.iterdir()] == ['rejects.csv']
  build('emo8', emo8, tmp_path / 'out', max_rejects=0.1)
  assert not listed.exists()


def test_file_names_that_are_not_utf8_are_rejected_by_name(emo8, tmp_path):
  name = os.fsencode(emo8 / 'val' / 'awe') + b'/caf\xe9.jpg'
  try:
    shutil.copy(next((emo8 / 'val' / 'awe').glob('*.jpg')), name)
  except OSError:
    pytest.skip('this file system takes UTF-8 names only')
  assert build('emo8', emo8, tmp_path / 'out', max_rejects=0.1)['rejected'] == 1
  assert 'UTF-8' in list(_rejects(tmp_path / 'out' / 'emo8' / '1.0.0').values())[0]


def test_emoset_annotations_are_checked(emoset, tmp_path):
  (_, missing, annotation), (_, contradicted, other), (_, unlisted_value, third) = _entries(emoset, 'train')[:3]
  (emoset / annotation).unlink()
  content = json.loads((emoset / other).read_text())
  (emoset / other).write_text(json.dumps(content | {'emotion': 'joy'}))
  content = json.loads((emoset / third).read_text())
  (emoset / third).write_text(json.dumps(content | {'scene': 'moon_base', 'object': ['Tree', 'Phlogiston']}))
  (emoset / 'image' / 'awe' / 'extra.jpg').write_bytes(b'x')
  manifest = build('emoset', emoset, tmp_path / 'out', max_rejects=0.1)
  assert set(_rejects(tmp_path / 'out' / 'emoset' / '1.0.0')) == {missing, contradicted}
  assert manifest['ignored'] == {'object: Phlogiston': 1, 'images in no split': 1, 'scene: moon_base': 1}
  record = next(r for r in _records(tmp_path / 'out', 'emoset', 'train') if r['id'].decode() == unlisted_value)
  attributes = json.loads(record['attributes'])
  assert attributes['object'] == ['Tree'] and 'scene' not in attributes


def _break_emoset(source, how):
  if how == 'val.json':
    (source / how).unlink()
  elif how == 'not JSON':
    (source / 'test.json').write_text('[')
  elif how == 'no file info.json':
    (source / 'info.json').unlink()
  elif how == 'number the':
    (source / 'info.json').write_text(json.dumps({'emotion': {'label2idx': {'awe': 0}}}))
  elif how == 'image/sadness':
    shutil.rmtree(source / 'image' / 'sadness')
  elif how == 'annotation/':
    shutil.rmtree(source / 'annotation')
  elif how == "'joy'":
    (source / 'image' / 'joy').mkdir()
  elif how == 'twice':
    (source / 'val.json').write_text(json.dumps(_entries(source, 'train')))


@pytest.mark.parametrize(
    'how',
    ['val.json', 'not JSON', 'no file info.json', 'number the', 'image/sadness', 'annotation/', "'joy'", 'twice'])
def test_a_wrong_emoset_folder_is_named_in_one_line(emoset, tmp_path, how):
  _break_emoset(emoset, how)
  with pytest.raises(UserError, match=how) as error:
    build('emoset', emoset, tmp_path / 'out')
  assert '\n' not in str(error.value)
  assert not (tmp_path / 'out' / 'emoset' / '1.0.0').exists()


def test_a_wrong_emo8_folder_is_named_in_one_line_that_says_where_to_ask(emo8, tmp_path):
  for path in (emo8 / 'test' / 'anger').iterdir():
    path.unlink()
  with pytest.raises(UserError, match='anger is missing or empty.*{train,val,test}/<emotion>/.*ask its authors'):
    build('emo8', emo8, tmp_path / 'out')
  (emo8 / 'test' / 'anger').rename(emo8 / 'test' / 'rage')
  with pytest.raises(UserError, match="unknown class 'rage'"):
    build('emo8', emo8, tmp_path / 'out')
  shutil.rmtree(emo8 / 'val')
  with pytest.raises(UserError, match='no folder val/'):
    build('emo8', emo8, tmp_path / 'out')
  with pytest.raises(UserError, match='missing or empty'):
    build('emo8', tmp_path / 'nowhere', tmp_path / 'out')


def test_a_finished_build_is_left_unless_overwritten_and_comes_back_when_that_fails(emo8, tmp_path):
  first = build('emo8', emo8, tmp_path / 'out')
  next((emo8 / 'train' / 'awe').glob('*.jpg')).unlink()
  assert build('emo8', emo8, tmp_path / 'out') == first
  assert build('emo8', emo8, tmp_path / 'out', overwrite=True)['found'] == 31
  shutil.rmtree(emo8 / 'val')
  with pytest.raises(UserError):
    build('emo8', emo8, tmp_path / 'out', overwrite=True)
  assert len(_records(tmp_path / 'out', 'emo8', 'val')) == 8
  assert [path.name for path in (tmp_path / 'out' / 'emo8').iterdir()] == ['1.0.0']


def test_an_error_while_building_leaves_nothing(emo8, tmp_path, monkeypatch):

  def fail(*_):
    raise MemoryError

  monkeypatch.setattr(images, 'open_image', fail)
  with pytest.raises(MemoryError):
    build('emo8', emo8, tmp_path / 'out')
  assert not list((tmp_path / 'out' / 'emo8').iterdir())


def test_a_killed_build_looks_unfinished_and_starts_over(emo8, tmp_path):
  # The build waits, all but finished, until it is killed.
  waiting = 'import signal; from data_pipelines import build; from data_pipelines.records import manifest; '
  waiting += 'manifest.write_manifest = lambda *arguments: signal.pause(); '
  process = subprocess.Popen([
      sys.executable, '-c', waiting + f'build.build("emo8", {str(emo8)!r}, {str(tmp_path / "out")!r})'])
  try:
    deadline = time.time() + 60
    while not list(tmp_path.glob('out/emo8/incomplete.*')) and time.time() < deadline:
      time.sleep(0.1)
  finally:
    process.kill()
    process.wait()
  left = [path.name for path in (tmp_path / 'out' / 'emo8').iterdir()]
  left = [name for name in left if name not in ('.lock', '.owner')]  # free, since its process is dead
  assert len(left) == 1 and left[0].startswith('incomplete.')
  assert build('emo8', emo8, tmp_path / 'out')['read'] == 32
  assert [path.name for path in (tmp_path / 'out' / 'emo8').iterdir()] == ['1.0.0']


def test_boxes_that_fit_no_image_are_counted(emo8, tmp_path):
  first, *others = sorted(path.relative_to(emo8).as_posix() for path in emo8.rglob('*.jpg'))
  rows = ['image,xmin,ymin,xmax,ymax,score', f'{first},0,0,48,96,0.6', f'{first},100,0,120,9,1', 'gone.jpg,0,0,9,9,1']
  (emo8 / 'person_boxes.csv').write_text('\n'.join(rows))
  manifest = build('emo8', emo8, tmp_path / 'out')
  assert manifest['ignored'] == {'person boxes of images not listed': 1, 'person boxes outside the image': 1}
  assert sum(split['with_person'] for split in manifest['splits'].values()) == 1
  record = next(r for r in _records(tmp_path / 'out', 'emo8', 'test') if r['id'].decode() == first)
  assert record['boxes'].tolist() == [[0, 0, 1, 0.5]] and len(record['persons']) == 1


def test_images_are_stored_at_the_short_side_asked_for(emo8, tmp_path):
  Image.new('RGB', (400, 300)).save(emo8 / 'train' / 'awe' / 'large.png')
  assert build('emo8', emo8, tmp_path / 'out', short_side=64)['short_side'] == 64
  builder = tfds.builder_from_directory(tmp_path / 'out' / 'emo8' / '1.0.0')
  sizes = {record['image'].shape[:2] for record in builder.as_dataset(split='train').as_numpy_iterator()}
  assert sizes == {(64, 64), (64, 85)}


def test_short_side_0_keeps_the_size_and_large_images_are_rejected_at_the_limit_asked_for(emo8, tmp_path):
  Image.new('RGB', (700, 500)).save(emo8 / 'train' / 'awe' / 'large.png')
  Image.new('RGB', (1500, 1000)).save(emo8 / 'train' / 'awe' / 'larger.png')
  manifest = build('emo8', emo8, tmp_path / 'out', max_rejects=0.1, short_side=0, max_megapixels=1)
  assert (manifest['short_side'], manifest['max_megapixels'], manifest['rejected']) == (0, 1, 1)
  reason = _rejects(tmp_path / 'out' / 'emo8' / '1.0.0')['train/awe/larger.png']
  assert reason == '1500 x 1000 pixels: over 1 megapixels (build and predict take --max_megapixels)'
  stored = {record['id'].decode(): record['image'] for record in _records(tmp_path / 'out', 'emo8', 'train')}
  assert Image.open(io.BytesIO(stored['train/awe/large.png'])).size == (700, 500)


def test_images_that_an_earlier_split_holds_too_are_named(emo8, tmp_path, capsys):
  for split in SIZES:
    for path in (emo8 / split / 'awe').iterdir():
      path.unlink()
  Image.new('RGB', (40, 30)).save(emo8 / 'train' / 'awe' / 'a.png')
  for name in ('train/awe/b.png', 'val/awe/c.png', 'test/awe/d.png', 'test/awe/e.png'):
    shutil.copy(emo8 / 'train' / 'awe' / 'a.png', emo8 / name)
  result = build('emo8', emo8, tmp_path / 'out')
  with (tmp_path / 'out' / 'emo8' / '1.0.0' / 'duplicates.csv').open(newline='') as file:
    rows = [tuple(row.values()) for row in csv.DictReader(file)]
  copies = [('test/awe/d.png', 'test'), ('test/awe/e.png', 'test'), ('val/awe/c.png', 'val')]
  assert rows == [(*copy, 'train/awe/a.png', 'train') for copy in copies]
  assert result['duplicates_across_splits'] == 3
  print_summary(result)
  assert '3 images are in an earlier split too' in capsys.readouterr().out


def test_person_boxes_come_from_the_file_or_the_detector_asked_for(emo8, tmp_path, monkeypatch, capsys):
  path = sorted((emo8 / 'train').rglob('*.jpg'))[0].relative_to(emo8).as_posix()
  columns = 'image,xmin,ymin,xmax,ymax,score'
  (emo8 / 'person_boxes.csv').write_text(columns)
  other = tmp_path / 'other.csv'
  other.write_text('\n'.join([columns, f'{path},0,0,30,60,0.9', f'{path},40,0,90,90,0.8']))
  manifest = build('emo8', emo8, tmp_path / 'file', boxes_file=other, max_persons=2)
  assert manifest['splits']['train']['with_person'] == 1
  record = next(r for r in _records(tmp_path / 'file', 'emo8', 'train') if r['id'].decode() == path)
  assert len(record['persons']) == 2
  print_summary(manifest)
  assert f'train: 16 records, {1 / 16:.1%} with a person' in capsys.readouterr().out

  def detect(source, detector, to):
    assert (source, detector) == (emo8, 'hog')
    to.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(other, to)
    return detection.DetectionSummary(to, images=32, with_person=1, boxes=2, dropped=0, unreadable={}, ignored={})

  monkeypatch.setattr(detection, 'detect_folder', detect)
  detected = build('emo8', emo8, tmp_path / 'detector', detector='hog', max_persons=2)
  assert detected == manifest
  monkeypatch.delattr(detection, 'detect_folder')
  assert build('emo8', emo8, tmp_path / 'detector', detector='hog', max_persons=2, overwrite=True) == manifest
  with pytest.raises(UserError, match='exclude each other'):
    build('emo8', emo8, tmp_path / 'both', detector='hog', boxes_file=other)


def test_an_annotated_person_outside_the_image_is_rejected_not_replaced_by_the_next(emo8, tmp_path):
  name = next((emo8 / 'train').rglob('*.jpg')).relative_to(emo8).as_posix()
  persons = emotic_dataset_builder.Builder(data_dir=tmp_path)
  outside, inside = (5000, 0, 5100, 50), (10, 10, 60, 60)
  with pytest.raises(images.RejectedError, match='outside the image'):
    persons.record(emo8, WorkItem(RawExample(name, person=0, boxes=(outside, inside)), 0, []))
  record = persons.record(emo8, WorkItem(RawExample(name, person=0, boxes=(inside, outside)), 0, []))
  assert len(record['boxes']) == len(record['persons']) == 1
  assert persons.take_ignored() == {'person boxes outside the image': 1}


@pytest.mark.parametrize(
    'arguments', [['--dataset=emo8'], ['--dataset=nothing'], ['--max_rejects=2'], ['--colour=blue'], ['emo8']])
def test_the_command_ends_with_one_line_and_code_2_after_a_mistake(
    arguments, tmp_path, command, capsys, assert_one_line):
  code = command('data_pipelines.build', f'--data_dir={tmp_path}', *arguments)
  assert_one_line(code, capsys.readouterr().err, '', '')


@pytest.mark.slow
@pytest.mark.parametrize('beam', [[], ['--beam_pipeline_options=runner=DirectRunner']])
def test_tfds_build_works_too(raw, tmp_path, beam):
  import data_pipelines.emo8 as package

  folder = os.path.dirname(package.__file__)
  # What the `tfds` script does for `build`; the script itself wants packages for its other subcommands.
  script = (
      'import sys; from tensorflow_datasets.scripts.cli import build, cli_utils; '
      'cli_utils.make_flags_parser(build.Args, description="")(sys.argv).execute()')
  command = [sys.executable, '-c', script, folder, f'--manual_dir={raw / "emo8"}', f'--data_dir={tmp_path}', *beam]
  subprocess.run(command, check=True)
  assert len(_records(tmp_path, 'emo8', 'train')) == 16
