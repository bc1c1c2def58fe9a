"""A table of names that converts parameters in both directions.

Ours is a plain nested dict of arrays in which the blocks of a transformer are stacked along a leading layer axis.
Theirs is a flat dict of PyTorch names. Each `NameRule` ties one of our leaves to the tensors that it is made of.
Import, export and the check of names and shapes all follow from the same rules.
"""

from collections.abc import Callable, Iterable, Mapping
import functools
import math
import re
from typing import Any, NamedTuple

from flax import traverse_util
import jax
import numpy as np

from data_pipelines.errors import UserError, join_names

NOTHING = r'(?!)'
"""A regular expression that no name matches."""

MAX_MISSING_BLOCKS = 1000
"""If a model describes more blocks than this, and more than its file has tensors, a message does not list what it
lacks."""


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
"""The layout in which theirs has a leading axis of size 1."""
SPACED = Layout(lambda x: x[:, 0], lambda x: x[:, None])
"""The layout in which theirs has a second axis of size 1."""
CONV = Layout(lambda x: x.transpose(2, 3, 1, 0).reshape(-1, x.shape[0]), _patches_to_conv)
"""The layout in which theirs is a patch convolution (D, 3, p, p), ours a matrix (p*p*3, D) in `patchify`'s order."""


class NameRule(NamedTuple):
  """Where one of our leaves comes from.

  ours: its path, joined by '/'.
  theirs: the tensors that make it, concatenated along our last axis; '{}' stands for the layer index of a stacked leaf.
  layout: how each tensor is stored.
  """

  ours: str
  theirs: tuple[str, ...]
  layout: Layout = KEEP


class BlockNames(NamedTuple):
  """Their names of the layers within one transformer block.

  qkv: one fused layer, or those of query, key and value. qkv_joint: the text between such a name and `weight`.
  """

  norm1: str
  qkv: tuple[str, ...]
  out: str
  norm2: str
  up: str
  down: str
  qkv_joint: str = '.'


def linear_rules(ours: str, *theirs: str, joint: str = '.') -> list[NameRule]:
  """The rules of a dense layer with bias; several PyTorch layers are fused along the output.

  joint: the text before `weight`.
  """
  return [
      NameRule(f'{ours}/kernel', tuple(f'{name}{joint}weight' for name in theirs), TRANSPOSE),
      NameRule(f'{ours}/bias', tuple(f'{name}{joint}bias' for name in theirs))]


def layer_norm_rules(ours: str, theirs: str) -> list[NameRule]:
  """The rules of a LayerNorm."""
  return [NameRule(f'{ours}/scale', (f'{theirs}.weight',)), NameRule(f'{ours}/bias', (f'{theirs}.bias',))]


def block_rules(ours: str, theirs: str, names: BlockNames) -> list[NameRule]:
  """The rules of a `layers.Blocks`; `theirs` is the prefix of one block, with '{}'."""
  ours = f'{ours}/layers'
  return [
      *layer_norm_rules(f'{ours}/norm1', f'{theirs}.{names.norm1}'),
      *linear_rules(f'{ours}/attention/qkv', *(f'{theirs}.{name}' for name in names.qkv), joint=names.qkv_joint),
      *linear_rules(f'{ours}/attention/out', f'{theirs}.{names.out}'),
      *layer_norm_rules(f'{ours}/norm2', f'{theirs}.{names.norm2}'),
      *linear_rules(f'{ours}/mlp/up', f'{theirs}.{names.up}'),
      *linear_rules(f'{ours}/mlp/down', f'{theirs}.{names.down}')]


def export_params(rules: Iterable[NameRule], params: dict[str, Any]) -> dict[str, Any]:
  """Turns our nested dict of arrays into their flat dict, whose arrays may be views of ours.

  Raises:
    UserError: the rules and `params` do not cover each other.
  """
  rules, ours = list(rules), traverse_util.flatten_dict(params, sep='/')
  _check_names({rule.ours: () for rule in rules}, dict.fromkeys(ours, ()), 'parameters')
  flat: dict[str, Any] = {}
  for rule in rules:
    leaf, count = ours[rule.ours], len(rule.theirs)
    layers = [leaf[layer] for layer in range(leaf.shape[0])] if '{}' in rule.theirs[0] else [leaf]
    for layer, array in enumerate(layers):
      width = array.shape[-1] // count if count > 1 else None  # of each part; one part may be a scalar
      for i, name in enumerate(rule.theirs):
        part = array[..., i * width:(i + 1) * width] if width else array
        flat[name.format(layer)] = rule.layout.to_theirs(part)
  return flat


def import_params(
    rules: Iterable[NameRule], flat: dict[str, np.ndarray], template: dict[str, Any], *, source: str,
    ignored: str = NOTHING) -> dict[str, Any]:
  """Turns their flat dict into our nested dict.

  Args:
    rules: the family's table.
    flat: name -> array. It is emptied while ours is filled, so that a large model is never in memory twice. After an
      error it is unchanged.
    template: our nested dict of anything with `shape` and `dtype` (arrays, `ShapeDtypeStruct`).
    source: what the error calls the file.
    ignored: a regular expression; names that match it in full may be present or not, and are dropped.

  Raises:
    UserError: names are missing, extra or of another shape; one line names them all.
  """
  rules = list(rules)
  found = {name: array.shape for name, array in flat.items() if not re.fullmatch(ignored, name)}
  shapes = traverse_util.flatten_dict(template, sep='/')
  blocks = max((shapes[rule.ours].shape[0] for rule in rules if '{}' in rule.theirs[0]), default=0)
  if blocks > max(MAX_MISSING_BLOCKS, len(found)):  # before they are written out one by one
    raise UserError(f'{source} holds {len(found)} tensors, fewer than the {blocks} blocks of the model it describes')
  expected = jax.eval_shape(functools.partial(export_params, rules), template)
  _check_names({name: leaf.shape for name, leaf in expected.items()}, found, source)
  ours = {}
  for rule in rules:
    leaf = shapes[rule.ours]
    ours[rule.ours] = array = np.empty(leaf.shape, leaf.dtype)
    layers = enumerate(array) if '{}' in rule.theirs[0] else [(0, array)]
    for layer, target in layers:
      parts = np.split(target, len(rule.theirs), -1) if len(rule.theirs) > 1 else [target]
      for part, name in zip(parts, rule.theirs):
        part[...] = rule.layout.to_ours(flat.pop(name.format(layer)))
  flat.clear()
  return traverse_util.unflatten_dict(ours, sep='/')


def _check_names(expected: Mapping[str, tuple[int, ...]], found: Mapping[str, tuple[int, ...]], source: str) -> None:
  """Raises UserError where the names, or the shapes under them, differ."""
  problems = {
      'missing': sorted(expected.keys() - found.keys()), 'unexpected': sorted(found.keys() - expected.keys()),
      'of another shape': []}
  for name in sorted(expected.keys() & found.keys()):
    if found[name] != expected[name]:
      transposed = ' (transposed)' if found[name] == expected[name][::-1] else ''
      problems['of another shape'].append(f'{name} {found[name]} instead of {expected[name]}{transposed}')
  lines = [f'{len(names)} {kind}: {join_names(names)}' for kind, names in problems.items() if names]
  if lines:
    raise UserError(f'{source} does not fit the model it describes: {"; ".join(lines)}')
