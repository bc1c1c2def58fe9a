"""Our pretraining step on random weights and images, for `benchmarks.train_step`."""

from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict
import numpy as np

from benchmarks.steps import step_profile, step_sizes
from uniemox_jax.models.clip import ImageTower
from uniemox_jax.models.uniemox import UniEmoX
from uniemox_jax.plan.step_compiler import STEPS_PER_EPOCH, compile_program
from uniemox_jax.runtime import sharding
from uniemox_jax.train.optimizer import make_optimizer
from uniemox_jax.train.setup import clip_of_shape, model_arguments
from uniemox_jax.train.state import builder, create_state, initial_params


class OurStep:
  """The step that `uniemox_jax.pretrain` runs, on one device. Batches stay on the device.

  Args:
    given: of a pretraining run, see `step_sizes.load`.
    batch: see `step_sizes.random_batch`; of 'ids' only the number counts: a caption is embedded once and cached, so
      here its embedding is drawn; with `teacher_views` that of the scene, too.
  """

  version = f'jax {jax.__version__}'

  def __init__(self, given: ConfigDict, batch: dict[str, np.ndarray]):
    program, config = step_sizes.our_program(given), step_sizes.checked(given)
    self.device, self.dtype = jax.devices()[0].device_kind, config.dtype
    self.mesh = program.mesh
    # The teacher that it is compared with is as wide as the decoder, so there is no adapter.
    build = builder(UniEmoX, dtype=jnp.dtype(config.dtype), **model_arguments(config.model, config.loss, None))
    optimizer = make_optimizer(config, STEPS_PER_EPOCH)
    self.state = create_state(program.state, build, optimizer.tx, config.seed)
    clip = clip_of_shape(config.teacher_shape).config
    vision = initial_params(
        lambda rngs: ImageTower(clip, remat='none', scan=False, dtype=jnp.float32, rngs=rngs), config.seed)
    drawn = {'vision': vision, 'logit_scale': jnp.float32(clip.logit_scale_init)}
    drawn = {name: drawn[name] for name in program.frozen}
    self.frozen = jax.tree.map(
        lambda leaf, to: jax.device_put(leaf.astype(to.dtype), to.sharding), drawn, program.frozen)
    rows, rng = {'scene': batch['scene'], 'person': batch['person']}, np.random.default_rng(config.seed)
    for name in [name for name in program.batch if name not in rows]:
      embedded_BxE = rng.standard_normal(program.batch[name].shape, np.float32)
      rows[name] = embedded_BxE / np.linalg.norm(embedded_BxE, axis=1, keepdims=True)
    self.batch = sharding.global_batch(rows, self.mesh)
    self.key = jax.random.key(config.seed)
    self.step = compile_program(program)

  def run(self, steps: int) -> float:
    """Takes so many steps, waits for the last and gives its loss."""
    with jax.set_mesh(self.mesh):
      for _ in range(steps):
        self.state, metrics = self.step(self.state, self.frozen, self.batch, self.key)
    return float(metrics['loss'])

  def product(self, size: int) -> None:
    """Multiplies two square matrices, and waits."""
    matrix = jnp.ones((size, size), self.dtype)
    _multiply(matrix, matrix).block_until_ready()

  def profile(self, steps: int) -> list[dict[str, Any]]:
    """See `step_profile.costs`."""
    return step_profile.costs(self.step.as_text(), lambda: self.run(steps))


_multiply = jax.jit(jnp.matmul)
