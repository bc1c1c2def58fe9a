"""Groups of a dataset's images, by a column of a table that names them or by what their records say."""

from collections.abc import Mapping
import functools
import re

from data_pipelines.errors import UserError, join_names
from data_pipelines.plain_text import visible
from data_pipelines.records import reader
from data_pipelines.source_files.file_names import FileNames
from data_pipelines.source_files.table_files import Table, open_table
from data_pipelines.source_files.text_files import plain
from data_pipelines.table import cells
from data_pipelines.table.columns import ROLES, expected_headings
from uniemox_jax.eval.kept_outputs import example_keys

MAX_GROUPS = 20
"""The most groups: if there are more, the column holds something else, such as names of files."""

Groups = Mapping[str, frozenset[int]]
"""The sorted `example_keys` of each group's images, by the group's name."""


@functools.cache
def read_groups(data_dir: str, dataset: str, table: str, column: str) -> Groups:
  """Reads the groups of all images of a dataset, and prints how many images are in each, and in none.

  Args:
    data_dir, dataset: the records.
    table: a table that names images by path or id, and their groups in `column`; '' for the records' own attributes,
      such as 'domain'.
    column: the heading of that column, or the attribute.

  Raises:
    UserError: there are no such records, table or column; or it names none of the images, or more than `MAX_GROUPS`
      groups.
  """
  split = reader.open_split(data_dir, dataset, '+'.join(reader.split_names(data_dir, dataset)))
  said = {found.id: _text(found.attributes.get(column), f'{dataset}, {found.id}') for found in split.annotations()}
  if table:
    said = dict.fromkeys(said, '') | _of_table(open_table(table, expected_headings()), column, list(said))
  keys: dict[str, set[int]] = {}
  for group, key in zip(said.values(), example_keys(split).tolist()):
    if group:
      keys.setdefault(f'{column}: {group}', set()).add(key)
  where = table or f'the records of {dataset}'
  if not 1 <= len(keys) <= MAX_GROUPS:
    raise UserError(
        f"'{column}' of {where} makes {len(keys)} groups of the images of {dataset}: name a column of 1 to "
        f'{MAX_GROUPS} kinds with --config.group_column')
  counts = ', '.join(f'{name} {len(keys[name])}' for name in sorted(keys))
  print(
      visible(f'groups of {dataset}, by {where}: {counts}; {len(said) - sum(map(len, keys.values()))} in none'),
      flush=True)
  return {name: frozenset(keys[name]) for name in sorted(keys)}


def _of_table(table: Table, column: str, ids: list[str]) -> dict[str, str]:
  """The group of each record that the table names."""
  headings = {plain(found.name): found.name for found in reversed(table.columns)}
  names = [headings[plain(name)] for name in (*ROLES['id'], *ROLES['image']) if plain(name) in headings]
  if plain(column) not in headings or not names:
    wanted = f"no column '{column}'" if names else 'no column of images that is known by its name'
    raise UserError(f'{table.path} has {wanted}: it has {join_names([found.name for found in table.columns])}')
  records: dict[str, list[str]] = {}
  for record in ids:
    for name in {record, re.sub(r'#\d+$', '', record)}:  # An image's name means the records of all its persons.
      records.setdefault(name, []).append(record)
  rows = list(table.rows([*names, headings[plain(column)]]))
  naming = max(names, key=lambda name: sum(_text(row.cells.get(name), row.place) in records for row in rows))
  groups: dict[str, str] = {}
  for row in rows:
    name, group = (_text(row.cells.get(heading), row.place) for heading in (naming, headings[plain(column)]))
    if groups.setdefault(name, group) != group:
      raise UserError(f"{row.place} says '{group}' of {name}, of which it said '{groups[name]}' before: correct one")
  found = FileNames(records).find_all(groups, table.path, anywhere=True)
  return {record: groups[name] for name, file in found.items() for record in records[file]}


def _text(cell: object, place: str) -> str:
  """The text in a cell; '' where it says nothing."""
  try:
    return cells.text(cell)
  except ValueError as error:
    raise UserError(f'{place}: {error}: name a column of one word or number an image') from error
