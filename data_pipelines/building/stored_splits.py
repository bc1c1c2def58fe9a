"""Reads a build's records back from its shards, so that the manifest describes what was really stored."""

import collections
from collections.abc import Mapping, Sequence
import hashlib
import os
from typing import Any, NamedTuple

import tqdm

from data_pipelines.records import index


class StoredSplit(NamedTuple):
  """The records of one split.

  Attributes:
    summary: examples, per_class (of every label, also 0), with_person, with_person_share, ids_sha256, records_sha256.
      `ids_sha256` is over the sorted ids, UTF-8, joined by newlines: two builds with the same hash have the same
      examples in this split. `records_sha256` is over the records in their order, each with its fields sorted: two
      builds with the same hash train alike. (The shards' own bytes differ: protobuf sorts no map.)
    image_digests: id -> SHA-256 of the stored JPEG.
  """

  summary: dict[str, Any]
  image_digests: dict[str, bytes]


def read_split(paths: Sequence[os.PathLike], lengths: Sequence[int], labels: Sequence[str]) -> StoredSplit:
  """Reads every record of a split once, checks its checksum, and writes the split's index beside the shards.

  Args:
    paths: the paths of the shards, all in one folder.
    lengths: how many records each holds.
    labels: the class names in label order.
  """
  folder, names = os.path.dirname(os.fspath(paths[0])), [os.path.basename(os.fspath(path)) for path in paths]
  split = names[0].partition('.')[0]
  image_digests: dict[str, bytes] = {}
  per_class: collections.Counter[str] = collections.Counter()
  with_person = 0
  examples = index.make_index(folder, split, list(zip(names, lengths)))
  for example in tqdm.tqdm(examples, f'checking {split}', sum(lengths), unit=' records'):
    fields = example.features.feature
    indices = fields['labels'].int64_list.value or fields['label'].int64_list.value
    per_class.update(labels[index] for index in indices if index >= 0)
    with_person += bool(fields['persons'].bytes_list.value)
    digest = hashlib.sha256(fields['image'].bytes_list.value[0]).digest()
    image_digests[fields['id'].bytes_list.value[0].decode()] = digest
  ids = '\n'.join(sorted(image_digests))
  records_sha256 = index.read_index(folder, split, list(zip(names, lengths))).records_sha256
  summary = {
      'examples': len(image_digests), 'per_class': {label: per_class[label] for label in labels},
      'with_person': with_person, 'with_person_share': round(with_person / max(len(image_digests), 1), 4),
      'ids_sha256': hashlib.sha256(ids.encode()).hexdigest(), 'records_sha256': records_sha256}
  return StoredSplit(summary, image_digests)


def duplicates(splits: Mapping[str, StoredSplit]) -> list[tuple[str, str, str, str]]:
  """Finds images that several splits store, byte for byte: a model that trains on one has seen the other.

  Returns:
    The sorted (id, split, same_as, its_split) of every record whose image an earlier split holds too; `same_as` is the
    first id with that image in the earliest such split.
  """
  first: dict[bytes, tuple[str, str]] = {}
  found = []
  for split, stored in splits.items():
    for name, digest in sorted(stored.image_digests.items()):
      same_as, its_split = first.setdefault(digest, (name, split))
      if its_split != split:
        found.append((name, split, same_as, its_split))
  return sorted(found)
