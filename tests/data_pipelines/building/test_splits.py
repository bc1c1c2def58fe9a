import hashlib
import json
import random

import pytest

from data_pipelines.building.raw_example import RawExample
from data_pipelines.building.raw_source import join_groups
from data_pipelines.building.splits import seeded_splits, usual_order
from data_pipelines.errors import UserError

PERCENT = {'train': 70, 'val': 10, 'test': 20}


def _examples(awe: int = 330, fear: int = 77) -> list[RawExample]:
  counts = {'awe': awe, 'fear': fear}
  return [RawExample(f'{label}/{n:04d} ä.jpg', label) for label, count in counts.items() for n in range(count)]


def _ids(splits: dict[str, list[RawExample]]) -> dict[str, list[str]]:
  return {split: [example.id for example in examples] for split, examples in splits.items()}


def test_a_split_is_the_same_forever():
  text = json.dumps(_ids(seeded_splits(_examples(), PERCENT, seed=0)))
  assert hashlib.sha256(text.encode()).hexdigest() == '723a13c22d0fed6e945443e3d87d22a3fdde4fba4752fd775bb38c02bd145d5d'


def test_the_order_in_which_images_are_listed_changes_nothing():
  expected = seeded_splits(_examples(), PERCENT, seed=0)
  for seed in range(3):
    shuffled = _examples()
    random.Random(seed).shuffle(shuffled)
    assert seeded_splits(shuffled, PERCENT, seed=0) == expected


def test_every_image_is_in_one_split_and_every_class_in_the_same_shares():
  splits = seeded_splits(_examples(), PERCENT, seed=0)
  assert list(splits) == list(PERCENT)
  found = [name for names in _ids(splits).values() for name in names]
  assert sorted(found) == sorted(example.id for example in _examples())
  per_class = {
      split: [sum(example.label == label for example in examples) for label in ('awe', 'fear')]
      for split, examples in splits.items()}  # fmt: skip
  assert per_class == {'train': [231, 54], 'val': [33, 8], 'test': [66, 15]}


def test_another_seed_gives_another_split():
  first, second = (_ids(seeded_splits(_examples(), PERCENT, seed)) for seed in (0, 1))
  assert len(set(first['test']) & set(second['test'])) < len(first['test']) / 2


def test_a_stratum_does_not_depend_on_the_others():
  alone = _ids(seeded_splits(_examples(fear=0), PERCENT, seed=0))
  together = _ids(seeded_splits(_examples(), PERCENT, seed=0))
  assert {split: [name for name in names if name.startswith('awe')] for split, names in together.items()} == alone


def test_one_more_image_moves_at_most_one_other_across_each_cut():
  before, after = (_ids(seeded_splits(_examples(awe=count, fear=0), PERCENT, seed=0)) for count in (330, 331))
  moved = sum(len(set(before[split]) - set(after[split])) for split in PERCENT)
  assert moved <= 2


def test_strata_can_be_other_than_classes():
  examples = [RawExample(f'awe/{query}/{n}.jpg', 'awe') for query in ('sea', 'sky') for n in range(10)]
  splits = seeded_splits(examples, PERCENT, seed=0, stratum=lambda example: example.path.split('/')[1])
  assert [sum('sea' in example.path for example in splits[split]) for split in PERCENT] == [7, 1, 2]


def test_names_that_are_not_utf8_have_a_place_in_the_order():
  odd = RawExample(b'awe/caf\xe9.jpg'.decode(errors='surrogateescape'), 'awe')
  assert odd.id in sum(_ids(seeded_splits([*_examples(), odd], PERCENT, seed=0)).values(), [])


def test_too_few_images_for_a_split_are_a_users_mistake():
  with pytest.raises(UserError, match="3 images are too few to give split 'val' its 10 %"):
    seeded_splits(_examples(awe=3, fear=0), PERCENT, seed=0)


def test_groups_of_two_sources_are_joined_so_that_none_of_either_is_cut():
  rng = random.Random(0)
  for _ in range(50):
    pairs = [(rng.choice(['', *'abcdefgh']), rng.choice(['', *'uvwxyz'])) for _ in range(12)]
    joined = join_groups(pairs)
    assert [bool(group) for group in joined] == [bool(first or second) for first, second in pairs]
    for source in (0, 1):
      of_group = {}
      for pair, group in zip(pairs, joined):
        if pair[source]:
          assert of_group.setdefault(pair[source], group) == group
  assert join_groups([('a', ''), ('', 'u'), ('b', 'v'), ('c', 'v'), ('', '')]) == ['a', 'u', 'b', 'b', '']


def test_splits_are_listed_as_they_follow_each_other_in_use():
  assert usual_order({'test', 'val', 'extra', 'train', 'dev'}) == ['train', 'val', 'test', 'dev', 'extra']
