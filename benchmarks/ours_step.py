"""Our pretraining step on random weights and pictures, for `benchmarks.train_step`."""

from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict
import numpy as np

from benchmarks import step_profile, step_sizes
from uniemox_jax.models.clip import ImageTower
from uniemox_jax.models.uniemox import UniEmoX
from uniemox_jax.runtime import sharding
from uniemox_jax.teacher.step_teacher import make_teacher
from uniemox_jax.train.loop import jit_step
from uniemox_jax.train.optimizer import make_optimizer
from uniemox_jax.train.setup import clip_of_shape, model_arguments
from uniemox_jax.train.state import builder, create_state, graphdef_of, initial_params, state_template
from uniemox_jax.train.steps import make_pretrain_step

SCHEDULE_STEPS = 1000


class OurStep:
  """The step that `uniemox_jax.pretrain` runs, on one device. Batches stay on the device.

  Args:
    config: of a pretraining run.
    batch: 'scene' and 'person', uint8 (B, H, W, 3); 'ids' int32 (B, 77), of which only the number counts: a caption is
      embedded once and cached, so here its embedding is drawn.
  """

  version = f'jax {jax.__version__}'

  def __init__(self, given: ConfigDict, batch: dict[str, np.ndarray]):
    config = step_sizes.checked(given)
    self.device, self.dtype = jax.devices()[0].device_kind, config.dtype
    self.mesh = sharding.make_mesh(1, 1, jax.devices()[:1])
    dtype = jnp.dtype(config.dtype)
    build = builder(UniEmoX, dtype=dtype, **model_arguments(config.model, config.loss))
    optimizer = make_optimizer(config, SCHEDULE_STEPS, SCHEDULE_STEPS)
    clip = clip_of_shape(config.teacher_shape)
    teacher, _ = make_teacher(clip, config.model.decoder_width, dtype)
    vision = initial_params(
        lambda rngs: ImageTower(clip.config, remat='none', scan=False, dtype=dtype, rngs=rngs), config.seed)
    shape = (config.batch_size, config.model.decoder_width)
    text_BxE = np.random.default_rng(config.seed).standard_normal(shape, np.float32)
    rows = {
        'scene': batch['scene'], 'person': batch['person'],
        'text': text_BxE / np.linalg.norm(text_BxE, axis=1, keepdims=True)}
    template = state_template(build, optimizer.tx, self.mesh)
    self.state = create_state(template, build, optimizer.tx, config.seed)
    self.frozen = sharding.replicate({'vision': vision, 'logit_scale': jnp.float32(clip.config.logit_scale_init)},
                                     self.mesh)
    self.batch = sharding.global_batch(rows, self.mesh)
    self.key = jax.random.key(config.seed)
    step = jit_step(make_pretrain_step(graphdef_of(build), teacher, optimizer, config.loss), template)
    with jax.set_mesh(self.mesh):
      self.step = step.lower(self.state, self.frozen, self.batch, self.key).compile()

  def run(self, steps: int) -> float:
    """Takes so many steps, waits for the last and gives its loss."""
    with jax.set_mesh(self.mesh):
      for _ in range(steps):
        self.state, metrics = self.step(self.state, self.frozen, self.batch, self.key)
    return float(metrics['loss'])

  def product(self, size: int, times: int) -> None:
    """Multiplies two square matrices so many times, and waits."""
    matrix = jnp.ones((size, size), self.dtype)
    for _ in range(times):
      product = _multiply(matrix, matrix)
    product.block_until_ready()

  def profile(self, steps: int) -> list[dict[str, Any]]:
    """See `step_profile.costs`."""
    return step_profile.costs(self.step.as_text(), lambda: self.run(steps))


_multiply = jax.jit(jnp.matmul)
