"""Reads what the user says about a table, and refuses what would change nothing."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from data_pipelines.errors import UserError
from data_pipelines.plain_text import first_double
from data_pipelines.records.caption_text import LABEL
from data_pipelines.records.label_sets import VAD
from data_pipelines.source_files.text_files import plain
from data_pipelines.table.cells import class_key
from data_pipelines.table.columns import CORNERS, SIDES, Columns

CLASS_ROLES = frozenset(('label', 'labels', 'votes', 'choices'))
"""The roles of columns of classes."""


class TableOptions(NamedTuple):
  """What the user says about a table.

  Attributes:
    columns: role -> headings, see `columns.find_columns`.
    labels: the names of the classes, in order; () for those that the file names, or that occur, sorted.
    scale: the lowest and highest value of valence, arousal and dominance, or those of valence, then of arousal, then of
      dominance; a row with another value is rejected.
    caption: the text of an image without one of its own, such as 'a photo of {label}'; '' for that of `caption_text`.
    sides: whether boxes are x, y, width and height, and not two corners; None for what their headings or keys say.
    min_confidence: rows of less confidence are left out, and counted; rows without any stay.
    subject: 'person' keeps the boxes of subjects that are persons, 'any' all; '' is 'person' if there is a column of
      subjects.
  """

  columns: Mapping[str, str] = {}
  labels: tuple[str, ...] = ()
  scale: tuple[float, ...] | None = None
  caption: str = ''
  sides: bool | None = None
  min_confidence: float | None = None
  subject: str = ''

  def scale_of(self, dimension: str) -> tuple[float, float] | None:
    """The lowest and highest value of one of VAD, if they are declared; else None."""
    if self.scale is None:
      return None
    start = 2 * VAD.index(dimension) if len(self.scale) > 2 else 0
    return (self.scale[start], self.scale[start + 1]) if start < len(self.scale) else None


def read_scale(given: Sequence[str]) -> tuple[float, ...] | None:
  """Reads the numbers of `--vad_scale`; None without any. Raises UserError if they are no scale."""
  if not given:
    return None
  try:
    found = tuple(map(float, given))
  except ValueError:
    found = ()
  if len(found) not in (2, 4, 6) or not all(low < high for low, high in zip(found[::2], found[1::2])):
    raise UserError(
        f'--vad_scale={",".join(given)} is no scale: write its ends, such as --vad_scale=1,9, or those of valence, '
        'arousal and dominance one after the other, such as --vad_scale=-3,3,1,9')
  return found


def check_options(said: TableOptions, columns: Columns) -> None:
  """Raises UserError if an option would change nothing, since the table has no such column, or contradicts them."""
  has = columns.of_role.keys()
  needed = {
      '--min_confidence': (said.min_confidence is not None, ('confidence',)),
      '--vad_scale': (said.scale is not None, VAD), '--labels': (bool(said.labels), tuple(sorted(CLASS_ROLES))),
      '--box_format': (said.sides is not None, ('box',)), '--subject': (bool(said.subject), ('subject',)),
      f"{LABEL} in --caption": (LABEL in said.caption, ('label', 'votes', 'choices', 'annotator'))}
  for option, (given, roles) in needed.items():
    if given and not has & set(roles):
      raise UserError(
          f'{option} would change nothing, since the table has no column of {" or ".join(roles)}: name it with '
          f'--column={roles[0]}=NAME, or leave the option out')
  if dimensions := [name for name in VAD if name in has and said.scale is not None and said.scale_of(name) is None]:
    raise UserError(f'--vad_scale does not say the scale of {dimensions[0]}: add its ends')
  keys = list(map(class_key, said.labels))
  if (double := first_double(keys)) is not None:
    name = said.labels[keys.index(double)]
    raise UserError(
        f"the class '{name}' is named twice in --labels: name each once; case and spaces do not tell them apart")
  if any(mark in said.caption.replace(LABEL, '') for mark in '{}'):
    raise UserError(f"--caption='{said.caption}' cannot be read: in braces may stand {LABEL}, and nothing else")
  headings = {plain(column.name) for column in columns.of_role.get('box', ())}
  for wrong, found, other in ((True, CORNERS, 'corners'), (False, SIDES, 'sides')):
    if said.sides is wrong and any(headings == set(names) for names in found):
      raise UserError(f'--box_format contradicts the headings of the boxes, which are those of {other}: leave it out')
