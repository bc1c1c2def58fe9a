"""Does the work of the verb `duplicates`: compares records, writes the tables, and says what was found."""

from collections.abc import Sequence
import os

from data_pipelines import storage
from data_pipelines.duplicates import duplicate_tables, near_duplicates
from data_pipelines.errors import UserError
from data_pipelines.plain_text import visible

DISTANCE = 6
"""The most bits of 64 in which near-duplicates differ, by measurement (docs/dataset_report.md, Near-duplicates)."""


def find_duplicates(
    data_dir: str | os.PathLike, dataset: str, out: str | os.PathLike, against: Sequence[str] = (),
    distance: int = DISTANCE) -> list[str]:
  """Writes the tables of near-duplicates.

  Args:
    data_dir, dataset: as for `reader.open_split`.
    out: the CSV.
    against: other datasets, see `near_duplicates.places_of`.
    distance: as for `near_duplicates.find_near_duplicates`.

  Returns:
    What was found, in lines for the user.

  Raises:
    UserError: there are no such records, or `out` is no CSV in a folder that exists.
  """
  place = storage.absolute(out)
  if place.suffix.lower() != '.csv' or not storage.is_remote(out) and not place.parent.is_dir():
    raise UserError(f'--out={out} is not a CSV file in a folder that exists: name one, such as near.csv')
  places = near_duplicates.places_of(data_dir, dataset, against)
  found = near_duplicates.find_near_duplicates(places, distance)
  paths = duplicate_tables.write_tables(out, found)
  own, others = found.images
  lines = [f'{dataset}: {own} images compared' + (f' with each other and with {others} of others' if others else '')]
  if found.flat:
    lines.append(f'  {found.flat} are nearly of one colour, and were not')
  for (split, other, its_split), count in duplicate_tables.pairs_of_splits(found.copies, dataset).items():
    where = f'earlier in {split}' if not other and split == its_split else f'in {other} {its_split}'.replace('  ', ' ')
    lines.append(f'  {split}: {count} images are near-duplicates of one {where}')
  if not found.copies:
    lines.append('  no near-duplicates')
  what = (f'{len(found.copies)} rows', f'{len(found.groups)} images in groups', f'{len(found.exclude)} to leave out')
  return [visible(line) for line in (*lines, *(f'{path}: {text}' for path, text in zip(paths, what)))]
