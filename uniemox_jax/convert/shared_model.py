"""The form in which models of this package are shared: a folder of plain files that every verb reads.

`model.safetensors` holds the weights under our own names, `config.json` all that is needed to use them, and
`checksums.sha256` the checksums of both. Nothing in them is code. `export_torch --to=uniemox` writes the folder.
"""

from collections.abc import Mapping
from pathlib import Path
import reprlib
from typing import Any

from flax import nnx, traverse_util
import numpy as np

from data_pipelines import checksums, storage
from data_pipelines.errors import UserError, join_names
from data_pipelines.plain_text import check_labels
from uniemox_jax.convert.formats import hub, weight_files
from uniemox_jax.models.preprocess import check_statistics
from uniemox_jax.models.registry import MODULES, abstract_student
from uniemox_jax.models.view import FILTERS
from uniemox_jax.objectives.tasks import KINDS, tasks_of

CONFIG = 'config.json'
CHECKSUMS = checksums.FOLDER
MODEL_TYPE = 'uniemox'
FORMAT = 1
"""The format of config.json. A reader refuses higher ones."""
DESCRIPTION = (
    'kind', 'model', 'tasks', 'labels', 'dataset', 'statistics', 'view', 'norm_pix', 'source', 'thresholds', 'training')
"""The keys of a config: those of a checkpoint's description; the thresholds of several classes, chosen on val; and, for
its card, where the weights come from and what was measured."""


def is_shared(path: Path) -> bool:
  """Whether a folder is in this form."""
  return path.is_dir() and hub.read_config(path, CONFIG).get('model_type') == MODEL_TYPE


def write_shared(folder: Path, params: dict[str, Any], description: Mapping[str, Any], version: str) -> None:
  """Writes weights and config into a folder that exists.

  Args:
    folder: the destination.
    params, description: as in a checkpoint; the description may hold 'thresholds'.
    version: the version of this package.
  """
  kept = {key: description[key] for key in DESCRIPTION if key in description}
  flat = traverse_util.flatten_dict(params, sep='/')
  weight_files.write_safetensors(folder / weight_files.SAFETENSORS, {name: np.asarray(flat[name]) for name in flat})
  storage.write_json(folder / CONFIG, {'model_type': MODEL_TYPE, 'format': FORMAT, 'uniemox_jax': version, **kept})


def read_shared(folder: Path, digest: str | None = None) -> tuple[dict[str, Any], dict[str, Any]]:
  """Reads (params, description) of a folder in this form, checked against its checksums.

  Args:
    folder: the folder of the files.
    digest: the SHA-256 that the weights must have, 64 hexadecimal digits; None if only the folder's own counts.

  Raises:
    UserError: a newer version wrote it; a file is damaged or missing; or weights and config do not agree.
  """
  config = hub.read_config(folder, CONFIG)
  if type(config.get('format')) is not int or config['format'] < 1:
    raise UserError(
        f'{folder / CONFIG} is damaged: its format is {reprlib.repr(config.get("format"))}, not a number from 1: fetch '
        'it again')
  if config['format'] > FORMAT:
    raise UserError(
        f'{folder} was written by a newer version, {reprlib.repr(config.get("uniemox_jax"))} (format '
        f'{reprlib.repr(config.get("format"))}, this one reads {FORMAT}): pip install --upgrade uniemox_jax')
  checksums.compare_checksums(folder / CHECKSUMS)
  if digest is not None and digest != checksums.sha256_of(folder / weight_files.SAFETENSORS):
    raise UserError(f'{folder} holds other weights than were published under this name: fetch them again')
  description = {key: config[key] for key in DESCRIPTION if key in config}
  flat = weight_files.read_weights(folder).flat
  with storage.parsing(folder / CONFIG, 'fetch it again'):
    if description['kind'] not in MODULES:
      raise UserError(
          f"{folder / CONFIG} has the kind {reprlib.repr(description['kind'])}: wanted {join_names(list(MODULES))}")
    module = abstract_student(description['kind'], description['model'])
    _check(description, folder / CONFIG)
  wanted = traverse_util.flatten_dict(nnx.to_pure_dict(nnx.state(module, nnx.Param)), sep='/')
  shapes = {name: tuple(leaf.shape) for name, leaf in wanted.items()}
  if different := sorted(
      name for name in shapes.keys() | flat.keys() if shapes.get(name) != getattr(flat.get(name), 'shape', None)):
    raise UserError(f'{folder}: {CONFIG} does not describe these tensors: {join_names(different)}: fetch both again')
  return traverse_util.unflatten_dict(flat, sep='/'), description


def _check(description: Mapping[str, Any], path: Path) -> None:
  """Raises UserError, ValueError or TypeError for what no classifier's description holds."""
  if not isinstance(description.get('training', {}), dict):
    raise UserError(f'{path} has the training {reprlib.repr(description["training"])}, no object: fetch it again')
  if not isinstance(description.get('source', ''), str):
    raise UserError(f'{path} has the source {reprlib.repr(description["source"])}, no text: fetch it again')
  check_statistics(**description['statistics'])
  view, types = description['view'], {'short_side': int, 'squash': bool, 'floor': bool, 'resample': int}
  if not isinstance(view, dict) or {name: type(value) for name, value in view.items()} != types:
    raise UserError(f'{path} has the view {reprlib.repr(view)}: wanted {join_names(list(types))}')
  if view['resample'] not in FILTERS or view['short_side'] < description['model']['image_size']:
    raise UserError(f'{path} has the view {reprlib.repr(view)}, which does not give the image that the model reads')
  if description['kind'] != 'classifier':
    return
  tasks = tasks_of(dict(description))
  names = [name for task in tasks for name in task.outputs]
  check_labels([*names, *description.get('labels', ())], path)
  classes = next((len(task.outputs) for task in tasks if task.name == 'labels'), 0)
  limits = description.get('thresholds')
  if limits is not None and (type(limits) is not list or len(limits) != classes or
                             any(limit is not None and type(limit) is not float for limit in limits)):
    raise UserError(f'{path} has the thresholds {reprlib.repr(limits)}: wanted a number or null for each of the labels')
  if any(task.name not in KINDS or task.loss not in KINDS[task.name].losses for task in tasks):
    raise UserError(f'{path} has tasks that this version does not know: pip install --upgrade uniemox_jax')
  if len(names) != description['model']['classes']:
    raise UserError(f'{path} names {len(names)} outputs of {description["model"]["classes"]}: fetch it again')
