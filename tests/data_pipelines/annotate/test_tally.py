"""Tables say what most annotators said, ties say nothing, and agreement is that of hand-computed examples."""

import csv
import io
import itertools

import pytest

from data_pipelines.annotate.annotation_card import card_text
from data_pipelines.annotate.image_list import CheckedFile
from data_pipelines.annotate.questions import COLUMNS, Questions, read_questions
from data_pipelines.annotate.tally import Agreement, agreement, csv_of, image_rows, vote_rows
from data_pipelines.annotate.votes import Vote
from data_pipelines.errors import UserError

ASKED = Questions(('awe', 'fear', 'anger'), ('cartoon', 'natural'), ('valence', 'arousal'))
VOTES = [
    Vote('a.png', 'ann', 'awe', 'cartoon', 9, 1),
    Vote('a.png', 'bob', 'awe', 'natural', 6, 2),
    Vote('a.png', 'cem', 'fear', 'natural', 6, 9),
    Vote('b.png', 'ann', 'awe', 'cartoon', 1, 1),
    Vote('b.png', 'bob', 'fear', 'natural', 2, 1)]  # fmt: skip


def krippendorff_by_hand(units, distance):
  """Alpha as its author defines it: 1 - observed / expected disagreement, pair by pair (2011, section A)."""
  units = [unit for unit in units if len(unit) > 1]
  values = [value for unit in units for value in unit]
  observed = sum(sum(distance(a, b)
                     for a, b in itertools.permutations(unit, 2)) / (len(unit) - 1)
                 for unit in units) / len(values)
  pairs = itertools.permutations(values, 2)
  expected = sum(distance(a, b) for a, b in pairs) / (len(values) * (len(values) - 1))
  return 1 - observed / expected


def test_the_label_is_what_most_said_and_a_tie_has_none():
  assert image_rows(['a.png', 'b.png', 'c.png'], VOTES, ASKED) == [
      ['image', 'label', 'awe', 'fear', 'anger', 'annotators', 'agreement', 'valence', 'arousal', 'domain'],
      ['a.png', 'awe', 2, 1, 0, 3, 0.6667, 7, 4, 'natural'], ['b.png', '', 1, 1, 0, 2, 0.5, 1.5, 1, ''],
      ['c.png', '', 0, 0, 0, 0, '', '', '', '']]  # fmt: skip


def test_only_what_was_asked_has_columns():
  votes = [Vote('a.png', 'ann', valence=3, arousal=5, dominance=7)]
  assert image_rows(['a.png'], votes,
                    Questions(ratings=('valence', 'arousal',
                                       'dominance'))) == [['image', 'annotators', 'valence', 'arousal', 'dominance'],
                                                          ['a.png', 1, 3, 5, 7]]


def test_votes_have_a_row_each_and_zero_is_no_empty_cell():
  assert vote_rows([Vote('a.png', 'ann', valence=0,
                         arousal=-1)]) == [['image', 'annotator', 'label', 'style', 'valence', 'arousal', 'dominance'],
                                           ['a.png', 'ann', '', '', 0, -1, '']]


def test_alpha_of_two_annotators_is_that_of_a_calculation_on_paper():
  # Units aa, aa, bb, ab: 2 of 8 ordered pairs differ; of 5 a and 3 b, 30 of 56 do. Alpha = 1 - (2/8) / (30/56).
  votes = [
      Vote(f'{number}.png', name, label)
      for number, pair in enumerate(('aa', 'aa', 'bb', 'ab'))
      for name, label in zip(('ann', 'bob'), pair)]
  assert agreement(votes, 'label') == Agreement(pytest.approx(1 - (2 / 8) / (30 / 56)), 4)


@pytest.mark.parametrize(('question', 'distance'), [('label', lambda a, b: a != b), ('style', lambda a, b: a != b),
                                                    ('valence', lambda a, b: (a - b)**2)])
def test_alpha_with_missing_votes_is_that_of_its_definition(question, distance):
  many = [
      Vote(
          f'{image}.png', f'p{person}', 'abc'[(image * 7 + person) % 3 if person % 2 else image % 3],
          'xy'[(image + person * person) % 5 == 0], (image * 3 + person * person) % 9 - 4)
      for image in range(12)
      for person in range(4)
      if (image + person) % 4 or image == 0]  # fmt: skip
  of_image = {}
  for vote in [*many, Vote('alone.png', 'p0', 'a', 'x', 9)]:
    of_image.setdefault(vote.image, []).append(getattr(vote, question))
  expected = krippendorff_by_hand(of_image.values(), distance)
  found = agreement([*many, Vote('alone.png', 'p0', 'a', 'x', 9)], question)
  assert found == Agreement(pytest.approx(expected), 12) and -1 < expected < 1


def test_alpha_is_undefined_where_nothing_can_be_compared():
  assert agreement([], 'label') == Agreement(None, 0, 'no image has two votes')
  assert agreement(VOTES[:1], 'label').alpha is None
  same = [Vote('a.png', name, 'awe') for name in 'xyz']
  assert agreement(same, 'label') == Agreement(None, 1, 'all votes on images with two or more are the same')


def test_card_counts_everything_and_names_no_annotator():
  checked = {name: CheckedFile(1, 1, '') for name in ('a.png', 'b.png', 'c.png')}
  checked['<b>.png'] = CheckedFile(1, 1, 'empty file')
  rows = image_rows(['a.png', 'b.png', 'c.png'], VOTES, ASKED)
  card = card_text('[x](y)', ASKED, checked, {}, VOTES, rows)
  for line in ('| images found | 4 |', '| images that cannot be read | 1 |', '| images with 0 votes | 1 |',
               '| images with 2 votes | 1 |', '| votes | 5 |', '| annotators | 3 |',
               '| votes of each of them | 2, 2, 1 |', '| awe | 3 | 1 |', '| none: several chosen as often | | 1 |',
               '- `<b>.png`: empty file', '| valence | 4.800 | 2.926 |', r'# Labels of \[x\](y)'):  # fmt: skip
    assert line in card.splitlines(), line
  assert not any(name in card for name in ('ann ', 'bob', 'cem'))


def test_tables_hold_no_formula():
  text = csv_of([['=1+1.png', '@x', 'awe', '', -3, '', '']])
  assert next(csv.reader(io.StringIO(text))) == ["'=1+1.png", "'@x", 'awe', '', '-3', '', '']


def test_flags_become_questions():
  assert read_questions(['Mikels'], [], False, False, ['1', '9']).labels[0] == 'amusement'
  assert len(read_questions(['ekman'], [], False, False, ['1', '9']).labels) == 6
  asked = read_questions(['a', ' b'], ['science fiction', 'x'], True, True, ['-3', '3'])
  assert asked == Questions(('a', 'b'), ('science fiction', 'x'), ('valence', 'arousal', 'dominance'), -3, 3)
  assert Questions(**{k: tuple(v) if isinstance(v, list) else v for k, v in asked.as_json().items()}) == asked


@pytest.mark.parametrize(('flags', 'thing'), [(([], [], False, False, ['1', '9']), 'nothing is asked'),
                                              (([], ['x', 'y'], False, False, ['1', '9']), 'nothing'),
                                              ((['a'], [], False, False, ['1', '9']), '--labels names 1'),
                                              ((['a', 'A '], [], False, False, ['1', '9']), 'twice'),
                                              ((['a', 'Valence'], [], False, False, ['1', '9']), 'column'),
                                              ((['a', '!'], [], False, False, ['1', '9']), 'no letter'),
                                              ((['a', 'b\x1b'], [], False, False, ['1', '9']), 'letters on one line'),
                                              (([], [], True, False, ['9', '1']), '--scale=9,1'),
                                              (([], [], True, False, ['1', '2.5']), '--scale=1,2.5'),
                                              ((['a', 'b'], [], False, True, ['1', '9']), 'add --vad')])  # fmt: skip
def test_questions_that_cannot_be_asked_are_refused(flags, thing):
  with pytest.raises(UserError, match=thing):
    read_questions(*flags)


@pytest.mark.parametrize(
    'answer', [{}, {'label': 'awe'}, {'label': 'joy', 'style': 'cartoon', 'valence': 1, 'arousal': 1}, {
        'label': 'awe', 'style': 'cartoon', 'valence': 10, 'arousal': 1}, {
            'label': 'awe', 'style': 'cartoon', 'valence': True, 'arousal': 1}, {
                'label': 'awe', 'style': 'cartoon', 'valence': 1.5, 'arousal': 1}, {
                    'label': ['awe'], 'style': 'cartoon', 'valence': 1, 'arousal': 1}, 'awe', None])  # fmt: skip
def test_an_answer_that_was_not_offered_is_refused(answer):
  with pytest.raises(UserError, match='answer'):
    ASKED.check(answer)


def test_every_column_of_a_table_is_reserved():
  rows = image_rows([], [], Questions(('x', 'y'), ('s', 't'), ('valence', 'arousal', 'dominance')))
  assert set(rows[0]) - {'x', 'y'} == set(COLUMNS)
