"""Each warning is given for a data set that has the fault, and not for one without it."""

import json

import pytest

from data_pipelines.report.faults import find_faults

SPLIT = {'examples': 60, 'without_class': 0, 'per_class': {'awe': 20, 'fear': 20, 'joy': 20}}
GOOD = {
    'dataset': 'mine', 'labels': ['awe', 'fear', 'joy'], 'splits': {'train': SPLIT, 'val': SPLIT, 'test': SPLIT},
    'duplicates': {
        'equal': [{'split': 'train', 'its_split': 'train', 'images': 3}],
        'near': [{'split': 'val', 'its_dataset': 'mine', 'its_split': 'val',
                  'images': 2}]}, 'captions': {'shared': 30, 'own': 180}}  # fmt: skip


def change(facts, place, value):
  *parents, key = place
  for parent in parents:
    facts = facts[parent]
  facts[key] = value


FAULTS = {
    'one class': (('labels',), ['awe'], 'one_class', 'awe is the only class'), 'a class without images': (
        ('labels',), ['awe', 'fear', 'joy',
                      'rage'], 'absent_class', 'no image is of the class rage'), 'a class absent from val': (
                          ('splits', 'val', 'per_class', 'fear'), 0, 'absent_class', 'val has no image of fear'),
    'a class absent from test': (('splits', 'test', 'per_class', 'joy'), 0, 'absent_class', 'test has no image of joy'),
    'equal images across splits': (
        ('duplicates', 'equal', 0, 'its_split'), 'test', 'leakage', '3 images of train are equal to images in test'),
    'near-duplicates across splits': (
        ('duplicates', 'near', 0, 'its_split'), 'train', 'leakage',
        '2 images of val are near-duplicates of images in train'), 'near-duplicates in a benchmark': (
            ('duplicates', 'near', 0, 'its_dataset'), 'emo8', 'overlap', 'near-duplicates of images in emo8 val'),
    'imbalance': (('splits', 'train', 'per_class', 'joy'), 201, 'imbalance', '201 images of joy and 20 of awe'),
    'images without a class': (
        ('splits', 'val', 'without_class'), 4, 'without_class', '4 of 60 images of val have no class'), 'a tiny split':
            (('splits', 'test', 'examples'), 19, 'small_split', 'test has only 19 images'), 'no val': (
                ('splits',), {'train': SPLIT, 'test': SPLIT}, 'missing_split', 'there is no val'), 'equal captions': (
                    ('captions', 'shared'), 163, 'equal_captions',
                    '163 of the 180 images with a text of their own share it')}  # fmt: skip


def facts_with(place, value):
  facts = json.loads(json.dumps(GOOD))  # A copy in which the splits are not one object.
  if value == 4 or place[0] == 'labels':
    for split in facts['splits'].values():
      split['per_class'].setdefault('rage', 0)
  change(facts, place, value)
  return facts


@pytest.mark.parametrize('fault', FAULTS)
def test_a_fault_is_told_in_words_and_no_other(fault):
  place, value, kind, text = FAULTS[fault]
  found = find_faults(facts_with(place, value))
  assert [one.kind for one in found] == [kind] and text in found[0].text


def test_a_good_data_set_has_no_warning():
  assert find_faults(GOOD) == []


@pytest.mark.parametrize(('place', 'value'), [(('splits', 'train', 'per_class', 'joy'), 200),
                                              (('splits', 'test', 'examples'), 20), (('captions', 'shared'), 162),
                                              (('duplicates', 'near'), None), (('labels',), []),
                                              (('captions',), {'shared': 0, 'own': 0})])
def test_just_within_the_rules_is_no_fault(place, value):
  assert find_faults(facts_with(place, value)) == []
