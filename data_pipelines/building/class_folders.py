"""Pictures in one folder per class, the layout that most datasets share, checked and listed."""

from collections.abc import Sequence
import itertools
import pathlib

from data_pipelines.building import builder
from data_pipelines.errors import UserError
from data_pipelines.person_boxes import box_file

OURS = (box_file.FILE_NAME, builder.PROVENANCE)
"""Files that this package puts into a raw folder, or looks for there."""

_ARCHIVER_FOLDER = '__MACOSX'


def subfolders(folder: pathlib.Path) -> list[pathlib.Path]:
  """Folders directly in `folder`, sorted, without hidden ones and what archivers leave."""
  return [
      entry for entry in sorted(folder.iterdir())
      if entry.is_dir() and not entry.name.startswith('.') and entry.name != _ARCHIVER_FOLDER
  ]


def ignore_others(into: builder.FolderBuilder, source: pathlib.Path, folder: pathlib.Path) -> None:
  """Counts, by its path in `source`, all that lies in `folder` and is not one of its `subfolders`."""
  for entry in set(folder.iterdir()) - set(subfolders(folder)):
    if entry.name not in OURS:
      into.ignore(entry.relative_to(source).as_posix())


def split_folders(into: builder.FolderBuilder, source: pathlib.Path, splits: Sequence[str]) -> dict[str, pathlib.Path]:
  """The folders named as the splits, in that order; what else lies in `source` is counted.

  Raises:
    UserError: one of them is missing.
  """
  ignore_others(into, source, source)
  found = {folder.name: folder for folder in subfolders(source)}
  for name in found.keys() - set(splits):
    into.ignore(f'folder {name}/')
  for split in splits:
    if split not in found:
      raise UserError(f'{source} has no folder {split}/. {into.layout}')
  return {split: found[split] for split in splits}


def list_classes(into: builder.FolderBuilder, source: pathlib.Path, folder: pathlib.Path,
                 labels: Sequence[str]) -> list[builder.Listed]:
  """Pictures of `<folder>/<class>/`, at any depth.

  Args:
    into: the builder that counts litter.
    source: the raw folder, to which the pictures' paths are relative.
    folder: holds one folder per class, spelled as its label, or in other case.
    labels: class names in label order.

  Returns:
    The pictures, in label order, those of a class sorted by path.

  Raises:
    UserError: a class is missing, empty or unknown.
  """
  ignore_others(into, source, folder)
  pictures: dict[str, list[builder.Listed]] = {label: [] for label in labels}
  spellings = {label.casefold(): label for label in labels} | {label: label for label in labels}
  for class_folder in subfolders(folder):
    label = spellings.get(class_folder.name) or spellings.get(class_folder.name.casefold())
    if label is None:
      raise UserError(f"{folder} holds the unknown class '{class_folder.name}'. {into.layout}")
    files = into.files(class_folder)
    pictures[label] += [builder.Listed(path.relative_to(source).as_posix(), label) for path in files]
  for label, listed in pictures.items():
    if not listed:
      raise UserError(f'{folder / label} is missing or empty. {into.layout}')
  return list(itertools.chain(*pictures.values()))
