"""Checksums of arrays, and a seal over their descriptions, since Orbax reads a flipped bit without an error.

The sums are integer arithmetic modulo 2^32 over bits and positions, so they are the same on any mesh, and are computed
where the arrays are, so no host gathers a whole model.
"""

from collections.abc import Iterator
import json
import math
from typing import Any

import google_crc32c
import jax
import jax.numpy as jnp
import numpy as np

from data_pipelines.errors import UserError

CHUNK = 2**20
"""How many elements a host sums at a time, to avoid a copy of a large array."""

Leaves = dict[str, dict[str, Any]]


def _weights(index: Any) -> Iterator[Any]:
  """Two uint32 weights a position. They are odd: one flipped bit changes either sum, whatever else the array holds."""
  yield index * np.uint32(0x9E3779B1) | np.uint32(1)
  yield (index ^ index >> np.uint32(15)) * np.uint32(0x85EBCA6B) | np.uint32(1)


def _device_sums(leaf: jax.Array) -> jax.Array:
  """uint32 (2,)."""
  words = jax.lax.bitcast_convert_type(leaf, f'uint{8 * leaf.dtype.itemsize}').astype(jnp.uint32)
  index = jnp.zeros(leaf.shape, jnp.uint32)
  for axis in range(leaf.ndim):
    stride = math.prod(leaf.shape[axis + 1:]) % 2**32
    index += jax.lax.broadcasted_iota(jnp.uint32, leaf.shape, axis) * np.uint32(stride)
  return jnp.stack([jnp.sum(words * weight, dtype=jnp.uint32) for weight in _weights(index)])


def _host_sums(leaf: np.ndarray) -> np.ndarray:
  """The same checksum of an array in this host's memory."""
  words = np.ascontiguousarray(leaf).view(f'u{leaf.dtype.itemsize}').ravel()
  sums = np.zeros(2, np.uint32)
  for first in range(0, len(words), CHUNK):
    part = words[first:first + CHUNK].astype(np.uint32)
    index = np.arange(first, first + len(part), dtype=np.uint64).astype(np.uint32)
    sums += np.array([np.sum(part * weight, dtype=np.uint32) for weight in _weights(index)])
  return sums


_all_device_sums = jax.jit(lambda tree: jax.tree.map(_device_sums, tree))


def path_name(path: tuple[Any, ...]) -> str:
  """A leaf's name in messages and records, such as params/encoder/cls_token."""
  return jax.tree_util.keystr(path, simple=True, separator='/')


def describe_leaves(tree: Any) -> Leaves:
  """Describes every leaf by its shape, dtype and checksum (16 hexadecimal digits).

  Args:
    tree: a tree of jax arrays, sharded in any way over any number of processes, or of numpy arrays; at most 32 bits a
      value.
  """
  leaves = jax.tree_util.tree_leaves_with_path(tree)
  if any(isinstance(leaf, np.ndarray) for _, leaf in leaves):
    sums = [_host_sums(leaf) for _, leaf in leaves]
  else:
    sums = jax.tree.leaves(jax.device_get(_all_device_sums(tree)))
  return {
      path_name(path): {'shape': list(leaf.shape), 'dtype': leaf.dtype.name, 'sum': f'{first:08x}{second:08x}'}
      for (path, leaf), (first, second) in zip(leaves, sums, strict=True)}


def changed_leaves(tree: Any, recorded: Leaves) -> list[str]:
  """The names of the leaves that differ from what was recorded; `recorded` may hold more leaves."""
  return [name for name, leaf in describe_leaves(tree).items() if leaf != recorded.get(name)]


def seal(value: Any) -> str:
  """The CRC-32C of a JSON value, 8 hexadecimal digits, however the file is formatted."""
  return f'{google_crc32c.value(json.dumps(value, sort_keys=True).encode()):08x}'


def check_finite(outputs: np.ndarray, examples: str) -> None:
  """Raises UserError if a model's outputs are not all finite; `examples` says of which examples they are."""
  if not np.isfinite(outputs).all():
    raise UserError(f'the model gives no finite number for {examples}: its weights are broken; use another checkpoint')
