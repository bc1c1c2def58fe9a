"""Builds CAER-S: `{train,test}/<Class>/NNNN.png`, with val taken from the official test folder."""

import pathlib

import tensorflow_datasets as tfds

from data_pipelines.building import base_builder, class_folders, splits
from data_pipelines.building.raw_example import RawExample

TEST_PERCENT = {'val': 34, 'test': 66}


class Builder(base_builder.BaseBuilder):
  """CAER-S (Lee et al., Context-Aware Emotion Recognition Networks, ICCV 2019): stills of television shows."""

  VERSION = tfds.core.Version('1.0.0')
  LABELS = ('Anger', 'Disgust', 'Fear', 'Happy', 'Neutral', 'Sad', 'Surprise')
  SPLIT_SEED = 0
  MANUAL_DOWNLOAD_INSTRUCTIONS = (
      'CAER-S holds {train,test}/<Class>/*.png with the folders Anger, Disgust, Fear, Happy, Neutral, Sad and Surprise '
      'in each; ask its authors for it, see https://caer-dataset.github.io')

  def list_examples(self, source: pathlib.Path) -> dict[str, list[RawExample]]:
    """Lists examples by split: val is 34 % of every class of the published test, test the rest. Raises as the base."""
    published = {
        split: class_folders.list_classes(self, source, folder, self.LABELS)
        for split, folder in class_folders.split_folders(self, source, ('train', 'test')).items()}
    cut = splits.seeded_splits(published['test'], TEST_PERCENT, self.SPLIT_SEED)
    return {'train': published['train']} | cut
