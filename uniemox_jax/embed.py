"""Computes the teacher's embeddings of views before a run: python -m uniemox_jax.embed --config=… with teacher_views.

`pretrain` with the same config finds them; if some are missing, it computes them first, by the same code. The same
command again goes on after the last shard. See docs/method.md, A teacher that is paid once.
"""

import os
from typing import Any

from absl import flags
import jax.numpy as jnp
from jax.sharding import Mesh
from ml_collections import ConfigDict

from data_pipelines.batches.pipeline import Views
from data_pipelines.errors import UserError
from data_pipelines.records import reader
from uniemox_jax.runtime import cli, preemption, sharding
from uniemox_jax.runtime.distributed import is_primary
from uniemox_jax.teacher.load_teachers import load_teachers
from uniemox_jax.teacher.step_teacher import Teacher
from uniemox_jax.teacher.view_embeddings import Scenes, ViewEmbeddings, embed_views
from uniemox_jax.train.config import PretrainConfig
from uniemox_jax.train.kept_config import settle_dtype
from uniemox_jax.train.loop import use_compilation_cache
from uniemox_jax.train.schema import parse

CACHE = 'view_cache'
"""The folder under data_dir, beside that of the captions."""


def views_of(config: PretrainConfig) -> Views | None:
  """The crops and flips that come again; None if every epoch draws new ones."""
  if not config.teacher_views:
    return None
  seed = config.seed if config.teacher_views_seed < 0 else config.teacher_views_seed
  return Views(config.teacher_views, seed)


def view_embeddings(
    config: PretrainConfig, split: reader.Split, digest: str, teacher: Teacher, frozen: Any,
    mesh: Mesh) -> tuple[ViewEmbeddings, int]:
  """Opens the teacher's embeddings of all views that a run reads, and computes those that are missing.

  Args:
    config: a config with `teacher_views`.
    split: its records.
    digest, teacher, frozen: see `LoadedTeachers`.
    mesh: the devices that compute.

  Returns:
    The embeddings, and how many were computed.
  """
  views = views_of(config)
  assert views is not None  # both callers have asked
  views = views._replace(number=min(views.number, config.epochs))
  scenes = Scenes(split, views, config.model.image_size, (config.min_crop_area, 1.0), config.crop_canvas)
  kept = ViewEmbeddings(
      os.path.join(config.data_dir, CACHE), scenes, f'{digest} {config.teacher_statistics}', teacher.width,
      jnp.dtype(config.dtype))
  return kept, embed_views(
      kept, scenes, teacher, frozen, mesh=mesh, batch_size=config.batch_size // config.accum_steps,
      sharded=config.teacher_sharded)


def embed(given: ConfigDict) -> None:
  """Computes what `pretrain` with this config would read, and prints where it lies.

  Raises:
    UserError: the config, the data or the teacher has a mistake.
  """
  config = settle_dtype(parse(PretrainConfig, given), None)
  if not (config.teacher_views and config.loss.semantic):
    raise UserError(
        'nothing to embed: give --config.teacher_views=K, how many views of each scene, and a loss that needs the '
        'teacher')
  use_compilation_cache()
  mesh = sharding.make_mesh(config.mesh.data, config.mesh.fsdp)
  sharding.check_batch(config.batch_size, mesh, config.accum_steps)
  split = reader.open_split(config.data_dir, config.dataset, config.split)
  loaded = load_teachers(config.teacher, jnp.dtype(config.dtype), config.teacher_statistics, config.attention)
  kept, computed = view_embeddings(config, split, loaded.digest, loaded.teacher, loaded.frozen, mesh)
  if is_primary():
    print(f'{computed:,} views embedded; all that the run reads are in {kept.folder}', flush=True)


def main() -> None:
  """Entry point after flags are parsed."""
  preemption.watch()
  embed(flags.FLAGS.config)


if __name__ == '__main__':
  cli.define_config()
  cli.define_multihost()
  cli.run(main)
