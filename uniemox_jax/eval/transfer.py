"""Transfer: a model is measured on another dataset, in classes that both have, and is not trained for it.

docs/protocols.md says what becomes of probabilities and images.
"""

from collections.abc import Sequence
from pathlib import PurePath
from typing import Any, NamedTuple

import numpy as np

from data_pipelines.errors import UserError
from data_pipelines.records import reader
from uniemox_jax.eval import label_maps
from uniemox_jax.eval.kept_outputs import example_keys, keep_outputs
from uniemox_jax.eval.result_file import result_path, write_result
from uniemox_jax.objectives.tasks import Task, measure, single_label_task


class Transfer(NamedTuple):
  """Another dataset to measure on. label_map: see `label_maps.load_label_map`; None if both have the same classes."""

  dataset: str
  label_map: str | None = None

  @property
  def map_name(self) -> str:
    """The name of the map, as results have it; '' without one."""
    return PurePath(self.label_map or '').name.removesuffix('.json')

  @property
  def text(self) -> str:
    """The text that `read_transfers` reads."""
    return self.dataset if self.label_map is None else f'{self.dataset}:{self.label_map}'

  @property
  def file_part(self) -> str:
    """What names of files call it: 'fi', or 'emotion6_mikels_to_emotion6'."""
    return '_'.join(filter(None, (self.dataset, self.map_name)))

  def __str__(self) -> str:
    return f'{self.dataset} by {self.map_name}' if self.map_name else self.dataset


class OpenTransfer(NamedTuple):
  """A transfer whose records and map are open. split: the images, `split_name` of them. resolved: the map from the
  model's classes to the dataset's."""

  transfer: Transfer
  split_name: str
  split: reader.Split
  resolved: label_maps.ResolvedMap


def read_transfers(text: str) -> tuple[Transfer, ...]:
  """Reads transfers, joined by + in a text such as 'fi+emotion6:mikels_to_emotion6'; () for ''.

  Raises:
    UserError: one is given twice, or a name is empty.
  """
  found: list[Transfer] = []
  for item in text.split('+') if text else ():
    dataset, colon, label_map = item.partition(':')
    transfer = Transfer(dataset, label_map if colon else None)
    if not dataset or transfer.label_map == '' or transfer.file_part in [other.file_part for other in found]:
      raise UserError(
          f"'{item}' of the transfers is {'there twice' if transfer in found else 'no name of its own'}: give DATASET, "
          'or DATASET:MAP where the classes differ, each once')
    found.append(transfer)
  return tuple(found)


def open_transfer(transfer: Transfer, data_dir: str, classes: Sequence[str], split_name: str = 'test') -> OpenTransfer:
  """Opens the records of the other dataset, and applies the map to the model's classes and to its own.

  Raises:
    UserError: there are no such records or map, or the map does not fit.
  """
  chosen = None if transfer.label_map is None else label_maps.load_label_map(transfer.label_map)
  split = reader.open_split(data_dir, transfer.dataset, split_name)
  return OpenTransfer(transfer, split_name, split, label_maps.resolve(chosen, classes, split.labels))


def open_transfers(text: str, data_dir: str, tasks: Sequence[Task]) -> list[OpenTransfer]:
  """Opens all transfers of a run that learns these tasks, of which only the single label can be transferred.

  Raises:
    UserError: no task is the single label; or as `read_transfers` and `open_transfer`.
  """
  transfers = read_transfers(text)
  return [open_transfer(transfer, data_dir, classes_of(tasks)) for transfer in transfers]


def classes_of(tasks: Sequence[Task]) -> Sequence[str]:
  """The classes of the single label. Raises UserError if no task is that."""
  classes = next((task.outputs for task in tasks if task.name == 'label'), None)
  if classes is None:
    raise UserError(
        f'the model predicts {", ".join(task.name for task in tasks)} and no single label: evaluate it on its own '
        'dataset')
  return classes


def measure_transfer(
    opened: OpenTransfer, logits_NxC: np.ndarray, label_N: np.ndarray, workdir: str, *, config_hash: str,
    **of_run: Any) -> dict[str, Any]:
  """Measures a model on another dataset; writes result_DATASET[_SPLIT][_MAP].json, and for test the outputs beside it.

  Probabilities of classes with the same target are summed. Classes that the map leaves out lose their probability, and
  the rest is scaled to sum to 1. Images whose class the map leaves out are not counted; their number is printed.

  Args:
    opened: the transfer.
    logits_NxC: the model's logits for each image of the split, over its own classes.
    label_N: the true classes, int (N,), -1 for none.
    workdir: the run's folder.
    config_hash: the hash of the run's config.
    of_run: what else the result says: what `write_result` takes, and trained_on.

  Returns:
    The content of the file: that of `evaluate`, and trained_on, label_map, and left_out (examples by class).
  """
  transfer, split_name, split, resolved = opened
  mapped_NxT = label_maps.mapped_logits(logits_NxC, resolved).astype(np.float32)
  mapped_N, left_out = label_maps.mapped_labels(label_N, resolved, split.labels)
  print(f'{transfer}: {label_maps.describe_left_out(left_out, split.num_examples)}', flush=True)
  task = single_label_task(resolved.classes)
  measured = measure(task, mapped_NxT, mapped_N)
  if split_name == 'test':
    found = {'outputs': mapped_NxT, 'label': mapped_N}
    keep_outputs(workdir, config_hash, example_keys(split), [task], found, tested_on=transfer.file_part)
  return write_result(
      result_path(workdir, split_name, transfer.dataset, transfer.map_name), dataset=transfer.dataset, split=split_name,
      config_hash=config_hash, label_map=transfer.map_name or None, left_out=left_out, **of_run, **measured)
