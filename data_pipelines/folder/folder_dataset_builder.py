"""Builder of anyone's own pictures: with splits and classes, with classes, or neither."""

from collections.abc import Sequence
import pathlib

import tensorflow_datasets as tfds

from data_pipelines.building import builder, class_folders, splits
from data_pipelines.errors import UserError

SPLITS = ('train', 'val', 'test')
PERCENT = {'train': 80, 'val': 10, 'test': 10}
SEED = 0


class Builder(builder.FolderBuilder):
  """A folder of one's own pictures; its labels are the sorted names of its class folders."""

  VERSION = tfds.core.Version('1.0.0')
  LABELS = ()  # Known once the folder has been seen, and set on the instance then; so is SPLIT_SEED.
  MANUAL_DOWNLOAD_INSTRUCTIONS = (
      'A folder of your own holds {train,val,test}/<class>/* (one or two of the splits may be missing), or <class>/*, '
      'which is split 80/10/10, or just pictures, which become train, without labels')

  def list_pictures(self, source: pathlib.Path) -> dict[str, list[builder.Listed]]:
    """Pictures by split, in the first layout of MANUAL_DOWNLOAD_INSTRUCTIONS that fits.

    The first split present names the classes; the others may lack some, but have no further ones.

    Raises:
      UserError: as the base says.
    """
    folders = class_folders.subfolders(source)
    present = [split for split in SPLITS if source / split in folders]
    if present:
      return self._list_splits(source, present)
    self._set_labels(folders)
    if not folders:
      return {'train': self._list_unlabelled(source)}
    self.SPLIT_SEED = SEED
    return splits.seeded_splits(class_folders.list_classes(self, source, source, self.LABELS), PERCENT, SEED)

  def _list_splits(self, source: pathlib.Path, present: Sequence[str]) -> dict[str, list[builder.Listed]]:
    folders = class_folders.split_folders(self, source, present)
    classes = class_folders.subfolders(folders[present[0]])
    if not classes:
      raise UserError(f'{source / present[0]} holds no class folders. {self.layout}')
    self._set_labels(classes)
    pictures = {}
    for split, folder in folders.items():
      labels = [label for label in self.LABELS if (folder / label).is_dir()]
      pictures[split] = class_folders.list_classes(self, source, folder, labels)
    return pictures

  def _list_unlabelled(self, source: pathlib.Path) -> list[builder.Listed]:
    names = [path.name for path in self.files(source) if path.name not in class_folders.OURS]
    if not names:
      raise UserError(f'{source} holds no pictures. {self.layout}')
    return [builder.Listed(name) for name in names]

  def _set_labels(self, classes: Sequence[pathlib.Path]) -> None:
    self.LABELS = tuple(folder.name for folder in classes)
    for label in self.LABELS:
      if not label.isprintable() or label != label.strip():  # TFDS stores labels as stripped lines of UTF-8.
        raise UserError(f'the class folder {label!r} cannot name a label: rename it')
    for feature in (self.info.features['label'], self.info.features['labels'].feature):
      feature.names = list(self.LABELS)
