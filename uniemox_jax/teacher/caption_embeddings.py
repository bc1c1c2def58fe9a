"""The captions of a split, and their CLIP embeddings: computed once over all devices, kept on disk.

Source: docs/method.md, Captions.
"""

from collections.abc import Sequence
import hashlib
import os
import sys
import time
from typing import TYPE_CHECKING

from etils import epath
from flax import nnx
import jax
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
import numpy as np

from data_pipelines.records import caption_text
from uniemox_jax.runtime.array_cache import read_arrays, write_arrays
from uniemox_jax.teacher.frozen_clip import Clip

if TYPE_CHECKING:  # it would load tensorflow
  from data_pipelines.records.reader import Split

PROGRESS_SECONDS = 5.0


def split_captions(split: 'Split', clip: Clip, emotion_in_caption: bool) -> list[str]:
  """One caption for each position of a split.

  Args:
    split: supplies labels and attributes.
    clip: its tokenizer counts tokens; captions over its context length lose objects from the end.
    emotion_in_caption: whether the emotion word is in the text, which makes pretraining label-supervised.
  """
  return [
      caption_text.fitting_caption(
          found.attributes, split.labels[found.label] if emotion_in_caption and found.label >= 0 else None,
          lambda text: len(clip.tokenizer(text)['input_ids']), clip.config.context_length)
      for found in split.annotations()]


def embedded_captions(clip: Clip, split: 'Split', emotion_in_caption: bool, data_dir: str) -> np.ndarray:
  """Lambda for every position: unit-norm float32 (N, E), computed once and cached under `data_dir`/caption_cache."""
  return embed_captions(clip, split_captions(split, clip, emotion_in_caption), os.path.join(data_dir, 'caption_cache'))


def embed_captions(
    clip: Clip, captions: Sequence[str], cache_dir: str | os.PathLike, batch_size: int = 1024) -> np.ndarray:
  """Every caption's embedding, computed once over all devices and kept on disk.

  Several hosts call this together, with the same captions.

  Args:
    clip: the teacher.
    captions: N texts; equal ones are embedded once.
    cache_dir: holds one file per teacher and set of captions.
    batch_size: captions a call, over all devices.

  Returns:
    float32 (N, E) of unit norm.

  Raises:
    UserError: the teacher has no tokenizer, or the cached file is damaged.
  """
  distinct = sorted(set(captions))
  ids_NxT = clip.tokenize(distinct)
  # The ids, not the strings: another tokenizer in the teacher's folder must not find the old embeddings.
  key = hashlib.sha256(f'{clip.digest} {ids_NxT.shape} '.encode() + ids_NxT.tobytes()).hexdigest()
  path = epath.Path(cache_dir) / f'captions-{key}.npz'
  if not path.is_file() and path.with_suffix('.npy').is_file():  # an earlier version wrote it
    path = path.with_suffix('.npy')
  # Embedding is collective: if one host lacks the file, all compute.
  if np.all(multihost_utils.process_allgather(np.array(path.is_file()))):
    embedded_NxE, = read_arrays(path, key, embedded=(len(distinct), clip.config.projection_dim))
  else:
    embedded_NxE = _embed_ids(clip, ids_NxT, batch_size)
    write_arrays(path.with_suffix('.npz'), key, embedded=embedded_NxE)  # hosts may share the folder
  row_of = {caption: row for row, caption in enumerate(distinct)}
  return embedded_NxE[np.array([row_of[caption] for caption in captions], np.int64)]


def _embed_ids(clip: Clip, ids_NxT: np.ndarray, batch_size: int) -> np.ndarray:
  """Batches of ids through the text tower, split over all devices; the same result on every host."""
  mesh = Mesh(np.asarray(jax.devices()), ('data',))
  split, whole = NamedSharding(mesh, P('data')), NamedSharding(mesh, P())
  total = len(ids_NxT)
  batch = -(-min(batch_size, max(total, 1)) // mesh.size) * mesh.size
  params = jax.device_put(clip.params, whole)
  embed = jax.jit(lambda params, ids: nnx.merge(clip.graphdef, params).text(ids), out_shardings=whole)
  rows, started, spoke = [], time.monotonic(), time.monotonic()
  for first in range(0, total, batch):
    part = ids_NxT[first:first + batch]
    padded = np.concatenate([part, np.zeros((batch - len(part), part.shape[1]), np.int32)])
    ids = jax.make_array_from_callback(padded.shape, split, padded.__getitem__)
    rows.append(np.asarray(embed(params, ids))[:len(part)])
    now, done = time.monotonic(), first + len(part)
    if jax.process_index() == 0 and now - spoke > PROGRESS_SECONDS:
      spoke = now
      print(
          f'captions {done:,}/{total:,}  {(now - started) / done * (total - done):.0f}s left', file=sys.stderr,
          flush=True)
  return np.concatenate(rows) if rows else np.zeros((0, clip.config.projection_dim), np.float32)
