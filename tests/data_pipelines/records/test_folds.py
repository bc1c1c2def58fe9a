"""Folds test every labelled record once, keep groups and classes together, and are the same whatever the order."""

import collections
import json
from pathlib import Path

import numpy as np
import pytest

from data_pipelines.build import build
from data_pipelines.errors import UserError
from data_pipelines.records import folds
from data_pipelines.records.reader import Split, open_split
from tests.support import tables

COUNT = 90
CLASSES = 3


def ids(split: Split) -> list[str]:
  return [found.id for found in split.annotations()]


@pytest.fixture(scope='module')
def small(tmp_path_factory: pytest.TempPathFactory) -> str:
  """90 images of three classes without a test split; images 0 to 9 are of one group, 10 and 11 are equal, 12 has no
  class."""
  folder = tmp_path_factory.mktemp('small')
  (folder / 'raw' / 'photos').mkdir(parents=True)
  rows = []
  for number in range(COUNT):
    name = f'photos/{number:03d}.jpg'
    (folder / 'raw' / name).write_bytes(tables.image_bytes(10 if number == 11 else number))
    rows.append({
        'file_name': name, 'emotion': '' if number == 12 else tables.CLASSES[number % CLASSES],
        'split': 'val' if number % 5 == 1 else 'train', 'video': 'first' if number < 10 else f'{number}'})
  for row in rows:  # a group is in one split
    if row['video'] == 'first':
      row['split'] = 'train'
  tables.write_text(folder / 'raw' / 'table.csv', rows)
  build('table', folder / 'raw' / 'table.csv', folder / 'records', name='mine')
  return str(folder / 'records')


@pytest.mark.parametrize('count', [2, 5, 10])
def test_every_labelled_image_is_tested_once_and_never_trained_or_chosen_on_then(small, count):
  opened = [folds.open_fold(small, 'mine', count, fold, seed=3) for fold in range(count)]
  tested = [name for parts in opened for name in ids(parts['test'])]
  assert len(tested) == len(set(tested)) == COUNT - 1 and 'photos/012.jpg' not in tested
  for parts in opened:
    seen = {part: set(ids(split)) for part, split in parts.items()}
    assert seen['train'] | seen['val'] | seen['test'] == set(tested)
    assert sum(map(len, seen.values())) == COUNT - 1
    assert 0.1 < len(seen['val']) / (COUNT - len(seen['test'])) < 0.3


def test_no_group_and_no_copy_falls_into_two_parts(small):
  first, copies = {f'photos/{number:03d}.jpg' for number in range(10)}, {'photos/010.jpg', 'photos/011.jpg'}
  for seed in range(5):
    for fold in range(5):
      for split in folds.open_fold(small, 'mine', 5, fold, seed).values():
        for group in (first, copies):
          assert not group & set(ids(split)) or group <= set(ids(split))


def test_records_keep_their_group(small):
  found = {annotation.id: annotation.attributes for annotation in open_split(small, 'mine', 'train').annotations()}
  assert found['photos/000.jpg'] == {'group': 'first'} and json.loads(json.dumps(
      found['photos/020.jpg']))['group'] == '20'


def test_each_part_has_its_share_of_every_class():
  rng = np.random.default_rng(0)
  names, classes = np.array([f'{number}' for number in range(103)]), rng.choice(4, 103, p=[0.6, 0.2, 0.15, 0.05])
  part_N = folds.deal(names, np.arange(103), classes, 5, '0')
  for label in range(4):
    counts = np.bincount(part_N[classes == label], minlength=5)
    assert np.ptp(counts) <= 1
  assert np.ptp(np.bincount(part_N)) <= 2


def test_groups_of_many_sizes_are_spread():
  rng = np.random.default_rng(0)
  group_N = np.repeat(np.arange(60), rng.integers(1, 9, 60))
  class_N = rng.integers(0, 3, 60)[group_N]
  names = np.array([f'{number:04d}' for number in range(len(group_N))])
  part_N = folds.deal(names, group_N, class_N, 5, '0')
  assert all(len(set(part_N[group_N == group])) == 1 for group in range(60))
  assert np.ptp(np.bincount(part_N)) < 0.15 * len(part_N)


def test_a_deal_hangs_on_the_seed_and_not_on_the_order():
  rng = np.random.default_rng(0)
  names, group_N, class_N = np.array([f'{n}' for n in range(80)]), np.arange(80) // 2, rng.integers(0, 3, 80)
  order = rng.permutation(80)
  one = dict(zip(names, folds.deal(names, group_N, class_N, 5, '0')))
  same = dict(zip(names[order], folds.deal(names[order], (7 * group_N % 41)[order], class_N[order] + 1, 5, '0')))
  other = dict(zip(names, folds.deal(names, group_N, class_N, 5, '1')))
  assert one == same != other


def test_folds_of_a_seed_differ_in_val_and_seeds_in_all(small):
  vals = [frozenset(ids(folds.open_fold(small, 'mine', 5, fold, 0)['val'])) for fold in range(5)]
  assert len(set(vals)) == 5
  assert len({frozenset(ids(folds.open_fold(small, 'mine', 5, 0, seed)['test'])) for seed in range(4)}) == 4


def test_a_fold_reads_as_a_split_of_its_own(small):
  parts = folds.open_fold(small, 'mine', 5, 2, seed=0)
  test = parts['test']
  assert test.num_examples == len(ids(test)) == len(test.label_array()) and test.splits == ('train', 'val')
  whole = ids(test.whole)
  assert len(whole) == COUNT and [whole[position] for position in test.positions] == ids(test)
  counts = collections.Counter(test.label_array().tolist())
  assert set(counts) == {0, 1, 2}


def test_more_folds_than_images_is_one_line(small):
  with pytest.raises(UserError, match=r'mine has 89 labelled images in 79 groups, which are too few for 79 folds'):
    folds.open_fold(small, 'mine', 79, 0, 0)


def test_an_old_build_without_groups_is_dealt_by_image(data_dir: str | Path):
  opened = [folds.open_fold(data_dir, 'tiny', 3, fold, 0) for fold in range(3)]
  every = {found.id for name in ('train', 'val') for found in open_split(data_dir, 'tiny', name).annotations()}
  assert {name for parts in opened for name in ids(parts['test'])} <= every
