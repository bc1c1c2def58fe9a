"""Tables become records: every form the same ones, every kind of annotation, and what is wrong is named."""

import collections
import contextlib
import io
import json
import pathlib
import re
import signal
import time

import numpy as np
from PIL import Image
import pyarrow as pa
import pyarrow.ipc
import pytest

from data_pipelines.build import build
from data_pipelines.building.raw_example import RawExample
from data_pipelines.building.splits import hashed_splits
from data_pipelines.errors import UserError
from data_pipelines.records.caption_text import caption
from data_pipelines.records.reader import NoSuchSplit, open_split
from data_pipelines.table.table_dataset_builder import TableOptions
from tests.data_pipelines.table import bad_tables
from tests.support import small_runs, tables
from tests.support.raw_folders import draw_classes


def build_table(tmp_path, source, **options):
  return build('table', source, tmp_path / 'records', **options)


def annotations(tmp_path, splits=('train', 'val', 'test')):
  found = {}
  for split in splits:
    with contextlib.suppress(NoSuchSplit):
      found[split] = list(open_split(tmp_path / 'records', 'table', split).annotations())
  return found


def _shares(row):
  votes = json.loads(row['votes'])
  return [votes.get(name, 0) / sum(votes.values()) for name in tables.CLASSES]


@pytest.mark.parametrize('form', tables.FORMS)
def test_every_form_of_a_table_gives_the_same_records(form, tmp_path):
  manifest = build_table(tmp_path, tables.FORMS[form](tmp_path / 'raw'))
  assert manifest['labels'] == list(tables.CLASSES) and manifest['rejected'] == 0
  expected = collections.defaultdict(list)
  for row in tables.rows():
    expected[{'validation': 'val'}.get(row['split'], row['split'])].append((
        tables.CLASSES.index(row['emotion']), row['valence'], ' '.join(row['description'].split()), row['style'],
        list(range(tables.CLASSES.index(row['emotion']), 3)), [f'{share:.2f}' for share in _shares(row)]))
  found_in = annotations(tmp_path)
  assert found_in.keys() == {'train', 'val', 'test'}
  for split, found in found_in.items():
    assert sorted((
        one.label, one.vad[0], one.attributes['caption'], one.attributes['domain'], one.labels,
        [f'{share:.2f}' for share in one.distribution]) for one in found) == sorted(expected[split])


@pytest.mark.parametrize('form', ['CSV', 'Parquet of bytes', 'save_to_disk'])
def test_each_record_has_the_image_of_its_row(form, tmp_path):
  build_table(tmp_path, tables.FORMS[form](tmp_path / 'raw'), short_side=0)
  split = open_split(tmp_path / 'records', 'table', 'train')
  for position, found in enumerate(split.annotations()):
    number = int(found.attributes['caption'].split('number ')[1].split(',')[0])
    record = split.features.deserialize_example_np(split.read(position), decoders=None)
    drawn = np.array(Image.open(io.BytesIO(tables.image_bytes(number))))
    assert np.array_equal(record['image'], drawn)


@pytest.mark.parametrize('kind', bad_tables.BAD)
def test_a_bad_table_is_one_line_or_rejected_by_row(kind, tmp_path):
  bad = bad_tables.BAD[kind]
  tables.draw_images(tmp_path / 'raw', bad_tables.ROWS)
  source = bad.make(tmp_path / 'raw')
  if not bad.rejected:
    with pytest.raises(UserError, match=re.escape(bad.says)) as error:
      build_table(tmp_path, source, max_rejects=0.2, **bad.options)
    assert '\n' not in str(error.value)
    assert not list((tmp_path / 'records').glob('table/1.0.0'))
    return
  manifest = build_table(tmp_path, source, max_rejects=0.2, **bad.options)
  reasons = (tmp_path / 'records' / 'table' / '1.0.0' / 'rejects.csv').read_text().splitlines()[1:]
  assert manifest['rejected'] == bad.rejected == len(reasons) and bad.says in reasons[0]
  assert manifest['read'] + manifest['rejected'] == manifest['found']


def write_lines(tmp_path, *lines, images=20):
  """A table of these lines beside the images of `tables.draw_images`; {} in a line is an image's path."""
  tables.draw_images(tmp_path / 'raw', images)
  path = tmp_path / 'raw' / 'table.csv'
  path.write_text('\n'.join(lines), encoding='utf-8')
  return path


def image(number):
  return f'photos/{number:03d} ä.jpg'


def by_id(tmp_path, **kinds):
  return {found.id: found for split in annotations(tmp_path, **kinds).values() for found in split}


def test_votes_are_counts_or_shares_a_column_a_class_and_the_majority_is_the_class(tmp_path):
  source = write_lines(
      tmp_path, 'image,joy,awe,split', *(f'{image(row)},{row % 4},{2 - row % 3},train' for row in (1, 2, 7)))
  manifest = build_table(tmp_path, source, table=TableOptions({'votes': 'joy,awe'}))
  assert manifest['distribution'] == manifest['labels'] == ['awe', 'joy']
  found = by_id(tmp_path)
  assert np.allclose(found[image(1)].distribution, [.5, .5]) and found[image(1)].label == -1
  assert np.allclose(found[image(2)].distribution, [0, 1]) and found[image(2)].label == 1
  assert np.allclose(found[image(7)].distribution, [.25, .75])
  assert manifest['images whose votes have no majority'] == 1


@pytest.mark.parametrize('form', ['a row an annotator', 'a column an annotator', 'a list', 'an object'])
def test_votes_of_persons_are_counted(form, tmp_path):
  votes = {image(0): ('joy', 'joy', 'awe'), image(1): ('fear', 'fear', 'fear'), image(2): ('awe', 'awe', 'joy')}
  columns = {}
  if form == 'a row an annotator':
    lines = [
        'file,rater,emotion,valence',
        *(f'{name},r{rater},{vote},{rater}' for name, cast in votes.items() for rater, vote in enumerate(cast))
    ]  # fmt: skip
  elif form == 'a column an annotator':
    columns = {'votes': 'r_*'}
    lines = ['file,r_1,r_2,r_3', *(f'{name},{",".join(cast)}' for name, cast in votes.items())]
  elif form == 'a list':
    lines = ['file,votes', *(f'{name},{"|".join(cast)}' for name, cast in votes.items())]
  else:
    lines = [
        'file;votes', *(
            f'{name};{json.dumps({vote: cast.count(vote) for vote in cast})}'.replace('"', '""').replace(';{', ';"{') +
            '"' for name, cast in votes.items())]  # fmt: skip
  lines = [
      lines[0] + (';' if ';' in lines[0] else ',') + 'split',
      *(line + (';' if ';' in lines[0] else ',') + 'train' for line in lines[1:])]  # fmt: skip
  build_table(tmp_path, write_lines(tmp_path, *lines), table=TableOptions(columns))
  found = by_id(tmp_path)
  assert np.allclose([found[name].distribution for name in votes], [[1 / 3, 0, 2 / 3], [0, 1, 0], [2 / 3, 0, 1 / 3]])
  assert [found[name].label for name in votes] == [2, 1, 0]
  if form == 'a row an annotator':
    assert found[image(0)].vad[0] == 1


@pytest.mark.parametrize('form', ['a column a class', 'a cell', 'a list of the hub'])
def test_several_classes_an_image(form, tmp_path):
  several = {image(0): ['calm', 'glad'], image(1): [], image(2): ['sad']}
  names, columns = ('calm', 'glad', 'sad'), {}
  if form == 'a column a class':
    columns = {'labels': ','.join(names)}
    lines = [
        'file,calm,glad,sad,split',
        *(f'{file},{",".join(str(int(name in has)) for name in names)},train' for file, has in several.items())
    ]  # fmt: skip
    source = write_lines(tmp_path, *lines)
  elif form == 'a cell':
    lines = ['file,emotions,split', *(f'{file},"{has}",train' for file, has in several.items())]
    source = write_lines(tmp_path, *lines)
  else:
    from datasets import ClassLabel, Dataset, Features, List, Value
    tables.draw_images(tmp_path / 'raw', 3)
    source = tmp_path / 'raw' / 'part.parquet'
    Dataset.from_dict({
        'file': list(several), 'labels': [[names.index(name) for name in has] for has in several.values()],
        'split': ['train'] * 3},
                      Features({
                          'file': Value('string'), 'labels': List(ClassLabel(names=list(names))),
                          'split': Value('string')})).to_parquet(source)  # fmt: skip
  manifest = build_table(tmp_path, source, table=TableOptions(columns))
  assert manifest['labels'] == list(names)
  found = by_id(tmp_path)
  assert [[names[index] for index in found[file].labels] for file in several] == list(several.values())


BOXES = {
    'corners': ('box', '"[6, 5, 18, 15]"'), 'an object': ('bbox', '"[{""x1"": 6, ""y1"": 5, ""x2"": 18, ""y2"": 15}]"'),
    'four columns': ('xmin,ymin,xmax,ymax', '6,5,18,15'), 'sides': ('x,y,width,height', '6,5,12,10'),
    'fractions': ('box', '0.25 0.25 0.75 0.75'), 'several': ('boxes', '"[[6, 5, 18, 15], [0, 0, 3, 3]]"')}


@pytest.mark.parametrize('form', BOXES)
def test_boxes_of_persons_in_every_form(form, tmp_path):
  headings, cells = BOXES[form]
  source = write_lines(tmp_path, f'image,{headings},split', *(f'{image(row)},{cells},train' for row in range(3)))
  build_table(tmp_path, source)
  split = open_split(tmp_path / 'records', 'table', 'train')
  record = split.features.deserialize_example_np(split.read(0), decoders=None)
  assert np.allclose(record['boxes'][0], .25 * np.array([1, 1, 3, 3])) and len(record['persons']) == 1
  assert len(record['boxes']) == (2 if form == 'several' else 1)


def test_a_finished_build_says_which_options_are_others_now(tmp_path, capsys):
  source = write_lines(tmp_path, 'image,label,mood,split', *(f'{image(row)},joy,awe,train' for row in range(3)))
  build_table(tmp_path, source, table=TableOptions(caption='one'))
  groups = tmp_path / 'groups.csv'
  groups.write_text(f'image,group\n{image(0)},a\n')
  again = [({}, 'caption'), ({'table': TableOptions({'label': 'mood'}, caption='two')}, 'caption, columns'),
           ({'table': TableOptions(caption='one'), 'groups_file': groups}, 'groups')]  # fmt: skip
  for options, named in again:
    build_table(tmp_path, source, **options)
    assert f'is already built, with other options ({named}): left as it is' in capsys.readouterr().out


def test_names_may_lack_their_ending_or_folder(tmp_path):
  source = write_lines(
      tmp_path, 'Theme;label;split', '000 ä;joy;train', 'photos\\001 ä;awe;train', '002 Ä.JPG;joy;train')
  build_table(tmp_path, source)
  assert set(by_id(tmp_path)) == {image(0), image(1), image(2)}


def test_images_may_lie_in_another_folder_than_the_table(tmp_path):
  write_lines(tmp_path, 'image,label,split', '000 ä.jpg,joy,train')
  (tmp_path / 'raw' / 'table.csv').rename(tmp_path / 'mine.csv')
  build_table(tmp_path, tmp_path / 'mine.csv', images_dir=tmp_path / 'raw' / 'photos')
  assert set(by_id(tmp_path)) == {'000 ä.jpg'}


def test_boxes_follow_an_image_into_the_folder_of_another_class(tmp_path, capsys):
  source = write_lines(tmp_path, 'image,label,split', f'{image(0)},joy,train', f'{image(1)},joy,train')
  boxes = tmp_path / 'boxes.csv'
  boxes.write_text(f'image,xmin,ymin,xmax,ymax,score\n{image(0)},6,5,18,15,1\nfear/001 ä.jpg,6,5,18,15,1\n')
  manifest = build_table(tmp_path, source, boxes_file=boxes)
  assert manifest['splits']['train']['with_person'] == 2
  assert '1 of its 2 names are taken for images in other folders' in capsys.readouterr().err


def test_a_caption_of_ones_own_names_the_class_only_where_the_emotion_may_be_in_it(tmp_path):
  source = write_lines(
      tmp_path, 'image,label,caption,split', f'{image(0)},Joy,,train', f'{image(1)},Joy,two dogs,train')
  build_table(tmp_path, source, table=TableOptions(caption='a photo of {label}'))
  found = by_id(tmp_path)
  said = [[caption(found[image(row)].attributes, emotion) for row in (0, 1)] for emotion in ('Joy', None)]
  assert said == [['a photo of joy', 'two dogs'], ['a picture', 'two dogs']]


def test_no_group_crosses_and_a_row_more_moves_no_other(tmp_path):
  rng = np.random.default_rng(0)
  percent = {'train': 80, 'val': 10, 'test': 10}
  for _ in range(20):
    examples = [
        RawExample(f'{number}.jpg', group=f'g{rng.integers(60)}' if number % 3 else '') for number in range(300)]
    more = [RawExample('more.jpg', group=f'g{rng.integers(60)}'), *examples]
    splits = [{example.id: split
               for split, found in hashed_splits(some, percent, 0).items()
               for example in found}
              for some in (examples, more, examples[::-1])]  # fmt: skip
    assert splits[0] == splits[2] and splits[0].items() <= splits[1].items()
    groups = collections.defaultdict(set)
    for example in more:
      groups[example.group].add(splits[1][example.id])
    assert all(len(found) == 1 for group, found in groups.items() if group)
    assert 0.6 < sum(split == 'train' for split in splits[0].values()) / 300 < 0.95


def test_groups_may_come_from_a_file_for_a_folder_too(tmp_path):
  draw_classes(tmp_path / 'raw', ('fear', 'joy'), 60)
  lines = [f'{path.relative_to(tmp_path / "raw").as_posix()},{path.stem}' for path in (tmp_path / 'raw').rglob('*.jpg')]
  (tmp_path / 'groups.csv').write_text('\n'.join(['image,group', *lines]))
  build('folder', tmp_path / 'raw', tmp_path / 'records', groups_file=tmp_path / 'groups.csv')
  splits = collections.defaultdict(set)
  for split in ('train', 'val', 'test'):
    for found in open_split(tmp_path / 'records', 'folder', split).annotations():
      splits[pathlib.Path(found.id).stem].add(split)
  assert len(splits) == 60 and all(len(found) == 1 for found in splits.values())


def test_groups_of_a_file_may_be_in_one_of_the_splits_and_none_may_be_in_two(tmp_path):
  for split in ('train', 'val'):
    draw_classes(tmp_path / 'raw' / split, ('fear', 'joy'), 3)
  groups = tmp_path / 'groups.csv'
  groups.write_text('image,group\ntrain/joy/0000.jpg,a\ntrain/fear/0001.jpg,a\n')
  assert build('folder', tmp_path / 'raw', tmp_path / 'records', groups_file=groups)['read'] == 12
  groups.write_text('image,group\ntrain/joy/0000.jpg,a\nval/fear/0001.jpg,a\n')
  with pytest.raises(UserError, match='is in train and in val'):
    build('folder', tmp_path / 'raw', tmp_path / 'others', groups_file=groups)


@pytest.mark.slow
@pytest.mark.parametrize('form', ['CSV', 'Parquet of bytes'])
def test_a_build_that_is_killed_at_any_moment_gives_the_same_records(form, tmp_path, monkeypatch):
  monkeypatch.setattr(tables, 'COUNT', 3000)
  monkeypatch.setattr(tables.rows, '__defaults__', (3000,))
  monkeypatch.setattr(tables.draw_images, '__defaults__', (3000,))
  source = tables.FORMS[form](tmp_path / 'raw')
  expected = build('table', source, tmp_path / 'whole')['splits']
  for seconds in (0.2, 0.6, 1.2, 2.0):
    process = small_runs.start([
        '-m', 'data_pipelines.build', '--dataset=table', f'--source={source}', f'--data_dir={tmp_path}/records'])
    deadline = time.time() + 60
    while not list(tmp_path.glob('records/table/incomplete.*')) and time.time() < deadline:
      time.sleep(0.05)
    time.sleep(seconds)
    process.send_signal(signal.SIGKILL)
    process.wait()
  assert build('table', source, tmp_path / 'records')['splits'] == expected


MISREAD = {
    'whole numbers that pandas gave a decimal': (['image,label,split', '{0},1.0,train',
                                                  '{1},2.0,train'], {}, ['1', '2']),
    'percent': (['image,joy,awe,split', '{0},60%,40%,train',
                 '{1},20 %,80 %,train'], {'votes': 'joy,awe'}, ['awe', 'joy']), 'addresses in paths':
                     (['image,label,split', 'photos/000%20%C3%A4.jpg,joy,train', '{1},awe,train'], {}, ['awe', 'joy'])}


@pytest.mark.parametrize('kind', MISREAD)
def test_what_other_programs_make_of_cells_is_read_as_it_was_meant(kind, tmp_path):
  lines, columns, labels = MISREAD[kind]
  source = write_lines(tmp_path, *(line.format(image(0), image(1)) for line in lines), images=2)
  manifest = build_table(tmp_path, source, table=TableOptions(columns))
  assert manifest['labels'] == labels and manifest['read'] == 2


def test_a_folder_of_two_kinds_of_tables_says_which_is_read(tmp_path, capsys):
  source = tables.FORMS['Parquet of bytes'](tmp_path / 'raw')
  tables.write_text(source.with_name('notes.csv'), tables.rows())
  assert build_table(tmp_path, source.parent)['read'] == tables.COUNT
  assert 'not read, beside Parquet or Arrow files: notes.csv' in capsys.readouterr().out


@pytest.mark.parametrize('lost', ['train-00000', 'train-00001'])
def test_a_missing_part_is_known_by_the_names_of_the_others(lost, tmp_path):
  source = tables.FORMS['Parquet of datasets'](tmp_path / 'raw')
  (source / 'data' / f'{lost}-of-00002.parquet').unlink()
  with pytest.raises(UserError, match=rf'1 of the 2 files train-\*-of-00002.parquet, and not number {int(lost[-1])}'):
    build_table(tmp_path, source)
  left = source / 'data' / f'train-0000{1 - int(lost[-1])}-of-00002.parquet'
  assert build_table(tmp_path, f'{left},{source}/data/test-0000*')['read'] > 0


def test_texts_of_arrow_that_end_before_they_begin_are_named(tmp_path):
  path = tmp_path / 'table.arrow'
  texts = pa.table({'image': ['a.jpg', 'b.jpg', 'c.jpg'], 'label': ['awe', 'joy', 'fear']})
  with pa.ipc.new_file(str(path), texts.schema) as writer:
    writer.write_table(texts)
  offsets = np.array([0, 3, 6, 10], np.int32).tobytes()
  assert offsets in path.read_bytes()
  path.write_bytes(path.read_bytes().replace(offsets, np.array([0, 9, 6, 10], np.int32).tobytes()))
  with pytest.raises(UserError, match=r'table.arrow is damaged.*ArrowInvalid'):  # Bytes would abort.
    build_table(tmp_path, path)


def test_records_of_one_image_stay_in_one_split(tmp_path):
  lines = [f'{image(row % 60)},r{row},joy' for row in range(120)]
  build_table(tmp_path, write_lines(tmp_path, 'image,id,label', *lines, images=60))
  splits = collections.defaultdict(set)
  for split, found in annotations(tmp_path).items():
    for one in found:
      splits[int(one.id[1:]) % 60].add(split)
  assert len(splits) == 60 and all(len(found) == 1 for found in splits.values())


def test_four_columns_of_a_box_are_known_by_their_headings(tmp_path):
  source = write_lines(tmp_path, 'image,ymin,xmin,ymax,xmax,split', f'{image(0)},5,6,15,18,train')
  build_table(tmp_path, source, table=TableOptions({'box': 'ymin,xmin,ymax,xmax'}))
  split = open_split(tmp_path / 'records', 'table', 'train')
  assert np.allclose(
      split.features.deserialize_example_np(split.read(0), decoders=None)['boxes'], [[.25, .25, .75, .75]])
