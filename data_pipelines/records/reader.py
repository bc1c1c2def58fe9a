"""Gives random access to TFRecord shards: it reads any record by its position, and checks it by its split's index."""

import collections
from collections.abc import Callable, Iterator, Sequence
import copy
import hashlib
import itertools
import os
import sys
from typing import Any, TypeVar

from etils import epath
import numpy as np
import tensorflow_datasets as tfds

from data_pipelines import byte_ranges, storage
from data_pipelines.errors import UserError, first_line, join_names
from data_pipelines.light_tensorflow import tf
from data_pipelines.plain_text import check_labels
from data_pipelines.records import index, manifest, schema

# Input runs on the CPU; TensorFlow would take GPU memory away from training.
tf.config.set_visible_devices([], 'GPU')

_T = TypeVar('_T')
_FEATURES = 'tensorflow_datasets.core.features.'
_REBUILD = 'restore the folder as it was built, or build it again with --overwrite'
_READ_ONLY = {'type', 'python_class_name', 'jsonFeature', 'json_feature'}
"""Keys of features.json that TFDS reads and, in our records, never writes."""
MAX_INFO = 1 << 20
"""The most bytes of dataset_info.json; a shard takes some ten, and TFDS some ten microseconds for each."""
_TOGETHER = 2**16  # positions whose index entries are in memory at the same time
_READ_TOGETHER = 32  # whole records, of which each may have some MB


class NoSuchSplit(UserError):
  """The error if a dataset exists, but has no split of this name."""


class Split:
  """The records of one split, or of several one after the other, addressed by position in [0, num_examples).

  Attributes:
    name: as given, such as 'train+val'.
    num_examples: the number of records.
    labels: the class names in label order.
    splits: the dataset's splits from which the records are.
    features: the dataset's tfds.features.FeaturesDict (`schema.record_features`).
    folder: the folder of the shards and their manifest.
  """

  def __init__(self, name: str, features: tfds.features.FeaturesDict, folder: str, parts: dict[str, index.Index]):
    """Joins splits, given as the stem of their files' names, such as emo8-train, and their index."""
    self.name, self.features, self.folder = name, features, epath.Path(folder)
    self.splits = tuple(name.split('+'))
    self.labels: tuple[str, ...] = tuple(features['label'].names)
    self._parts = parts
    self._shards = [shard for part in parts.values() for shard in part.shards]
    self._starts = np.cumsum([0, *(len(part.entries_N) for part in parts.values())])
    self._positions_N: np.ndarray | None = None  # of a fraction: those of its records in the whole
    self.num_examples = int(self._starts[-1])
    self._ranges = byte_ranges.Ranges(folder)

  @property
  def contents(self) -> str | None:
    """The SHA-256 of all the dataset's records, from the manifest; None if an earlier version of this package built it.

    Two builds of the same files agree in it but not in `fingerprint`: each orders the fields of a record differently.
    """
    if not (self.folder / manifest.MANIFEST).exists():
      return None
    digests = [split.get('records_sha256') for split in manifest.read_manifest(self.folder)['splits'].values()]
    return hashlib.sha256(''.join(digests).encode()).hexdigest() if all(digests) else None

  @property
  def fingerprint(self) -> str:
    """The SHA-256 of each record's place, length and checksum. Other records, or another selection, have another."""
    digest = hashlib.sha256()
    for entries_R in self._in_chunks():
      digest.update(np.stack([entries_R[name] for name in ('shard', 'offset', 'length')], 1, dtype='<i8').tobytes())
    for entries_R in self._in_chunks():
      digest.update(entries_R['crc'].tobytes())
    return digest.hexdigest()

  def _in_chunks(self) -> Iterator[np.ndarray]:
    for start in range(0, self.num_examples, _TOGETHER):
      yield self._entries(np.arange(start, min(start + _TOGETHER, self.num_examples)))

  def _entries(self, positions_R: np.ndarray) -> np.ndarray:
    """The index entries at these positions; 'shard' counts in the shards of all parts."""
    if self._positions_N is not None:
      positions_R = self._positions_N[positions_R]
    part_R = np.searchsorted(self._starts, positions_R, 'right') - 1
    entries_R, first_shard = np.empty(len(positions_R), index.ENTRY), 0
    for number, part in enumerate(self._parts.values()):
      mine_R = part_R == number
      entries_R[mine_R] = part.entries_N[positions_R[mine_R] - self._starts[number]]
      entries_R['shard'][mine_R] += first_shard
      first_shard += len(part.shards)
    return entries_R

  def read(self, position: int) -> bytes:
    """Reads one serialized tf.train.Example; see `read_many`."""
    return self.read_many([position])[0]

  def read_many(self, positions_R: Sequence[int] | np.ndarray) -> list[bytes]:
    """Reads serialized tf.train.Examples together. Many threads may call it.

    Raises:
      UserError: one is missing, or does not match its checksum; the message names the shard.
    """
    entries_R, size = self._entries(np.asarray(positions_R)), index.FOOTER.size
    names = [self._shards[number].name for number in entries_R['shard']]
    try:
      framed = self._ranges.read(list(zip(names, entries_R['offset'].tolist(), (entries_R['length'] + size).tolist())))
    except byte_ranges.MissingBytes as error:
      raise index.damaged(error.path, error.what) from error
    for name, entry, data in zip(names, entries_R, framed):
      if not index.masked_crc(data[:-size]) == index.FOOTER.unpack_from(data, len(data) - size)[0] == entry['crc']:
        raise index.damaged(
            os.fspath(self.folder / name), f"record at byte {entry['offset']} does not match its checksum")
    return [data[:-size] for data in framed]

  def examples(self) -> Iterator[tf.train.Example]:
    """Yields every record in position order, read some at a time.

    Raises:
      UserError: as for `read_many`.
    """
    for start in range(0, self.num_examples, _READ_TOGETHER):
      for data in self.read_many(np.arange(start, min(start + _READ_TOGETHER, self.num_examples))):
        yield tf.train.Example.FromString(data)

  def label_array(self) -> np.ndarray:
    """The class index of every record, int32 (N,), -1 for none."""
    labels_N = np.concatenate([part.entries_N['label'] for part in self._parts.values()])
    return labels_N if self._positions_N is None else labels_N[self._positions_N]

  def annotations(self) -> Iterator[index.Annotation]:
    """Reads id, label and EmoSet attributes of every record, in position order; no image is read.

    Raises:
      UserError: the file that holds them is missing or damaged.
    """
    return self._of_every_record(index.read_annotations)

  def ids(self) -> Iterator[str]:
    """Reads the id of every record, in position order, which is faster than `annotations`. Raises as it does."""
    return self._of_every_record(index.read_ids)

  def _of_every_record(self, read: Callable[[str, str, str], Iterator[_T]]) -> Iterator[_T]:
    found = itertools.chain.from_iterable(
        read(os.fspath(self.folder), name, part.annotations_sha256) for name, part in self._parts.items())
    if self._positions_N is None:
      return found
    kept = np.zeros(self._starts[-1], bool)
    kept[self._positions_N] = True
    return itertools.compress(found, kept)

  def fraction(self, fraction: float, seed: int) -> 'Split':
    """Selects this share of each class, at least one record of each, for training on few examples.

    The records of a class with the lowest SHA-256 of seed and id stay. So the shares of one seed are nested, each in
    every larger one. Records without a label count as one class.

    Raises:
      UserError: `fraction` is not in (0, 1], or the annotations are damaged.
    """
    if not 0 < fraction <= 1:
      raise UserError(f'fraction is {fraction}: choose more than 0 and at most 1')
    ranks = (hashlib.sha256(f'fraction {seed}:{name}'.encode()).digest()[:8] for name in self.ids())
    rank_N = np.fromiter(map(int.from_bytes, ranks), np.uint64, self.num_examples)
    kept, label_N = [], self.label_array()
    for label in np.unique(label_N):
      members = np.flatnonzero(label_N == label)
      ranked = members[np.argsort(rank_N[members], kind='stable')]
      kept.append(ranked[:max(1, round(fraction * len(members)))])
    return self.selected(np.sort(np.concatenate(kept)), f'{self.name}, {100 * fraction:g} %')

  def domains(self) -> np.ndarray:
    """The domain of every record, such as its style; '' for none."""
    return np.array([found.attributes.get('domain', '') for found in self.annotations()])

  def domain(self, domain: str, inside: bool) -> 'Split':
    """Selects the records of a domain, or all others. Raises UserError if there are none."""
    domain_N = self.domains()
    kept_K = np.flatnonzero((domain_N == domain) == inside)
    if not len(kept_K):
      raise UserError(
          f"{self.name} has no record {'of' if inside else 'outside'} domain '{domain}': choose one of "
          f'{join_names(sorted(set(domain_N.tolist()) - {""})) or "none: its records name no domains"}')
    return self.selected(kept_K, f'{self.name}, {"" if inside else "without "}{domain}')

  @property
  def positions(self) -> np.ndarray:
    """The positions of the records in `whole`, ascending (N,)."""
    return np.arange(self.num_examples) if self._positions_N is None else self._positions_N

  @property
  def whole(self) -> 'Split':
    """The split of all records of `splits`, from which these were selected."""
    part = copy.copy(self)
    part.name, part._positions_N, part.num_examples = '+'.join(self.splits), None, int(self._starts[-1])
    return part

  def selected(self, kept_K: np.ndarray, name: str) -> 'Split':
    """Selects the records at these ascending positions."""
    part = copy.copy(self)
    part.name = name
    part._positions_N = kept_K if self._positions_N is None else self._positions_N[kept_K]
    part.num_examples = len(kept_K)
    return part


def open_split(data_dir: str | os.PathLike, dataset: str, split: str) -> Split:
  """Opens the newest version of a dataset that `data_pipelines.build` wrote under `data_dir`.

  Args:
    data_dir: the folder that holds `<dataset>/<version>/`; local, or a bucket that tf.io.gfile reads.
    dataset: its name, such as 'emoset'.
    split: 'train', or several joined as 'train+val', whose records follow each other in that order.

  Raises:
    UserError: there is no such dataset or split, its records have another schema, or a shard is missing, cut short or
      damaged.
  """
  folder = _newest_version(data_dir, dataset)
  features, known = _read_description(folder)
  check_labels(features['label'].names, folder)
  names = split.split('+')
  if unknown := [name for name in names if name not in known]:
    raise NoSuchSplit(
        f'{dataset} has no split {unknown[0]!r}: choose from {", ".join(sorted(known))}, or join some with + '
        f'({folder}/dataset_info.json)')
  if len(set(names)) < len(names):
    raise UserError(f'split {split!r} names the same records twice: name each split once')
  stored = _read_manifest(folder, features)
  parts: dict[str, index.Index] = {}
  for name in names:
    shards = known[name]
    if any(length for _, length in shards):
      stem = shards[0][0].partition('.')[0]
      parts[stem] = _index(folder, stem, shards)
      digests = stored.get(name, {}).get('records_sha256'), parts[stem].records_sha256
      if all(digests) and digests[0] != digests[1]:
        raise UserError(
            f'{folder}/{stem}{index.INDEX} and {manifest.MANIFEST} are of different builds: restore the folder as it '
            'was built, or build it again with --overwrite')
  if not parts:
    raise UserError(f'split {split!r} of {dataset} is empty: build {dataset} from a folder that has such images')
  return Split(split, features, folder, parts)


def split_names(data_dir: str | os.PathLike, dataset: str) -> list[str]:
  """The splits of a dataset that have records, sorted. Raises UserError as `open_split`."""
  _, known = _read_description(_newest_version(data_dir, dataset))
  return sorted(name for name, shards in known.items() if any(length for _, length in shards))


def _newest_version(data_dir: str | os.PathLike, dataset: str) -> str:
  """The folder of a dataset's newest version. Raises UserError if there is none."""
  versions = [
      path.parent
      for path in epath.Path(data_dir, dataset).glob('*/dataset_info.json')
      if tfds.core.Version.is_valid(path.parent.name)]
  if not versions:
    raise UserError(
        f'no records of {dataset!r} under {data_dir}: no {dataset}/VERSION/dataset_info.json is there; build them '
        f'with python -m data_pipelines.build --dataset={dataset} (or --name={dataset}, for images of your own) '
        f'--source=RAW_FOLDER --data_dir={data_dir}')
  return os.fspath(max(versions, key=lambda path: tfds.core.Version(path.name)))


def _read_description(folder: str) -> tuple[tfds.features.FeaturesDict, dict[str, list[tuple[str, int]]]]:
  """The fields of a dataset's records; and by split the name of each shard and the number of its records."""
  _check_description(folder)
  with storage.parsing(f'{folder}/dataset_info.json, features.json or *.labels.txt', _REBUILD):
    info = tfds.builder_from_directory(folder).info
    features, wanted = info.features, schema.record_features(tuple(info.features['label'].names))
    if missing := wanted.keys() - features.keys():
      raise UserError(
          f"{folder} was built by another version of this package (no field {min(missing)!r}): "
          'build it again with --overwrite')
    if {name: features[name].get_serialized_info() for name in wanted} != wanted.get_serialized_info():
      raise ValueError('the fields have other types than records have')
    return features, {
        name: [(epath.Path(path).name, length) for path, length in zip(split.filepaths, split.shard_lengths)]
        for name, split in info.splits.items()}


def _read_manifest(folder: str, features: tfds.features.FeaturesDict) -> dict[str, dict[str, Any]]:
  """What the manifest says of each split; nothing where an earlier version of this package wrote none.

  Raises:
    UserError: it was damaged, or names the classes in another way than TFDS's own files do.
  """
  if not storage.exists(f'{folder}/{manifest.MANIFEST}'):
    return {}
  stored = manifest.read_manifest(epath.Path(folder))
  with storage.parsing(f'{folder}/{manifest.MANIFEST}', _REBUILD):
    for field in (features['label'], features['labels'].feature):
      if field.names != stored.get('labels', field.names):
        raise ValueError(f'it names the classes {stored["labels"]}, TFDS\'s *.labels.txt {field.names}')
    return {name: dict(split) for name, split in stored.get('splits', {}).items()}


def _check_description(folder: str) -> None:
  """Raises UserError if the description is too large, or names Python code of others: TFDS would import and run it.

  TFDS knows more spellings of a class's name than it writes, and JSON in a text: what it does not write is refused.
  """
  if storage.size(f'{folder}/dataset_info.json') > MAX_INFO:
    raise UserError(f'{folder}/dataset_info.json names more shards than records can have: build them again')
  pending = [storage.read_json(f'{folder}/features.json')]
  while pending:
    value = pending.pop()
    if isinstance(value, dict):
      if strange := _READ_ONLY & value.keys():
        raise UserError(
            f'{folder}/features.json has the key {min(strange)!r}: records never do; do not use this folder')
      named = value.get('pythonClassName', _FEATURES)
      if not (isinstance(named, str) and named.startswith(_FEATURES)):
        raise UserError(
            f'{folder}/features.json names Python code, {named!r}: records never do; do not use this folder')
      pending += value.values()
    elif isinstance(value, list):
      pending += value


def _index(folder: str, split: str, shards: Sequence[tuple[str, int]]) -> index.Index:
  """The index of one split, made now if an earlier version of this package built the records."""
  if storage.exists(f'{folder}/{split}{index.INDEX}'):
    return index.read_index(folder, split, shards)
  print(f'{folder}: {split} has no index; all its records are read once to make it', file=sys.stderr, flush=True)
  try:
    collections.deque(index.make_index(folder, split, shards), maxlen=0)
  except OSError as error:
    raise UserError(
        f'{folder} has no index and none can be written ({first_line(error)}): open it once where it can be, or build '
        'it again') from error
  return index.read_index(folder, split, shards)
