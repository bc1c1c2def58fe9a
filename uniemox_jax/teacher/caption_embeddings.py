"""The captions of a split, and their CLIP embeddings or token ids: computed once, kept on disk, mapped into memory.

Source: docs/method.md, Captions.
"""

from collections.abc import Callable, Iterable, Iterator
import hashlib
import itertools
import os
import struct
import sys
import time
from typing import IO, TYPE_CHECKING, NamedTuple

from flax import nnx
import google_crc32c
import jax
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
import numpy as np

from data_pipelines import storage
from data_pipelines.host_copies import host_copy
from data_pipelines.records import caption_text
from uniemox_jax.teacher.frozen_clip import Clip

if TYPE_CHECKING:  # it would load tensorflow
  from data_pipelines.records.reader import Split

MOSTLY_EQUAL = 0.9
"""The share of equal captions above which comparing captions teaches nothing."""
CACHE = 'caption_cache'
"""The folder beside the records."""
PROGRESS_SECONDS = 5.0
_FIRST, _TOGETHER = 1024, 2**14  # captions
_FOOTER = struct.Struct('<qqqq32s')  # distinct captions, captions, used width, cleaned captions, key


def split_captions(split: 'Split', clip: Clip, emotion_in_caption: bool, style: str) -> Iterator[str]:
  """Yields one caption for each position of a split, in order.

  Args:
    split: the records, with labels and attributes.
    clip: the teacher whose tokenizer counts tokens; captions over its context length lose objects from the end.
    emotion_in_caption: whether the emotion word is in the text, which makes pretraining label-supervised.
    style: one of `caption_text.STYLES`.
  """
  for found in split.annotations():
    yield caption_text.fitting_caption(
        found.attributes, split.labels[found.label] if emotion_in_caption and found.label >= 0 else None,
        lambda text: len(clip.tokenizer.encode(text)), style, clip.config.context_length)


class KeptCaptions(NamedTuple):
  """What was made of each caption, by position. Both arrays are mapped from a file: memory holds what was read lately.

  row_N: int32, the row of values_MxW that holds what each position's caption gave. values_MxW: embeddings Lambda,
  float32 of unit norm (W = E), or token ids, int32. cleaned: how many of these captions have other tokens than they
  would have without `tokenizer.clean`.
  """

  row_N: np.ndarray
  values_MxW: np.ndarray
  cleaned: int

  def at(self, positions_R: np.ndarray) -> np.ndarray:
    """The values of the captions at these positions (R, W)."""
    return self.values_MxW[self.row_N[positions_R]]

  def largest_share(self) -> float:
    """The share of the positions that have the most frequent caption."""
    return float(np.bincount(self.row_N).max() / len(self.row_N))


class _Making(NamedTuple):
  """How a caption becomes a row of `width` values of type `dtype`, of which `fill` makes up what lacks.

  file: its name, with {} for the key. start: gives the function from texts to rows (R, `width` or fewer).
  """

  file: str
  dtype: str
  width: int
  fill: int
  start: Callable[[], Callable[[list[str]], np.ndarray]]


def embedded_captions(clip: Clip, split: 'Split', emotion_in_caption: bool, style: str, data_dir: str) -> KeptCaptions:
  """Computes the embeddings of a split's captions once, and caches them under `data_dir`/caption_cache."""
  return embed_captions(
      clip, split_captions(split, clip, emotion_in_caption, style), os.path.join(data_dir, CACHE),
      _identity(split, emotion_in_caption), split.num_examples)


def tokenized_captions(clip: Clip, split: 'Split', emotion_in_caption: bool, style: str, data_dir: str) -> KeptCaptions:
  """The token ids of a split's captions, as `Clip.tokenize` gives all of them together; cached beside the embeddings.

  Raises:
    UserError: as `embed_captions`; or a token that the model does not know.
  """
  padding = int(clip.tokenize([''])[0, -1])
  making = _Making('tokens-{}.i32', '<i4', clip.config.context_length, padding, lambda: clip.tokenize)
  described = f'{clip.tokenizer_digest} {clip.config.context_length} {clip.config.vocab_size} '
  return _kept(
      clip, split_captions(split, clip, emotion_in_caption, style), os.path.join(data_dir, CACHE),
      described + _identity(split, emotion_in_caption), split.num_examples, making)


def _identity(split: 'Split', emotion_in_caption: bool) -> str:
  return f'{split.fingerprint} {split.labels} {emotion_in_caption}'


def embed_captions(
    clip: Clip, captions: Iterable[str], cache_dir: str | os.PathLike, identity: str, total: int,
    batch_size: int = 1024) -> KeptCaptions:
  """Computes every caption's embedding once, over all devices, and keeps it on disk.

  Several hosts call this together, with the same captions. Memory holds some thousand of them at a time.

  Args:
    clip: the teacher.
    captions: texts; those that are equal and near each other, or equal to one of the first, are embedded once.
    cache_dir: the folder of one file per teacher and set of captions.
    identity: what identifies the captions. It names the file, together with the tokens of the first thousand, which
      another tokenizer or another way to make captions would change.
    total: the number of captions.
    batch_size: the number of captions in a call, over all devices.

  Raises:
    UserError: the teacher has no tokenizer, or the cached file is damaged.
  """

  def start() -> Callable[[list[str]], np.ndarray]:
    embed = _embedder(clip)
    return lambda texts: _embed_ids(embed, clip.tokenize(texts), batch_size)

  making = _Making('captions-{}.f32', '<f4', clip.config.projection_dim, 0, start)
  return _kept(clip, captions, cache_dir, f'{clip.digest} {identity}', total, making)


def _kept(
    clip: Clip, captions: Iterable[str], cache_dir: str | os.PathLike, identity: str, total: int,
    making: _Making) -> KeptCaptions:
  """What is made of captions, from the file in `cache_dir` that a hash names; written now if some host lacks it."""
  captions = iter(captions)
  first = list(itertools.islice(captions, _FIRST))
  # 'cleaned', since an earlier version's file may hold, after the first thousand, captions that it did not clean.
  key = hashlib.sha256(f'{identity} {total} cleaned '.encode() + clip.tokenize(first).tobytes()).digest()
  path = os.path.join(cache_dir, making.file.format(key.hex()))
  # Embedding is collective: if one host lacks the file, all compute.
  if not np.all(multihost_utils.process_allgather(np.array(storage.exists(path)))):
    with storage.new_file(path) as file:  # hosts may share the folder
      _write(file, key, clip, itertools.chain(first, captions), total, making)
  return _read(path, key, making)


def _write(file: IO[bytes], key: bytes, clip: Clip, captions: Iterator[str], total: int, making: _Making) -> None:
  """Values, the row of each caption, `_FOOTER`, and the CRC-32C of all before."""
  rows, distinct_before, cleaned, done, crc, used = [np.zeros(0, '<i4')], 0, 0, 0, 0, 0
  started = spoke = time.monotonic()

  def write(content: bytes) -> None:
    nonlocal crc
    crc = google_crc32c.extend(crc, content)
    file.write(content)

  make = making.start()
  frequent: dict[str, int] = {}  # rows of the first chunk's captions; those of all captions might not fit in memory
  while chunk := list(itertools.islice(captions, _TOGETHER)):
    distinct = sorted(set(chunk) - frequent.keys())
    if distinct:
      made = make(distinct)
      values_RxW = np.full((len(made), making.width), making.fill, making.dtype)
      values_RxW[:, :made.shape[1]] = made
      write(values_RxW.tobytes())
      used = max(used, made.shape[1])
      cleaned += sum(map(clip.tokenizer.is_cleaned, distinct))
    row_of = frequent | {caption: row for row, caption in enumerate(distinct, distinct_before)}
    frequent = frequent or row_of
    rows.append(np.array([row_of[caption] for caption in chunk], '<i4'))
    distinct_before, done, now = distinct_before + len(distinct), done + len(chunk), time.monotonic()
    if jax.process_index() == 0 and now - spoke > PROGRESS_SECONDS:
      spoke = now
      left = (now - started) / done * (total - done)
      print(f'captions {done:,}/{total:,}  {left:.0f}s left', file=sys.stderr, flush=True)
  write(np.concatenate(rows).tobytes())
  write(_FOOTER.pack(distinct_before, done, used, cleaned, key))
  file.write(storage.CHECKSUM.pack(crc))


def _read(path: str, key: bytes, making: _Making) -> KeptCaptions:
  with storage.parsing(path, 'delete the file, and it is made again'):
    local = host_copy(path)
    with storage.open_local(local) as file:
      if storage.checksum_at_end(file) is None:
        raise ValueError('it does not match its checksum')
      file.seek(-_FOOTER.size - storage.CHECKSUM.size, os.SEEK_END)
      distinct, total, used, cleaned, found = _FOOTER.unpack(file.read(_FOOTER.size))
    if found != key:
      raise ValueError('it is of other captions than its name says')
    values_MxW = np.memmap(local, making.dtype, 'r', 0, (distinct, making.width))
    row_N = np.memmap(local, '<i4', 'r', values_MxW.nbytes, total)
    return KeptCaptions(row_N, values_MxW[:, :used], cleaned)


def _embedder(clip: Clip) -> Callable[[np.ndarray], np.ndarray]:
  """A function from int32 ids (B, T), B a multiple of all devices, to embeddings (B, E), compiled once for a shape."""
  mesh = Mesh(np.asarray(jax.devices()), ('data',))
  split, whole = NamedSharding(mesh, P('data')), NamedSharding(mesh, P())
  params = jax.device_put(clip.params, whole)
  text = jax.jit(lambda params, ids: nnx.merge(clip.graphdef, params).text(ids), out_shardings=whole)
  return lambda ids_BxT: np.asarray(
      text(params, jax.make_array_from_callback(ids_BxT.shape, split, ids_BxT.__getitem__)))


def _embed_ids(embed: Callable[[np.ndarray], np.ndarray], ids_NxT: np.ndarray, batch_size: int) -> np.ndarray:
  """Batches of ids through the text tower, split over all devices; the same result on every host."""
  devices = jax.device_count()
  batch = -(-min(batch_size, len(ids_NxT)) // devices) * devices
  rows = []
  for first in range(0, len(ids_NxT), batch):
    part = ids_NxT[first:first + batch]
    padded = np.concatenate([part, np.zeros((batch - len(part), part.shape[1]), np.int32)])
    rows.append(embed(padded)[:len(part)])
  return np.concatenate(rows)
