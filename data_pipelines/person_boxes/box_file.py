"""The file of person boxes, `person_boxes.csv`: reading and writing (docs/person_boxes.md)."""

from collections.abc import Iterable, Sequence
import csv
import io
import math
import pathlib

import numpy as np

from data_pipelines import checksums, storage
from data_pipelines.errors import UserError
from data_pipelines.plain_text import csv_cell, csv_text

FILE_NAME = 'person_boxes.csv'
COLUMNS = ('image', 'xmin', 'ymin', 'xmax', 'ymax', 'score')


def read_boxes(source: pathlib.Path) -> dict[str, np.ndarray]:
  """Boxes of a raw folder.

  Args:
    source: the raw folder, whose `person_boxes.csv` is optional; or such a file itself. Its columns are image, xmin,
      ymin, xmax, ymax, score: `image` is the image's path inside the folder; coordinates are pixels of the original
      image as displayed (after EXIF rotation).

  Returns:
    image -> float64 (N, 5) of xmin, ymin, xmax, ymax, score; empty if the folder has no such file.

  Raises:
    UserError: the file or a column is missing, or a row does not hold finite numbers.
  """
  path = source / FILE_NAME if source.is_dir() else source
  if source.is_dir() and not path.exists():
    return {}
  if not path.is_file():
    raise UserError(f'{path} is not there: give a file of person boxes, or a --detector')
  checksums.compare_checksums(checksums_of(path))
  with storage.parsing(path, 'save it as CSV in UTF-8'):
    rows = _read_rows(path)
  return {image: np.array(boxes) for image, boxes in rows.items()}


def checksums_of(path: pathlib.Path) -> pathlib.Path:
  """The checksum beside a file that a detector wrote: one that a user wrote, or edited, has none."""
  return path.with_name(path.name + checksums.ENDING)


def write_boxes(path: pathlib.Path, rows: Iterable[Sequence[object]]) -> None:
  """Writes rows of COLUMNS, as `read_boxes` reads them; the file appears whole or not at all."""
  text = io.StringIO(newline='')
  csv.writer(text).writerows(map(csv_cell, row) for row in [COLUMNS, *rows])
  storage.write_text(path, text.getvalue())


def _read_rows(path: pathlib.Path) -> dict[str, list[list[float]]]:
  rows: dict[str, list[list[float]]] = {}
  with storage.open_local(path, 'r', newline='', encoding='utf-8-sig') as file:
    reader = csv.DictReader(file)
    missing = set(COLUMNS) - set(reader.fieldnames or ())
    if missing:
      raise UserError(f"{path} lacks column '{min(missing)}': its first line must be {','.join(COLUMNS)}")
    for row in reader:
      try:
        numbers = [float(row[column]) for column in COLUMNS[1:]]
        if not all(map(math.isfinite, numbers)):
          raise ValueError('not finite')
      except (TypeError, ValueError) as error:
        raise UserError(
            f'{path} line {reader.line_num} is not an image and five numbers: correct or remove the line') from error
      rows.setdefault(csv_text(row['image']), []).append(numbers)
  return rows
