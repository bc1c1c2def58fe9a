"""Computes a frozen model's outputs for every record of a split: each once, in order, on all hosts and devices."""

from collections.abc import Callable, Sequence
import os
import sys
import time
from typing import Any

import jax
from jax.sharding import Mesh
import numpy as np

from data_pipelines.batches import pipeline
from data_pipelines.errors import UserError
from data_pipelines.records import reader
from uniemox_jax.runtime import integrity, preemption, sharding
from uniemox_jax.runtime.distributed import is_primary

PROGRESS_SECONDS = 5.0

Fields = dict[str, jax.Array]


def split_outputs(
    apply: Callable[[Fields, Fields], Fields], split: reader.Split, fields: Sequence[str], *, image_size: int,
    batch_size: int, mesh: Mesh, person: bool = False, view: Callable[[Any], Any] | None = None, change: str = '',
    progress: str | None = None) -> dict[str, np.ndarray]:
  """Computes the outputs of `apply` for every example of a split, in order, the same on every host.

  Args:
    apply: a function that takes the views, 'image' uint8 (B, S, S, 3) and with `person` 'person' likewise, and the
      other fields of the batch, all split over the mesh. It returns the other fields and 'outputs' (B, W), whole on
      every host.
    split: the records.
    fields: the targets of tasks: 'label' or keys of `targets.FIELDS`.
    image_size, person, view, change: see `pipeline.eval_batches`; S is the size.
    batch_size: rounded up to a multiple of the devices in `mesh`.
    mesh: the devices.
    progress: the beginning of the lines that report progress; None prints none.

  Returns:
    'outputs' (N, W) and `fields`.

  Raises:
    UserError: a shard is damaged, outputs are not finite, or this host has less memory than they take.
    Preempted: SIGTERM came.
  """
  batch_size = -(-batch_size // mesh.size) * mesh.size
  batches = pipeline.eval_batches(
      split, batch_size=batch_size, image_size=image_size, person=person, view=view, change=change,
      targets=[name for name in fields if name != 'label'], process_index=jax.process_index(),
      process_count=jax.process_count())
  view_names = ('image', 'person') if person else ('image',)
  found: dict[str, np.ndarray] = {}
  done, started, reported = 0, time.monotonic(), time.monotonic()
  with jax.set_mesh(mesh):
    for batch in batches:
      preemption.raise_if_preempted()
      rows = sharding.global_batch({name: batch[name] for name in (*view_names, 'mask', *fields)}, mesh)
      part = jax.device_get(apply({name: rows.pop(name) for name in view_names}, rows))
      kept = part.pop('mask') > 0
      found = found or _room_for(part, split)
      for name, values in part.items():
        found[name][done:done + kept.sum()] = values[kept]
      now, done = time.monotonic(), done + int(kept.sum())
      if progress and is_primary() and now - reported > PROGRESS_SECONDS:
        reported = now
        seconds_left = (now - started) / done * (split.num_examples - done)
        print(f'{progress} {done:,}/{split.num_examples:,}  {seconds_left:.0f}s left', file=sys.stderr, flush=True)
  integrity.check_finite(found['outputs'], f'some image of {split.name}')
  return found


def _room_for(part: dict[str, np.ndarray], split: reader.Split) -> dict[str, np.ndarray]:
  """Arrays for the outputs of a whole split, of which `part` is a batch.

  Without the check the system would grant them all the same, and end the process when they are full, hours later.
  """
  needed = split.num_examples * sum(values[0].nbytes for values in part.values())
  memory = os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE')
  if needed > memory:
    raise UserError(
        f'the outputs of {split.num_examples:,} examples of {split.name} take {needed / 2**30:,.1f} GiB of memory, and '
        f'this host has {memory / 2**30:,.1f} GiB: take a host with more, or build a data set of fewer records')
  return {name: np.empty((split.num_examples, *values.shape[1:]), values.dtype) for name, values in part.items()}
