"""Agreement is Krippendorff's, votes are counted once a person, and what has no value says why."""

import sys

import numpy as np
import pytest

from data_pipelines.errors import UserError
from data_pipelines.report.rater_agreement import measure_agreement, read_votes

RATERS = ((None, None, None, None, None, 3, 4, 1, 2, 1, 1, 3, 3, None,
           3), (1, None, 2, 1, 3, 3, 4, 3, None, None, None, None, None, None, None),
          (None, None, 2, 1, 3, 4, 4, None, 2, 1, 1, 3, 3, None, 4))  # fmt: skip
"""Krippendorff's own example, whose nominal alpha is 0.691."""
NAMES = {1: 'awe', 2: 'fear', 3: 'joy', 4: 'rage'}


def write(path, rows):
  path.write_text('\n'.join(['image,annotator,label', *map(','.join, rows)]) + '\n')
  return path


def votes():
  return [(f'{unit}.jpg', f'r{rater}', NAMES[value])
          for rater, values in enumerate(RATERS)
          for unit, value in enumerate(values)
          if value]  # fmt: skip


IDS = [f'{unit}.jpg' for unit in range(15)]


def test_alpha_and_confusion_are_those_of_krippendorffs_example(tmp_path):
  found = measure_agreement(read_votes(write(tmp_path / 'votes.csv', votes())), IDS, ['rage', 'joy', 'fear'])
  assert found['alpha'] == 0.6914 and found['images'] == 12 and found['labels'] == ['rage', 'joy', 'fear', 'awe']
  confusion = np.array(found['confusion'])
  assert (confusion == confusion.T).all()
  # Units 5 and 14 have 3, 3, 4 and 3, 4; unit 7 has 1 and 3.
  assert confusion[0].tolist() == [6, 3, 0, 0] and confusion[1, 3] == 1
  # By hand: r0 agrees in 8 of 11 pairs, r1 in 6 of 8, r2 in 10 of 13.
  assert [(one['annotator'], one['agreement']) for one in found['annotators']] == [('r0', 0.7273), ('r1', 0.75),
                                                                                   ('r2', 0.7692)]
  assert {one['annotator']: one['votes'] for one in found['annotators']
         } == {f'r{rater}': sum(map(bool, values)) for rater, values in enumerate(RATERS)}


def test_the_later_vote_of_a_person_counts_and_other_images_are_told(tmp_path, capsys):
  rows = [('0.jpg', 'a', 'joy'), ('0.jpg', 'a', 'awe'), ('0.jpg', 'b', 'awe'), ('1.jpg', 'a', 'joy'),
          ('1.jpg', 'b', ''), ('x.jpg', 'a', 'joy')]  # fmt: skip
  found = measure_agreement(read_votes(write(tmp_path / 'votes.csv', rows)), IDS, ['joy'])
  assert (found['votes'], found['replaced'], found['images']) == (3, 1, 1)
  assert found['alpha'] is None and 'are the same' in found['why']
  assert found['annotators'][0] == {'annotator': 'a', 'votes': 2, 'agreement': 1.0}
  assert '1 of its 3 names are of no image here: x.jpg' in capsys.readouterr().err


def test_one_vote_an_image_has_no_alpha(tmp_path):
  found = measure_agreement(
      read_votes(write(tmp_path / 'votes.csv', [('0.jpg', 'a', 'joy'), ('1.jpg', 'a', 'awe')])), IDS, [])
  assert found['alpha'] is None and found['why'] == 'no image has two votes'
  assert found['annotators'] == [{'annotator': 'a', 'votes': 2, 'agreement': None}]


def test_without_the_library_the_command_to_install_it_is_told(tmp_path, monkeypatch):
  monkeypatch.setitem(sys.modules, 'krippendorff', None)
  with pytest.raises(UserError, match=r"pip install 'uniemox_jax\[report\]'"):
    measure_agreement(read_votes(write(tmp_path / 'votes.csv', votes())), IDS, [])
