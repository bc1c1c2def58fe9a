"""From a pretraining config to the parts of its step; neither data nor tensorflow is needed."""

import dataclasses
import functools
from typing import Any

from flax import nnx
import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from data_pipelines.errors import UserError
from uniemox_jax.models.clip import CLIPConfig, ImageTower, Tower
from uniemox_jax.models.layers import unit
from uniemox_jax.models.preprocess import IMAGENET_MEAN, IMAGENET_STD
from uniemox_jax.models.uniemox import UniEmoX
from uniemox_jax.runtime import sharding
from uniemox_jax.teacher.frozen_clip import Clip, View, abstract_clip, clip_normalise
from uniemox_jax.train.config import LossSettings, PretrainConfig, StudentSettings, TeacherShape
from uniemox_jax.train.flops import ExampleWork, pretrain_work
from uniemox_jax.train.state import abstract_model
from uniemox_jax.train.steps import Teacher


def model_arguments(model: StudentSettings, loss: LossSettings) -> dict[str, Any]:
  """The arguments of `UniEmoX` but for dtype and random streams, as checkpoints describe the model."""
  return dataclasses.asdict(model) | {
      'semantic': bool(loss.contrastive or loss.similarity), 'reconstruct': bool(loss.reconstruction)}


def make_teacher(clip: Clip, decoder_width: int, dtype: Any,
                 statistics: str = 'clip') -> tuple[Teacher, dict[str, Any]]:
  """CLIP's image tower as the step wants it, and its frozen parameters; the text tower stays out of the step.

  Args:
    clip: the teacher; its weights may be shapes.
    decoder_width: E, as wide as its projection.
    dtype: of the computation.
    statistics: 'clip', its own of the pixels, or 'imagenet', the student's, which the original gave it.

  Raises:
    UserError: CLIP's projection is not as wide as the decoder.
  """
  width, size = clip.config.projection_dim, clip.config.image_size
  if width != decoder_width:
    raise UserError(
        f'CLIP teacher projects to {width}, the decoder is {decoder_width} wide: set '
        f'--config.model.decoder_width={width} or choose another teacher')
  tower = abstract_model(lambda rngs: ImageTower(clip.config, remat='none', scan=False, dtype=dtype, rngs=rngs))
  graphdef = nnx.graphdef(tower)
  mean, std = (clip.view.mean, clip.view.std) if statistics == 'clip' else (IMAGENET_MEAN, IMAGENET_STD)

  def embed_image(frozen: dict[str, Any], scene_BxHxWx3: jax.Array) -> jax.Array:
    view_BxSxSx3 = clip_normalise(scene_BxHxWx3, size, mean, std)
    return unit(nnx.merge(graphdef, frozen['vision'])(view_BxSxSx3))

  frozen = {
      'vision': jax.tree_util.tree_map_with_path(functools.partial(_as_computed, dtype), clip.params['vision']),
      'logit_scale': clip.params['logit_scale']}
  return Teacher(embed_image, lambda frozen: jnp.exp(frozen['logit_scale']), tower), frozen


def _as_computed(dtype: Any, path: tuple[Any, ...], leaf: Any) -> Any:
  """A kernel in the dtype that the computation casts it to anyway: the same numbers, half the memory in bfloat16."""
  if path[-1].key != 'kernel':
    return leaf
  return jax.ShapeDtypeStruct(leaf.shape, dtype) if isinstance(leaf, jax.ShapeDtypeStruct) else leaf.astype(dtype)


def teacher_shardings(frozen: Any, mesh: Mesh, sharded: bool) -> Any:
  """Shardings of the teacher's parameters: split over `fsdp` as the student's are, or whole on every device."""
  if sharded:
    return sharding.tree_shardings(frozen, mesh)
  return jax.tree.map(lambda leaf: NamedSharding(mesh, P()), frozen)


def example_work(config: PretrainConfig, student: UniEmoX, teacher: Teacher | None) -> ExampleWork:
  """The work of one example by formula; the student may hold shapes in place of parameters."""
  texts = config.loss.local_batch if config.loss.negatives == 'local' else config.batch_size
  return pretrain_work(student, teacher and teacher.tower, texts if config.loss.contrastive else 0)


def clip_of_shape(shape: TeacherShape | None) -> Clip:
  """A CLIP with shapes in place of weights, and with its image tower's shape for both towers.

  Raises:
    UserError: there is no shape.
  """
  if shape is None:
    raise UserError(
        "config section 'teacher_shape' is missing: a plan opens no weights, so add the teacher's "
        'image_size, patch_size, width, depth, heads and projection (see configs/)')
  tower = Tower(shape.width, shape.depth, shape.heads, 4 * shape.width)
  clip = CLIPConfig(tower, tower, shape.image_size, shape.patch_size, shape.projection)
  return Clip(clip, abstract_clip(clip)[1], View(shape.image_size, shape.image_size), None)
