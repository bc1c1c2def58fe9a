"""Builds UnBiasedEmo: `<class>/<query>/*`, every query split 70/10/20 by this package."""

import pathlib

import tensorflow_datasets as tfds

from data_pipelines.building import base_builder, class_folders, splits
from data_pipelines.building.raw_example import RawExample
from data_pipelines.errors import UserError

PERCENT = {'train': 70, 'val': 10, 'test': 20}


class Builder(base_builder.BaseBuilder):
  """UnBiasedEmo (Panda et al., Contemplating Visual Emotions, ECCV 2018): six emotions, several queries for each."""

  VERSION = tfds.core.Version('1.0.0')
  LABELS = ('anger', 'fear', 'joy', 'love', 'sadness', 'surprise')
  SPLIT_SEED = 0
  MANUAL_DOWNLOAD_INSTRUCTIONS = (
      'UnBiasedEmo holds <emotion>/<query>/* with the folders anger, fear, joy, love, sadness and surprise; ask its '
      'authors for it, see https://arxiv.org/abs/1808.02212')

  def list_examples(self, source: pathlib.Path) -> dict[str, list[RawExample]]:
    """Lists examples by split, every query of every class in the same shares. Raises UserError as the base says."""
    examples = class_folders.list_classes(self, source, source, self.LABELS)
    for example in examples:
      if len(pathlib.PurePosixPath(example.path).parts) < 3:
        raise UserError(f'{source / example.path} lies in no query folder: move or remove it. {self.layout}')
    return splits.seeded_splits(examples, PERCENT, self.SPLIT_SEED, stratum=_query)


def _query(example: RawExample) -> tuple[str, ...]:
  return pathlib.PurePosixPath(example.path).parts[:2]
