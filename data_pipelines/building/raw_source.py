"""Finds what a build reads: the folder to which the paths of images are relative, and for a table, its files."""

import collections
from collections.abc import Iterable, Mapping, Sequence
import dataclasses
import glob
import hashlib
import os
import pathlib
import re
from typing import Any

from data_pipelines import checksums
from data_pipelines.building.splits import split_named
from data_pipelines.errors import UserError, join_names
from data_pipelines.plain_text import visible
from data_pipelines.source_files import table_files
from data_pipelines.source_files.raw_files import Listing

_NOT_DATA = (
    'dataset_dict.json', 'dataset_info.json', 'dataset_infos.json', 'state.json', 'provenance.json', 'person_boxes.csv',
    'rejects.csv')  # fmt: skip
"""Files in a folder of tables that are none themselves."""


@dataclasses.dataclass(frozen=True)
class RawSource:
  """What a build reads.

  Attributes:
    given: what the user named: a folder, a file, or a repository of a hub with its revision.
    root: the folder of the images.
    root_is_given: whether the user named it, and not the tables alone.
    listing: the listing of the files in `root`.
    tables: the files of the table; () for a dataset that is laid out in folders.
    hub: what pins a repository: its name, and the revision.
    asked: what the user says about it: options of a table, and the SHA-256 of files of groups and of exclusions.
  """

  given: str
  root: pathlib.Path
  listing: Listing
  tables: tuple[pathlib.Path, ...] = ()
  hub: Mapping[str, str] = dataclasses.field(default_factory=dict)
  asked: Mapping[str, str] = dataclasses.field(default_factory=dict)
  root_is_given: bool = False

  def fingerprint(self) -> dict[str, Any]:
    """The fingerprint of the listing, and `asked`; for tables also the SHA-256 of their contents."""
    found = {**self.listing.fingerprint(), 'asked': dict(self.asked)}
    if self.tables:
      digests = '\n'.join(map(checksums.sha256_of, self.tables))
      found['tables_sha256'] = hashlib.sha256(digests.encode()).hexdigest()
    return found

  def split_of_tables(self) -> dict[pathlib.Path, str]:
    """The split of each table, if the names of the files or of their folders say two or more; else empty.

    Raises:
      UserError: some names say a split and others do not.
    """
    splits = {
        table: _split_in(table.relative_to(self.root) if table.is_relative_to(self.root) else table)
        for table in self.tables}  # fmt: skip
    found = {table: split for table, split in splits.items() if split}
    if len(set(found.values())) < 2:
      return {}
    if without := [str(table) for table in splits if table not in found]:
      raise UserError(
          f'{self.given} holds files for train, val or test, and {join_names(without)}, whose name says no split: '
          'name the files one by one, separated by commas, or rename them')
    return found


def folder_source(folder: str | os.PathLike, outputs: Iterable[str | os.PathLike] = ()) -> RawSource:
  """Makes the source of a raw folder, without the folders of records that may lie in it."""
  path = pathlib.Path(folder)
  return RawSource(os.path.realpath(folder), path, Listing(path, outputs))


def table_source(
    given: str | os.PathLike, images: str | os.PathLike | None = None,
    outputs: Iterable[str | os.PathLike] = ()) -> RawSource:
  """Makes the source of a table's files.

  Args:
    given: a file, several separated by commas, a pattern such as `data/*.parquet`, or a folder that holds them.
    images: the folder to which the paths of images are relative; by default that of the tables.
    outputs: folders of records, which may lie in those, and hold neither tables nor images.

  Raises:
    UserError: there is no such file, or a folder holds no table.
  """
  path = pathlib.Path(given)
  listing = None
  if path.is_dir():
    root, listing = path, Listing(path, outputs)
    tables = _tables_in(path, listing)
  else:
    names = [os.fspath(given)] if path.exists() else os.fspath(given).split(',')
    tables = [pathlib.Path(file) for name in names for file in sorted(glob.glob(name.strip(), recursive=True))]
    if missing := [name for name in names if not glob.glob(name.strip(), recursive=True)]:
      of_several = f', of {given},' if len(names) > 1 else ''
      raise UserError(
          f'{missing[0]}{of_several} is not there: give a table, a folder of tables, or a pattern in quotes')
    root = pathlib.Path(os.path.commonpath([os.path.abspath(table.parent) for table in tables]))
  if images is not None:
    root, listing = pathlib.Path(images), None
    if not root.is_dir():
      raise UserError(f'--images={images} is no folder')
  return RawSource(
      os.path.realpath(given), root, listing or Listing(root, outputs), tuple(dict.fromkeys(tables)),
      root_is_given=images is not None)


def _tables_in(folder: pathlib.Path, listing: Listing) -> list[pathlib.Path]:
  """The tables of a folder; those that hold images themselves, if there are any."""

  def is_table(path: pathlib.Path) -> bool:
    return path.suffix.lower() in table_files.SUFFIXES and path.suffix.lower() != '.txt' and path.name not in _NOT_DATA

  tables = listing.files(folder, lambda kind: None, is_table)
  heavy = [path for path in tables if path.suffix.lower() in (*table_files.PARQUET, *table_files.ARROW)]
  if not tables:
    raise UserError(f'{folder} holds no table ({", ".join(table_files.SUFFIXES)}): give the file')
  _check_parts(tables)
  if heavy and len(heavy) < len(tables):
    others = [path.relative_to(folder).as_posix() for path in tables if path not in heavy]
    print(visible(f'{folder}: not read, beside Parquet or Arrow files: {join_names(others)}; to read one, name it'))
  return heavy or tables


def _check_parts(tables: Iterable[pathlib.Path]) -> None:
  """Raises UserError where names say that there are more files, such as train-00000-of-00002.parquet alone."""
  numbers = collections.defaultdict(set)
  for table in tables:
    if found := re.fullmatch(r'(.*-)(\d+)-of-(\d+)', table.stem):
      numbers[table.parent, found[1], found[3], table.suffix].add(int(found[2]))
  for (folder, name, total, suffix), parts in numbers.items():
    if len(parts) < int(total):
      lost = min(set(range(len(parts) + 1)) - parts)
      raise UserError(
          f'{folder} has {len(parts)} of the {int(total)} files {name}*-of-{total}{suffix}, and not number {lost}: '
          'fetch them again, or name those that are wanted, separated by commas')


def _split_in(path: pathlib.Path) -> str | None:
  """The split that a path names: its last word that is one, such as train in data/train-00000-of-00002.parquet."""
  for part in reversed((*path.parent.parts, path.stem)):
    for word in re.findall(r'[^\W\d_]+', part):
      if split := split_named(word):
        return split
  return None


def check_groups(groups: Sequence[tuple[str, str]]) -> None:
  """Raises UserError if a group is in two splits; `groups` holds each example's (split, group), '' for none."""
  split_of: dict[str, str] = {}
  for split, group in groups:
    if group and split_of.setdefault(group, split) != split:
      raise UserError(
          f"group '{group}' is in {split_of[group]} and in {split}: a group belongs to one split; correct the column "
          'of splits, or leave it out with --column=split=, and the groups are split here')


def join_groups(groups: Sequence[tuple[str, str]]) -> list[str]:
  """Joins the groups that two sources give the examples, so that no group of either is cut.

  Args:
    groups: each example's group by the first source and by the second, '' for none.

  Returns:
    The group of each example, '' for none.
  """
  parent: dict[tuple[int, str], tuple[int, str]] = {}

  def root(node: tuple[int, str]) -> tuple[int, str]:
    while (above := parent.get(node, node)) != node:
      parent[node] = parent.get(above, above)
      node = above
    return node

  nodes = [[(source, name) for source, name in enumerate(pair) if name] for pair in groups]
  for node in nodes:
    if len(node) == 2:
      least, other = sorted(map(root, node))
      parent[other] = least
  return [root(node[0])[1] if node else '' for node in nodes]
