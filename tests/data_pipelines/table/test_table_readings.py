"""Cells that can be read in two ways are read in one way for a whole table, which is printed."""

import json

import numpy as np
import pytest

from data_pipelines.errors import UserError
from data_pipelines.records.reader import open_split
from data_pipelines.table.table_dataset_builder import TableOptions
from tests.data_pipelines.table.test_table import build_table, by_id, image, write_lines

LABELS = ('awe', 'fear', 'joy')
CHOICES = [(0, 2, 2), (1, 1, 0), (2, 2, 2)]
"""Of three images, the numbers of the classes that three people chose."""
EXPECTED = [[1 / 3, 0, 2 / 3], [1 / 3, 2 / 3, 0], [0, 0, 1]]


def raters(tmp_path, headings, rows=CHOICES):
  lines = [f'{image(row)},{",".join(map(str, cells))},train' for row, cells in enumerate(rows)]
  return write_lines(tmp_path, f'image,{headings},split', *lines)


def test_numbers_of_raters_index_the_labels_from_0_and_are_no_counts(tmp_path, capsys):
  build_table(tmp_path, raters(tmp_path, 'a,b,c'), table=TableOptions({'votes': 'a,b,c'}, LABELS))
  found = by_id(tmp_path)
  assert np.allclose([found[image(row)].distribution for row in range(3)], EXPECTED)
  said = capsys.readouterr().out
  assert 'votes are read as classes chosen by 3 people, a column each' in said
  assert 'numbers of classes count from 0: 0 is awe, 2 is joy' in said


@pytest.mark.parametrize('last', [('2.0', '', '2.0'), ('joy', '2', '2')])
def test_one_reading_is_for_all_rows(last, tmp_path):
  """Where each row decided by itself, one with a name was read as choices, and its neighbours as counts."""
  rows = [('fear', 'joy', 'joy'), ('fear', 'fear', 'awe'), last]
  build_table(tmp_path, raters(tmp_path, 'a,b,c', rows), table=TableOptions({'votes': 'a,b,c'}, LABELS))
  assert by_id(tmp_path)[image(2)].distribution == [0, 0, 1]


@pytest.mark.parametrize(('headings', 'columns', 'labels', 'said'), [
    ('rater_1,rater_2,rater_3', {'votes': 'rater_*'}, ['0', '1', '2'], 'classes chosen by 3 people'),
    ('p,q,r', {'choices': 'p,q,r'}, ['0', '1', '2'], 'classes chosen by 3 people'),
    (
        'p,q,r', {'votes': 'p,q,r'}, ['p', 'q', 'r'
                                     ], 'is a person and its numbers are classes, write --column=choices=p,q,r'),
    ('awe,fear,joy', {'votes': 'awe,fear,joy'}, ['awe', 'fear', 'joy'], 'counts of votes, a class a column (3)')])
def test_whole_numbers_without_labels_are_read_by_their_headings_and_that_is_said(
    headings, columns, labels, said, tmp_path, capsys):
  manifest = build_table(tmp_path, raters(tmp_path, headings), table=TableOptions(columns))
  assert manifest['labels'] == labels and said in capsys.readouterr().out


def test_shares_are_counts_whatever_the_headings(tmp_path, capsys):
  source = raters(tmp_path, 'rater_1,rater_2', [('60%', '40%'), ('0.5', '0.5'), ('1', '0')])
  build_table(tmp_path, source, table=TableOptions({'votes': 'rater_*'}))
  assert 'counts of votes' in capsys.readouterr().out
  assert np.allclose(by_id(tmp_path)[image(0)].distribution, [.6, .4])


def test_a_row_without_votes_is_an_image_without_a_class(tmp_path):
  manifest = build_table(
      tmp_path, raters(tmp_path, 'joy,awe', [(1, 2), ('', ''), (3, '')]), table=TableOptions({'votes': 'joy,awe'}))
  assert manifest['rejected'] == 0 and manifest['images without a class'] == 1


@pytest.mark.parametrize('form', ['label', 'labels', 'votes', 'headings', 'annotators'])
def test_classes_that_differ_in_case_or_spaces_are_one(form, tmp_path, capsys):
  words = ['joy', 'Joy', ' Joy', 'Two  words', 'two words', 'Two words ']
  columns = {}
  if form == 'votes':
    lines = ['image,votes,split', *(f'{image(row)},"{{""{word}"": 3}}",train' for row, word in enumerate(words))]
  elif form == 'headings':
    columns = {'votes': 'joy,Joy'}
    lines = ['image,joy,Joy,split', f'{image(0)},1,0,train', f'{image(1)},1,1,train', f'{image(2)},0,1,train']
  elif form == 'annotators':
    lines = ['image,rater,label,split', *(f'{image(row // 3)},r{row},{word},train' for row, word in enumerate(words))]
  else:
    lines = [f'image,{form},split', *(f'{image(row)},"{word}",train' for row, word in enumerate(words))]
  manifest = build_table(tmp_path, write_lines(tmp_path, *lines), table=TableOptions(columns))
  two = [] if form == 'headings' else ['Two words']
  assert [label.casefold().split() for label in manifest['labels']] == [['joy'],
                                                                        *(word.casefold().split() for word in two)]
  said = capsys.readouterr().out
  assert 'as it is written most often' in said and '  warning: ' not in said.replace(
      'warning: Joy is the only', '').replace('warning: joy is the only', '')
  if form == 'annotators':
    assert by_id(tmp_path)[image(0)].distribution == [1, 0]
  if form == 'label':
    assert 'one class: Joy, joy -> Joy' in said


def test_spellings_of_declared_classes_are_those_that_were_declared(tmp_path):
  source = write_lines(tmp_path, 'image,label,split', f'{image(0)},JOY,train', f'{image(1)}, very  Sad,train')
  assert build_table(tmp_path, source, table=TableOptions(labels=('Joy', 'Very sad')))['rejected'] == 0


LISTS = {
    'bars': 'glad|sad', 'semicolons': 'glad; sad', 'slashes': 'glad / sad', 'Python': "['glad', 'sad']",
    'numpy': "['glad' 'sad']", 'JSON': '["glad", "sad"]'}


@pytest.mark.parametrize('form', LISTS)
def test_several_classes_in_a_cell_in_every_form(form, tmp_path):
  cell = LISTS[form].replace('"', '""')
  source = write_lines(
      tmp_path, 'image,emotions,split', f'{image(0)},"{cell}",train', f'{image(1)},Doubt/Confusion,train')
  manifest = build_table(tmp_path, source)
  assert manifest['labels'] == ['Doubt/Confusion', 'glad', 'sad'] and by_id(tmp_path)[image(0)].labels == [1, 2]


def test_several_classes_in_a_column_of_one_are_told(tmp_path, capsys):
  rows = ['glad', 'sad', 'glad|sad', "['glad']", "['glad', 'sad']"]
  source = write_lines(
      tmp_path, 'image,label,split', *(f'{image(row)},"{cell}",train' for row, cell in enumerate(rows)))
  manifest = build_table(tmp_path, source, max_rejects=0.5)
  assert manifest['labels'] == ['glad', 'glad|sad', 'sad'] and manifest['rejected'] == 1
  said = capsys.readouterr().out
  assert "'glad|sad' is one class: if it means several, write --column=labels=NAME" in said
  assert "is several classes: name their column with --column=labels=NAME" in said


def test_each_dimension_has_a_scale_of_its_own(tmp_path, capsys):
  rows = [(-3, 1), (0, 5), (3, 9)]
  manifest = build_table(tmp_path, raters(tmp_path, 'valence,arousal', rows))
  assert manifest['vad_scale'] == {'valence': [-3, 3], 'arousal': [1, 9]}
  said = capsys.readouterr().out
  assert 'scale of valence: -3 to 3 (found;' in said and 'scale of arousal: 1 to 9 (found;' in said


def test_scales_are_declared_together_or_one_by_one(tmp_path):
  source = raters(tmp_path, 'valence,arousal', [(-3, 1), (0, 5), (3, 9)])
  manifest = build_table(tmp_path, source, table=TableOptions(scale=(-4, 4, 1, 9)))
  assert manifest['vad_scale'] == {'valence': [-4, 4], 'arousal': [1, 9]} and manifest['rejected'] == 0
  both = build_table(tmp_path / 'other', source, table=TableOptions(scale=(1, 9)), max_rejects=0.9)
  assert both['vad_scale'] == {'valence': [1, 9], 'arousal': [1, 9]} and both['rejected'] == 2
  with pytest.raises(UserError, match='--vad_scale does not say the scale of dominance'):
    build_table(
        tmp_path / 'third', source, table=TableOptions({'dominance': 'arousal', 'arousal': ''}, scale=(-4, 4, 1, 9)))


def test_whole_numbers_that_pandas_gave_a_decimal_name_images_ids_and_groups(tmp_path):
  source = write_lines(
      tmp_path, 'image,id,group,caption,split', '0.0,25.0,3.0,5.0,train', '1.0,26.0,3.0,x,train', images=2)
  for row in range(2):
    (tmp_path / 'raw' / image(row)).rename(tmp_path / 'raw' / 'photos' / f'{row}.jpg')
  groups = tmp_path / 'groups.csv'
  groups.write_text('image,group\n25.0,7.0\n')
  manifest = build_table(tmp_path, source, groups_file=groups)
  found = by_id(tmp_path)
  assert manifest['rejected'] == 0 and found.keys() == {'25', '26'} and found['25'].attributes['caption'] == '5'


def test_a_later_rating_of_an_annotator_replaces_the_first_and_is_counted(tmp_path, capsys):
  lines = [
      f'{image(0)},a,joy,1', f'{image(0)},b,awe,1', f'{image(0)},a,awe,3', f'{image(0)},,joy,1', f'{image(0)},,joy,1']
  source = write_lines(tmp_path, 'image,rater,label,valence,split', *(f'{line},train' for line in lines))
  manifest = build_table(tmp_path, source)
  kind = 'earlier rows of an annotator who rated the image again'
  assert manifest['ignored'][kind] == 1 and f'left out: 1 {kind}' in capsys.readouterr().out
  found = by_id(tmp_path)[image(0)]
  assert found.distribution == [.5, .5] and found.vad[0] == 1.5  # Who has no name is not the same person.


def test_annotators_with_captions_of_their_own_are_counted_and_groups_that_differ_named(tmp_path, capsys):
  lines = [
      f'{image(0)},a,joy,,g', f'{image(0)},b,joy,two dogs,g', f'{image(0)},c,joy,a cat,g', f'{image(1)},a,joy,,g',
      f'{image(1)},b,joy,,h']  # fmt: skip
  source = write_lines(tmp_path, 'image,rater,label,caption,group,split', *(f'{line},train' for line in lines))
  manifest = build_table(tmp_path, source, max_rejects=0.5)
  assert by_id(tmp_path)[image(0)].attributes['caption'] == 'two dogs'
  assert manifest['ignored']['captions of an image that has another one, of an earlier annotator'] == 1
  assert 'says another group of it' in capsys.readouterr().out and manifest['rejected'] == 1


def test_votes_in_rows_of_annotators_are_added(tmp_path):
  lines = [f'{image(0)},a,joy|awe', f'{image(0)},b,joy', f'{image(1)},a,awe']
  build_table(tmp_path, write_lines(tmp_path, 'image,rater,votes,split', *(f'{line},train' for line in lines)))
  assert np.allclose(by_id(tmp_path)[image(0)].distribution, [1 / 3, 2 / 3])


def test_a_number_that_means_nothing_is_no_reason_for_a_wide_scale(tmp_path, capsys):
  manifest = build_table(tmp_path, raters(tmp_path, 'valence,arousal', [(-9, 80), (2, 99), (6, 1)]))
  assert manifest['vad_scale'] == {'valence': [-9, 6], 'arousal': [0, 100]}
  assert capsys.readouterr().out.count('warning: that is no usual scale') == 1


def test_a_column_of_nothing_but_missing_classes_is_counted(tmp_path):
  manifest = build_table(
      tmp_path, write_lines(tmp_path, 'image,label,split', f'{image(0)},NA,train', f'{image(1)},None,train'))
  assert manifest['images without a class'] == 2


BOX_TEXTS = {
    'a tuple': '(6, 5, 18, 15)', 'numpy': '[ 6.  5. 18. 15.]', 'tuples in a list': '[(6, 5, 18, 15)]',
    'an object of Python': "{'x1': 6, 'y1': 5, 'x2': 18, 'y2': 15}", 'semicolons': '6;5;18;15'}  # fmt: skip


@pytest.mark.parametrize('form', BOX_TEXTS)
def test_boxes_as_python_writes_them(form, tmp_path):
  assert boxes(tmp_path, [BOX_TEXTS[form]])['splits']['train']['with_person'] == 1
  split = open_split(tmp_path / 'records', 'table', 'train')
  found = split.features.deserialize_example_np(split.read(0), decoders=None)['boxes']
  assert np.allclose(found, [[.25, .25, .75, .75]])


def test_several_boxes_of_an_image_in_rows_of_their_own_are_joined(tmp_path, capsys):
  source = write_lines(
      tmp_path, 'image,box,split', f'{image(0)},1 1 5 5,train', f'{image(0)},2 2 9 9,train',
      f'{image(0)},1 1 5 5,train')
  manifest = build_table(tmp_path, source)
  assert manifest['ignored']['rows that say the same again'] == 1
  split = open_split(tmp_path / 'records', 'table', 'train')
  assert len(split.features.deserialize_example_np(split.read(0), decoders=None)['boxes']) == 2


@pytest.mark.parametrize(('cell', 'warns'), [('0, 2, 2', True), ('awe, joy, joy', False)])
def test_a_list_of_numbers_is_said_to_be_of_classes_and_no_counts(cell, warns, tmp_path, capsys):
  source = write_lines(tmp_path, 'image,votes,split', f'{image(0)},"{cell}",train')
  build_table(tmp_path, source, table=TableOptions(labels=LABELS))
  assert by_id(tmp_path)[image(0)].distribution == pytest.approx([1 / 3, 2 / 3])  # Of awe and joy.
  assert ('votes are read as numbers of the classes that were voted for' in capsys.readouterr().out) == warns


def boxes(tmp_path, cells, heading='box', **options):
  source = write_lines(
      tmp_path, f'image,{heading},split', *(f'{image(row)},"{cell}",train' for row, cell in enumerate(cells)))
  return build_table(tmp_path, source, **options)


def test_a_box_in_another_unit_than_the_rest_is_rejected_by_its_row(tmp_path, capsys):
  manifest = boxes(tmp_path, ['2 2 9 9', '0.1 0.1 0.5 0.5', '3 3 8 8'], max_rejects=0.5)
  said = capsys.readouterr().out
  assert manifest['rejected'] == 1 and 'boxes: pixels of the image' in said
  assert 'row 2 (line 3): a box in fractions of the image' in said
  manifest = boxes(tmp_path / 'other', ['0.2 0.2 0.9 0.9', '2 3 9 9', '0.3 0.3 0.8 0.8'], max_rejects=0.5)
  assert manifest['rejected'] == 1 and 'a box in pixels' in capsys.readouterr().out


def test_x_y_width_height_without_the_option_has_a_remedy_that_works(tmp_path, capsys):
  cells = ['12 2 9 9', '2 2 9 9', '15 10 4 4']
  with pytest.raises(UserError, match='if these are x, y, width and height, give --box_format=sides'):
    boxes(tmp_path, cells)
  manifest = boxes(tmp_path / 'other', cells, table=TableOptions(sides=True))
  assert manifest['splits']['train']['with_person'] == 3


def test_boxes_outside_their_image_or_reaching_beyond_it_are_counted_and_printed(tmp_path, capsys):
  from data_pipelines.build import print_summary
  manifest = boxes(tmp_path, ['100 100 200 200', '2 2 9 9', '2 2 900 900'])
  print_summary(manifest)
  said = capsys.readouterr().out
  assert '1 person boxes lie outside of their image' in said and '1 person boxes reach far beyond their image' in said
  assert manifest['splits']['train']['with_person'] == 2


def test_objects_of_votes_may_have_spaces_and_nulls(tmp_path):
  cells = json.dumps({' joy ': 2, 'awe': None, 'fear': 1}).replace('"', '""')
  build_table(tmp_path, write_lines(tmp_path, 'image,votes,split', f'{image(0)},"{cells}",train'))
  assert open_split(tmp_path / 'records', 'table', 'train').labels == ('fear', 'joy')
