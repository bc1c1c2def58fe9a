"""Reads training targets other than a single class: several labels, a distribution, valence-arousal-dominance."""

from collections.abc import Sequence
import sys

import numpy as np

from data_pipelines.errors import UserError
from data_pipelines.light_tensorflow import tf
from data_pipelines.records import manifest
from data_pipelines.records.label_sets import VAD
from data_pipelines.records.reader import Split

FIELDS = {
    'labels': tf.io.RaggedFeature(tf.int64), 'distribution': tf.io.RaggedFeature(tf.float32),
    'vad': tf.io.FixedLenFeature([len(VAD)], tf.float32)}
"""The fields of the record schema with targets, in the form in which TFDS writes them."""


def fields(names: Sequence[str]) -> dict:
  """The fields of these targets, for tf.io.parse_example.

  Raises:
    UserError: a name is unknown.
  """
  if unknown := [name for name in names if name not in FIELDS]:
    raise UserError(f'target {unknown[0]!r} is unknown: choose from {", ".join(FIELDS)}')
  return {name: FIELDS[name] for name in names}


def columns(split: Split, name: str) -> tuple[str, ...]:
  """The names of a target's entries; those of a distribution are in the manifest, () without one."""
  if name == 'distribution':
    if (split.folder / manifest.MANIFEST).exists():
      return tuple(manifest.read_manifest(split.folder)['distribution'])
    print(f'{split.folder} has no {manifest.MANIFEST}, which would name a distribution', file=sys.stderr, flush=True)
    return ()
  return VAD if name == 'vad' else split.labels


def lengths(split: Split, names: Sequence[str]) -> dict[str, int]:
  """The number of entries of each target."""
  return {name: len(columns(split, name)) for name in names}


def dense(record: dict[str, tf.Tensor], sizes: dict[str, int]) -> dict[str, tf.Tensor]:
  """Makes the targets of one record, in the same shape for all records.

  Args:
    record: the parsed fields.
    sizes: the result of `lengths`, which names the targets.

  Returns:
    'labels' float32 (C,), 1 for each class of the record; 'distribution' float32 (D,), all zero without one; 'vad'
    float32 (3,), NaN if not annotated.
  """
  return {name: _MAKE[name](record[name], size) for name, size in sizes.items()}


def _multi_hot(index_M: tf.Tensor, classes: int) -> tf.Tensor:
  return tf.minimum(tf.reduce_sum(tf.one_hot(index_M, classes), axis=0), 1.0)


def _shares(share_D: tf.Tensor, length: int) -> tf.Tensor:
  return tf.ensure_shape(tf.pad(share_D, [[0, length - tf.size(share_D)]]), [length])


_MAKE = {'labels': _multi_hot, 'distribution': _shares, 'vad': lambda vad_3, _: vad_3}


def read(split: Split) -> dict[str, np.ndarray]:
  """Reads every target of every record in position order; no image is read.

  Returns:
    'label' int32 (N,), -1 for none; the others as in `dense`, with N rows.

  Raises:
    UserError: the annotations are damaged.
  """
  sizes, rows = lengths(split, tuple(FIELDS)), split.num_examples
  found = {
      'label': np.zeros(rows, np.int32), 'vad': np.zeros(
          (rows, sizes['vad']), np.float32), 'labels': np.zeros((rows, sizes['labels']), np.float32),
      'distribution': np.zeros((rows, sizes['distribution']), np.float32)}
  for row, annotation in enumerate(split.annotations()):
    found['label'][row] = annotation.label
    found['labels'][row, annotation.labels] = 1
    found['distribution'][row, :len(annotation.distribution)] = annotation.distribution
    found['vad'][row] = [np.nan if value is None else value for value in annotation.vad]
  return found
