"""Builds a user's own images: with splits and classes, with classes only, or neither."""

import collections
from collections.abc import Mapping, Sequence
import itertools
import pathlib

import tensorflow_datasets as tfds

from data_pipelines import images
from data_pipelines.building import announcement, base_builder, class_folders, splits
from data_pipelines.building.raw_example import NO_LABEL, RawExample
from data_pipelines.building.raw_source import check_groups
from data_pipelines.errors import UserError, join_names
from data_pipelines.plain_text import visible

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
    """Lists examples by split, in the first layout of MANUAL_DOWNLOAD_INSTRUCTIONS that fits.

    It prints which layout was taken. The first split present names the classes; the others may lack
    some, but have no further ones. Raises UserError as the base says.
    """
    folders = class_folders.subfolders(source)
    named = {split: folder.name for folder in folders if (split := splits.split_named(folder.name))}
    if named:
      present = [split for split in splits.TRAIN_VAL_TEST if split in named]
      found = self._list_splits(source, present)
      how = 'split by its folders ' + ', '.join(f'{named[split]}/' for split in present)
    elif folders:
      self._set_labels(folders)
      self.SPLIT_SEED = SEED
      examples = self.with_groups(class_folders.list_classes(self, source, source, self.LABELS))
      cut = splits.hashed_splits if any(example.group for example in examples) else splits.seeded_splits
      found = cut(examples, PERCENT, SEED)
      how = f'a folder a class, split {"/".join(map(str, PERCENT.values()))} here'
    else:
      found = {
          'train': [
              RawExample(file.relative_to(source).as_posix())
              for file in self.files(source)
              if file.name not in class_folders.OUR_FILES]}
      self._set_labels([])
      how = 'images without classes, all for train'
      if not found['train']:
        raise UserError(f'{source} holds no images. {self.layout}')
    self._tell(source, how, found, depth=2 if named else 1)
    return found

  def announce(self, splits: Mapping[str, Sequence[RawExample]]) -> None:
    """See the base."""
    no_val = 'copy the folder, and move some images into val/' if self.source.hub else 'move some images there'
    announcement.print_splits(splits, self.LABELS, no_val)

  def _list_splits(self, source: pathlib.Path, present: Sequence[str]) -> dict[str, list[RawExample]]:
    folders = class_folders.split_folders(self, source, present)
    others = [folder.name for folder in class_folders.subfolders(source) if folder not in folders.values()]
    if others and 'train' not in folders:
      raise UserError(
          f'{source} holds {folders[present[0]].name}/ beside {join_names(others)}, and no train/: move the folders of '
          f'classes into train/, or rename {folders[present[0]].name}/ if it is a class')
    classes = class_folders.subfolders(folders[present[0]])
    if not classes:
      raise UserError(
          f'{folders[present[0]]} holds no class folders: sort its images into them, or rename it if it is a class. '
          f'{self.layout}')
    self._set_labels(classes)
    examples, ends = [], [0]
    for folder in folders.values():
      names = {entry.name.casefold() for entry in class_folders.subfolders(folder)}
      labels = [label for label in self.LABELS if label.casefold() in names]
      examples += class_folders.list_classes(self, source, folder, labels)
      ends.append(len(examples))
    examples = self.with_groups(examples)
    found = {split: examples[start:end] for split, (start, end) in zip(folders, itertools.pairwise(ends))}
    check_groups([(split, example.group) for split, of_split in found.items() for example in of_split])
    return found

  def _set_labels(self, classes: Sequence[pathlib.Path]) -> None:
    for folder in classes:
      self._check_class(folder, alone=len(classes) == 1)
    self.set_labels([folder.name for folder in classes])

  def _check_class(self, folder: pathlib.Path, alone: bool) -> None:
    """Raises UserError if the folder of a class seems to be one of a split, or to hold splits or classes itself."""
    inside = class_folders.subfolders(folder)
    if splits.split_named(folder.name):
      raise UserError(
          f'{folder} is a class folder with the name of a split: rename it, or give {folder.parent} as --source if '
          'that holds the splits')
    if holds := [entry.name for entry in inside if splits.split_named(entry.name)]:
      raise UserError(
          f'{folder} is a class folder and holds {join_names(holds)}, which are names of splits: give {folder} as '
          f'--source if the classes lie in those, or move them to {holds[0]}/{folder.name}/ and so on')
    if alone and inside and not any(entry.is_file() and not entry.name.startswith('.') for entry in folder.iterdir()):
      raise UserError(
          f'{folder} is the only class folder and holds nothing but folders, {join_names([e.name for e in inside])}: '
          f'give {folder} as --source if those are the classes')

  def _tell(self, source: pathlib.Path, how: str, found: dict[str, list[RawExample]], depth: int) -> None:
    """Prints the layout that was taken before any image is read; `depth` is that of a class's images."""
    print(visible(f'{source}: {how}'))
    deep: collections.Counter[str] = collections.Counter()
    for example in itertools.chain(*found.values()):
      if example.label != NO_LABEL and example.path.count('/') > depth:
        deep[f'{pathlib.PurePosixPath(example.path).parent}/'] += 1
    if deep:
      names = join_names([f'{name} {count}' for name, count in deep.items()])
      print(visible(f'  warning: folders inside class folders count as their class: {names}'))
    if loose := sorted(kind for kind in self._ignored if pathlib.PurePath(kind).suffix.lower() in images.SUFFIXES):
      print(visible(f'  warning: in no class folder, and left out: {len(loose)} images, {join_names(loose)}'))
    if passed := [f'{count} {kind}' for kind, count in sorted(self._ignored.items()) if kind not in loose]:
      print(visible(f'  passed over: {join_names(passed)}'))
