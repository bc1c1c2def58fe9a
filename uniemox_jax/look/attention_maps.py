"""Computes where a ViT looks: attention rollout, and the relevance of patches to a class by gradients (docs/look.md).

The model runs unchanged, except that its encoder's blocks also return their attention matrices: training costs nothing
more. Classifiers of one view and of scene and person are explained in the same way.

Shapes: N blocks, I images (the views of all examples, example by example), H heads, T = 1 + L tokens, CLS first; maps
have R x C = L patches.
"""

from collections.abc import Callable
import functools
from typing import Any, NamedTuple

from flax import nnx
import jax
import jax.numpy as jnp

from uniemox_jax.models.layers import Block
from uniemox_jax.models.zero_shot_classifier import ZeroShotClassifier


class Maps(NamedTuple):
  """The weight of each patch of each view, float32 (B, V, R, C), comparable within one map only."""

  rollout: jax.Array
  relevance: jax.Array


class _OpenBlocks:
  """Takes the place of `layers.Blocks`: the same tokens, and the attention matrices in `attention_NxIxHxTxT`.

  `offset_NxIxHxTxT` is added to them after the softmax. The gradient by an offset of zero is theirs.
  """

  def __init__(self, layers: Block, offset_NxIxHxTxT: jax.Array | None):
    self._layers, self._offset = layers, offset_NxIxHxTxT

  def __call__(self, tokens_IxTxD: jax.Array, branch_scale: None = None) -> jax.Array:
    del branch_scale  # drop-path belongs to training
    graphdef, params_NxX = nnx.split(self._layers)

    def body(tokens: jax.Array, layer: Any) -> tuple[jax.Array, jax.Array]:
      block: Block = nnx.merge(graphdef, layer[0])
      query, key, value = block.attention.project(block.norm1(tokens))
      scores = jnp.einsum('iqhk,ithk->ihqt', query, key).astype(jnp.float32) * query.shape[-1]**-0.5
      attention = jax.nn.softmax(scores)
      used = (attention if layer[1] is None else attention + layer[1]).astype(value.dtype)
      mixed = jnp.einsum('ihqt,ithk->iqhk', used, value)
      tokens = tokens + block.attention.out(mixed.reshape(tokens.shape))
      return tokens + block.mlp(block.norm2(tokens)), attention

    tokens_IxTxD, self.attention_NxIxHxTxT = jax.lax.scan(body, tokens_IxTxD, (params_NxX, self._offset))
    return tokens_IxTxD


def run_openly(
    graphdef: nnx.GraphDef, params: dict[str, Any], run: Callable[[Any], jax.Array],
    offset_NxIxHxTxT: jax.Array | None = None) -> tuple[jax.Array, jax.Array]:
  """Calls `run`, which calls the model's `image_tower` once; returns its result and the attention, float32
  (N, I, H, T, T)."""
  model = nnx.merge(graphdef, params)
  tower = image_tower(model)
  blocks = tower.blocks = _OpenBlocks(tower.blocks.layers, offset_NxIxHxTxT)
  return run(model), blocks.attention_NxIxHxTxT


def image_tower(model: Any) -> Any:
  """The ViT in a model: a student's encoder, or the tower of a CLIP that is asked in words."""
  return model.model.vision if isinstance(model, ZeroShotClassifier) else model.encoder


def rollout(attention_NxIxHxTxT: jax.Array) -> jax.Array:
  """Attention rollout (I, T, T): the product over the blocks of E_h[A] + 1, rows scaled to sum 1, the last leftmost.

  Source: Abnar and Zuidema, "Quantifying Attention Flow in Transformers", ACL 2020, section 3.
  """
  layers_NxIxTxT = attention_NxIxHxTxT.mean(axis=2) + jnp.eye(attention_NxIxHxTxT.shape[-1])
  layers_NxIxTxT = layers_NxIxTxT / layers_NxIxTxT.sum(axis=-1, keepdims=True)
  return _accumulate(layers_NxIxTxT, lambda layer, rolled: layer @ rolled)


def relevance(attention_NxIxHxTxT: jax.Array, gradient_NxIxHxTxT: jax.Array) -> jax.Array:
  """The relevance of every token to every token, (I, T, T): R = 1, then over the blocks R <- R + E_h[(dA * A)^+] R.

  Source: Chefer, Gur and Wolf, "Generic Attention-model Explainability", ICCV 2021, equations 5 and 6.
  """
  layers_NxIxTxT = jax.nn.relu(attention_NxIxHxTxT * gradient_NxIxHxTxT).mean(axis=2)
  return _accumulate(layers_NxIxTxT, lambda layer, so_far: so_far + layer @ so_far)


def _accumulate(layers_NxIxTxT: jax.Array, update: Callable[[jax.Array, jax.Array], jax.Array]) -> jax.Array:
  identity_IxTxT = jnp.broadcast_to(jnp.eye(layers_NxIxTxT.shape[-1]), layers_NxIxTxT.shape[1:])
  with jax.default_matmul_precision('highest'):
    return jax.lax.scan(lambda so_far, layer: (update(layer, so_far), None), identity_IxTxT, layers_NxIxTxT)[0]


def patch_map(influence_IxTxT: jax.Array, rows: str, views_BxVxHxWx3: jax.Array) -> jax.Array:
  """The weight of each patch, (B, V, R, C), for the tokens that the model's result is computed from.

  Args:
    influence_IxTxT: the influence of every token (column) on every token (row).
    rows: 'cls', or 'patches' for the mean over all patch tokens.
    views_BxVxHxWx3: the images, for the shape.
  """
  row_IxT = influence_IxTxT[:, 0] if rows == 'cls' else influence_IxTxT[:, 1:].mean(axis=1)
  side = round((row_IxT.shape[1] - 1)**0.5)
  return row_IxT[:, 1:].reshape(*views_BxVxHxWx3.shape[:2], side, side)


def reads_person(model: nnx.Module) -> bool:
  """Whether the model encodes the person view beside the scene."""
  return getattr(model, 'view_count', 1) == 2


def pooled_tokens(model: nnx.Module) -> str:
  """The tokens that a classifier pools, by the name that `patch_map` takes."""
  from_cls = isinstance(model, ZeroShotClassifier) or getattr(model, 'pooling', 'mean') == 'class_token'
  return 'cls' if from_cls else 'patches'


def classifier_input(model: nnx.Module, views_BxVxHxWx3: jax.Array) -> jax.Array:
  """Takes a classifier's input: all of these views, or the scene alone, (B, H, W, 3)."""
  return views_BxVxHxWx3 if reads_person(model) else views_BxVxHxWx3[:, 0]


@functools.partial(jax.jit, static_argnums=(0, 3))
def encoder_maps(graphdef: nnx.GraphDef, params: dict[str, Any], views_BxVxHxWx3: jax.Array, rows: str) -> jax.Array:
  """Computes rollout for each view by itself, float32 (B, V, R, C), for a model without classes.

  Args:
    graphdef, params: the model.
    views_BxVxHxWx3: normalised images.
    rows: see `patch_map`; pretraining represents an image by 'cls'.
  """
  images_IxHxWx3 = views_BxVxHxWx3.reshape(-1, *views_BxVxHxWx3.shape[2:])
  attention = run_openly(graphdef, params, lambda model: image_tower(model)(images_IxHxWx3))[1]
  return patch_map(rollout(attention), rows, views_BxVxHxWx3)


@functools.partial(jax.jit, static_argnums=0)
def classifier_maps(
    graphdef: nnx.GraphDef, params: dict[str, Any], views_BxVxHxWx3: jax.Array, column_B: jax.Array) -> Maps:
  """Computes rollout from the tokens that are pooled, and relevance to one output of the head.

  Relevance is R - 1, without each token's relevance to itself. In the row of CLS, which the source reads, the 1 touches
  no patch; in the mean over patches it would add the same 1/L to each.

  Args:
    graphdef, params: a `Classifier`, or a `ZeroShotClassifier` of a CLIP.
    views_BxVxHxWx3: normalised images; V = 2, scene first, if it `reads_person`, else 1.
    column_B: int, the index of each example's logit.
  """

  def run(offset: jax.Array | None) -> tuple[jax.Array, jax.Array]:
    outputs_BxW, attention = run_openly(
        graphdef, params, lambda model: model(classifier_input(model, views_BxVxHxWx3)), offset)
    return jnp.take_along_axis(outputs_BxW, column_B[:, None], axis=1)[:, 0].sum(), attention

  shape = jax.eval_shape(lambda: run(None)[1])
  gradient, attention = jax.grad(run, has_aux=True)(jnp.zeros(shape.shape, shape.dtype))
  moved_IxTxT = relevance(attention, gradient) - jnp.eye(attention.shape[-1])
  rows = pooled_tokens(nnx.merge(graphdef, params))
  return Maps(*(patch_map(influence, rows, views_BxVxHxWx3) for influence in (rollout(attention), moved_IxTxT)))
