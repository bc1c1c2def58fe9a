"""What a build of a table says: counts of what is built, the first reason, and remedies that work."""

import json
import re

import pytest

from data_pipelines.building.raw_source import table_source
from data_pipelines.errors import UserError
from data_pipelines.records.manifest import REJECTS
from data_pipelines.table.options import read_scale
from data_pipelines.table.table_dataset_builder import TableOptions
from tests.data_pipelines.table.test_table import annotations, build_table, by_id, image, write_lines
from tests.support import tables


def refused(tmp_path, source, **options):
  """The one line that a build ends with."""
  with pytest.raises(UserError) as error:
    build_table(tmp_path, source, **options)
  assert '\n' not in str(error.value)
  return str(error.value)


def test_printed_counts_are_of_what_is_built(tmp_path, capsys):
  rows = [f'{image(row)},{"joy" if row % 2 else "awe"}' for row in range(120)]
  missing = [f'photos/none {row}.jpg,joy' for row in range(40)]
  (tmp_path / 'exclude.csv').write_text(f'image\n{image(0)}\n{image(2)}\n')
  manifest = build_table(
      tmp_path, write_lines(tmp_path, 'image,label', *rows, *missing, images=120), max_rejects=0.5,
      exclude_file=tmp_path / 'exclude.csv')
  said = capsys.readouterr().out
  printed = {name: int(count) for name, count in re.findall(r'^  (\w+): (\d+) images \(', said, re.MULTILINE)}
  assert printed == {name: split['examples'] for name, split in manifest['splits'].items()}
  assert sum(printed.values()) == manifest['read'] == 118
  assert (manifest['found'], manifest['rejected']) == (158, 40)
  assert '40 of 160 images are rejected; first: ' in said and 'row 121 (line 122): photos/none 0.jpg is not in' in said


def test_too_few_that_are_left_after_rejects_say_the_first_reason(tmp_path):
  lines = [f'{image(0)},joy', f'{image(1)},awe', *(f'photos/none {row}.jpg,joy' for row in range(60))]
  said = refused(tmp_path, write_lines(tmp_path, 'image,label', *lines), max_rejects=1)
  assert "2 images, or their groups, are too few to give split" in said
  assert 'photos/none 0.jpg is not in' in said and 'raise --max_rejects' not in said


def test_a_split_of_which_no_row_can_be_used_is_named_with_the_first_reason(tmp_path):
  lines = [f'{image(0)},joy,train', 'photos/none.jpg,awe,val', f'{image(2)},awe,train']
  said = refused(tmp_path, write_lines(tmp_path, 'image,label,split', *lines), max_rejects=1)
  assert "no row of split 'val' can be used; 1 rejected, first: " in said and 'photos/none.jpg is not in' in said


def test_a_split_without_a_readable_image_says_its_own_first_reason(tmp_path):
  source = write_lines(tmp_path, 'image,label,split', f'{image(0)},joy,train', 'a.jpg,awe,train', f'{image(1)},awe,val')
  (tmp_path / 'raw' / image(1)).write_bytes(b'no image')
  said = refused(tmp_path, source, max_rejects=1)
  assert f"split 'val' has no readable image; first: {image(1)} (" in said and 'max_rejects' not in said


def test_too_many_rejects_are_told_before_an_image_is_read_and_named_in_their_order(tmp_path):
  rows = [*(f'{image(row)},joy,train' for row in range(9)), 'z.jpg,joy,train', 'a.jpg,joy,train']
  said = refused(tmp_path, write_lines(tmp_path, 'image,label,split', *rows), max_rejects=0.1)
  assert '2 of 11 images were rejected, more than --max_rejects=0.1 allows; first: ' in said
  assert 'row 10 (line 11) (z.jpg is not in' in said and said.endswith('or raise --max_rejects')
  rejects = (tmp_path / 'records' / 'table' / REJECTS).read_text().splitlines()
  assert len(rejects) == 3


def test_images_are_counted_and_not_rows_where_some_rows_of_annotators_are_bad(tmp_path, capsys):
  lines = [f'{image(number)},r{rater},joy,{rater + 1}' for number in range(10) for rater in range(3)]
  lines[4] = f'{image(1)},r1,joy,high'
  manifest = build_table(
      tmp_path, write_lines(tmp_path, 'image,rater,label,valence,split', *(f'{line},train' for line in lines)),
      max_rejects=0.1)
  assert (manifest['found'], manifest['read'], manifest['rejected']) == (10, 10, 0)
  assert by_id(tmp_path)[image(1)].vad[0] == 2
  said = capsys.readouterr().out
  assert 'left out: 1 rows that cannot be used, of images with other rows; first: ' in said and "'high' is no" in said
  said = refused(tmp_path / 'other', tmp_path / 'raw' / 'table.csv', max_rejects=0.01)
  assert '1 of 30 rows cannot be used, more than --max_rejects=0.01 allows; first: ' in said


def test_an_image_that_is_missing_is_rejected_once_whoever_rated_it(tmp_path):
  lines = [f'{name},r{rater},joy,train' for name in (image(0), 'none.jpg') for rater in range(3)]
  manifest = build_table(tmp_path, write_lines(tmp_path, 'image,rater,label,split', *lines), max_rejects=0.5)
  assert (manifest['found'], manifest['rejected']) == (2, 1)


def test_images_of_rows_that_are_rejected_or_left_out_are_in_a_row(tmp_path, capsys):
  lines = [
      f'{image(0)},joy,0.9,1,train', f'{image(1)},joy,0.1,2,train', f'{image(2)},joy,0.9,high,train',
      f'{image(3)},joy,,2,train']  # fmt: skip
  manifest = build_table(
      tmp_path, write_lines(tmp_path, 'image,label,confidence,valence,split', *lines, images=5), max_rejects=0.5,
      table=TableOptions(min_confidence=0.5))
  said = capsys.readouterr().out
  assert manifest['ignored']['images in no row'] == 1 and f'1 images are in no row: {image(4)}' in said
  assert 'left out: 1 rows of a confidence below 0.5; 1 rows without a confidence are kept' in said
  assert manifest['ignored']['rows of a confidence below 0.5'] == 1 and manifest['read'] == 2


def test_a_confidence_that_no_row_has_is_refused(tmp_path):
  source = write_lines(tmp_path, 'image,label,confidence,split', f'{image(0)},joy,0.2,train')
  assert 'no row of a confidence of 0.9 or more' in refused(tmp_path, source, table=TableOptions(min_confidence=0.9))


def test_boxes_of_subjects_that_are_no_persons_are_counted_and_printed(tmp_path, capsys):
  source = write_lines(
      tmp_path, 'image,label,about,box,split', f'{image(0)},joy,a lake,1 1 9 9,train',
      f'{image(1)},joy,a man,1 1 9 9,train')
  manifest = build_table(tmp_path, source, table=TableOptions({'subject': 'about'}))
  assert '  left out: 1 boxes of subjects that are no persons' in capsys.readouterr().out
  assert manifest['splits']['train']['with_person'] == 1


NOTHING = {
    'confidence': ({'min_confidence': 0.5}, '--min_confidence would change nothing'), 'scale': ({'scale':
        (1, 9)}, '--vad_scale would change nothing'), 'boxes': ({'sides': True}, '--box_format would change nothing'),
    'corners': ({'sides': False}, '--box_format would change nothing'),
    'subject': ({'subject': 'any'}, '--subject would change nothing'),
    'person': ({'subject': 'person'}, '--subject would change nothing'), 'labels':
        ({'columns': {'label': ''}, 'labels': ('a', 'b')}, '--labels would change nothing'), 'the class in a caption':
            ({'columns': {'label': ''},
              'caption': 'a {label}'}, '{label} in --caption would change'), 'another name in braces':
                  ({'caption': 'a {emotion} day'}, 'in braces may stand {label}, and nothing else'), 'an open brace':
                      ({'caption': 'a {label day'}, 'in braces may stand {label}'), 'a closed one':
                          ({'caption': 'a {label}} day'}, 'in braces may stand {label}')}  # fmt: skip


@pytest.mark.parametrize('kind', NOTHING)
def test_an_option_that_would_change_nothing_is_refused(kind, tmp_path):
  options, says = NOTHING[kind]
  source = write_lines(tmp_path, 'image,label,split', f'{image(0)},joy,train')
  assert says in refused(tmp_path, source, table=TableOptions(**options))


def test_a_folder_of_images_beside_images_in_the_table_is_refused(tmp_path):
  source = tables.FORMS['Parquet of bytes'](tmp_path / 'raw')
  assert '--images would change nothing' in refused(tmp_path, source, images_dir=tmp_path)


@pytest.mark.parametrize(('headings', 'sides'), [('xmin,ymin,xmax,ymax', True), ('x,y,width,height', False)])
def test_a_box_format_against_the_headings_is_refused(headings, sides, tmp_path):
  source = write_lines(tmp_path, f'image,{headings},split', f'{image(0)},1,1,9,9,train')
  assert '--box_format contradicts the headings' in refused(tmp_path, source, table=TableOptions(sides=sides))


@pytest.mark.parametrize('given', [['1'], ['9', '1'], ['a', 'b'], ['1', '9', '2'], ['1', '9', '3', '-3'], ['nan', '1']])
def test_a_scale_that_is_none_is_refused(given):
  with pytest.raises(UserError, match='is no scale: write its ends'):
    read_scale(given)


def test_a_name_that_two_files_have_is_ambiguous_and_both_are_named(tmp_path, capsys):
  source = write_lines(tmp_path, 'image,label,split', '000 ä.jpg,joy,train', '001 ä,joy,train', f'{image(3)},joy,train')
  (tmp_path / 'raw' / 'more').mkdir()
  (tmp_path / 'raw' / 'more' / '000 ä.jpg').write_bytes(tables.image_bytes(0))
  (tmp_path / 'raw' / 'photos' / '001 ä.png').write_bytes(tables.image_bytes(0))
  build_table(tmp_path, source, max_rejects=0.9)
  rejects = (tmp_path / 'records' / 'table' / '1.0.0' / REJECTS).read_text()
  assert '000 ä.jpg is ambiguous: it may be more/000 ä.jpg, photos/000 ä.jpg' in rejects
  assert '001 ä is ambiguous: it may be photos/001 ä.jpg, photos/001 ä.png' in rejects
  assert 'photos/000 ä.jpg' not in capsys.readouterr().out.partition('images are in no row: ')[2].partition('\n')[0]


def test_addresses_of_files_and_paths_upwards_work_where_they_lead_inside(tmp_path, monkeypatch):
  write_lines(tmp_path, 'x')
  monkeypatch.chdir(tmp_path)
  pics = tmp_path / 'raw' / 'photos'
  lines = [
      f'file://{pics}/000%20%C3%A4.jpg', '../photos/001 ä.jpg', f'file://localhost{pics}/002 ä.jpg',
      './../raw/photos/003 ä.jpg', '../../secret.jpg', 'file:///etc/passwd', 'C:\\me\\a.jpg',
      '../photos/none.jpg']  # fmt: skip
  (tmp_path / 'raw' / 'tables').mkdir()
  (tmp_path / 'raw' / 'tables' / 't.csv').write_text('\n'.join(['image,split', *(f'{line},train' for line in lines)]))
  manifest = build_table(tmp_path, 'raw/tables/t.csv', images_dir='raw/photos', max_rejects=0.9)
  assert set(by_id(tmp_path)) == {'000 ä.jpg', '001 ä.jpg', '002 ä.jpg'} and manifest['rejected'] == 5
  rejects = (tmp_path / 'records' / 'table' / '1.0.0' / REJECTS).read_text()
  assert rejects.count('lies outside of') == 4 and '../photos/none.jpg is not in raw/photos' in rejects


def test_a_cell_may_hold_a_long_text(tmp_path):
  source = write_lines(tmp_path, 'image,caption,split', f'{image(0)},{"word " * 60_000},train')
  build_table(tmp_path, source)
  assert len(by_id(tmp_path)[image(0)].attributes['caption']) > 2**18


WRONG_NUMBERS = {
    'decimal comma': ('"3,5"', 'write it as 1234.5'), 'thousands': ('"1,234.5"', 'nothing between thousands'),
    'spaces': ('1 234', 'nothing between thousands'), 'a word': ('high', "'high' is no number\n")}


@pytest.mark.parametrize('kind', WRONG_NUMBERS)
def test_a_number_in_another_notation_has_its_remedy(kind, tmp_path, capsys):
  cell, says = WRONG_NUMBERS[kind]
  source = write_lines(tmp_path, 'image,valence,split', f'{image(0)},{cell},train', f'{image(1)},3,train')
  build_table(tmp_path, source, max_rejects=0.5)
  assert says in capsys.readouterr().out


def test_labels_that_differ_in_case_alone_are_refused(tmp_path):
  source = write_lines(tmp_path, 'image,label,split', f'{image(0)},joy,train')
  assert "is named twice in --labels" in refused(tmp_path, source, table=TableOptions(labels=('Joy', 'joy ')))


@pytest.mark.parametrize(('cell', 'says'), [("{'joy': 1", 'is no object such as {"joy": 3}'),
                                            ('3', 'holds numbers, where'),
                                            ('[1, 0, 2]', 'give a column a class, or --labels')])
def test_votes_that_cannot_be_read_have_their_remedy(cell, says, tmp_path):
  source = write_lines(tmp_path, 'image,votes,split', f'{image(0)},"{cell}",train')
  assert says in refused(tmp_path, source)


def test_numbers_from_1_and_classes_without_names_are_told(tmp_path, capsys):
  source = write_lines(tmp_path, 'image,label,split', *(f'{image(row)},{row % 2 + 1},train' for row in range(8)))
  build_table(tmp_path, source)
  assert 'the classes are numbers without names: --labels=A,B,C names them' in capsys.readouterr().out
  said = refused(tmp_path / 'other', source, table=TableOptions(labels=('a', 'b')))
  assert 'class 2 is none of the 2: numbers count from 0; if these count from 1, write a name for 0' in said


COLUMNS_OF_PANDAS = {
    'columns': {'image': {'0': image(0), '1': image(1)}, 'label': {'0': 'joy', '1': 'awe'}},
    'split': {'columns': ['image', 'label'], 'index': [0, 1], 'data': [[image(0), 'joy'], [image(1), 'awe']]},
    'COCO': {'images': [{'id': 1, 'file_name': image(0)}], 'annotations': []}}  # fmt: skip


@pytest.mark.parametrize('orient', COLUMNS_OF_PANDAS)
def test_json_of_columns_has_its_remedy(orient, tmp_path):
  tables.draw_images(tmp_path / 'raw', 2)
  (tmp_path / 'raw' / 't.json').write_text(json.dumps(COLUMNS_OF_PANDAS[orient]))
  assert "orient='records'" in refused(tmp_path, tmp_path / 'raw' / 't.json')


def test_a_table_without_headings_has_its_remedy(tmp_path):
  source = write_lines(tmp_path, f'{image(0)},joy,joy', f'{image(1)},awe,awe')
  assert 'add a line of headings before it, such as image,label' in refused(tmp_path, source)


@pytest.mark.parametrize('content', ['{"lr": 0.1}', '[1, 2]', '{"image": "a.jpg", "other": 1}', '{"broken'])
def test_an_unrelated_json_in_a_folder_is_named_and_how_to_leave_it_out(content, tmp_path):
  source = write_lines(tmp_path, 'image,label,split', f'{image(0)},joy,train')
  (source.parent / 'config.json').write_text(content)
  said = refused(tmp_path, source.parent)
  assert 'config.json' in said and 'if it is no table of images, name the others in --source' in said


def test_without_val_nobody_is_told_to_move_images(tmp_path, capsys):
  source = write_lines(
      tmp_path, 'image,label,split', *(f'{image(row)},joy,{"test" if row < 5 else "train"}' for row in range(60)),
      images=60)
  build_table(tmp_path, source)
  said = capsys.readouterr().out
  assert 'move some images' not in said and 'have all split here, by --column=split=' in said
  build_table(tmp_path / 'other', source, table=TableOptions({'split': ''}))
  assert annotations(tmp_path / 'other').keys() == {'train', 'val', 'test'}


def test_no_split_is_taken_from_names_of_files_where_the_user_says_so(tmp_path):
  write_lines(tmp_path, 'x', images=60)
  (tmp_path / 'raw' / 'table.csv').unlink()
  for split, rows in (('train', range(40)), ('test', range(40, 60))):
    (tmp_path / 'raw' / f'{split}.csv').write_text('\n'.join(['image,label', *(f'{image(row)},joy' for row in rows)]))
  assert build_table(tmp_path, tmp_path / 'raw')['splits'].keys() == {'train', 'test'}
  split_here = build_table(tmp_path / 'other', tmp_path / 'raw', table=TableOptions({'split': ''}))
  assert split_here['splits'].keys() == {'train', 'val', 'test'} and split_here['split_seed'] == 0


def test_rows_that_disagree_are_named_by_row_and_line(tmp_path, capsys):
  source = write_lines(
      tmp_path, 'image,label,split', f'{image(0)},joy,train', '', f'{image(0)},awe,train', f'{image(1)},awe,train')
  build_table(tmp_path, source, max_rejects=0.5)
  said = capsys.readouterr().out
  assert 'table.csv row 1 (line 2): ' in said and 'table.csv row 2 (line 4) says other things of it' in said


COLUMNS = {
    'a pattern that matches nothing': ({'votes': 'rater_*'}, "has no column 'rater_*' for --column=votes=rater_*"),
    'a heading that is not there': ({'label': 'Mood'}, "has no column 'Mood' for --column=label=Mood: it has image"),
    'one of several': ({'votes': 'a,none'}, "has no column 'none'"), 'two for one':
        ({'label': 'a,b'}, 'give one'), 'votes twice': ({'votes': 'a,b', 'choices': 'a,b'}, 'say the votes twice'),
    'an unknown meaning': ({'mood': 'a'}, '--column=mood=... has no such meaning'), 'no meaning':
        ({'': 'a'}, 'has no such meaning'), 'three for a box': ({'box': 'a,b,label'}, 'give one, or four')}  # fmt: skip


@pytest.mark.parametrize('kind', COLUMNS)
def test_columns_that_cannot_be_had_are_one_line(kind, tmp_path):
  columns, says = COLUMNS[kind]
  source = write_lines(tmp_path, 'image,label,a,b,split', f'{image(0)},joy,1,2,train')
  assert says in refused(tmp_path, source, table=TableOptions(columns))


def test_groups_with_semicolons_join_and_may_not_cross_declared_splits(tmp_path):
  lines = [f'{image(row)},joy,{"val" if row % 2 else "train"}' for row in range(4)]
  source = write_lines(tmp_path, 'image,label,split', *lines)
  groups = tmp_path / 'groups.csv'
  groups.write_text(f'image;group\n{image(0)};a\n{image(2)};a\n')
  assert build_table(tmp_path, source, groups_file=groups)['read'] == 4
  groups.write_text(f'image;group\n{image(0)};a\n{image(1)};a\n')
  assert "group 'a' is in train and in val" in refused(tmp_path / 'other', source, groups_file=groups)
  groups.write_text(f'file,group\n{image(0)},a\n')
  assert "lacks column 'image'" in refused(tmp_path / 'other', source, groups_file=groups)
  assert 'none.csv is not there' in refused(tmp_path / 'other', source, groups_file=tmp_path / 'none.csv')


def test_a_folder_is_listed_once_for_its_tables_and_its_images(tmp_path):
  source = tables.FORMS['CSV'](tmp_path / 'raw')
  found = table_source(source.parent)
  assert found.tables == (source,) and len(found.listing.files(source.parent, print)) == tables.COUNT + 1
