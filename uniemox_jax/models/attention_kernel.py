"""Softmax attention of short sequences as one TPU kernel a pass: its matrices of L x L never leave the chip.

`layers.attend` computes the same by XLA, which writes such matrices to memory and reads them back: most of a step's
time by the TPU's compiler (docs/performance.md). A sequence of 197 tokens fits into the chip's own memory with all its
heads, so here one program of the grid takes one sequence, and nothing is kept for the backward pass but the inputs.
Short sequences share a row of tokens, and with it a program.
"""

from collections.abc import Callable, Sequence
import functools
from typing import Any

import jax
from jax.experimental import pallas as pl
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

MIN_TOKENS = 64
"""The shortest row that is worth a program of the grid."""
SHARED_TOKENS = 128
"""The longest row of several sequences: a token computes with all of its row, and then keeps its own sequence's."""
MAX_TOKENS = 512
"""The longest sequence: a few of its matrices in float32 fit into a chip's memory (16 MiB)."""
LANES = 128
"""The number of channels with which a TPU computes at once."""
INTERPRET = False
"""Whether the kernel's operations run one by one, on any device, as tests need it."""


def sequences_in_row(batch: int, tokens: int) -> int:
  """How many of a batch of sequences of so many tokens share a row: a power of two that divides each device's share.

  It is 1 if the row would still be shorter than `MIN_TOKENS`.
  """
  mesh = jax.sharding.get_abstract_mesh()
  shared = 1
  while 2 * shared * tokens <= SHARED_TOKENS and batch % (2 * shared * (1 if mesh.empty else mesh.size)) == 0:
    shared *= 2
  return shared if shared * tokens >= MIN_TOKENS else 1


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def attend_on_chip(
    qkv_BxLx3D: jax.Array, bias_3D: jax.Array, heads: int, causal: bool, sequences: int = 1) -> jax.Array:
  """Computes softmax attention (B, L, D), D = heads * K, with a float32 softmax. A mesh splits B over its devices.

  The channels of a token are those of its query, its key and its value, to which the kernel adds the bias. It takes and
  gives them as one array, as one product makes them: nothing is cut, and no pass over memory adds a bias, sums its
  gradient, or adds up those of the three (docs/performance.md).

  Each row holds so many sequences of L / `sequences` tokens one after the other, each of which attends to itself alone.

  Raises:
    ValueError: a row has more than `MAX_TOKENS` tokens.
  """
  return _attend_forward(qkv_BxLx3D, bias_3D, heads, causal, sequences)[0]


def _attend_forward(qkv_BxLx3D: jax.Array, bias_3D: jax.Array, heads: int, causal: bool,
                    sequences: int) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
  kernel = functools.partial(_forward_kernel, heads=heads, causal=causal, sequences=sequences)
  _, tokens, channels = qkv_BxLx3D.shape
  mixed_BxLxD, = _by_row(kernel, '_forward_kernel', [(tokens, channels // 3, qkv_BxLx3D.dtype)], bias_3D, qkv_BxLx3D)
  return mixed_BxLxD, (qkv_BxLx3D, bias_3D)


def _attend_backward(
    heads: int, causal: bool, sequences: int, kept: tuple[jax.Array, jax.Array],
    gradient_BxLxD: jax.Array) -> tuple[jax.Array, jax.Array]:
  qkv_BxLx3D, bias_3D = kept
  kernel = functools.partial(_backward_kernel, heads=heads, causal=causal, sequences=sequences)
  _, tokens, channels = qkv_BxLx3D.shape
  by_qkv_BxLx3D, by_bias_Bx1x3D = _by_row(
      kernel, '_backward_kernel', [(tokens, channels, qkv_BxLx3D.dtype), (1, channels, jnp.float32)], bias_3D,
      qkv_BxLx3D, gradient_BxLxD)
  return by_qkv_BxLx3D, by_bias_Bx1x3D.sum((0, 1)).astype(bias_3D.dtype)


attend_on_chip.defvjp(_attend_forward, _attend_backward)


def _by_row(
    kernel: Callable[..., None], name: str, results: Sequence[tuple[int, int, Any]], bias_3D: jax.Array, *arrays_BxLxC:
    jax.Array) -> Sequence[jax.Array]:
  """`kernel` on the bias and each row of the arrays; (tokens, channels, dtype) of each of its results for a row."""
  if (tokens := arrays_BxLxC[0].shape[1]) > MAX_TOKENS:
    raise ValueError(f'attention of {tokens} tokens does not fit into the kernel, which takes {MAX_TOKENS} at most')

  def block(tokens: int, channels: int) -> pl.BlockSpec:
    return pl.BlockSpec((1, tokens, channels), lambda row: (row, 0, 0))

  def call(bias_1x3D: jax.Array, *arrays: jax.Array) -> Sequence[jax.Array]:
    return pl.pallas_call(
        kernel, grid=(len(arrays[0]),),
        in_specs=[pl.BlockSpec(bias_1x3D.shape, lambda row: (0, 0)), *(block(*array.shape[1:]) for array in arrays)],
        out_specs=[block(tokens, channels) for tokens, channels, _ in results],
        out_shape=[jax.ShapeDtypeStruct((len(arrays[0]), *shape), dtype) for *shape, dtype in results],
        interpret=INTERPRET, name=name)(bias_1x3D, *arrays)

  mesh = jax.sharding.get_abstract_mesh()
  if not mesh.empty:  # No compiler can split a kernel.
    split = P(mesh.axis_names)
    call = jax.shard_map(call, in_specs=(P(), *[split] * len(arrays_BxLxC)), out_specs=split, check_vma=False)
  return call(bias_3D[None], *arrays_BxLxC)


def _product(left: jax.Array, right: jax.Array, axes: tuple[int, int]) -> jax.Array:
  """The product of two matrices over these axes of theirs, summed in float32."""
  return jax.lax.dot_general(
      left, right, (((axes[0],), (axes[1],)), ((), ())), preferred_element_type=jnp.float32,
      precision=jax.lax.Precision.HIGHEST if left.dtype == jnp.float32 else None)


def _seen(tokens: int, causal: bool, sequences: int) -> jax.Array | None:
  """Which tokens (L, L) each one attends to: those of its own sequence, if causal none after itself; None is all."""
  if sequences == 1 and not causal:
    return None
  query_place, key_place = (jax.lax.broadcasted_iota(jnp.int32, (tokens, tokens), axis) for axis in range(2))
  seen_LxL = query_place // (tokens // sequences) == key_place // (tokens // sequences)
  return seen_LxL & (query_place >= key_place) if causal else seen_LxL


def _attention(query_LxC: jax.Array, key_LxC: jax.Array, size: int,
               seen_LxL: jax.Array | None) -> tuple[jax.Array, jax.Array]:
  """Float32 attention (L, L) of a head of this size, before its rows are divided by their sums (L, 1)."""
  scores_LxL = _product(query_LxC, key_LxC, (1, 1)) * size**-0.5
  if seen_LxL is not None:
    scores_LxL = jnp.where(seen_LxL, scores_LxL, -jnp.inf)
  powers_LxL = jnp.exp(scores_LxL - scores_LxL.max(axis=1, keepdims=True))
  return powers_LxL, powers_LxL.sum(axis=1, keepdims=True)


def _forward_kernel(
    bias_1x3D: Any, qkv_1xLx3D: Any, mixed_1xLxD: Any, *, heads: int, causal: bool, sequences: int) -> None:
  _, tokens, width = mixed_1xLxD.shape
  size, seen_LxL = width // heads, _seen(tokens, causal, sequences)
  for lanes, *parts in _rows_of_lanes(width, size):
    query_LxC, key_LxC, value_LxC = (qkv_1xLx3D[part] + bias_1x3D[part[1:]] for part in parts)
    mixed_LxC = jnp.zeros(value_LxC.shape, jnp.float32)
    for own_LxC in _heads_in(query_LxC, size):
      powers_LxL, total_Lx1 = _attention(jnp.where(own_LxC, query_LxC, 0), key_LxC, size, seen_LxL)
      all_LxC = _product(powers_LxL.astype(value_LxC.dtype), value_LxC, (1, 0)) / total_Lx1
      mixed_LxC = jnp.where(own_LxC, all_LxC, mixed_LxC)
    mixed_1xLxD[lanes] = mixed_LxC.astype(value_LxC.dtype)


def _backward_kernel(
    bias_1x3D: Any, qkv_1xLx3D: Any, gradient_1xLxD: Any, by_qkv_1xLx3D: Any, by_bias_1x1x3D: Any, *, heads: int,
    causal: bool, sequences: int) -> None:
  _, tokens, width = gradient_1xLxD.shape
  size, seen_LxL = width // heads, _seen(tokens, causal, sequences)
  for lanes, *parts in _rows_of_lanes(width, size):
    query_LxC, key_LxC, value_LxC = (qkv_1xLx3D[part] + bias_1x3D[part[1:]] for part in parts)
    gradient_LxC, dtype = gradient_1xLxD[lanes], qkv_1xLx3D.dtype
    by_query_LxC, by_key_LxC, by_value_LxC = (jnp.zeros(query_LxC.shape, jnp.float32) for _ in range(3))
    for own_LxC in _heads_in(query_LxC, size):
      own_query_LxC, own_key_LxC, own_gradient_LxC = (
          jnp.where(own_LxC, part_LxC, 0) for part_LxC in (query_LxC, key_LxC, gradient_LxC))
      powers_LxL, total_Lx1 = _attention(own_query_LxC, key_LxC, size, seen_LxL)
      attention_LxL = powers_LxL / total_Lx1
      by_attention_LxL = _product(own_gradient_LxC, value_LxC, (1, 1))
      mean_Lx1 = (attention_LxL * by_attention_LxL).sum(axis=1, keepdims=True)
      by_product_LxL = (attention_LxL * (by_attention_LxL - mean_Lx1) * size**-0.5).astype(dtype)
      by_query_LxC += _product(by_product_LxL, own_key_LxC, (1, 0))
      by_key_LxC += _product(by_product_LxL, own_query_LxC, (0, 0))
      by_value_LxC += _product(attention_LxL.astype(dtype), own_gradient_LxC, (0, 0))
    for part, by_part_LxC in zip(parts, (by_query_LxC, by_key_LxC, by_value_LxC)):
      by_qkv_1xLx3D[part] = by_part_LxC.astype(dtype)
      by_bias_1x1x3D[part] = by_part_LxC.sum(axis=0, keepdims=True)


def _rows_of_lanes(width: int, size: int) -> list[list[tuple[Any, ...]]]:
  """Where the channels of as many heads lie as fill the chip's lanes; to cut between lanes would move all of them.

  Each time in an array of D channels, and those of query, key and value in one of 3D.
  """
  heads = max(1, LANES // size)
  lanes = heads * size if width % (heads * size) == 0 else size
  return [[(0, slice(None), pl.ds(start + first, lanes))
           for start in (0, 0, width, 2 * width)]
          for first in range(0, width, lanes)]


def _heads_in(tokens_LxC: jax.Array, size: int) -> list[jax.Array]:
  """Which channels are each head's own. Products with all others as zeros take no longer than without them."""
  channel_LxC = jax.lax.broadcasted_iota(jnp.int32, tokens_LxC.shape, 1)
  return [(first <= channel_LxC) & (channel_LxC < first + size) for first in range(0, tokens_LxC.shape[1], size)]
