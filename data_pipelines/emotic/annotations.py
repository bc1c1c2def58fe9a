"""Reads EMOTIC's forms of annotations, the authors' .mat and two of CSV files, into the same persons."""

import ast
from collections.abc import Callable, Iterator, Sequence
import functools
import math
import os
import pathlib
import pickle
import subprocess
import sys
from typing import Any, NamedTuple

import numpy as np

from data_pipelines import storage
from data_pipelines.building.splits import TRAIN_VAL_TEST
from data_pipelines.errors import UserError, first_line
from data_pipelines.records.label_sets import VAD
from data_pipelines.source_files.file_names import tidy_name
from data_pipelines.source_files.text_files import TableRow, read_table

MAT = pathlib.PurePath('Annotations', 'Annotations.mat')
# Where mat2py.py, the converter of github.com/Tandon-A/emotic, writes train.csv, and where people move it.
CSV_FOLDERS = ('.', 'Annotations', 'emotic_pre')
CSV_COLUMNS = ('Folder', 'Filename', 'BBox', 'Categorical_Labels', 'Continuous_Labels')
ARRAY_FOLDERS, ARRAY_TABLE = ('annots_arrs', '.'), 'annot_arrs_{}.csv'
"""The place of the other form, which has a column per category, and images as arrays in ARRAYS."""
ARRAYS = 'img_arrs'
ARRAY_BOX = ('X_min', 'Y_min', 'X_max', 'Y_max')
ARRAY_SIZE = ('Width', 'Height')
ARRAY_NAME = 'Arr_name'
_ARRAY_VAD = tuple(name.capitalize() for name in VAD)

_LOAD_MAT = """
import pickle, sys, scipy.io
read = scipy.io.loadmat(sys.argv[1], variable_names=sys.argv[2:], simplify_cells=True)
pickle.dump(read, sys.stdout.buffer)
"""


class AnnotatedPerson(NamedTuple):
  """One annotated person, as the file has it.

  image: the path of the image below `emotic/`. box: xmin, ymin, xmax, ymax in pixels, unclamped; not four numbers if it
  is missing. categories: names, () if not annotated. vad: valence, arousal, dominance, 1-10, NaN if not annotated.
  array: the name of the file with its pixels in `img_arrs/`, if there is one. path: that of the file that is read.
  size: the (width, height) to which the box refers, if the table says it.
  """

  image: str
  box: tuple[float, ...]
  categories: tuple[str, ...]
  vad: tuple[float, ...]
  array: str = ''
  path: str = ''
  size: tuple[int, ...] = ()


def read_mat(path: pathlib.Path) -> dict[str, list[AnnotatedPerson]]:
  """Reads persons by split, in the order of the file.

  `train`, `val` and `test` are struct arrays of images (filename, folder, image_size, original_database, person). A
  train person has body_bbox, annotations_categories.categories, annotations_continuous.{valence, arousal, dominance};
  persons of val and test, seen by several annotators, also have combined_categories and combined_continuous, which
  are used. Raises UserError if the file is no MATLAB file of this structure.
  """
  with storage.parsing(path, "fetch EMOTIC's Annotations.mat again"):
    # In a process of its own: a flipped bit can make scipy's reader, which is compiled, crash, or never end.
    done = subprocess.run(
        [sys.executable, '-c', _LOAD_MAT, os.fspath(path), *TRAIN_VAL_TEST], capture_output=True,
        timeout=30 + 10 * path.stat().st_size / 2**20)
    if b'NotImplementedError' in done.stderr:
      raise UserError(f"{path} is a MATLAB 7.3 file: save it again in MATLAB with '-v7'")
    if done.returncode:
      raise ValueError(f'it cannot be read: {(done.stderr.decode().splitlines() or ["scipy crashed"])[-1]}')
    content = pickle.loads(done.stdout)
    return {split: list(_mat_persons(content[split])) for split in TRAIN_VAL_TEST}


def read_csv(folder: pathlib.Path) -> dict[str, list[AnnotatedPerson]]:
  """Reads persons by split from `train.csv`, `val.csv` and `test.csv`, whose lists are written as Python literals.

  Raises UserError if a file or a column is missing, or a cell does not hold a list.
  """
  return _read_tables(folder, '{}.csv', CSV_COLUMNS, _person_of_lists, 'lists like [1, 2] and ["Peace"]')


def read_array_csv(folder: pathlib.Path, labels: Sequence[str]) -> dict[str, list[AnnotatedPerson]]:
  """Reads persons by split from `annot_arrs_train.csv` and so on: a column of 0 and 1 for each of `labels`.

  Raises UserError if a file or a column is missing, or a cell does not hold a number.
  """
  columns = ('Folder', 'Filename', *ARRAY_BOX, *labels, *_ARRAY_VAD)
  return _read_tables(
      folder, ARRAY_TABLE, columns, functools.partial(_person_of_columns, labels), 'numbers', (ARRAY_NAME, *ARRAY_SIZE))


def _mat_persons(images: np.ndarray) -> Iterator[AnnotatedPerson]:
  for image in np.ravel(images):
    for person in np.ravel(image['person']):
      categories = _annotation(person, 'categories')
      categories = categories['categories'] if isinstance(categories, dict) else categories
      vad = _annotation(person, 'continuous')
      box = np.ravel(_annotation(person, 'bbox')).astype(float)
      yield AnnotatedPerson(
          image=_path(image['folder'], image['filename']), box=tuple(box.tolist()),
          categories=tuple(str(name).strip() for name in np.ravel(categories)),
          vad=tuple(float(vad[name]) if np.size(vad[name]) else np.nan for name in VAD))


def _annotation(person: dict, kind: str) -> Any:
  """A person's combined value, else the only annotator's."""
  names = [name for name in person if kind in name]
  if not names:
    raise KeyError(f'person.*{kind}')
  return person[max(names, key=lambda name: 'combined' in name)]


def _read_tables(
    folder: pathlib.Path, name: str, columns: Sequence[str], person_of: Callable[[TableRow], AnnotatedPerson],
    promise: str, optional: Sequence[str] = ()) -> dict[str, list[AnnotatedPerson]]:
  """Persons by split from a table for each; `name` holds {} where the split's name goes, `promise` is for messages."""
  persons: dict[str, list[AnnotatedPerson]] = {}
  for split in TRAIN_VAL_TEST:
    path = folder / name.format(split)
    if not path.exists():
      every = ', '.join(map(name.format, TRAIN_VAL_TEST))
      raise UserError(f'{folder} has no file {path.name}: it must hold {every}')
    persons[split] = []
    for row in read_table(path, columns, optional):
      try:
        persons[split].append(person_of(row))
      except (AttributeError, SyntaxError, TypeError, ValueError, MemoryError, RecursionError) as error:
        raise UserError(f'{row.place} holds no {promise} ({first_line(error)}): correct it') from error
  return persons


def _person_of_lists(row: TableRow) -> AnnotatedPerson:
  cells = row.cells
  return AnnotatedPerson(
      image=_path(cells['Folder'], cells['Filename']), box=_numbers(cells['BBox']),
      categories=tuple(ast.literal_eval(cells['Categorical_Labels'])), vad=_numbers(cells['Continuous_Labels']))


def _person_of_columns(labels: Sequence[str], row: TableRow) -> AnnotatedPerson:

  def numbers(columns: Sequence[str]) -> tuple[float, ...]:
    return tuple(row.number(column) if row.cells[column].strip() else math.nan for column in columns)

  return AnnotatedPerson(
      image=_path(row.cells['Folder'], row.cells['Filename']), box=numbers(ARRAY_BOX),
      categories=tuple(label for label, value in zip(labels, numbers(labels)) if value > 0), vad=numbers(_ARRAY_VAD),
      array=row.cells.get(ARRAY_NAME, '').strip(),
      size=tuple(map(int, numbers(ARRAY_SIZE))) if row.cells.keys() >= set(ARRAY_SIZE) else ())


def _numbers(cell: str) -> tuple[float, ...]:
  """'[1, 2.5, nan]' -> (1.0, 2.5, nan). `nan` is no Python literal."""
  inside = cell.strip().removeprefix('[').removesuffix(']')
  return tuple(float(number) for number in inside.split(',')) if inside.strip() else ()


def _path(folder: str, filename: str) -> str:
  return tidy_name(f'{folder}/{filename}')
