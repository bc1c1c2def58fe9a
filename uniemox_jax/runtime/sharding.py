"""Makes the device mesh, splits parameters over it, and makes global arrays of the hosts' shares."""

from collections.abc import Sequence
import math
import re
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
import numpy as np

from data_pipelines.errors import UserError

PARAMETER_RULES = (
    (r'layers/.*kernel$', P(None, 'fsdp', None)),  # stacked blocks: (layer, in, out)
    (r'layers/', P(None, 'fsdp')),  # their biases and norms: (layer, width)
    (r'kernel$', P('fsdp', None)),
    (r'(positions|embedding|token)$', P(None, 'fsdp')),
    (r'(bias|scale)$', P('fsdp')),
    (r'.*', P()),
)
"""The rules of parameters: the first match wins, and every parameter has one. Optimizer moments have their parameter's
path and so its rule."""

BATCH = P(('data', 'fsdp'))


def make_mesh(data: int = -1, fsdp: int = 1, devices: Sequence[jax.Device] | None = None) -> Mesh:
  """Makes a (data, fsdp) mesh over `devices` (None: all); -1 takes what the other axis leaves.

  Raises:
    UserError: the axes do not multiply to the number of devices.
  """
  devices = jax.devices() if devices is None else devices
  sizes = [data, fsdp]
  if -1 in sizes:
    sizes[sizes.index(-1)] = len(devices) // max(1, math.prod(size for size in sizes if size != -1))
  if math.prod(sizes) != len(devices) or min(sizes) < 1:
    raise UserError(
        f'mesh data={data} fsdp={fsdp} does not fit {len(devices)} devices: '
        'set --config.mesh.data=-1 and an --config.mesh.fsdp that divides them')
  return Mesh(np.asarray(devices).reshape(sizes), ('data', 'fsdp'))


def describe_mesh(mesh: Mesh) -> str:
  """Describes the devices and how they share the work, which decides the order of additions, and so the last bits."""
  axes = ', '.join(f'{axis}={size}' for axis, size in mesh.shape.items())
  return f'{mesh.size} x {mesh.devices.flat[0].device_kind} in {jax.process_count()} processes ({axes})'


def check_batch(batch_size: int, mesh: Mesh, accum_steps: int = 1) -> None:
  """Raises UserError unless every micro-batch splits evenly over the devices."""
  if accum_steps < 1 or batch_size % (accum_steps * mesh.size):
    raise UserError(
        f'batch_size {batch_size} with accum_steps {accum_steps} is not divisible by {mesh.size} devices: '
        f'make it a multiple of {max(accum_steps, 1) * mesh.size}')


def tree_shardings(tree: Any, mesh: Mesh) -> Any:
  """A NamedSharding for every leaf by `PARAMETER_RULES`; a dimension that fsdp does not divide stays whole."""

  def shard(path: tuple[Any, ...], leaf: Any) -> NamedSharding:
    name = '/'.join(str(getattr(key, 'key', getattr(key, 'name', key))) for key in path)
    spec = next(spec for pattern, spec in PARAMETER_RULES if re.search(pattern, name))
    if len(spec) > len(leaf.shape):
      spec = P()
    fits = all(axis is None or size % mesh.shape[axis] == 0 for axis, size in zip(spec, leaf.shape))
    return NamedSharding(mesh, spec if fits else P())

  return jax.tree_util.tree_map_with_path(shard, tree)


def global_batch(host_batch: dict[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
  """Makes global arrays of this host's rows of a batch, split over all devices along the first axis."""
  sharding = NamedSharding(mesh, BATCH)
  return {name: jax.make_array_from_process_local_data(sharding, rows) for name, rows in host_batch.items()}


def replicate(tree: Any, mesh: Mesh) -> Any:
  """Puts the same arrays on every device of every host; from host arrays, or from ones sharded over the mesh."""
  if any(isinstance(leaf, jax.Array) and not leaf.is_fully_addressable for leaf in jax.tree.leaves(tree)):
    return jax.jit(lambda tree: tree, out_shardings=NamedSharding(mesh, P()))(tree)
  return jax.device_put(tree, NamedSharding(mesh, P()))
