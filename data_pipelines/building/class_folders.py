"""Checks and lists images in one folder per class, the layout that most datasets share."""

from collections.abc import Sequence
import itertools
import pathlib

from data_pipelines.building.base_builder import PROVENANCE, BaseBuilder
from data_pipelines.building.raw_example import RawExample
from data_pipelines.building.splits import seeded_splits, split_named
from data_pipelines.errors import UserError
from data_pipelines.person_boxes import box_file

OUR_FILES = (box_file.FILE_NAME, PROVENANCE)
"""The files of this package in a raw folder."""

_ARCHIVER_FOLDER = '__MACOSX'


class SeededClassFolderBuilder(BaseBuilder, skip_registration=True):  # type: ignore[call-arg]
  """The base for datasets of `<class>/*` folders without official splits: PERCENT gives the share of each split."""

  SPLIT_SEED = 0
  PERCENT: dict[str, int]

  def list_examples(self, source: pathlib.Path) -> dict[str, list[RawExample]]:
    """Lists examples by split, every class in the same shares. Raises UserError as the base says."""
    return seeded_splits(list_classes(self, source, source, self.LABELS), self.PERCENT, self.SPLIT_SEED)


def subfolders(folder: pathlib.Path) -> list[pathlib.Path]:
  """The folders directly in `folder`, sorted, without hidden ones and those of archivers."""
  return [
      entry for entry in sorted(folder.iterdir())
      if entry.is_dir() and not entry.name.startswith('.') and entry.name != _ARCHIVER_FOLDER]


def ignore_others(builder: BaseBuilder, source: pathlib.Path, folder: pathlib.Path) -> None:
  """Counts, by its path in `source`, everything in `folder` that is not one of its `subfolders`."""
  for entry in set(folder.iterdir()) - set(subfolders(folder)):
    if entry.name not in OUR_FILES:
      builder.ignore(entry.relative_to(source).as_posix())


def split_folders(builder: BaseBuilder, source: pathlib.Path, splits: Sequence[str]) -> dict[str, pathlib.Path]:
  """Finds the folders of the splits, in that order, by their usual names (`split_named`); anything else is counted.

  Raises UserError if one is missing, or there are two.
  """
  ignore_others(builder, source, source)
  found: dict[str, pathlib.Path] = {}
  for folder in subfolders(source):
    split = split_named(folder.name)
    if split is None or split not in splits:
      inside = builder.source.listing.files(folder, lambda kind: None)
      builder.ignore(f'in {folder.name}/' if inside else f'folder {folder.name}/', len(inside) or 1)
    elif split in found:
      raise UserError(f'{source} holds {found[split].name}/ and {folder.name}/, both for {split}: keep one')
    else:
      found[split] = folder
  for split in splits:
    if split not in found:
      raise UserError(f'{source} has no folder {split}/. {builder.layout}')
  return {split: found[split] for split in splits}


def list_classes(builder: BaseBuilder, source: pathlib.Path, folder: pathlib.Path,
                 labels: Sequence[str]) -> list[RawExample]:
  """Lists images of `<folder>/<class>/`, at any depth; `builder` counts the files that are ignored.

  Args:
    source: the raw folder, to which the images' paths are relative.
    folder: a folder that holds one folder per class, spelled as its label or in other case.

  Returns:
    The examples in the order of `labels`, those of a class sorted by path.

  Raises:
    UserError: a class is missing, empty or unknown.
  """
  ignore_others(builder, source, folder)
  examples: dict[str, list[RawExample]] = {label: [] for label in labels}
  spellings = {label.casefold(): label for label in labels} | {label: label for label in labels}
  for class_folder in subfolders(folder):
    label = spellings.get(class_folder.name) or spellings.get(class_folder.name.casefold())
    if label is None:
      raise UserError(f"{folder} holds the unknown class '{class_folder.name}'. {builder.layout}")
    files = builder.files(class_folder)
    examples[label] += [RawExample(path.relative_to(source).as_posix(), label) for path in files]
  for label, of_class in examples.items():
    if not of_class:
      twice = builder.source.listing.leads_elsewhere(folder / label)
      why = 'leads to a folder whose images have another name here' if twice else 'is missing or empty'
      raise UserError(f'{folder / label} {why}. {builder.layout}')
  return list(itertools.chain(*examples.values()))
