"""Prints which splits and classes a builder of a user's own images found, before it reads the first image."""

import collections
from collections.abc import Mapping, Sequence

from data_pipelines.building.raw_example import NO_LABEL, RawExample
from data_pipelines.errors import join_names
from data_pipelines.plain_text import visible


def print_splits(found: Mapping[str, Sequence[RawExample]], labels: Sequence[str], no_val: str) -> None:
  """Prints how many images of each class each split has, and warns of what keeps a model from being fine-tuned.

  Args:
    found: the examples by split.
    labels: the class names.
    no_val: what a user can do if there is no val.
  """
  for split, examples in found.items():
    counts = collections.Counter(str(example.label) for example in examples if example.label != NO_LABEL)
    counts.update(label for example in examples for label in example.labels)
    classes = join_names([f'{label} {counts[label]}' for label in labels])
    print(visible(f'  {split}: {len(examples)} images' + (f' ({classes})' if counts else '')))
  for split, remedy in (('val', no_val), ('test', 'set --config.test_split=val')):
    if labels and split not in found:
      print(f'  no {split}: to fine-tune, {remedy}')
  if len(labels) == 1:
    print(visible(f'  warning: {labels[0]} is the only class, so there is nothing to tell apart'))
