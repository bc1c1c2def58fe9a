"""Label maps lead from a model's classes and from a dataset's to classes that both have (docs/protocols.md).

A map is JSON: {"source": {class of the model: target}, "target": {class of the dataset: target}}. A target of null
leaves the class out on purpose; "target": {} maps each class to itself; "why" may give reasons. A map may name classes
that neither side has.
"""

from collections.abc import Sequence
import importlib.resources
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data_pipelines import storage
from data_pipelines.errors import UserError
from data_pipelines.plain_text import check_labels

FOLDER = importlib.resources.files('uniemox_jax') / 'assets' / 'label_maps'
SIDES = ('source', 'target')


class LabelMap(NamedTuple):
  """A map as read. name: the name of the shipped map, or of the file without its ending. source, target: as in the
  file. given: the shipped map or the file as the user named it."""

  name: str
  source: dict[str, str | None]
  target: dict[str, str | None]
  given: str = ''


class ResolvedMap(NamedTuple):
  """A map applied to two label tables. classes: the target classes. of_source_C, of_target_K: for each class of the
  model and of the dataset, the index of its target in `classes`; -1 is left out."""

  classes: tuple[str, ...]
  of_source_C: np.ndarray
  of_target_K: np.ndarray


def shipped_names() -> list[str]:
  """The names of the maps that come with the package."""
  return sorted(path.name.removesuffix('.json') for path in FOLDER.iterdir())


def load_label_map(source: str) -> LabelMap:
  """Loads a shipped map by its name, or a map in a .json file.

  Raises:
    UserError: it does not exist, or is not a map.
  """
  path = Path(source) if source.endswith('.json') else FOLDER / f'{source}.json'
  if not path.is_file():
    raise UserError(f"label map '{source}' does not exist: give a .json file, or one of {', '.join(shipped_names())}")
  found = storage.read_json(str(path))
  has_sides = isinstance(found, dict) and set(SIDES) <= set(found) <= {*SIDES, 'why'}
  if not has_sides or not all(isinstance(found[side], dict) for side in SIDES):
    raise UserError(
        f'label map {source} must be {{"source": {{…}}, "target": {{…}}}}, each from class to class or null: correct it'
    )
  for side in SIDES:
    if wrong := [name for name, target in found[side].items() if target is not None and not isinstance(target, str)]:
      raise UserError(
          f"label map {source}: {side} class '{wrong[0]}' leads to {found[side][wrong[0]]!r}: give a class, or null "
          'to leave it out')
    check_labels([*found[side], *filter(None, found[side].values())], f'label map {source}')
  return LabelMap(path.name.removesuffix('.json'), found['source'], found['target'], source)


def resolve(label_map: LabelMap | None, source: Sequence[str], target: Sequence[str]) -> ResolvedMap:
  """Applies a map to the model's classes `source` and the dataset's `target`; no map is needed for equal classes.

  Raises:
    UserError: a class of either side is not in the map, no class of the model leads to one of the dataset's, or there
      is no map and the classes differ.
  """
  if label_map is None:
    if set(source) != set(target):
      raise UserError(
          f'the model knows {", ".join(source)}, the dataset has {", ".join(target)}: give '
          f'--label_map=NAME or FILE.json (in transfers DATASET:NAME); shipped: {", ".join(shipped_names())}')
    label_map = LabelMap('', {name: name for name in source}, {})
  to_target = label_map.target or {name: name for name in target}
  missing = {
      'source': [name for name in source if name not in label_map.source],
      'target': [name for name in target if name not in to_target]}
  if any(missing.values()):
    named = ' and '.join(f'{side} {", ".join(names)}' for side, names in missing.items() if names)
    raise UserError(f"label map '{label_map.given}' misses {named}: add each with its class, or null to leave it out")
  source_targets, target_targets = [label_map.source[name] for name in source], [to_target[name] for name in target]
  if unreached := [name for name in target if to_target[name] not in (None, *source_targets)]:
    raise UserError(
        f"label map '{label_map.given}': no class of the model leads to what {', '.join(unreached)} stands for: lead "
        'one there, or map it to null in "target" to leave its images out')
  if set(target_targets) <= {None}:
    raise UserError(f"label map '{label_map.given}' leaves every class of the dataset out: keep one in \"target\"")
  classes = tuple(dict.fromkeys(name for name in (*target_targets, *source_targets) if name is not None))
  index = {None: -1} | {name: position for position, name in enumerate(classes)}
  return ResolvedMap(
      classes, np.array([index[name] for name in source_targets]), np.array([index[name] for name in target_targets]))


def mapped_logits(logits_NxC: np.ndarray, resolved: ResolvedMap) -> np.ndarray:
  """The log-probabilities of the targets, float64 (N, T).

  A target's probability is the sum over its classes; classes that are left out are renormalised away.
  """

  def log_sum(logits: np.ndarray) -> np.ndarray:
    return np.logaddexp.reduce(logits, axis=-1, keepdims=True)

  logits_NxC = logits_NxC.astype(np.float64)
  by_target = [log_sum(logits_NxC[:, resolved.of_source_C == index]) for index in range(len(resolved.classes))]
  summed_NxT = np.concatenate(by_target, axis=-1)
  return summed_NxT - log_sum(summed_NxT)


def mapped_labels(label_N: np.ndarray, resolved: ResolvedMap,
                  labels: Sequence[str]) -> tuple[np.ndarray, dict[str, int]]:
  """The targets of the true classes `label_N`, indices into the dataset's classes `labels`, -1 for none.

  Returns:
    Indices into `resolved.classes`, -1 for examples that are left out; and the number of these by class, '' for none.
  """
  mapped_N = np.where(label_N >= 0, resolved.of_target_K[label_N], -1)
  left_out, counts = np.unique(label_N[mapped_N < 0], return_counts=True)
  return mapped_N, {labels[index] if index >= 0 else '': int(count) for index, count in zip(left_out, counts)}


def describe_left_out(left_out: dict[str, int], examples: int) -> str:
  """Says in one line for people what was left out."""
  counts = ', '.join(f"{name or 'no class'} {count}" for name, count in left_out.items())
  return f'left out: {sum(left_out.values())} of {examples} images' + (f' ({counts})' if counts else '')
