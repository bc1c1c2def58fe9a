"""What a build has stored, read back from its shards: the manifest tells what is there, not what was sent."""

import collections
from collections.abc import Mapping, Sequence
import dataclasses
import hashlib
import os

import tqdm


@dataclasses.dataclass
class StoredSplit:
  """The records of one split.

  Attributes:
    summary: examples, per_class (every label, 0 included), with_person, with_person_share, ids_sha256, records_sha256.
      ids_sha256 is SHA-256 over the sorted ids, UTF-8, joined by newlines: two builds with the same hash have the same
      pictures in this split. records_sha256 is over the records in their order, each with its fields sorted: two builds
      with the same hash train alike. (The shards' own bytes differ from build to build: protobuf sorts no map.)
    pictures: id -> SHA-256 of the stored JPEG.
  """

  summary: dict
  pictures: dict[str, bytes]


def read_split(name: str, paths: Sequence[os.PathLike], examples: int, labels: Sequence[str]) -> StoredSplit:
  """Reads every record of a split once, checking its checksum.

  Args:
    name: of the split, for the progress bar.
    paths: of its shards.
    examples: how many records they hold.
    labels: class names in label order.
  """
  import tensorflow as tf

  pictures: dict[str, bytes] = {}
  per_class: collections.Counter[str] = collections.Counter()
  with_person = 0
  whole = hashlib.sha256()
  records = tf.data.TFRecordDataset([os.fspath(path) for path in paths]).as_numpy_iterator()
  for record in tqdm.tqdm(records, f'checking {name}', examples, unit=' records'):
    example = tf.train.Example.FromString(record)
    whole.update(example.SerializeToString(deterministic=True))
    fields = example.features.feature
    indices = fields['labels'].int64_list.value or fields['label'].int64_list.value
    per_class.update(labels[index] for index in indices if index >= 0)
    with_person += bool(fields['persons'].bytes_list.value)
    digest = hashlib.sha256(fields['image'].bytes_list.value[0]).digest()
    pictures[fields['id'].bytes_list.value[0].decode()] = digest
  return StoredSplit({
      'examples': len(pictures), 'per_class': {label: per_class[label] for label in labels}, 'with_person': with_person,
      'with_person_share': round(with_person / max(len(pictures), 1), 4), 'ids_sha256':
          hashlib.sha256('\n'.join(sorted(pictures)).encode()).hexdigest(), 'records_sha256': whole.hexdigest()
  }, pictures)


def duplicates(splits: Mapping[str, StoredSplit]) -> list[tuple[str, str, str, str]]:
  """Pictures that are stored in several splits, byte for byte: what is learnt from one is known in the other.

  Returns:
    (id, split, same_as, its_split) of every record whose picture an earlier split holds too, sorted; `same_as` is the
    first id with that picture in the earliest such split.
  """
  first: dict[bytes, tuple[str, str]] = {}
  found = []
  for split, stored in splits.items():
    for name, digest in sorted(stored.pictures.items()):
      same_as, its_split = first.setdefault(digest, (name, split))
      if its_split != split:
        found.append((name, split, same_as, its_split))
  return sorted(found)
