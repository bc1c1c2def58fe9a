"""Builder of FI: `<class>/*`, split 80/5/15 by this package."""

import pathlib

import tensorflow_datasets as tfds

from data_pipelines.building import builder, class_folders, splits
from data_pipelines.building.raw_example import RawExample
from data_pipelines.records import schema

PERCENT = {'train': 80, 'val': 5, 'test': 15}


class Builder(builder.FolderBuilder):
  """FI (You et al., Building a Large Scale Dataset for Image Emotion Recognition, AAAI 2016): eight emotions."""

  VERSION = tfds.core.Version('1.0.0')
  LABELS = schema.EMOTIONS
  SPLIT_SEED = 0
  MANUAL_DOWNLOAD_INSTRUCTIONS = (
      f'FI holds <emotion>/* with the folders {", ".join(schema.EMOTIONS)}; ask its authors for it, '
      'see https://arxiv.org/abs/1605.02677')

  def list_examples(self, source: pathlib.Path) -> dict[str, list[RawExample]]:
    """Examples by split, every class in the same shares. Raises UserError as the base says."""
    examples = class_folders.list_classes(self, source, source, self.LABELS)
    return splits.seeded_splits(examples, PERCENT, self.SPLIT_SEED)
