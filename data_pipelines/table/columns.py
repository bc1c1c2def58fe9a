"""Finds which column of a table means what: by `--column`, by what the file says of itself, or by its usual name."""

from collections.abc import Iterator, Mapping, Sequence
import fnmatch
import itertools
from typing import NamedTuple

from data_pipelines.errors import UserError, join_names
from data_pipelines.plain_text import visible
from data_pipelines.source_files.table_files import Table, TableColumn
from data_pipelines.source_files.text_files import plain

ROLES: dict[str, tuple[str, ...]] = {
    'image': (
        'image', 'image path', 'image file', 'image name', 'img', 'img path', 'file name', 'file path', 'file', 'path',
        'photo', 'picture', 'image id', 'theme'),
    'label': ('label', 'emotion', 'emotion category', 'emotion label', 'class', 'class name', 'label name'),
    'labels': ('labels', 'emotions', 'classes'),
    'votes': ('votes',),
    'choices': (),
    'annotator':
        ('annotator', 'annotator id', 'rater', 'rater id', 'worker', 'worker id', 'participant', 'participant id'),
    'valence': ('valence', 'valence mean', 'mean valence', 'valmn'),
    'arousal': ('arousal', 'arousal mean', 'mean arousal', 'aromn'),
    'dominance': ('dominance', 'dominance mean', 'mean dominance', 'dommn'),
    'caption': ('caption', 'description'),
    'box': ('box', 'bbox', 'bounding box', 'boxes', 'bboxes', 'bounding boxes', 'person box', 'person boxes'),
    'split': ('split', 'subset', 'partition'),
    'id': ('id',),
    'group': ('group', 'group id', 'video', 'video id'),
    'domain': ('domain', 'style', 'source'),
    'confidence': ('confidence', 'confidence score'),
    'subject': (),}  # fmt: skip
"""The roles that a column may have, with the headings that are taken for each, the first before others."""

SEVERAL = ('labels', 'votes', 'choices', 'box')
"""The roles that may have more than one column."""
CORNERS = (('xmin', 'ymin', 'xmax', 'ymax'), ('x1', 'y1', 'x2', 'y2'), ('left', 'top', 'right', 'bottom'))
SIDES = (('x', 'y', 'w', 'h'), ('x', 'y', 'width', 'height'), ('left', 'top', 'width', 'height'))
"""The headings of the four numbers of a box: its corners, or a corner and its sides."""


class Columns(NamedTuple):
  """The columns of a table that are used, by role, and the names of the others."""

  of_role: dict[str, tuple[TableColumn, ...]]
  unused: tuple[str, ...]

  def name(self, role: str) -> str | None:
    """The heading of a role that has one column; None without it."""
    columns = self.of_role.get(role, ())
    return columns[0].name if columns else None

  def class_names(self, role: str) -> tuple[str, ...]:
    """The names that the file itself has for the classes of a role; () for none."""
    return next((column.class_names for column in self.of_role.get(role, ())), ())

  @property
  def votes(self) -> tuple[TableColumn, ...]:
    """The columns of votes: those of `votes`, or of `choices`."""
    return self.of_role.get('choices') or self.of_role.get('votes', ())

  @property
  def names(self) -> list[str]:
    """The headings of all columns in use."""
    return list(dict.fromkeys(column.name for column in itertools.chain(*self.of_role.values())))

  def lines(self) -> Iterator[str]:
    """Says in lines for people what each column is taken for, and which are not used."""
    for role in ROLES:
      if columns := self.of_role.get(role):
        yield visible(f'  {role:<10} from {join_names([_described(column) for column in columns])}')
    if self.unused:
      yield visible(f'  not used: {join_names(self.unused)}')


def expected_headings() -> tuple[str, ...]:
  """All usual headings, by which the delimiter of a table of text is found."""
  return tuple(itertools.chain(*ROLES.values(), *CORNERS, *SIDES))


def find_columns(table: Table, given: Mapping[str, str], usual: Mapping[str, Sequence[str]] = ROLES) -> Columns:
  """Finds the columns of a table.

  Args:
    table: the open table.
    given: role -> heading, or several separated by commas, or a pattern such as `rater_*`; '' for none.
    usual: role -> the headings that are taken for it.

  Raises:
    UserError: a role or a heading is unknown, or no column names the images.
  """
  if unknown := [role for role in given if role not in ROLES]:
    raise UserError(f'--column={unknown[0]}=... has no such meaning: choose from {", ".join(ROLES)}')
  if given.get('votes') and given.get('choices'):
    raise UserError('--column=votes=... and --column=choices=... say the votes twice: give one of them')
  of_role = {role: _given(table, role, names) for role, names in given.items() if names}
  taken = {column.name for column in itertools.chain(*of_role.values())}
  if 'image' not in given and (images := [
      column for column in table.columns if column.is_image or column.form != 'cells']):
    of_role['image'] = (images[0],)
  for role, headings in usual.items():
    if role not in given and role not in of_role and (role != 'votes' or 'choices' not in of_role):
      by_name = {plain(column.name): column for column in reversed(table.columns) if column.name not in taken}
      if found := next((by_name[plain(name)] for name in headings if plain(name) in by_name), None):
        of_role[role] = (found,)
      elif role == 'box' and (corners := next(_of_a_box(by_name), None)):
        of_role[role] = corners
  if 'image' not in of_role:
    raise UserError(
        f'{table.path} has no column of images that is known by its name: give it with --column=image=NAME, of '
        f'{join_names([column.name for column in table.columns])}')
  taken = {column.name for column in itertools.chain(*of_role.values())}
  return Columns(of_role, tuple(column.name for column in table.columns if column.name not in taken))


def _given(table: Table, role: str, names: str) -> tuple[TableColumn, ...]:
  by_name = {column.name: column for column in table.columns}
  by_plain = {plain(column.name): column for column in table.columns}
  found: list[TableColumn] = []
  for name in [names] if names in by_name else names.split(','):
    if '*' in name and name not in by_name:
      matched = [by_name[match] for match in by_name if fnmatch.fnmatchcase(match, name)]
    else:
      matched = [column for column in [by_name.get(name) or by_plain.get(plain(name))] if column]
    if not matched:
      raise UserError(
          f"{table.path} has no column '{name}' for --column={role}={names}: it has {join_names(list(by_name))}")
    found += [column for column in matched if column not in found]
  if len(found) > 1 and role not in SEVERAL or role == 'box' and len(found) not in (1, 4):
    raise UserError(
        f'--column={role}={names} names {len(found)} columns: give one{", or four" if role == "box" else ""}')
  for headings in (*CORNERS, *SIDES) if role == 'box' else ():
    by_known = {plain(column.name): column for column in found}
    if by_known.keys() == set(headings):  # In whatever order they are given.
      return tuple(by_known[name] for name in headings)
  return tuple(found)


def _of_a_box(by_name: Mapping[str, TableColumn]) -> Iterator[tuple[TableColumn, ...]]:
  for names in (*CORNERS, *SIDES):
    if by_name.keys() >= set(names):
      yield tuple(by_name[name] for name in names)


def _described(column: TableColumn) -> str:
  kind = {'bytes': 'bytes', 'image': 'bytes or paths'}.get(column.form, '')
  if column.class_names:
    kind = f'classes {join_names(column.class_names)}'
  return f"'{column.name}'" + (f' ({kind})' if kind else '')
