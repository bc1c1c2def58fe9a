"""A table of names that converts parameters in both directions.

Ours is a plain nested dict of arrays in which the blocks of a transformer are stacked along a leading layer axis.
Theirs is a flat dict of PyTorch names. Each `Row` ties one of our leaves to the tensors that it is made of; import,
export and the check of names and shapes all follow from the same rows.
"""

from collections.abc import Callable, Iterable
import functools
import math
import re
from typing import Any, NamedTuple

from flax import traverse_util
import jax
import numpy as np

from data_pipelines.errors import UserError

MAX_LISTED = 8
"""Names printed of each kind of problem before `and N more`."""

NOTHING = r'(?!)'
"""A regular expression that no name matches."""


class Layout(NamedTuple):
  """How one of their tensors becomes ours, and back."""

  to_ours: Callable[[Any], Any]
  to_theirs: Callable[[Any], Any]


def _patches_to_conv(kernel_PxD: Any) -> Any:
  size = math.isqrt(kernel_PxD.shape[0] // 3)
  return kernel_PxD.reshape(size, size, 3, -1).transpose(3, 2, 0, 1)


KEEP = Layout(lambda x: x, lambda x: x)
TRANSPOSE = Layout(lambda x: x.T, lambda x: x.T)
BATCHED = Layout(lambda x: x[0], lambda x: x[None])
"""Theirs has a leading axis of size 1."""
SPACED = Layout(lambda x: x[:, 0], lambda x: x[:, None])
"""Theirs has a second axis of size 1."""
CONV = Layout(lambda x: x.transpose(2, 3, 1, 0).reshape(-1, x.shape[0]), _patches_to_conv)
"""Theirs is a patch convolution (D, 3, p, p), ours a matrix (p*p*3, D) in `patchify`'s order."""


class Row(NamedTuple):
  """One of our leaves.

  ours: its path, joined by '/'.
  theirs: the tensors that, concatenated along our last axis, make it up; '{}' stands for the layer index of a
    stacked leaf.
  layout: how each tensor is stored.
  """

  ours: str
  theirs: tuple[str, ...]
  layout: Layout = KEEP


def linear(ours: str, *theirs: str, joint: str = '.') -> list[Row]:
  """Rows of a dense layer with bias; several PyTorch layers are fused along the output. joint: before `weight`."""
  return [
      Row(f'{ours}/kernel', tuple(f'{name}{joint}weight' for name in theirs), TRANSPOSE),
      Row(f'{ours}/bias', tuple(f'{name}{joint}bias' for name in theirs))
  ]


def layer_norm(ours: str, theirs: str) -> list[Row]:
  """Rows of a LayerNorm."""
  return [Row(f'{ours}/scale', (f'{theirs}.weight',)), Row(f'{ours}/bias', (f'{theirs}.bias',))]


def blocks(
    ours: str, theirs: str, *, norm1: str, qkv: tuple[str, ...], out: str, norm2: str, up: str, down: str,
    qkv_joint: str = '.') -> list[Row]:
  """Rows of a `layers.Blocks`; `theirs` is the prefix of one block, with '{}', the others are names within it."""
  ours = f'{ours}/layers'
  return [
      *layer_norm(f'{ours}/norm1', f'{theirs}.{norm1}'),
      *linear(f'{ours}/attention/qkv', *(f'{theirs}.{name}' for name in qkv), joint=qkv_joint),
      *linear(f'{ours}/attention/out', f'{theirs}.{out}'), *layer_norm(f'{ours}/norm2', f'{theirs}.{norm2}'),
      *linear(f'{ours}/mlp/up', f'{theirs}.{up}'), *linear(f'{ours}/mlp/down', f'{theirs}.{down}')
  ]


def _export_leaf(row: Row, leaf: Any) -> list[Any]:
  """The tensors of `row.theirs`, from one of our leaves without layer axis."""
  width = leaf.shape[-1] // len(row.theirs) if leaf.ndim else 0
  parts = [leaf[..., i * width:(i + 1) * width] for i in range(len(row.theirs))] if width else [leaf]
  return [row.layout.to_theirs(part) for part in parts]


def export_params(rows: Iterable[Row], params: dict[str, Any]) -> dict[str, Any]:
  """Our nested dict of arrays -> their flat dict; arrays may be views of ours.

  Raises:
    UserError: the rows and `params` do not cover each other.
  """
  rows, ours = list(rows), traverse_util.flatten_dict(params, sep='/')
  _check({row.ours: None for row in rows}, dict.fromkeys(ours), 'parameters')
  flat = {}
  for row in rows:
    leaf = ours[row.ours]
    if '{}' not in row.theirs[0]:
      flat.update(zip(row.theirs, _export_leaf(row, leaf)))
      continue
    for layer in range(leaf.shape[0]):
      flat.update(zip((name.format(layer) for name in row.theirs), _export_leaf(row, leaf[layer])))
  return flat


def import_params(
    rows: Iterable[Row], flat: dict[str, np.ndarray], template: dict[str, Any], *, source: str,
    ignored: str = NOTHING) -> dict[str, Any]:
  """Their flat dict -> our nested dict.

  Args:
    rows: the family's table.
    flat: name -> array. It is emptied while ours is filled, so that a large model is never held twice; after an error
      it is as it was.
    template: our nested dict of anything with `shape` and `dtype` (arrays, `ShapeDtypeStruct`).
    source: what the error calls the file.
    ignored: a regular expression; names that match it in full may be there or not, and are dropped.

  Raises:
    UserError: one line with every missing, extra and mis-shaped name.
  """
  rows = list(rows)
  found = {name: array.shape for name, array in flat.items() if not re.fullmatch(ignored, name)}
  expected = jax.eval_shape(functools.partial(export_params, rows), template)
  _check({name: leaf.shape for name, leaf in expected.items()}, found, source)
  shapes, ours = traverse_util.flatten_dict(template, sep='/'), {}
  for row in rows:
    leaf = shapes[row.ours]
    ours[row.ours] = array = np.empty(leaf.shape, leaf.dtype)
    layers = enumerate(array) if '{}' in row.theirs[0] else [(0, array)]
    for layer, target in layers:
      parts = np.split(target, len(row.theirs), -1) if len(row.theirs) > 1 else [target]
      for part, name in zip(parts, row.theirs):
        part[...] = row.layout.to_ours(flat.pop(name.format(layer)))
  flat.clear()
  return traverse_util.unflatten_dict(ours, sep='/')


def _check(expected: dict[str, Any], found: dict[str, Any], source: str) -> None:
  problems = {
      'missing': sorted(expected.keys() - found.keys()), 'unexpected': sorted(found.keys() - expected.keys()),
      'of another shape': [
          _misshapen(name, tuple(found[name]), tuple(expected[name]))
          for name in sorted(expected.keys() & found.keys())
          if found[name] != expected[name]
      ]
  }
  lines = [f'{len(names)} {kind}: {listed(names)}' for kind, names in problems.items() if names]
  if lines:
    raise UserError(f'{source} does not fit the model it describes: {"; ".join(lines)}')


def _misshapen(name: str, found: tuple[int, ...], expected: tuple[int, ...]) -> str:
  return f'{name} {found} instead of {expected}' + (' (transposed)' if found == expected[::-1] else '')


def listed(names: list[str]) -> str:
  """The first names, and how many more there are."""
  more = f' and {len(names) - MAX_LISTED} more' if len(names) > MAX_LISTED else ''
  return ', '.join(names[:MAX_LISTED]) + more
