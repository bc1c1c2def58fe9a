"""What a frozen model makes of every record of a split: once over all hosts, in order, on all devices."""

from collections.abc import Callable, Sequence
import sys
import time
from typing import Any

import jax
from jax.sharding import Mesh
import numpy as np

from data_pipelines.batches import pipeline
from data_pipelines.records import reader
from uniemox_jax.runtime import integrity, preemption, sharding
from uniemox_jax.runtime.distributed import is_primary

PROGRESS_SECONDS = 5.0

Fields = dict[str, jax.Array]


def split_outputs(
    apply: Callable[[Fields, Fields], Fields], split: reader.Split, fields: Sequence[str], *, image_size: int,
    batch_size: int, mesh: Mesh, person: bool = False, view: Callable[[Any], Any] | None = None,
    what: str | None = None) -> dict[str, np.ndarray]:
  """What `apply` gives for every example, in order, the same on every host.

  Args:
    apply: from 'image' uint8 (B, S, S, 3), and 'person' likewise, and from the other fields of a batch, all split over
      the mesh, to these other fields and 'outputs' (B, W), whole on every host.
    split: the records.
    fields: targets of tasks, 'label' or of `targets.TARGETS`.
    image_size: side S.
    batch_size: rounded up to a multiple of the devices.
    mesh: the devices.
    person, view: see `pipeline.eval_batches`.
    what: names the work in progress lines; None leaves them out.

  Returns:
    'outputs' (N, W) and the asked fields.

  Raises:
    UserError: a damaged shard, or a model that gives no finite number.
    Preempted: SIGTERM came.
  """
  batch_size = -(-batch_size // mesh.size) * mesh.size
  batches = pipeline.eval_batches(
      split, batch_size=batch_size, image_size=image_size, person=person, view=view,
      targets=[name for name in fields if name != 'label'], process_index=jax.process_index(),
      process_count=jax.process_count())
  pictures = ('image', 'person') if person else ('image',)
  parts, started, spoke = [], time.monotonic(), time.monotonic()
  with jax.set_mesh(mesh):
    for index, batch in enumerate(batches, start=1):
      preemption.raise_if_preempted()
      rows = sharding.global_batch({name: batch[name] for name in (*pictures, 'mask', *fields)}, mesh)
      part = jax.device_get(apply({name: rows.pop(name) for name in pictures}, rows))
      kept = part.pop('mask') > 0
      parts.append({name: values[kept] for name, values in part.items()})
      now, done = time.monotonic(), min(index * batch_size, split.num_examples)
      if what and is_primary() and now - spoke > PROGRESS_SECONDS:
        spoke = now
        print(
            f'{what} {done:,}/{split.num_examples:,}  '
            f'{(now - started) / done * (split.num_examples - done):.0f}s left', file=sys.stderr, flush=True)
  found = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
  integrity.check_finite(found['outputs'], f'some image of {split.name}')
  return found
