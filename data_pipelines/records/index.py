"""Keeps an index beside the shards of a split: where each record lies, its checksum and label, and its annotations.

TFRecord has none, so finding a record means to walk over all before it. A record is framed as length (uint64), checksum
of length, data, checksum of data, little-endian. The build writes two files for each split:

`<split>.index`: a line of JSON (the shards and their sizes, a checksum of the other file), `ENTRY` for each record, and
the CRC-32C of all before. It is mapped into memory, so that a split of any size takes little.
`<split>.annotations.jsonl`: a line of JSON for each record, the fields of `Annotation`.
"""

from collections.abc import Iterator, Sequence
import hashlib
import json
import math
import struct
from typing import Any, NamedTuple

import google_crc32c
import numpy as np

from data_pipelines import byte_ranges, storage
from data_pipelines.errors import UserError
from data_pipelines.host_copies import host_copy

ENTRY = np.dtype([('offset', '<i8'), ('length', '<u4'), ('crc', '<u4'), ('shard', '<i4'), ('label', '<i4')])
"""The entry of a record, 24 bytes: where its data begin in its shard, their length and masked CRC-32C; its label, -1
for none."""
VERSION = 1
INDEX, ANNOTATIONS = '.index', '.annotations.jsonl'
_HEADER, FOOTER = struct.Struct('<QI'), struct.Struct('<I')
_READ_TOGETHER = 2**24  # bytes


class Annotation(NamedTuple):
  """What a record stores about its image, as `schema.record_features` describes it; vad is None if not annotated."""

  id: str
  label: int
  attributes: dict[str, Any]
  labels: list[int]
  distribution: list[float]
  vad: list[float | None]


class Shard(NamedTuple):
  """A shard's file name, its bytes and its records."""

  name: str
  size: int
  records: int


class Index(NamedTuple):
  """The index of one split. entries_N: `ENTRY` of each record. annotations_sha256: that of the file beside it.
  records_sha256: see `stored_splits.StoredSplit`; None if an earlier version made the index."""

  shards: tuple[Shard, ...]
  entries_N: np.ndarray
  annotations_sha256: str
  records_sha256: str | None


def masked_crc(data: bytes) -> int:
  """The checksum that TFRecord stores: crc32c, rotated and offset so that it also checks data that hold crcs."""
  crc = google_crc32c.value(data)
  return ((crc >> 15 | crc << 17) + 0xa282ead8) & 0xffffffff


def damaged(path: str, what: str) -> UserError:
  """Makes the error about a shard or its index."""
  return UserError(
      f'damaged shard {path}: {what}; delete its folder and build the dataset again with python -m data_pipelines.build'
  )


def _damaged_index(path: str, what: str) -> UserError:
  """The error about a file that can be made from the shards."""
  return UserError(f'damaged index {path}: {what}; delete the .index beside it, and both are made again')


def walk_shard(folder: str, shard: Shard) -> Iterator[tuple[int, bytes]]:
  """Yields offset and data of every record of a shard, read from its first byte to its last, some MB at a time.

  Raises:
    UserError: the shard is missing, cut short or damaged, or holds another number of records; the message names it.
  """
  ranges, path = byte_ranges.Ranges(folder), f'{folder}/{shard.name}'
  pending, start, found = b'', 0, 0  # `pending` begins at byte `start` of the file.
  for position in range(0, shard.size, _READ_TOGETHER):
    pending += ranges.read([(shard.name, position, min(_READ_TOGETHER, shard.size - position))])[0]
    used = 0
    while used + _HEADER.size <= len(pending):
      length, crc = _HEADER.unpack_from(pending, used)
      if crc != masked_crc(pending[used:used + 8]):
        raise damaged(path, f'record length at byte {start + used} does not match its checksum')
      first, end = used + _HEADER.size, used + _HEADER.size + length
      if end + FOOTER.size > len(pending):
        break
      data = pending[first:end]
      if masked_crc(data) != FOOTER.unpack_from(pending, end)[0]:
        raise damaged(path, f'record at byte {start + first} does not match its checksum')
      yield start + first, data
      found, used = found + 1, end + FOOTER.size
    pending, start = pending[used:], start + used
  if pending:
    raise damaged(path, f'it ends inside the record at byte {start}')
  if found != shard.records:
    raise damaged(path, f'it holds {found} records where dataset_info.json promises {shard.records}')


def make_index(folder: str, split: str, shards: Sequence[tuple[str, int]]) -> Iterator[Any]:
  """Reads all records of a split once, and writes its index and annotations at the end.

  Args:
    folder: the folder of the shards.
    split: the split's name.
    shards: (file name, number of records) of each.

  Yields:
    Each record as a tf.train.Example.

  Raises:
    UserError: a shard is missing, cut short or damaged; the message names it.
  """
  from data_pipelines.light_tensorflow import tf
  entries, sized, digest, records_sha256 = bytearray(), [], hashlib.sha256(), hashlib.sha256()
  with storage.new_file(f'{folder}/{split}{ANNOTATIONS}') as annotations:
    for number, (name, records) in enumerate(shards):
      sized.append(shard := Shard(name, _size(folder, name), records))
      for offset, data in walk_shard(folder, shard):
        example = tf.train.Example.FromString(data)
        annotation = _annotation(example)
        entries += np.array((offset, len(data), masked_crc(data), number, annotation.label), ENTRY).tobytes()
        line = json.dumps(annotation, ensure_ascii=False, allow_nan=False).encode() + b'\n'
        annotations.write(line)
        digest.update(line)
        records_sha256.update(example.SerializeToString(deterministic=True))
        yield example
  found = Index(tuple(sized), np.frombuffer(entries, ENTRY), digest.hexdigest(), records_sha256.hexdigest())
  write_index(folder, split, found)


def write_index(folder: str, split: str, found: Index) -> None:
  """Writes an index as `read_index` reads it. It holds the digest of the annotations, which are written before."""
  header = {
      'version': VERSION, 'shards': found.shards, 'annotations_sha256': found.annotations_sha256,
      'records_sha256': found.records_sha256}
  content = json.dumps(header).encode() + b'\n' + found.entries_N.tobytes()
  storage.write_bytes(f'{folder}/{split}{INDEX}', content + storage.CHECKSUM.pack(google_crc32c.value(content)))


def _annotation(example: Any) -> Annotation:
  fields = example.features.feature
  name, attributes = (fields[key].bytes_list.value[0].decode() for key in ('id', 'attributes'))
  return Annotation(
      name, fields['label'].int64_list.value[0], json.loads(attributes), list(fields['labels'].int64_list.value),
      list(fields['distribution'].float_list.value),
      [None if math.isnan(value) else value for value in fields['vad'].float_list.value])


def _size(folder: str, name: str) -> int:
  try:
    return storage.size(f'{folder}/{name}')
  except FileNotFoundError as error:
    raise damaged(f'{folder}/{name}', 'it is missing') from error


def read_index(folder: str, split: str, shards: Sequence[tuple[str, int]]) -> Index:
  """Reads the index of a split, and checks that its shards are complete.

  Args: as in `make_index`.

  Raises:
    UserError: the index does not match its checksum or these shards, or a shard is missing or cut short.
  """
  path = f'{folder}/{split}{INDEX}'
  copy = host_copy(path)
  with storage.open_local(copy) as file:
    if storage.checksum_at_end(file) is None:
      raise _damaged_index(path, 'it does not match its checksum')
    file.seek(0)
    line = file.readline()
  header = json.loads(line)
  found = tuple(Shard(*shard) for shard in header['shards'])
  if header['version'] != VERSION or [(shard.name, shard.records) for shard in found] != list(shards):
    raise _damaged_index(path, 'it is about other shards than dataset_info.json, or of another version')
  entries_N = np.memmap(copy, ENTRY, 'r', len(line), sum(shard.records for shard in found))
  try:
    byte_ranges.Ranges(folder).read([(shard.name, shard.size - 1, 1) for shard in found if shard.records])
  except byte_ranges.MissingBytes as error:
    raise damaged(error.path, error.what) from error
  return Index(found, entries_N, header['annotations_sha256'], header.get('records_sha256'))


def read_annotations(folder: str, split: str, sha256: str) -> Iterator[Annotation]:
  """Reads the annotations of each record, in order.

  Raises:
    UserError: the file is missing or not the one that the index was made with.
  """
  return (Annotation(*json.loads(line)) for line in _annotation_lines(folder, split, sha256))


def read_ids(folder: str, split: str, sha256: str) -> Iterator[str]:
  """Reads the id of each record, in order, and no other annotation. Raises as `read_annotations`."""
  parse = json.JSONDecoder().raw_decode  # From a place in the text, one value: the first of the line's array.
  return (parse(line.decode(), 1)[0] for line in _annotation_lines(folder, split, sha256))


def _annotation_lines(folder: str, split: str, sha256: str) -> Iterator[bytes]:
  path = f'{folder}/{split}{ANNOTATIONS}'
  if not storage.exists(path):
    raise _damaged_index(path, 'it is missing')
  with storage.open_local(host_copy(path)) as file:
    if hashlib.file_digest(file, 'sha256').hexdigest() != sha256:
      raise _damaged_index(path, 'it does not match its checksum')
    file.seek(0)
    yield from file
