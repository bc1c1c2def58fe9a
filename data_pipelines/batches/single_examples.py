"""Reads single examples of a split for a person to look at: both evaluation views, with the record's id and label."""

from collections.abc import Iterator, Mapping, Sequence
from concurrent import futures
import functools
import os
from typing import Any, NamedTuple

import numpy as np

from data_pipelines.batches import augment
from data_pipelines.light_tensorflow import tf
from data_pipelines.records.reader import Split

_FIELDS = {
    'id': tf.io.FixedLenFeature([], tf.string), 'label': tf.io.FixedLenFeature([], tf.int64),
    'image': tf.io.FixedLenFeature([], tf.string), 'persons': tf.io.RaggedFeature(tf.string)}
_TOGETHER = 64
"""Examples read ahead of the caller, and so kept in memory."""


class Example(NamedTuple):
  """An example. id: the record's. label: -1 for none. scene: the evaluation view. person: the record's first person,
  squashed, or None. Views are uint8 (S, S, 3)."""

  id: str
  label: int
  scene: np.ndarray
  person: np.ndarray | None


def read_examples(
    split: Split, positions: Sequence[int], size: int, *, person: bool = True,
    centre: Mapping[str, Any] | None = None) -> Iterator[Example]:
  """Reads the examples at these positions, in this order, with views of S = `size`, in as many threads as CPUs.

  `centre` holds the arguments of `augment.centre_view` for the scene; None gives the evaluation view. Raises UserError
  if a shard is damaged.
  """
  view = functools.partial(augment.centre_view, **centre) if centre else functools.partial(
      augment.evaluation_view, size=size)

  def read(position: int) -> Example:
    record = tf.io.parse_single_example(split.read(position), _FIELDS)
    persons_P = record['persons'] if person else []
    return Example(
        record['id'].numpy().decode(), int(record['label']),
        view(record['image']).numpy(),
        augment.squashed_view(persons_P[0], size).numpy() if len(persons_P) else None)

  with futures.ThreadPoolExecutor(os.cpu_count()) as pool:
    for start in range(0, len(positions), _TOGETHER):
      yield from pool.map(read, positions[start:start + _TOGETHER])
