"""Builder of HECO: `<Class>/*`, split 70/10/20 by this package."""

import pathlib

import tensorflow_datasets as tfds

from data_pipelines.building import builder, class_folders, splits
from data_pipelines.building.raw_example import RawExample

PERCENT = {'train': 70, 'val': 10, 'test': 20}


class Builder(builder.FolderBuilder):
  """HECO (Yang et al., Emotion Recognition for Multiple Context Awareness, ECCV 2022): persons in eight emotions."""

  VERSION = tfds.core.Version('1.0.0')
  LABELS = ('Surprise', 'Excitement', 'Happiness', 'Peace', 'Disgust', 'Anger', 'Fear', 'Sadness')
  SPLIT_SEED = 0
  MANUAL_DOWNLOAD_INSTRUCTIONS = (
      'HECO holds <Class>/* with the folders Surprise, Excitement, Happiness, Peace, Disgust, Anger, Fear and Sadness; '
      'ask its authors for it, see https://heco2022.github.io')

  def list_examples(self, source: pathlib.Path) -> dict[str, list[RawExample]]:
    """Examples by split, every class in the same shares. Raises UserError as the base says."""
    examples = class_folders.list_classes(self, source, source, self.LABELS)
    return splits.seeded_splits(examples, PERCENT, self.SPLIT_SEED)
