"""Finds near-duplicates among the records of a dataset, and between them and those of others."""

from collections.abc import Iterator, Sequence
import os
from typing import NamedTuple

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
import tqdm

from data_pipelines.building.splits import usual_order
from data_pipelines.duplicates.hash_search import near_pairs
from data_pipelines.duplicates.image_hashes import HASHES, hash_images
from data_pipelines.errors import UserError
from data_pipelines.records import reader

_PAIRS = 2**20
"""Pairs after which groups are joined."""
_NONE = np.iinfo(np.int64).max


class Place(NamedTuple):
  """A split of a dataset, under `data_dir`."""

  data_dir: str
  dataset: str
  split: str


class Copy(NamedTuple):
  """A row of the table: an image, and the one that it is nearest to in one split of one dataset."""

  image: str
  split: str
  same_as: str
  its_split: str
  its_dataset: str
  distance: int
  mirrored: bool


class HashedImages(NamedTuple):
  """The images that are compared. hashes_Nx2xH: the hashes of each image and its mirror image, uint64. place_N: the
  index into `places`."""

  names: list[str]
  hashes_Nx2xH: np.ndarray
  place_N: np.ndarray
  places: Sequence[Place]
  flat: int


class Found(NamedTuple):
  """Near-duplicates of a dataset.

  Attributes:
    copies: each image with its nearest earlier one in each split, and in each split of the other datasets.
    groups: (image, group) of every image that is in a group, see `groups.csv`.
    exclude: images to leave out, so that no later split and no other dataset has a copy of what is trained on.
    images: how many images were compared, of the dataset and of the others.
    flat: how many are nearly of one colour, and were not compared.
  """

  copies: list[Copy]
  groups: list[tuple[str, str]]
  exclude: list[str]
  images: tuple[int, int]
  flat: int


def places_of(data_dir: str | os.PathLike, dataset: str, against: Sequence[str]) -> list[Place]:
  """Finds the splits of the dataset, then those of the others.

  Args:
    data_dir, dataset: as for `reader.open_split`.
    against: `DATA_DIR/OTHER`, or `DATA_DIR/OTHER:SPLIT` for one split alone.

  Raises:
    UserError: there are no such records, or two datasets have one name.
  """
  places = [Place(os.fspath(data_dir), dataset, split) for split in usual_order(reader.split_names(data_dir, dataset))]
  for given in against:
    path, _, split = given.rpartition(':')
    if not path or '/' in split:
      path, split = given, ''
    other_dir, other = os.path.split(path.rstrip('/'))
    if any(place.dataset == other and place.data_dir != other_dir for place in places) or other == dataset:
      raise UserError(f'--against={given} has the name of another dataset here: copy one under another name')
    known = usual_order(reader.split_names(other_dir, other))
    if split and split not in known:
      raise UserError(f"--against={given}: {other} has no split '{split}': choose from {', '.join(known)}")
    places += [Place(other_dir, other, name) for name in known if split in ('', name)]
  return list(dict.fromkeys(places))


def find_near_duplicates(places: Sequence[Place], distance: int) -> Found:
  """Compares every image of the first place's dataset with its others, and with those of the other datasets.

  Args:
    places: the result of `places_of`.
    distance: the most bits of 64 in which pHashes may differ. The hashes of differences have 128 bits, and may differ
      in twice as many and 4.
  """
  hashed = _hash_places(places)
  own_places = sum(place.dataset == places[0].dataset for place in places)
  own, total = int((hashed.place_N < own_places).sum()), len(hashed.names)
  best_NxP = np.full((own, len(places)), _NONE)
  group_N, excluded_N = np.arange(own), np.zeros(own, bool)
  for image_E, other_E, code_E in _gathered(_pairs(hashed, own, distance)):
    np.minimum.at(best_NxP, (image_E, hashed.place_N[other_E]), code_E * total + other_E)
    inside_E = other_E < own
    edges = group_N[image_E[inside_E]], group_N[other_E[inside_E]]
    joined = coo_array((np.ones(len(edges[0]), bool), edges), (own, own))
    group_N = connected_components(joined, directed=False)[1][group_N]
    excluded_N[image_E[~inside_E]] = True
    if own_places == len(places):
      excluded_N[other_E[hashed.place_N[image_E] != hashed.place_N[other_E]]] = True
  return Found(
      list(_copies(hashed, best_NxP)), _groups(hashed.names[:own], group_N),
      [hashed.names[row] for row in np.flatnonzero(excluded_N)], (own, total - own), hashed.flat)


def _hash_places(places: Sequence[Place]) -> HashedImages:
  names, hashes, place_of, flat = [], [], [], 0
  for number, place in enumerate(places):
    split = reader.open_split(*place)
    hashed = hash_images(split.examples())
    for name, found in tqdm.tqdm(hashed, f'{place.dataset} {place.split}', split.num_examples, unit=' images'):
      if found is None:
        flat += 1
        continue
      names.append(name)
      hashes.append(found)
      place_of.append(number)
  hashes_Nx2xH = np.array(hashes, np.uint64).reshape(-1, 2, HASHES)
  return HashedImages(names, hashes_Nx2xH, np.array(place_of, np.int64), places, flat)


def _pairs(hashed: HashedImages, own: int, distance: int) -> Iterator[tuple[np.ndarray, ...]]:
  """Pairs of an image of the dataset, and an earlier one of it or one of the others; and the pair's code.

  The code is 2 x distance + mirrored, so that of two ways to be alike the nearer has the lesser one.
  """
  base_NxH = hashed.hashes_Nx2xH[:, 0]
  for mirrored in (0, 1):
    query_QxH = hashed.hashes_Nx2xH[:own, mirrored]
    for image_E, other_E in near_pairs(query_QxH[:, 0], base_NxH[:, 0], distance):
      differ_ExH = np.bitwise_count(query_QxH[image_E] ^ base_NxH[other_E])
      kept_E = (image_E != other_E) & (differ_ExH[:, 1:].sum(1) <= 2 * distance + 4)
      image_E, other_E = image_E[kept_E], other_E[kept_E]
      inside_E = other_E < own
      later_E = np.where(inside_E, np.maximum(image_E, other_E), image_E)
      yield later_E, np.where(inside_E, np.minimum(image_E, other_E),
                              other_E), 2 * differ_ExH[kept_E, 0].astype(np.int64) + mirrored


def _gathered(pairs: Iterator[tuple[np.ndarray, ...]]) -> Iterator[tuple[np.ndarray, ...]]:
  """Joins pairs into fewer, longer arrays."""
  waiting: list[tuple[np.ndarray, ...]] = []
  count = 0
  for found in pairs:
    waiting.append(found)
    count += len(found[0])
    if count >= _PAIRS:
      yield tuple(map(np.concatenate, zip(*waiting)))
      waiting, count = [], 0
  if waiting:
    yield tuple(map(np.concatenate, zip(*waiting)))


def _copies(hashed: HashedImages, best_NxP: np.ndarray) -> Iterator[Copy]:
  for image, place in np.argwhere(best_NxP < _NONE).tolist():
    code, other = divmod(int(best_NxP[image, place]), len(hashed.names))
    its_place = hashed.places[place]
    yield Copy(
        hashed.names[image], hashed.places[hashed.place_N[image]].split, hashed.names[other], its_place.split,
        its_place.dataset, code // 2, bool(code % 2))


def _groups(names: Sequence[str], group_N: np.ndarray) -> list[tuple[str, str]]:
  """Lists each image that is not alone in its group, with the group's first image as its name."""
  _, first_G, group_N, sizes_G = np.unique(group_N, return_index=True, return_inverse=True, return_counts=True)
  return [(name, names[first_G[group]]) for name, group in zip(names, group_N.tolist()) if sizes_G[group] > 1]
