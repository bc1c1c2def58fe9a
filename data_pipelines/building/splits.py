"""Splits that never change: the same pictures and seed give the same splits, on any machine and with any library."""

import collections
from collections.abc import Callable, Hashable, Iterable, Mapping
import hashlib
import operator

from data_pipelines.building.builder import Listed
from data_pipelines.errors import UserError


def seeded_splits(
    pictures: Iterable[Listed], percent: Mapping[str, int], seed: int,
    stratum: Callable[[Listed], Hashable] = operator.attrgetter('label')) -> dict[str, list[Listed]]:
  """Cuts every stratum by the same shares, so that each split holds each class (or query) in proportion.

  Where a picture falls depends on the ids of its stratum, the seed and the shares, and on nothing else: not on the
  order in which a folder is listed, nor on a random generator, whose streams numpy changes between versions. A
  stratum is put in the order of the SHA-256 of 'seed:id', which is as good as shuffled, and cut at the cumulative
  shares, rounded half up in integers. So a picture more or less moves at most one other across each cut.

  Args:
    pictures: in any order; ids are unique.
    percent: split -> share in percent; the shares add up to 100.
    seed: kept in the builder as SPLIT_SEED, and from there in the manifest.
    stratum: what pictures that are cut together have in common; the class, unless given.

  Returns:
    split -> pictures sorted by id, splits in the order of `percent`.

  Raises:
    UserError: there are too few pictures to give every split one.
  """
  assert sum(percent.values()) == 100, percent
  strata = collections.defaultdict(list)
  for listed in pictures:
    strata[stratum(listed)].append(listed)
  splits: dict[str, list[Listed]] = {split: [] for split in percent}
  for members in strata.values():
    members.sort(key=lambda listed: _digest(listed.id, seed))
    start = share = 0
    for split, part in percent.items():
      share += part
      end = (len(members) * share + 50) // 100
      splits[split] += members[start:end]
      start = end
  for split, members in splits.items():
    if not members:
      total = sum(map(len, splits.values()))
      raise UserError(f"{total} pictures are too few to give split '{split}' its {percent[split]} %: add pictures")
    members.sort(key=operator.attrgetter('id'))
  return splits


def _digest(name: str, seed: int) -> bytes:
  # File names that are not UTF-8 are rejected by name later; until then they need a place in the order.
  return hashlib.sha256(f'{seed}:{name}'.encode(errors='surrogateescape')).digest()
