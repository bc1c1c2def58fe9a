"""The teacher of a pretraining step: what the step calls, and the frozen parameters that it calls it with."""

from collections.abc import Callable, Sequence
import functools
import math
from typing import Any, NamedTuple

from flax import nnx
import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
import numpy as np

from uniemox_jax.models.clip import ImageTower
from uniemox_jax.models.layers import unit, with_attention
from uniemox_jax.models.preprocess import IMAGENET_MEAN, IMAGENET_STD, resize_and_normalise
from uniemox_jax.models.siglip import SiglipImageTower
from uniemox_jax.models.view import FILTERS
from uniemox_jax.runtime import sharding
from uniemox_jax.teacher.frozen_clip import Clip, model_of


class Teacher(NamedTuple):
  """The frozen CLIP or SigLIP as the step sees it, or several joined to one, each a *part* of it.

  embed_image: (params, uint8 scene views (B, H, W, 3)) -> float32 (B, E), in which each part has unit norm.
  embed_patches: (params, the same views, side) -> that, and the tokens of a grid of side x side patches, float32
    (B, side^2, D): the tokens of the last block, centred and of unit norm in each part, resized to the grid.
  scales: (params) -> the learned logit scale s of each part.
  widths, token_widths: the widths of the parts, whose sums are E and D.
  towers: the modules behind `embed_image`, with shapes in place of parameters, for counting their FLOPs.
  """

  embed_image: Callable[[Any, jax.Array], jax.Array]
  embed_patches: Callable[[Any, jax.Array, int], tuple[jax.Array, jax.Array]]
  scales: Callable[[Any], Sequence[jax.Array]]
  widths: tuple[int, ...]
  token_widths: tuple[int, ...] = ()
  towers: tuple[ImageTower | SiglipImageTower, ...] = ()

  @property
  def width(self) -> int:
    """The width E of an embedding."""
    return sum(self.widths)

  def split(self, embedding: jax.Array | None) -> list[Any]:
    """Divides an embedding (..., E) into its parts, each None where there is no embedding."""
    return self._split(embedding, self.widths)

  def split_tokens(self, tokens: jax.Array | None) -> list[Any]:
    """Divides tokens (..., D) into their parts, each None where there are no tokens."""
    return self._split(tokens, self.token_widths)

  def _split(self, values: jax.Array | None, widths: Sequence[int]) -> list[Any]:
    return [None] * len(self.widths) if values is None else jnp.split(values, np.cumsum(widths)[:-1], axis=-1)


def make_teacher(clip: Clip, dtype: Any, statistics: str = 'clip',
                 attention: str = 'xla') -> tuple[Teacher, dict[str, Any]]:
  """The image tower as the step wants it, and its frozen parameters; the text tower stays out of the step.

  Args:
    clip: the teacher; its weights may be shapes.
    dtype: the dtype of the computation.
    statistics: 'clip' for the teacher's own statistics of pixels; 'imagenet' for the student's, as in the original.
    attention: 'xla' or 'kernel', see `layers.with_attention`.
  """
  size = clip.config.image_size
  tower = nnx.eval_shape(lambda: model_of(clip.config, dtype=dtype, rngs=nnx.Rngs(0)).vision)
  graphdef = nnx.graphdef(with_attention(tower, attention))
  mean, std = (clip.view.mean, clip.view.std) if statistics == 'clip' else (IMAGENET_MEAN, IMAGENET_STD)

  @jax.named_scope('teacher')
  def embed_image(frozen: dict[str, Any], scene_BxHxWx3: jax.Array) -> jax.Array:
    view_BxSxSx3 = resize_and_normalise(scene_BxHxWx3, size, mean, std, FILTERS[clip.view.resample])
    return unit(nnx.merge(graphdef, frozen['vision'])(view_BxSxSx3))

  @jax.named_scope('teacher')
  def embed_patches(frozen: dict[str, Any], scene_BxHxWx3: jax.Array, side: int) -> tuple[jax.Array, jax.Array]:
    module = nnx.merge(graphdef, frozen['vision'])
    tokens_BxNxD = module.tokens(resize_and_normalise(scene_BxHxWx3, size, mean, std, FILTERS[clip.view.resample]))
    return unit(module.pool(tokens_BxNxD)), _patch_grid(tokens_BxNxD, side)

  frozen = {
      'vision': jax.tree_util.tree_map_with_path(functools.partial(_as_computed, dtype), clip.params['vision']),
      'logit_scale': clip.params['logit_scale']}
  teacher = Teacher(
      embed_image, embed_patches, lambda frozen: [jnp.exp(frozen['logit_scale'])], (clip.config.projection_dim,),
      (clip.config.vision.width,), (tower,))
  return teacher, frozen


def _patch_grid(tokens_BxNxD: jax.Array, side: int) -> jax.Array:
  """The patches among these tokens, float32 (B, side^2, D), centred and of unit norm; a class token is left out."""
  batch, count, width = tokens_BxNxD.shape
  own = math.isqrt(count)
  patches_BxLxD = tokens_BxNxD[:, count - own * own:].astype(jnp.float32)
  # LayerNorm without parameters, but for the length: a few channels of large mean would decide every cosine.
  patches_BxLxD = unit(patches_BxLxD - patches_BxLxD.mean(axis=-1, keepdims=True))
  if own == side:
    return patches_BxLxD
  grid = jax.image.resize(patches_BxLxD.reshape(batch, own, own, width), (batch, side, side, width), 'linear')
  return unit(grid.reshape(batch, side * side, width))


def join_teachers(made: Sequence[tuple[Teacher, Any]]) -> tuple[Teacher, Any]:
  """Joins teachers to one, whose frozen parameters are the tuple of theirs; a single one stays as it is.

  Source: docs/method.md, Several teachers. Arguments and result are as `make_teacher` gives them.
  """
  if len(made) == 1:
    return made[0]
  teachers = [teacher for teacher, _ in made]

  def embed_image(frozen: Sequence[Any], scene_BxHxWx3: jax.Array) -> jax.Array:
    parts = [teacher.embed_image(own, scene_BxHxWx3) for teacher, own in zip(teachers, frozen, strict=True)]
    return jnp.concatenate(parts, axis=-1)

  def embed_patches(frozen: Sequence[Any], scene_BxHxWx3: jax.Array, side: int) -> tuple[jax.Array, jax.Array]:
    parts = [teacher.embed_patches(own, scene_BxHxWx3, side) for teacher, own in zip(teachers, frozen, strict=True)]
    image_BxE, tokens_BxLxD = (jnp.concatenate(values, axis=-1) for values in zip(*parts))
    return image_BxE, tokens_BxLxD

  def scales(frozen: Sequence[Any]) -> list[jax.Array]:
    return [scale for teacher, own in zip(teachers, frozen, strict=True) for scale in teacher.scales(own)]

  widths, token_widths, towers = (
      sum((getattr(teacher, name) for teacher in teachers), ()) for name in ('widths', 'token_widths', 'towers'))
  return Teacher(embed_image, embed_patches, scales, widths, token_widths, towers), tuple(frozen for _, frozen in made)


def embed_views_as_one(teacher: Teacher, frozen: Any, views_BxVxHxWx3: jax.Array,
                       side: int = 0) -> tuple[jax.Array, jax.Array | None]:
  """The mean of the embeddings of an example's views, each part scaled to unit length: float32 (B, E).

  An example without a person has equal views, and they give the embedding of one, but for rounding. With `side`, the
  tokens of the first view are returned too, see `Teacher.embed_patches`.
  """
  batch, views = views_BxVxHxWx3.shape[:2]
  images_NxHxWx3 = views_BxVxHxWx3.reshape(batch * views, *views_BxVxHxWx3.shape[2:])
  tokens = None
  if side:
    image_NxE, tokens_NxLxD = teacher.embed_patches(frozen, images_NxHxWx3, side)
    tokens = tokens_NxLxD[::views]
  else:
    image_NxE = teacher.embed_image(frozen, images_NxHxWx3)
  if views == 1:
    return image_NxE, tokens
  mean_BxE = image_NxE.reshape(batch, views, -1).mean(axis=1)
  return jnp.concatenate([unit(part) for part in teacher.split(mean_BxE)], axis=-1), tokens


def without_tower(frozen: Any) -> Any:
  """The frozen parameters that a step needs if it is given the image embeddings."""
  if isinstance(frozen, tuple):
    return tuple(map(without_tower, frozen))
  return {name: leaf for name, leaf in frozen.items() if name != 'vision'}


def _as_computed(dtype: Any, path: tuple[Any, ...], leaf: Any) -> Any:
  """A kernel in the dtype that the computation casts it to anyway: the same numbers, half the memory in bfloat16."""
  if path[-1].key != 'kernel':
    return leaf
  return jax.ShapeDtypeStruct(leaf.shape, dtype) if isinstance(leaf, jax.ShapeDtypeStruct) else leaf.astype(dtype)


def teacher_shardings(frozen: Any, mesh: Mesh, sharded: bool) -> Any:
  """The shardings of the teacher's parameters: split over `fsdp` as the student's are, or whole on every device."""
  if sharded:
    return sharding.tree_shardings(frozen, mesh)
  return jax.tree.map(lambda leaf: NamedSharding(mesh, P()), frozen)
