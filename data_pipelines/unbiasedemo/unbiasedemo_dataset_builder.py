"""Builder of UnBiasedEmo: `<class>/<query>/*`, every query split 70/10/20 by us."""

import pathlib

import tensorflow_datasets as tfds

from data_pipelines.building import builder, class_folders, splits
from data_pipelines.errors import UserError

PERCENT = {'train': 70, 'val': 10, 'test': 20}


class Builder(builder.FolderBuilder):
  """UnBiasedEmo (Panda et al., Contemplating Visual Emotions, ECCV 2018): six emotions, several queries for each."""

  VERSION = tfds.core.Version('1.0.0')
  LABELS = ('anger', 'fear', 'joy', 'love', 'sadness', 'surprise')
  SPLIT_SEED = 0
  MANUAL_DOWNLOAD_INSTRUCTIONS = (
      'UnBiasedEmo holds <emotion>/<query>/* with the folders anger, fear, joy, love, sadness and surprise; ask its '
      'authors for it, see https://arxiv.org/abs/1808.02212')

  def list_pictures(self, source: pathlib.Path) -> dict[str, list[builder.Listed]]:
    """Pictures by split, every query of every class in the same shares. Raises UserError as the base says."""
    pictures = class_folders.list_classes(self, source, source, self.LABELS)
    for listed in pictures:
      if len(pathlib.PurePosixPath(listed.path).parts) < 3:
        raise UserError(f'{source / listed.path} lies in no query folder: move or remove it. {self.layout}')
    return splits.seeded_splits(pictures, PERCENT, self.SPLIT_SEED, stratum=_query)


def _query(listed: builder.Listed) -> tuple[str, ...]:
  return pathlib.PurePosixPath(listed.path).parts[:2]
