"""The teacher's embeddings of a few views of every scene: computed once over all devices, kept on disk in shards.

Source: docs/method.md, A teacher that is paid once.
"""

import atexit
from collections.abc import Callable, Iterator
import contextlib
import hashlib
import os
import struct
import sys
import time
from typing import Any, NamedTuple

from etils import epath
import google_crc32c
import jax
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
import numpy as np

from data_pipelines import storage
from data_pipelines.batches.pipeline import RecurringCrops, recurring_batches
from data_pipelines.host_copies import copied
from data_pipelines.ownership import owned
from data_pipelines.records.reader import Split
from uniemox_jax.models.preprocess import resize_crops
from uniemox_jax.runtime import sharding
from uniemox_jax.runtime.clock import duration
from uniemox_jax.runtime.distributed import is_primary, wait_for_all
from uniemox_jax.teacher.step_teacher import Teacher, teacher_shardings

SHARD = 4096
"""How many examples a file holds, which is what a kill loses at most."""
PROGRESS_SECONDS = 5.0
_VERSION = 1
"""Changes when the same key means other views."""
_FOOTER = struct.Struct('<qqq32s')  # view, shard, width, key


class Scenes(NamedTuple):
  """What decides the pixels that the teacher is shown.

  image_size: the side of the student's views. The others are as in `train_batches`.
  """

  split: Split
  crops: RecurringCrops
  image_size: int
  crop_area: tuple[float, float]
  canvas: int = 0


class ViewEmbeddings:
  """The image embeddings Omega by view and position. One view's files are mapped: memory holds what was read lately.

  Args:
    cache_dir: a folder on a disk or in a bucket, which holds one folder for each teacher and way to make views.
    scenes: the scenes that are embedded.
    teacher: what else decides the embeddings: digest, statistics.
    width: the width E of an embedding.
    dtype: the dtype of the computation, in which the embeddings are kept.
  """

  def __init__(self, cache_dir: str, scenes: Scenes, teacher: str, width: int, dtype: Any):
    self._width, self._dtype = width, np.dtype(dtype)
    self._examples = scenes.split.num_examples
    # Without the number of views: those of a larger number are these and more.
    described = (
        f'{_VERSION} {teacher} {self._dtype.name} {width} {scenes.split.fingerprint} {scenes.crops.seed} '
        f'{scenes.image_size} {scenes.crop_area}' + (f' {scenes.canvas}' if scenes.canvas else ''))
    self._key = hashlib.sha256(described.encode()).digest()
    self.folder = os.path.join(cache_dir, f'views-{self._key.hex()}')
    self._mapped: list[np.ndarray] = []
    self._view, self._files = -1, contextlib.ExitStack()
    atexit.register(self._files.close)

  def rows(self, shard: int) -> int:
    """How many examples this shard holds."""
    return min(SHARD, self._examples - shard * SHARD)

  def _name(self, view: int, shard: int) -> str:
    return f'view{view:04d}-{shard:05d}.{self._dtype.name}'

  def path(self, view: int, shard: int) -> str:
    """The file of a shard."""
    return os.path.join(self.folder, self._name(view, shard))

  def present(self, views: int) -> np.ndarray:
    """Which files exist, by view and shard: bool (K, S)."""
    names = {path.name for path in epath.Path(self.folder).iterdir()} if storage.exists(self.folder) else set()
    return np.array(
        [[self._name(view, shard) in names for shard in range(-(-self._examples // SHARD))] for view in range(views)])

  def write(self, view: int, shard: int, embedded_RxE: np.ndarray) -> None:
    """Writes a shard: its embeddings, `_FOOTER`, and the CRC-32C of both."""
    content = embedded_RxE.astype(self._dtype).tobytes() + _FOOTER.pack(view, shard, self._width, self._key)
    storage.write_bytes(self.path(view, shard), content + storage.CHECKSUM.pack(google_crc32c.value(content)))

  def at(self, view: int, positions_R: np.ndarray) -> np.ndarray:
    """The embeddings of this view at these positions, unit-norm float32 (R, E).

    Raises:
      UserError: a file of this view is missing or damaged.
    """
    if view != self._view:
      self._open(view)
    shard_R, row_R = np.divmod(positions_R, SHARD)
    embedded_RxE = np.empty((len(positions_R), self._width), np.float32)
    for shard in np.unique(shard_R):
      mine_R = shard_R == shard
      embedded_RxE[mine_R] = self._mapped[shard][row_R[mine_R]]
    return embedded_RxE

  def _open(self, view: int) -> None:
    """Checks and maps the files of a view; from a bucket, they are copied for as long as it is this view's turn."""
    self._files.close()
    self._view, self._mapped = -1, []
    names = [self._name(view, shard) for shard in range(-(-self._examples // SHARD))]
    local = self._files.enter_context(copied(self.folder, names))
    for shard, name in enumerate(names):
      with storage.parsing(self.path(view, shard), 'delete it and run the same command again, and it is made again'):
        with storage.open_local(local / name) as file:
          if storage.checksum_at_end(file) is None:
            raise ValueError('it does not match its checksum')
          file.seek(-_FOOTER.size - storage.CHECKSUM.size, os.SEEK_END)
          if _FOOTER.unpack(file.read(_FOOTER.size)) != (view, shard, self._width, self._key):
            raise ValueError('it is of other views than its name says')
        self._mapped.append(np.memmap(local / name, self._dtype, 'r', 0, (self.rows(shard), self._width)))
    self._view = view


def embed_views(
    kept: ViewEmbeddings, scenes: Scenes, teacher: Teacher, frozen: dict[str, Any], *, mesh: Mesh, batch_size: int,
    sharded: bool) -> int:
  """Computes the embeddings that are missing, over all devices. A kill loses the shard that is being computed.

  Several hosts call this together; each makes its part of every batch. Where they share no folder, each keeps all.

  Args:
    kept: where the embeddings are kept. Another process that computes the same ones is waited for.
    scenes: what to show the teacher.
    teacher, frozen: see `make_teacher`.
    mesh: devices, among which a batch is split.
    batch_size: views in a call, over all devices; a multiple of their number.
    sharded: whether to split the teacher over `fsdp`.

  Returns:
    The number of views of examples that were missing.

  Raises:
    UserError: records are damaged.
  """
  if not len(_missing(kept, scenes.crops.number)):
    return 0
  with contextlib.ExitStack() as owner:
    if is_primary():
      owner.enter_context(owned(kept.folder, 'views', wait=True))
    wait_for_all('views owned')
    missing = _missing(kept, scenes.crops.number)
    total = sum(kept.rows(shard) for _, shard in missing)
    say = _progress(total, kept.folder)
    placed = jax.device_put(frozen, teacher_shardings(frozen, mesh, sharded))
    for view, shard, embedded_RxE in _embedded(kept, missing, scenes, teacher, placed, mesh, batch_size, say):
      if is_primary():
        kept.write(view, shard, embedded_RxE)
      wait_for_all('view kept')
      if not is_primary() and not storage.exists(kept.path(view, shard)):
        kept.write(view, shard, embedded_RxE)
  return total


def _missing(kept: ViewEmbeddings, views: int) -> list[tuple[int, int]]:
  """View and shard of every file that some host lacks: embedding is collective, so all compute it."""
  present_VxS = kept.present(views)
  everywhere_VxS = multihost_utils.process_allgather(present_VxS).reshape(-1, *present_VxS.shape).all(axis=0)
  return [(int(view), int(shard)) for view, shard in np.argwhere(~everywhere_VxS)]


def _embedded(
    kept: ViewEmbeddings, missing: list[tuple[int, int]], scenes: Scenes, teacher: Teacher, placed: Any, mesh: Mesh,
    batch_size: int, say: Callable[[int], None]) -> Iterator[tuple[int, int, np.ndarray]]:
  """View, shard and embeddings, float32 (R, E), of each of these; the same on every host. `say` hears how many come."""
  batch = min(batch_size, -(-SHARD // mesh.size) * mesh.size)
  starts = [(view, shard * SHARD + first) for view, shard in missing for first in range(0, kept.rows(shard), batch)]
  batches = recurring_batches(
      scenes.split, scenes.crops.seed, starts, batch_size=batch, image_size=scenes.image_size,
      crop_area=scenes.crop_area, canvas=scenes.canvas, process_index=jax.process_index(),
      process_count=jax.process_count())

  def embed_batch(frozen: Any, batch: dict[str, jax.Array]) -> jax.Array:
    return teacher.embed_image(frozen, resize_crops(batch, scenes.image_size)['scene'])

  embed = jax.jit(embed_batch, out_shardings=NamedSharding(mesh, P()))
  for view, shard in missing:
    rows, parts = kept.rows(shard), []
    for first in range(0, rows, batch):
      shown = sharding.global_batch(next(batches), mesh)
      with jax.set_mesh(mesh):
        parts.append(np.asarray(embed(placed, shown)))
      say(min(batch, rows - first))
    yield view, shard, np.concatenate(parts)[:rows]


def _progress(total: int, folder: str) -> Callable[[int], None]:
  """What the first process calls with the number of embeddings that it has more; it speaks now and then."""
  if not is_primary():
    return lambda count: None
  if total:
    print(f"the teacher's embeddings of {total:,} views are computed once, and kept in {folder}", flush=True)
  started = spoke = time.monotonic()
  done = 0

  def say(count: int) -> None:
    nonlocal done, spoke
    done, now = done + count, time.monotonic()
    if now - spoke > PROGRESS_SECONDS:
      spoke = now
      left = duration((now - started) / done * (total - done))
      print(f'views {done:,}/{total:,}  {left} left', file=sys.stderr, flush=True)

  return say
