"""Builder of a user's own images: with splits and classes, with classes only, or neither."""

from collections.abc import Sequence
import pathlib

import tensorflow_datasets as tfds

from data_pipelines.building import base_builder, class_folders, splits
from data_pipelines.building.raw_example import RawExample
from data_pipelines.errors import UserError
from data_pipelines.plain_text import check_labels

PERCENT = {'train': 80, 'val': 10, 'test': 10}
SEED = 0


class Builder(base_builder.BaseBuilder):
  """A user's own folder of images; its labels are the sorted names of the class folders."""

  VERSION = tfds.core.Version('1.0.0')
  LABELS: tuple[str, ...] = ()  # Set on the instance when the folder is listed; so is SPLIT_SEED.
  MANUAL_DOWNLOAD_INSTRUCTIONS = (
      'A folder of your own holds {train,val,test}/<class>/* (one or two of the splits may be missing), or <class>/*, '
      'which is split 80/10/10, or just images, which become train, without labels')

  def list_examples(self, source: pathlib.Path) -> dict[str, list[RawExample]]:
    """Examples by split, in the first layout of MANUAL_DOWNLOAD_INSTRUCTIONS that fits.

    The first split present names the classes; the others may lack some, but have no further ones. Raises UserError as
    the base says.
    """
    folders = class_folders.subfolders(source)
    present = [split for split in splits.TRAIN_VAL_TEST if source / split in folders]
    if present:
      return self._list_splits(source, present)
    self._set_labels(folders)
    if folders:
      self.SPLIT_SEED = SEED
      return splits.seeded_splits(class_folders.list_classes(self, source, source, self.LABELS), PERCENT, SEED)
    unlabelled = [RawExample(file.name) for file in self.files(source) if file.name not in class_folders.OUR_FILES]
    if not unlabelled:
      raise UserError(f'{source} holds no images. {self.layout}')
    return {'train': unlabelled}

  def _list_splits(self, source: pathlib.Path, present: Sequence[str]) -> dict[str, list[RawExample]]:
    folders = class_folders.split_folders(self, source, present)
    classes = class_folders.subfolders(folders[present[0]])
    if not classes:
      raise UserError(f'{source / present[0]} holds no class folders. {self.layout}')
    self._set_labels(classes)
    examples = {}
    for split, folder in folders.items():
      labels = [label for label in self.LABELS if (folder / label).is_dir()]
      examples[split] = class_folders.list_classes(self, source, folder, labels)
    return examples

  def _set_labels(self, classes: Sequence[pathlib.Path]) -> None:
    self.LABELS = tuple(folder.name for folder in classes)
    check_labels(self.LABELS, 'a class folder')
    for label in self.LABELS:
      if label != label.strip():  # TFDS stores labels as stripped lines.
        raise UserError(f'the class folder {label!r} cannot name a label: rename it')
    for feature in (self.info.features['label'], self.info.features['labels'].feature):
      feature.names = list(self.LABELS)
