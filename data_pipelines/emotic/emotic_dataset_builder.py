"""Builder of EMOTIC: one record per annotated person, from the authors' .mat or the common CSV files."""

import collections
from collections.abc import Set as AbstractSet
import math
import pathlib

import tensorflow_datasets as tfds

from data_pipelines.building import base_builder, splits
from data_pipelines.building.raw_example import RawExample
from data_pipelines.emotic import annotations
from data_pipelines.errors import UserError

IMAGE_FOLDER = 'emotic'


class Builder(base_builder.BaseBuilder):
  """EMOTIC (Kosti et al., TPAMI 2020): persons in context; 26 categories, several each; valence, arousal, dominance."""

  VERSION = tfds.core.Version('1.0.0')
  LABELS = (
      'Affection', 'Anger', 'Annoyance', 'Anticipation', 'Aversion', 'Confidence', 'Disapproval', 'Disconnection',
      'Disquietment', 'Doubt/Confusion', 'Embarrassment', 'Engagement', 'Esteem', 'Excitement', 'Fatigue', 'Fear',
      'Happiness', 'Pain', 'Peace', 'Pleasure', 'Sadness', 'Sensitivity', 'Suffering', 'Surprise', 'Sympathy',
      'Yearning')  # fmt: skip
  MANUAL_DOWNLOAD_INSTRUCTIONS = (
      'EMOTIC holds emotic/{ade20k,emodb_small,framesdb,mscoco}/images/* and Annotations/Annotations.mat (or train.csv,'
      ' val.csv and test.csv made from it); ask its authors for it, see https://github.com/rkosti/emotic')

  def list_examples(self, source: pathlib.Path) -> dict[str, list[RawExample]]:
    """Examples by split, one a person; person k of an image is its k-th usable one in the annotations.

    A person without a box, categories or a full set of valence, arousal and dominance is left out and counted: the
    CSV files leave out the last two kinds already, so both forms give the same records. Raises UserError as the base
    says.
    """
    persons = {
        split: [person for person in persons if self._is_usable(person)]
        for split, persons in self._read(source).items()}
    boxes = collections.defaultdict(list)  # Image -> boxes of its persons, in any split.
    for split in persons.values():
      for person in split:
        boxes[person.image].append(person.box)
    self._check_folders(source, boxes.keys())
    seen: collections.Counter[str] = collections.Counter()
    return {
        split: [self._example(person, boxes[person.image], seen) for person in found]
        for split, found in persons.items()}

  def _read(self, source: pathlib.Path) -> dict[str, list[annotations.AnnotatedPerson]]:
    tables = [source / name for name in annotations.CSV_FOLDERS if (source / name / 'train.csv').exists()]
    if (source / annotations.MAT).exists():
      if tables:
        self.ignore(f'CSV files: {annotations.MAT} is there too, and used', len(splits.TRAIN_VAL_TEST))
      return annotations.read_mat(source / annotations.MAT)
    if not tables:
      raise UserError(f'{source} has neither {annotations.MAT} nor train.csv. {self.layout}')
    return annotations.read_csv(tables[0])

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
        path=f'{IMAGE_FOLDER}/{person.image}', person=number,
        labels=tuple(label for label in self.LABELS if label in person.categories), vad=person.vad,
        boxes=(boxes[number], *boxes[:number], *boxes[number + 1:]))

  def _check_folders(self, source: pathlib.Path, listed: AbstractSet[str]) -> None:
    """Checks the folders that the annotations name, and counts the images that they do not name."""
    for folder in sorted({(source / IMAGE_FOLDER / image).parent for image in listed}):
      if not folder.is_dir():
        raise UserError(f'{source} has no folder {folder.relative_to(source)}. {self.layout}')
    for path in self.files(source / IMAGE_FOLDER):
      if path.relative_to(source / IMAGE_FOLDER).as_posix() not in listed:
        self.ignore('pictures without annotation')


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
