"""Builds EMOTIC: one record per annotated person, from the authors' .mat or the CSV files that circulate."""

import collections
from collections.abc import Set as AbstractSet
import contextlib
import itertools
import math
import pathlib

import tensorflow_datasets as tfds

from data_pipelines.building import base_builder, splits
from data_pipelines.building.raw_example import RawExample
from data_pipelines.emotic import annotations, image_arrays
from data_pipelines.errors import UserError
from data_pipelines.images import CheckedImage
from data_pipelines.records.label_sets import EMOTIC
from data_pipelines.source_files.file_names import FileNames, tidy_name

IMAGE_FOLDER = 'emotic'


class Builder(base_builder.BaseBuilder):
  """EMOTIC (Kosti et al., TPAMI 2020): persons in context; 26 categories, several each; valence, arousal, dominance."""

  VERSION = tfds.core.Version('1.0.0')
  LABELS = EMOTIC
  MANUAL_DOWNLOAD_INSTRUCTIONS = (
      'EMOTIC holds emotic/{ade20k,emodb_small,framesdb,mscoco}/images/* and Annotations/Annotations.mat (or train.csv,'
      ' val.csv and test.csv made from it, or annots_arrs/annot_arrs_{train,val,test}.csv, which also goes with '
      'img_arrs/*.npy in the place of images); ask its authors for it, see https://github.com/rkosti/emotic')

  def list_examples(self, source: pathlib.Path) -> dict[str, list[RawExample]]:
    """Lists examples by split, one per person; person k of an image is its k-th usable one in the annotations.

    A person without a box, categories or a full set of valence, arousal and dominance is left out and counted: the
    CSV files leave out the last two kinds already, so all forms give the same records. Raises UserError as the base
    says.
    """
    files = [
        path.relative_to(source).as_posix()
        for folder in (IMAGE_FOLDER, annotations.ARRAYS)
        for path in self.files(source / folder)]
    names = FileNames(files, source)
    persons = {
        split: [_with_path(person, names) for person in found if self._is_usable(person)]
        for split, found in self._read(source).items()}
    boxes = collections.defaultdict(list)  # Image -> boxes of its persons, in any split.
    for person in itertools.chain(*persons.values()):
      boxes[person.image].append(person.box)
    seen: collections.Counter[str] = collections.Counter()
    examples = {
        split: [self._example(person, boxes[person.image], seen) for person in found]
        for split, found in persons.items()}
    self._check_files(source, files, {example.path for found in examples.values() for example in found})
    return examples

  def open_image(self, path: pathlib.Path) -> contextlib.AbstractContextManager[CheckedImage]:
    """Opens an image as the base does; arrays are read as images."""
    if path.suffix.lower() == image_arrays.SUFFIX:
      return image_arrays.open_array(path, self._options['max_megapixels'])
    return super().open_image(path)

  def _read(self, source: pathlib.Path) -> dict[str, list[annotations.AnnotatedPerson]]:
    """Persons by split from the first form that is there; the files of the others are counted."""
    train = annotations.ARRAY_TABLE.format('train')
    tables = [source / name for name in annotations.CSV_FOLDERS if (source / name / 'train.csv').exists()]
    array_tables = [source / name for name in annotations.ARRAY_FOLDERS if (source / name / train).exists()]
    has_mat = (source / annotations.MAT).exists()
    if others := [*tables, *array_tables] if has_mat else tables and array_tables:
      used = annotations.MAT if has_mat else 'train.csv'
      self.ignore(f'CSV files: {used} is there too, and used', len(splits.TRAIN_VAL_TEST) * len(others))
    if has_mat:
      return annotations.read_mat(source / annotations.MAT)
    if tables:
      return annotations.read_csv(tables[0])
    if array_tables:
      return annotations.read_array_csv(array_tables[0], self.LABELS)
    raise UserError(f'{source} has neither {annotations.MAT} nor train.csv nor {train}. {self.layout}')

  def _is_usable(self, person: annotations.AnnotatedPerson) -> bool:
    unknown = set(person.categories) - set(self.LABELS)
    if unknown:
      raise UserError(f"the annotations of {person.image} hold the unknown category '{min(unknown)}'. {self.layout}")
    missing = _missing(person)
    if missing:
      self.ignore(f'persons without {missing}')
    return not missing

  def _example(self, person: annotations.AnnotatedPerson, boxes: list, seen: collections.Counter[str]) -> RawExample:
    number = seen[person.image]
    seen[person.image] += 1
    return RawExample(
        path=person.path, person=number, size=person.size,
        labels=tuple(label for label in self.LABELS if label in person.categories), vad=person.vad,
        boxes=(boxes[number], *boxes[:number], *boxes[number + 1:]))

  def _check_files(self, source: pathlib.Path, files: list[str], listed: AbstractSet[str]) -> None:
    """Checks the folders that the annotations name, and counts the files that they do not name."""
    for folder in sorted({(source / path).parent for path in listed}):
      if not folder.is_dir():
        raise UserError(f'{source} has no folder {folder.relative_to(source)}. {self.layout}')
    unlisted = [pathlib.PurePath(path).parts[0] for path in files if path not in listed]
    for top, kind in ((IMAGE_FOLDER, 'images without annotation'), (annotations.ARRAYS, 'arrays not used')):
      if count := unlisted.count(top):
        self.ignore(kind, count)
    if arrays := sum(path.startswith(f'{annotations.ARRAYS}/') for path in listed):
      print(f'{arrays} images are read from the arrays in {annotations.ARRAYS}/, since their files are not there')


def _with_path(person: annotations.AnnotatedPerson, names: FileNames) -> annotations.AnnotatedPerson:
  """The person with the file of the image, of the array where there is none, or else the path that it should have."""
  wanted = f'{IMAGE_FOLDER}/{person.image}'
  array = f"{annotations.ARRAYS}/{tidy_name(person.array).removeprefix(f'{annotations.ARRAYS}/')}"
  if (image := names.find(wanted)) or not person.array:
    return person._replace(image=image or wanted, path=image or wanted, size=())
  return person._replace(path=names.find(array) or array)


def _missing(person: annotations.AnnotatedPerson) -> str:
  """What a person lacks to become a record; '' if nothing."""
  box = person.box
  if len(box) != 4 or not all(map(math.isfinite, box)) or box[2] <= max(box[0], 0) or box[3] <= max(box[1], 0):
    return 'a box'
  if not person.categories:
    return 'categories'
  if len(person.vad) != 3 or not all(map(math.isfinite, person.vad)):
    return 'valence, arousal and dominance'
  return ''
