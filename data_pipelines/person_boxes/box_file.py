"""Reads and writes the file of person boxes, `person_boxes.csv` (docs/person_boxes.md)."""

from collections.abc import Iterable, Sequence
import csv
import io
import math
import pathlib

import numpy as np

from data_pipelines import checksums, storage
from data_pipelines.errors import UserError
from data_pipelines.plain_text import csv_cell, csv_text
from data_pipelines.source_files.file_names import tidy_name
from data_pipelines.source_files.text_files import read_table

FILE_NAME = 'person_boxes.csv'
COLUMNS = ('image', 'xmin', 'ymin', 'xmax', 'ymax', 'score')


def read_boxes(source: pathlib.Path) -> dict[str, np.ndarray]:
  """Reads the boxes of a raw folder.

  Args:
    source: the raw folder, whose `person_boxes.csv` is optional; or such a file itself. Its columns are image, xmin,
      ymin, xmax, ymax, score: `image` is the image's path inside the folder, in any form that `FileNames` takes;
      coordinates are pixels of the original image as displayed (after EXIF rotation).

  Returns:
    By `tidy_name` of the image, float64 (N, 5) of xmin, ymin, xmax, ymax, score; empty if the folder has no such file.

  Raises:
    UserError: the file or a column is missing, or a row does not hold finite numbers.
  """
  path = source / FILE_NAME if source.is_dir() else source
  if source.is_dir() and not path.exists():
    return {}
  if not path.is_file():
    raise UserError(f'{path} is not there: give a file of person boxes, or a --detector')
  checksums.compare_checksums(checksums_of(path))
  return {image: np.array(boxes) for image, boxes in _read_rows(path).items()}


def checksums_of(path: pathlib.Path) -> pathlib.Path:
  """The path of the checksum beside a file that a detector wrote. A file that a user wrote, or edited, has none."""
  return path.with_name(path.name + checksums.ENDING)


def write_boxes(path: pathlib.Path, rows: Iterable[Sequence[object]]) -> None:
  """Writes rows of COLUMNS, as `read_boxes` reads them; the file appears whole or not at all."""
  text = io.StringIO(newline='')
  csv.writer(text).writerows(map(csv_cell, row) for row in [COLUMNS, *rows])
  storage.write_text(path, text.getvalue())


def _read_rows(path: pathlib.Path) -> dict[str, list[list[float]]]:
  rows: dict[str, list[list[float]]] = {}
  for row in read_table(path, COLUMNS):
    try:
      image, numbers = csv_text(row.cells['image']), [row.number(column) for column in COLUMNS[1:]]
      if not image.strip() or not all(map(math.isfinite, numbers)):
        raise ValueError('no image, or not finite')
    except ValueError as error:
      raise UserError(f'{row.place} is not an image and five numbers: correct or remove the line') from error
    rows.setdefault(tidy_name(image), []).append(numbers)
  return rows
