"""Random access to TFRecord shards: reads any record by its position and checks it.

TFRecord has no index. Each record is framed as length (uint64), crc of length, data, crc of data, little-endian. One
walk over the frames of a shard finds them all, so a batch can read exactly the records that (seed, step) selects.
"""

import collections
from collections.abc import Iterable, Iterator, Mapping
import copy
import hashlib
import io
import json
import os
import struct
import threading
from typing import Any, NamedTuple

from etils import epath
import google_crc32c
import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds

from data_pipelines.errors import UserError
from data_pipelines.records import manifest, schema

# Input runs on the CPU; TensorFlow would take GPU memory away from training.
tf.config.set_visible_devices([], 'GPU')

_HEADER = struct.Struct('<QI')
_FOOTER = struct.Struct('<I')


class Annotation(NamedTuple):
  """What a record stores about its image; label -1 for none."""
  id: str
  label: int
  attributes: dict[str, Any]


class Split:
  """The records of one split, or of several one after the other, addressed by position in [0, num_examples).

  Attributes:
    name: as given, such as 'train+val'.
    num_examples: how many records.
    labels: class names in label order.
    features: the dataset's tfds.features.FeaturesDict (`schema.record_features`).
  """

  def __init__(self, name: str, features: tfds.features.FeaturesDict, shard_lengths: Iterable[tuple[str, int]]):
    """Takes (path, number of records) of every shard. Raises UserError if one is missing, cut short or damaged."""
    self.name, self.features = name, features
    self.labels: tuple[str, ...] = tuple(features['label'].names)
    self._shards: list[_Shard] = []
    frames = []
    for path, length in shard_lengths:
      frames.append(np.insert(_frames(shard := _Shard(path), length), 0, len(self._shards), axis=1))
      self._shards.append(shard)
    self._frames_Nx3 = np.concatenate(frames)
    self.num_examples = len(self._frames_Nx3)

  @property
  def folder(self) -> epath.Path:
    """The folder of the shards and their manifest."""
    return epath.Path(self._shards[0].path).parent

  @property
  def contents(self) -> str | None:
    """SHA-256 of all the dataset's records, from the manifest; None if an earlier version of this package built it.

    Two builds of the same files agree in it but not in `fingerprint`: each orders the fields of a record differently.
    """
    if not (self.folder / manifest.MANIFEST).exists():
      return None
    digests = [split.get('records_sha256') for split in manifest.read_manifest(self.folder)['splits'].values()]
    return hashlib.sha256(''.join(digests).encode()).hexdigest() if all(digests) else None

  @property
  def fingerprint(self) -> str:
    """SHA-256 of each record's place, length and checksum: differs for other records or another selection of them."""
    digest = hashlib.sha256(self._frames_Nx3.tobytes())
    for shard, offset, length in self._frames_Nx3.tolist():
      digest.update(self._shards[shard].read(offset + length, _FOOTER.size))
    return digest.hexdigest()

  def read(self, position: int) -> bytes:
    """One serialized tf.train.Example, to any thread. Raises UserError if it does not match its checksum."""
    shard_index, offset, length = self._frames_Nx3[position].tolist()
    shard = self._shards[shard_index]
    framed = shard.read(offset, length + _FOOTER.size)
    data = framed[:length]
    if len(framed) < length + _FOOTER.size or _masked_crc(data) != _FOOTER.unpack_from(framed, length)[0]:
      raise shard.damaged(f'record at byte {offset} does not match its checksum')
    return data

  def parsed(self, fields: Mapping) -> Iterator[dict[str, tf.Tensor]]:
    """These fields of all records, as of tf.io.parse_example, in position order and 256 records at a time."""
    for start in range(0, self.num_examples, 256):
      records = [self.read(position) for position in range(start, min(start + 256, self.num_examples))]
      yield tf.io.parse_example(records, fields)

  def annotations(self) -> list[Annotation]:
    """Id, label and EmoSet attributes of every record, in position order; no image is decoded."""
    text = tf.io.FixedLenFeature([], tf.string)
    fields = {'id': text, 'label': tf.io.FixedLenFeature([], tf.int64), 'attributes': text}
    return [
        Annotation(name.decode(), label, json.loads(attributes))
        for records in self.parsed(fields)
        for name, label, attributes in zip(*(records[field].numpy().tolist() for field in fields))]

  def fraction(self, fraction: float, seed: int) -> 'Split':
    """This share of each class, at least one record of each, for training on few examples.

    The records of a class with the lowest SHA-256 of seed and id stay. So the shares of one seed are nested, each in
    every larger one. Records without a label count as one class.

    Raises:
      UserError: `fraction` is not in (0, 1], or a shard is damaged: every record is read once.
    """
    if not 0 < fraction <= 1:
      raise UserError(f'fraction is {fraction}: choose more than 0 and at most 1')
    members = collections.defaultdict(list)
    for position, annotation in enumerate(self.annotations()):
      digest = hashlib.sha256(f'fraction {seed}:{annotation.id}'.encode()).digest()
      members[annotation.label].append((digest, position))
    kept = [
        position for ranked in members.values()
        for _, position in sorted(ranked)[:max(1, round(fraction * len(ranked)))]]
    part = copy.copy(self)
    part.name = f'{self.name}, {100 * fraction:g} %'
    part._frames_Nx3 = self._frames_Nx3[sorted(kept)]
    part.num_examples = len(kept)
    return part


def open_split(data_dir: str | os.PathLike, dataset: str, split: str) -> Split:
  """Opens the newest version of a dataset that `data_pipelines.build` wrote under `data_dir`.

  Args:
    data_dir: folder that holds `<dataset>/<version>/`; local, or a bucket that tf.io.gfile reads.
    dataset: such as 'emoset'.
    split: 'train', or several joined as 'train+val', whose records follow each other in that order.

  Raises:
    UserError: there is no such dataset or split, its records have another schema, or a shard is missing, cut short or
      damaged.
  """
  versions = [
      path.parent
      for path in epath.Path(data_dir, dataset).glob('*/dataset_info.json')
      if tfds.core.Version.is_valid(path.parent.name)]
  if not versions:
    raise UserError(
        f'no records of {dataset!r} under {data_dir}: build them with python -m data_pipelines.build '
        f'--dataset={dataset} --source=RAW_FOLDER --data_dir={data_dir}')
  builder = tfds.builder_from_directory(max(versions, key=lambda path: tfds.core.Version(path.name)))
  if missing := schema.record_features(('',)).keys() - builder.info.features.keys():
    raise UserError(
        f"{builder.data_dir} was built by another version of this package (no field {min(missing)!r}): "
        'build it again with --overwrite')
  known = builder.info.splits
  names = split.split('+')
  if unknown := [name for name in names if name not in known]:
    raise UserError(
        f'{dataset} has no split {unknown[0]!r}: choose from {", ".join(sorted(known))}, or join some with +')
  if len(set(names)) < len(names):
    raise UserError(f'split {split!r} names the same records twice: name each split once')
  infos = [known[name] for name in names]
  shards = [(os.fspath(path), length) for info in infos for path, length in zip(info.filepaths, info.shard_lengths)]
  if not shards:
    raise UserError(f'split {split!r} of {dataset} is empty: build {dataset} from a folder that has such images')
  return Split(split, builder.info.features, shards)


class _Shard:
  """An open shard file, read at any offset from any thread."""

  def __init__(self, path: str):
    self.path = path
    self._remote = '://' in path
    try:
      self.size = tf.io.gfile.stat(path).length
      self._file = tf.io.gfile.GFile(path, 'rb') if self._remote else io.FileIO(path)
    except (OSError, tf.errors.OpError) as error:
      raise self.damaged('it cannot be opened') from error
    self._lock = threading.Lock()

  def read(self, offset: int, length: int) -> bytes:
    if not self._remote:
      return os.pread(self._file.fileno(), length, offset)
    with self._lock:
      self._file.seek(offset)
      return self._file.read(length)

  def damaged(self, what: str) -> UserError:
    return UserError(
        f'damaged shard {self.path}: {what}; delete its folder and build the dataset again '
        'with python -m data_pipelines.build')


def _frames(shard: _Shard, expected: int) -> np.ndarray:
  """(offset, length) of each record's data, int64 (expected, 2)."""
  frames, offset = [], 0
  while offset < shard.size:
    header = shard.read(offset, _HEADER.size)
    if len(header) < _HEADER.size:
      raise shard.damaged(f'it ends inside the record at byte {offset}')
    length, crc = _HEADER.unpack(header)
    if crc != _masked_crc(header[:8]):
      raise shard.damaged(f'record length at byte {offset} does not match its checksum')
    frames.append((offset + _HEADER.size, length))
    offset += _HEADER.size + length + _FOOTER.size
  if offset > shard.size:
    raise shard.damaged(f'it ends inside the record at byte {frames[-1][0]}')
  if len(frames) != expected:
    raise shard.damaged(f'it holds {len(frames)} records where dataset_info.json promises {expected}')
  return np.array(frames, np.int64).reshape(-1, 2)


def _masked_crc(data: bytes) -> int:
  """The checksum that TFRecord stores: crc32c, rotated and offset so that data that holds crcs is checked as well."""
  crc = google_crc32c.value(data)
  return ((crc >> 15 | crc << 17) + 0xa282ead8) & 0xffffffff
