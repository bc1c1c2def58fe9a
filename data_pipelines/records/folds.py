"""Deals every labelled record of a dataset to one of several folds, each of which is tested in its turn.

With few images, a single split decides nothing. Groups stay together: records of one image, or of one group of a table.
A deal is a function of ids, classes, groups and seed, so another machine or another order of the records gives the
same.
"""

import hashlib
import json
import math
import os
from typing import Any

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from data_pipelines.errors import UserError
from data_pipelines.records import reader

VAL_PARTS = 5
"""The number of parts of what is not tested, one of which is val."""


def open_fold(data_dir: str | os.PathLike, dataset: str, folds: int, fold: int, seed: int) -> dict[str, reader.Split]:
  """Opens train, val and test: test is one fold of all labelled records, val a seeded share of the others.

  Args:
    data_dir, dataset: as for `reader.open_split`; the records of all splits of the dataset are dealt.
    folds: the number of folds.
    fold: the fold that is tested, from 0.
    seed: the seed of the deal.

  Raises:
    UserError: there are too few groups of labelled images; or as for `reader.open_split`.
  """
  pool = reader.open_split(data_dir, dataset, '+'.join(reader.split_names(data_dir, dataset)))
  name_N, group_N, class_N, labelled_N = _read(pool)
  kept_K = np.flatnonzero(labelled_N)
  names_K, group_K, class_K = name_N[kept_K], group_N[kept_K], class_N[kept_K]
  if len(np.unique(group_K)) <= folds:
    raise UserError(
        f'{dataset} has {len(kept_K)} labelled images in {len(np.unique(group_K))} groups, which are too few for '
        f'{folds} folds: set fewer --config.folds')
  tested_K = deal(names_K, group_K, class_K, folds, f'{seed}') == fold
  rest = np.flatnonzero(~tested_K)
  val_R = deal(names_K[rest], group_K[rest], class_K[rest], VAL_PARTS, f'{seed} val {fold}') == VAL_PARTS - 1
  places = {'train': rest[~val_R], 'val': rest[val_R], 'test': np.flatnonzero(tested_K)}
  return {part: pool.selected(kept_K[place_P], f'{part} of fold {fold} of {folds}') for part, place_P in places.items()}


def deal(name_N: np.ndarray, group_N: np.ndarray, class_N: np.ndarray, parts: int, seed: str) -> np.ndarray:
  """Deals each record to a part, int (N,): each part has its share of every class, and no group falls into two.

  Groups are dealt one after the other, the largest first and equal ones by a hash, each to the part that has fewest
  records of its classes, and of those to the one with fewest records.

  Args:
    name_N: unique ids; a group's first one stands for it in the hash.
    group_N: a number for each group.
    class_N: a number for each class.
    parts: the number of parts.
    seed: the seed of the hash.
  """
  order_N = np.lexsort((name_N, group_N))
  groups = np.split(order_N, np.flatnonzero(np.diff(group_N[order_N])) + 1)
  _, class_N = np.unique(class_N, return_inverse=True)
  groups.sort(key=lambda members: (-len(members), hashlib.sha256(f'{seed}:{name_N[members[0]]}'.encode()).digest()))
  part_N, counts_PxC = np.zeros(len(name_N), int), np.zeros((parts, class_N.max(initial=0) + 1), int)
  for members in groups:
    of_class_C = np.bincount(class_N[members], minlength=counts_PxC.shape[1])
    part = np.lexsort((counts_PxC.sum(axis=1), counts_PxC @ of_class_C))[0]
    counts_PxC[part] += of_class_C
    part_N[members] = part
  return part_N


def _read(pool: reader.Split) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
  """Reads each record's id, the number of its group, its class, -1 for none, and whether anything is to be learned.

  Records of one image are a group, also where a build did not know it; so are those of one group of a table.
  """
  names, classes, labelled = [], [], []
  key_numbers: dict[bytes | str, int] = {}
  edges: list[tuple[int, int]] = []
  for number, example in enumerate(pool.examples()):
    fields = example.features.feature
    names.append(fields['id'].bytes_list.value[0].decode())
    classes.append(fields['label'].int64_list.value[0])
    labelled.append(_has_target(fields))
    group = json.loads(fields['attributes'].bytes_list.value[0]).get('group')
    for key in filter(None, (hashlib.sha256(fields['image'].bytes_list.value[0]).digest(), group)):
      edges.append((number, key_numbers.setdefault(key, len(key_numbers))))
  size = len(names) + len(key_numbers)
  record_E, key_E = np.array(edges).T
  joined = coo_array((np.ones(len(edges)), (record_E, len(names) + key_E)), shape=(size, size))
  group_N = connected_components(joined, directed=False)[1][:len(names)]
  return np.array(names), group_N, np.array(classes), np.array(labelled)


def _has_target(fields: Any) -> bool:
  return (
      fields['label'].int64_list.value[0] >= 0 or bool(fields['labels'].int64_list.value) or
      any(fields['distribution'].float_list.value) or not all(map(math.isnan, fields['vad'].float_list.value)))
