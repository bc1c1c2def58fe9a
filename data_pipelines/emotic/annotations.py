"""Reads EMOTIC's two forms of annotations, the authors' .mat and the converter's CSV files, into the same persons."""

import ast
from collections.abc import Iterator
import csv
import os
import pathlib
import pickle
import subprocess
import sys
from typing import Any, NamedTuple

import numpy as np

from data_pipelines import storage
from data_pipelines.building.splits import TRAIN_VAL_TEST
from data_pipelines.errors import UserError
from data_pipelines.records.schema import VAD

MAT = pathlib.PurePath('Annotations', 'Annotations.mat')
# Where mat2py.py, the converter of github.com/Tandon-A/emotic, writes train.csv, and where people move it.
CSV_FOLDERS = ('.', 'Annotations', 'emotic_pre')
CSV_COLUMNS = ('Folder', 'Filename', 'BBox', 'Categorical_Labels', 'Continuous_Labels')

_LOAD_MAT = """
import pickle, sys, scipy.io
read = scipy.io.loadmat(sys.argv[1], variable_names=sys.argv[2:], simplify_cells=True)
pickle.dump(read, sys.stdout.buffer)
"""


class AnnotatedPerson(NamedTuple):
  """One annotated person, as the file has it.

  image: path of the image below `emotic/`; box: xmin, ymin, xmax, ymax in pixels, unclamped, not four numbers if it is
  missing; categories: names, () if not annotated; vad: valence, arousal, dominance, 1-10, NaN where not annotated.
  """

  image: str
  box: tuple[float, ...]
  categories: tuple[str, ...]
  vad: tuple[float, ...]


def read_mat(path: pathlib.Path) -> dict[str, list[AnnotatedPerson]]:
  """Persons by split, in the order of the file.

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
  """Persons by split from `train.csv`, `val.csv` and `test.csv`, whose lists are written as Python literals.

  Raises UserError if a file or a column is missing, or a cell does not hold a list.
  """
  return {split: list(_csv_persons(folder / f'{split}.csv')) for split in TRAIN_VAL_TEST}


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


def _csv_persons(path: pathlib.Path) -> Iterator[AnnotatedPerson]:
  if not path.exists():
    raise UserError(f'{path.parent} has no file {path.name}: EMOTIC comes as train.csv, val.csv and test.csv')
  with storage.parsing(path, 'save it as CSV in UTF-8'), storage.open_local(path, 'r', newline='',
                                                                            encoding='utf-8-sig') as file:
    reader = csv.DictReader(file)
    missing = [column for column in CSV_COLUMNS if column not in (reader.fieldnames or ())]
    if missing:
      raise UserError(f"{path} lacks column '{missing[0]}': its first line must hold {', '.join(CSV_COLUMNS)}")
    for row in reader:
      try:
        yield AnnotatedPerson(
            image=_path(row['Folder'], row['Filename']), box=_numbers(row['BBox']),
            categories=tuple(ast.literal_eval(row['Categorical_Labels'])), vad=_numbers(row['Continuous_Labels']))
      except (AttributeError, SyntaxError, TypeError, ValueError) as error:
        raise UserError(
            f'{path} line {reader.line_num} holds no lists like [1, 2] and ["Peace"]: correct it') from error


def _numbers(cell: str) -> tuple[float, ...]:
  """'[1, 2.5, nan]' -> (1.0, 2.5, nan). `nan` is no Python literal."""
  inside = cell.strip().removeprefix('[').removesuffix(']')
  return tuple(float(number) for number in inside.split(',')) if inside.strip() else ()


def _path(folder: str, filename: str) -> str:
  return pathlib.PurePosixPath(folder, filename).as_posix()
