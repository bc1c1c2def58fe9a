"""Computes the teacher's embeddings of views before a run: python -m uniemox_jax.embed --config=… with teacher_views.

`pretrain` with the same config finds them; if some are missing, it computes them first, by the same code. The same
command again goes on after the last shard. See docs/method.md, A teacher that is paid once.
"""

from absl import flags
import jax.numpy as jnp
from ml_collections import ConfigDict

from data_pipelines.errors import UserError
from data_pipelines.records import reader
from uniemox_jax.runtime import cli, preemption, sharding
from uniemox_jax.runtime.distributed import is_primary
from uniemox_jax.teacher.load_teachers import load_teachers
from uniemox_jax.train.config import PretrainConfig
from uniemox_jax.train.loop import use_compilation_cache
from uniemox_jax.train.run_folder import settle_dtype
from uniemox_jax.train.schema import parse
from uniemox_jax.train.teacher_views import view_embeddings


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
