"""Makes seeded splits that never change: the same examples and seed give the same splits on any machine."""

import collections
from collections.abc import Callable, Hashable, Iterable, Mapping
import hashlib
import itertools
import operator
import re

from data_pipelines.building.raw_example import RawExample
from data_pipelines.errors import UserError

TRAIN_VAL_TEST = ('train', 'val', 'test')
_USUAL_NAMES = {
    'train': 'train', 'training': 'train', 'trn': 'train', 'val': 'val', 'valid': 'val', 'validation': 'val',
    'dev': 'val', 'test': 'test', 'testing': 'test', 'tst': 'test'}


def split_named(name: str) -> str | None:
  """The split that a folder of this name usually holds, such as val for Validation or valid_set; None for no split."""
  letters = re.sub(r'[\W\d_]', '', name).casefold()
  return _USUAL_NAMES.get(re.sub(r'(set|data|images|imgs|split)$', '', letters))


def usual_order(names: Iterable[str]) -> list[str]:
  """Sorts the names of splits as they are used: train, val, test, then others by name."""
  places = {name: place for place, name in enumerate(TRAIN_VAL_TEST)}
  return sorted(names, key=lambda name: (places.get(name, len(places)), name))


def seeded_splits(
    examples: Iterable[RawExample], percent: Mapping[str, int], seed: int,
    stratum: Callable[[RawExample], Hashable] = operator.attrgetter('label')) -> dict[str, list[RawExample]]:
  """Cuts every stratum by the same shares, so that each split holds each class (or query) in proportion.

  A stratum is sorted by the SHA-256 of 'seed:id', which is as good as shuffled, and cut at the cumulative shares,
  rounded half up in integers. So neither the order in which a folder is listed matters nor a random generator, whose
  streams numpy changes between versions; and one example more or less moves at most one other across each cut.

  Args:
    examples: in any order; ids are unique.
    percent: split -> share in percent; the shares add up to 100.
    seed: kept in the builder as SPLIT_SEED, and from there in the manifest.
    stratum: the group that an example is cut with.

  Returns:
    split -> examples sorted by id, splits in the order of `percent`.

  Raises:
    UserError: there are too few examples to give every split one.
  """
  assert sum(percent.values()) == 100, percent
  strata = collections.defaultdict(list)
  for example in examples:
    strata[stratum(example)].append(example)
  splits: dict[str, list[RawExample]] = {split: [] for split in percent}
  for members in strata.values():
    members.sort(key=lambda example: _digest(example.id, seed))
    start = share = 0
    for split, part in percent.items():
      share += part
      end = (len(members) * share + 50) // 100
      splits[split] += members[start:end]
      start = end
  for split, members in splits.items():
    if not members:
      total = sum(map(len, splits.values()))
      raise UserError(f"{total} images are too few to give split '{split}' its {percent[split]} %: add images")
    members.sort(key=operator.attrgetter('id'))
  return splits


def hashed_splits(examples: Iterable[RawExample], percent: Mapping[str, int], seed: int) -> dict[str, list[RawExample]]:
  """Makes splits in which no group falls into two, and in which an example more or less moves no other.

  Each group, or example without one, goes by the SHA-256 of 'seed:group' or 'seed:id' alone. So the shares hold on
  average only, over all classes together.

  Args:
    examples, percent, seed: as for `seeded_splits`.

  Returns:
    split -> examples sorted by id, splits in the order of `percent`.

  Raises:
    UserError: a split is left without examples.
  """
  ends = dict(zip(percent, itertools.accumulate(percent.values())))
  splits: dict[str, list[RawExample]] = {split: [] for split in percent}
  total = 0
  for example in examples:
    total += 1
    place = int.from_bytes(_digest(example.group or example.id, seed)[:8], 'big') * 100 >> 64
    splits[next(split for split, end in ends.items() if place < end)].append(example)
  for split, members in splits.items():
    if not members:
      raise UserError(
          f"{total} images, or their groups, are too few to give split '{split}' its {percent[split]} %: "
          'add images, or say the split of each')
    members.sort(key=operator.attrgetter('id'))
  return splits


def _digest(name: str, seed: int) -> bytes:
  # File names that are not UTF-8 are rejected by name later; until then they need a place in the order.
  return hashlib.sha256(f'{seed}:{name}'.encode(errors='surrogateescape')).digest()
