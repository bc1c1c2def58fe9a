"""Finds what is wrong with a data set, and says in words what can be done about it."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from data_pipelines.building.splits import TRAIN_VAL_TEST
from data_pipelines.errors import join_names

FEW = 20
"""The number of images of a split below which what is measured on it means little."""
IMBALANCE = 10
SHARED_CAPTIONS = 0.9


class Fault(NamedTuple):
  """A fault. kind: a word for programs. text: a sentence for people."""

  kind: str
  text: str


def find_faults(facts: Mapping[str, Any]) -> list[Fault]:
  """Finds the faults that the facts of a report show, the gravest first."""
  return [*_leaks(facts), *_classes(facts), *_splits(facts), *_captions(facts)]


def _leaks(facts: Mapping[str, Any]) -> Iterator[Fault]:
  dataset = facts['dataset']
  for kind, what in (('equal', 'equal to'), ('near', 'near-duplicates of')):
    for pair in facts['duplicates'][kind] or ():
      if pair.get('its_dataset', dataset) != dataset:
        yield Fault(
            'overlap', f'{pair["images"]} images of {pair["split"]} are {what} images in {pair["its_dataset"]} '
            f'{pair["its_split"]}: to test there, leave them out with --exclude')
      elif pair['split'] != pair['its_split']:
        yield Fault(
            'leakage', f'{pair["images"]} images of {pair["split"]} are {what} images in {pair["its_split"]}: a model '
            'that trains on one has seen the other; build again with --groups_file or --exclude')


def _classes(facts: Mapping[str, Any]) -> Iterator[Fault]:
  labels, splits = facts['labels'], facts['splits']
  if not labels:
    return
  total = {label: sum(split['per_class'][label] for split in splits.values()) for label in labels}
  present = [label for label in labels if total[label]]
  if len(present) < 2:
    yield Fault(
        'one_class', f'{present[0] if present else "No class"} is the only class: there is nothing to tell apart')
  if absent := [label for label in labels if not total[label]]:
    yield Fault('absent_class', f'no image is of the class {join_names(absent)}: leave the class out, or add images')
  for name, split in splits.items():
    absent = [label for label in present if not split['per_class'][label]]
    if absent and split['examples'] > split['without_class']:
      yield Fault(
          'absent_class', f'{name} has no image of {join_names(absent)}: what is measured there says nothing of it')
    if split['without_class']:
      yield Fault(
          'without_class',
          f'{split["without_class"]} of {split["examples"]} images of {name} have no class: pretraining '
          'takes them, fine-tuning on classes cannot')
  first = next(iter(splits))
  counts = {label: count for label, count in splits[first]['per_class'].items() if count}
  if counts:
    most, least = max(counts, key=counts.__getitem__), min(counts, key=counts.__getitem__)
    if counts[most] > IMBALANCE * counts[least]:
      yield Fault(
          'imbalance',
          f'{first} has {counts[most]} images of {most} and {counts[least]} of {least}: report macro-F1, and try '
          '--config.sampling=balanced or --config.task_loss.class_weights')


def _splits(facts: Mapping[str, Any]) -> Iterator[Fault]:
  splits = facts['splits']
  if missing := [split for split in TRAIN_VAL_TEST if split not in splits]:
    remedy = {'train': 'there is nothing to train on', 'val': 'there is nothing to choose the best epoch on'}
    yield Fault(
        'missing_split', f'there is no {join_names(missing)}: {remedy.get(missing[0], "set --config.test_split=val")}')
  for name, split in splits.items():
    if split['examples'] < FEW:
      yield Fault('small_split', f'{name} has only {split["examples"]} images: what is measured there is mostly chance')


def _captions(facts: Mapping[str, Any]) -> Iterator[Fault]:
  captions = facts['captions']
  if captions['shared'] > SHARED_CAPTIONS * captions['own']:
    yield Fault(
        'equal_captions',
        f'{captions["shared"]} of the {captions["own"]} images with a text of their own share it with '
        'another: comparing captions teaches little in pretraining')
