"""Builds Emo8: `{train,val,test}/<class>/*`."""

import pathlib

import tensorflow_datasets as tfds

from data_pipelines.building import base_builder, class_folders, splits
from data_pipelines.building.raw_example import RawExample
from data_pipelines.records.label_sets import EMOTIONS


class Builder(base_builder.BaseBuilder):
  """Emo8 (Chen et al., UniEmoX, IEEE TIP 2025): images of five styles, one of Mikels' eight emotions each."""

  VERSION = tfds.core.Version('1.0.0')
  LABELS = EMOTIONS
  MANUAL_DOWNLOAD_INSTRUCTIONS = (
      'Emo8 holds {train,val,test}/<emotion>/* with the eight emotion folders in each; ask its authors for it, '
      'see https://github.com/chincharles/u-emo')

  def list_examples(self, source: pathlib.Path) -> dict[str, list[RawExample]]:
    """Lists examples by split, in the folders' own splits. Raises UserError as the base says."""
    folders = class_folders.split_folders(self, source, splits.TRAIN_VAL_TEST)
    return {split: class_folders.list_classes(self, source, folder, self.LABELS) for split, folder in folders.items()}
