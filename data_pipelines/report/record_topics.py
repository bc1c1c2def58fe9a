"""Describes the records of a data set: how many of each class and domain, how large, and which are equal.

Each topic takes the records one after the other (`add`), and keeps numbers of them, not the records.
"""

from array import array
from collections import Counter
from collections.abc import Sequence
import hashlib
import io
import json
import statistics
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from data_pipelines.light_tensorflow import tf


class StoredRecord(NamedTuple):
  """A record, as `schema.record_features` describes it; `image` is the JPEG, `classes` its classes by name."""

  split: str
  id: str
  image: bytes
  classes: tuple[str, ...]
  label: str | None
  persons: int
  distribution: tuple[float, ...]
  vad: tuple[float, ...]
  attributes: dict[str, Any]


def stored_record(example: tf.train.Example, split: str, labels: Sequence[str]) -> StoredRecord:
  """Makes a record of what was read. `labels` are the class names in label order."""
  fields = example.features.feature
  name, image, attributes = (fields[key].bytes_list.value[0] for key in ('id', 'image', 'attributes'))
  index = fields['label'].int64_list.value[0]
  label = labels[index] if index >= 0 else None
  classes = tuple(labels[number] for number in fields['labels'].int64_list.value) or ((label,) if label else ())
  return StoredRecord(
      split, name.decode(), image, classes, label, len(fields['persons'].bytes_list.value),
      tuple(fields['distribution'].float_list.value), tuple(fields['vad'].float_list.value), json.loads(attributes))


class Counts:
  """The counts of records by split, class and domain, with a person and without a class."""

  def __init__(self, splits: Sequence[str], labels: Sequence[str]):
    self._labels = labels
    self._found: dict[str, Counter[str]] = {split: Counter() for split in splits}
    self._classes: dict[str, Counter[str]] = {split: Counter() for split in splits}
    self._domains: dict[str, Counter[str]] = {}

  def add(self, record: StoredRecord) -> None:
    """Counts a record."""
    self._found[record.split].update(
        examples=1, with_person=int(record.persons > 0), without_class=int(not record.classes))
    self._classes[record.split].update(record.classes)
    if domain := record.attributes.get('domain'):
      self._domains.setdefault(str(domain), Counter())[record.split] += 1

  def summary(self) -> dict[str, Any]:
    """Returns 'splits', what was counted in each, and 'per_class'; and 'domains', the records by domain and split."""
    splits = {}
    for split, found in self._found.items():
      per_class = {label: self._classes[split][label] for label in self._labels}
      share = found['with_person'] / max(found['examples'], 1)
      splits[split] = {
          'examples': found['examples'], 'with_person': found['with_person'], 'with_person_share': round(share, 4),
          'without_class': found['without_class'], 'per_class': per_class}
    domains = {name: {split: counts[split] for split in self._found} for name, counts in sorted(self._domains.items())}
    return {'splits': splits, 'domains': domains}


class Sizes:
  """The widths and heights of the stored images, pixels."""

  def __init__(self) -> None:
    self.width_N, self.height_N = array('i'), array('i')

  def add(self, record: StoredRecord) -> None:
    """Reads the size from the JPEG's header."""
    width, height = Image.open(io.BytesIO(record.image)).size
    self.width_N.append(width)
    self.height_N.append(height)

  def summary(self) -> dict[str, Any]:
    """Returns the least, median and greatest of width, height and their ratio."""
    ratio_N = np.asarray(self.width_N) / np.asarray(self.height_N)
    return {
        name: {'least': min(values), 'median': statistics.median(values), 'greatest': max(values)}
        for name, values in (('width', self.width_N), ('height', self.height_N), ('ratio', ratio_N.round(3).tolist()))}


class EqualImages:
  """The images that are equal byte for byte."""

  def __init__(self) -> None:
    self._first: dict[bytes, str] = {}
    self._pairs: Counter[tuple[str, str]] = Counter()

  def add(self, record: StoredRecord) -> None:
    """Compares a record's image with those before."""
    digest = hashlib.blake2b(record.image, digest_size=16).digest()
    if digest in self._first:
      self._pairs[record.split, self._first[digest]] += 1
    else:
      self._first[digest] = record.split

  def summary(self) -> list[dict[str, Any]]:
    """Counts the images of a split that the same or an earlier one has already."""
    return [{'split': split, 'its_split': earlier, 'images': count} for (split, earlier), count in self._pairs.items()]
