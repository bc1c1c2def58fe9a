"""From the classes that a model knows and those of another dataset to classes that both have (docs/protocols.md).

A map is JSON: {"source": {class of the model: target}, "target": {class of the dataset: target}}; "target": {} is each
class itself; null leaves a class out on purpose; "why" may say why. It may name classes that neither side has.
"""

from collections.abc import Sequence
import importlib.resources
import json
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data_pipelines.errors import UserError

FOLDER = importlib.resources.files('uniemox_jax') / 'assets' / 'label_maps'
SIDES = ('source', 'target')


class LabelMap(NamedTuple):
  """A map as read. name: of a shipped one, or of the file without its ending. source, target: as in the file."""

  name: str
  source: dict[str, str | None]
  target: dict[str, str | None]


class Bound(NamedTuple):
  """A map between two label tables.

  classes: of the targets. of_source_C, of_target_K: which of these each class of the model and of the dataset is; -1
  is left out.
  """

  classes: tuple[str, ...]
  of_source_C: np.ndarray
  of_target_K: np.ndarray


def shipped() -> list[str]:
  """Names of the maps that come with the package."""
  return sorted(path.name.removesuffix('.json') for path in FOLDER.iterdir())


def load_label_map(source: str) -> LabelMap:
  """A shipped map by its name, or one in a .json file.

  Raises:
    UserError: there is none, or it is no map.
  """
  path = Path(source) if source.endswith('.json') else FOLDER / f'{source}.json'
  if not path.is_file():
    raise UserError(f"label map '{source}' does not exist: give a .json file, or one of {', '.join(shipped())}")
  try:
    found = json.loads(path.read_text(encoding='utf-8'))
  except (OSError, ValueError) as error:
    raise UserError(f'label map {source} cannot be read as JSON ({error}): mend it') from error
  if not isinstance(found, dict) or not set(SIDES) <= set(found) <= {*SIDES, 'why'} or not all(
      isinstance(found[side], dict) for side in SIDES):
    raise UserError(
        f'label map {source} must be {{"source": {{…}}, "target": {{…}}}}, each from class to class or '
        'null: mend it')
  for side in SIDES:
    if wrong := [name for name, target in found[side].items() if target is not None and not isinstance(target, str)]:
      raise UserError(
          f"label map {source}: {side} class '{wrong[0]}' leads to {found[side][wrong[0]]!r}: give a "
          'class, or null to leave it out')
  return LabelMap(path.name.removesuffix('.json'), found['source'], found['target'])


def bind(label_map: LabelMap | None, source: Sequence[str], target: Sequence[str]) -> Bound:
  """A map between these label tables.

  Args:
    label_map: None where both sides have the same classes.
    source: the model's classes.
    target: the dataset's.

  Raises:
    UserError: a class of either side is not in the map, no class of the model leads to one of the dataset's, or there
      is no map and the classes differ.
  """
  if label_map is None:
    if set(source) != set(target):
      raise UserError(
          f'the model knows {", ".join(source)}, the dataset has {", ".join(target)}: give '
          f'--label_map=NAME or FILE.json; shipped: {", ".join(shipped())}')
    label_map = LabelMap('', {name: name for name in source}, {})
  to_target = label_map.target or {name: name for name in target}
  missing = [
      f"{side} {', '.join(lacking)}"
      for side, lacking in (('source', [name for name in source if name not in label_map.source]),
                            ('target', [name for name in target if name not in to_target]))
      if lacking
  ]
  if missing:
    raise UserError(
        f"label map '{label_map.name}' misses {' and '.join(missing)}: add each with its class, or null to "
        'leave it out')
  reached = {label_map.source[name] for name in source} - {None}
  if unreached := [name for name in target if to_target[name] is not None and to_target[name] not in reached]:
    raise UserError(
        f"label map '{label_map.name}': no class of the model leads to what {', '.join(unreached)} stands "
        'for: lead one there, or map it to null in "target" to leave its pictures out')
  if all(to_target[name] is None for name in target):
    raise UserError(f"label map '{label_map.name}' leaves every class of the dataset out: keep one in \"target\"")
  classes = tuple(
      dict.fromkeys(
          name for name in (*(to_target[name] for name in target), *(label_map.source[name] for name in source))
          if name is not None))
  index = {name: position for position, name in enumerate(classes)} | {None: -1}
  return Bound(
      classes, np.array([index[label_map.source[name]] for name in source]),
      np.array([index[to_target[name]] for name in target]))


def mapped_logits(logits_NxC: np.ndarray, bound: Bound) -> np.ndarray:
  """Logarithms of the targets' probabilities, float64 (N, T): the sum of their classes' among those not left out."""

  def log_sum(logits: np.ndarray) -> np.ndarray:
    return np.logaddexp.reduce(logits, axis=-1, keepdims=True)

  logits_NxC = logits_NxC.astype(np.float64)
  by_target = [log_sum(logits_NxC[:, bound.of_source_C == index]) for index in range(len(bound.classes))]
  summed_NxT = np.concatenate(by_target, axis=-1)
  return summed_NxT - log_sum(summed_NxT)


def mapped_labels(label_N: np.ndarray, bound: Bound, labels: Sequence[str]) -> tuple[np.ndarray, dict[str, int]]:
  """The targets of true classes, and how many examples of which classes are left out.

  Args:
    label_N: indices into `labels`, -1 for none.
    bound: the map.
    labels: the dataset's classes.

  Returns:
    Indices into `bound.classes`, -1 for those left out; their number by class, '' for those without a class.
  """
  mapped_N = np.where(label_N >= 0, bound.of_target_K[label_N], -1)
  gone_N = label_N[mapped_N < 0]
  names = {-1: ''} | dict(enumerate(labels))
  return mapped_N, {names[index]: int((gone_N == index).sum()) for index in sorted(set(gone_N.tolist()))}


def describe_left_out(left_out: dict[str, int], examples: int) -> str:
  """One line for people."""
  said = ', '.join(f"{name or 'no class'} {count}" for name, count in left_out.items())
  return f'left out: {sum(left_out.values())} of {examples} pictures' + (f' ({said})' if said else '')
