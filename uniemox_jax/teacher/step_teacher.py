"""The teacher of a pretraining step. Another teacher plugs in here: a function that returns a `Teacher`."""

from collections.abc import Callable
import functools
from typing import Any, NamedTuple

from flax import nnx
import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from uniemox_jax.convert.view import clip_normalise
from uniemox_jax.models.clip import ImageTower
from uniemox_jax.models.layers import unit, with_attention
from uniemox_jax.models.preprocess import IMAGENET_MEAN, IMAGENET_STD
from uniemox_jax.models.siglip import SiglipImageTower
from uniemox_jax.runtime import sharding
from uniemox_jax.teacher.frozen_clip import Clip, model_of


class Teacher(NamedTuple):
  """The frozen CLIP or SigLIP as the step sees it.

  embed_image: (params, uint8 scene views (B, H, W, 3)) -> unit-norm float32 (B, E).
  scale: (params) -> its learned logit scale s.
  width: E.
  tower: the module behind `embed_image`, shapes in place of parameters, for counting its FLOPs.
  """

  embed_image: Callable[[Any, jax.Array], jax.Array]
  scale: Callable[[Any], jax.Array]
  width: int
  tower: ImageTower | SiglipImageTower | None = None


def make_teacher(clip: Clip, dtype: Any, statistics: str = 'clip',
                 attention: str = 'xla') -> tuple[Teacher, dict[str, Any]]:
  """The image tower as the step wants it, and its frozen parameters; the text tower stays out of the step.

  Args:
    clip: the teacher; its weights may be shapes.
    dtype: of the computation.
    statistics: 'clip', its own of the pixels, or 'imagenet', the student's, which the original gave it.
    attention: 'xla' or 'kernel', see `layers.with_attention`.
  """
  size = clip.config.image_size
  tower = nnx.eval_shape(lambda: model_of(clip.config, dtype=dtype, rngs=nnx.Rngs(0)).vision)
  graphdef = nnx.graphdef(with_attention(tower, attention))
  mean, std = (clip.view.mean, clip.view.std) if statistics == 'clip' else (IMAGENET_MEAN, IMAGENET_STD)

  @jax.named_scope('teacher')
  def embed_image(frozen: dict[str, Any], scene_BxHxWx3: jax.Array) -> jax.Array:
    view_BxSxSx3 = clip_normalise(scene_BxHxWx3, size, mean, std, clip.view.resample)
    return unit(nnx.merge(graphdef, frozen['vision'])(view_BxSxSx3))

  frozen = {
      'vision': jax.tree_util.tree_map_with_path(functools.partial(_as_computed, dtype), clip.params['vision']),
      'logit_scale': clip.params['logit_scale']}
  return Teacher(embed_image, lambda frozen: jnp.exp(frozen['logit_scale']), clip.config.projection_dim, tower), frozen


def embed_views_as_one(teacher: Teacher, frozen: dict[str, Any], views_BxVxHxWx3: jax.Array) -> jax.Array:
  """The mean of the embeddings of an example's views, scaled to unit length: float32 (B, E).

  Equal views, as an example without a person has them, give the embedding of one, but for rounding.
  """
  batch, views = views_BxVxHxWx3.shape[:2]
  image_NxE = teacher.embed_image(frozen, views_BxVxHxWx3.reshape(batch * views, *views_BxVxHxWx3.shape[2:]))
  return unit(image_NxE.reshape(batch, views, -1).mean(axis=1))


def without_tower(frozen: dict[str, Any]) -> dict[str, Any]:
  """What a step needs of the frozen parameters that is given the image embeddings."""
  return {'logit_scale': frozen['logit_scale']}


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
