"""Builds Emotion6: images in class folders, votes and valence-arousal in `ground_truth.txt`."""

import dataclasses
import math
import pathlib

import tensorflow_datasets as tfds

from data_pipelines import images
from data_pipelines.building import base_builder, class_folders, splits
from data_pipelines.building.raw_example import RawExample
from data_pipelines.errors import UserError
from data_pipelines.source_files.file_names import FileNames, tidy_name
from data_pipelines.source_files.text_files import read_text

IMAGE_FOLDER = 'images'
GROUND_TRUTH = 'ground_truth.txt'
PERCENT = {'train': 70, 'val': 10, 'test': 20}
# The shares are printed with six digits.
SUM_TOLERANCE = 1e-3


class Builder(base_builder.BaseBuilder):
  """Emotion6 (Peng et al., CVPR 2015): six emotions as search words, and what the viewers of each image felt."""

  VERSION = tfds.core.Version('1.0.0')
  LABELS = ('anger', 'disgust', 'fear', 'joy', 'sadness', 'surprise')
  DISTRIBUTION = (*LABELS, 'neutral')
  SPLIT_SEED = 0
  MANUAL_DOWNLOAD_INSTRUCTIONS = (
      'Emotion6 holds images/<emotion>/N.jpg with six emotion folders and ground_truth.txt; ask its authors for it, '
      'see http://chenlab.ece.cornell.edu/downloads.html')

  def list_examples(self, source: pathlib.Path) -> dict[str, list[RawExample]]:
    """Lists images by seeded split, 70/10/20 within each class, with distribution, valence and arousal.

    The splits depend on the folders alone, so a rejected image moves no other. Raises UserError as the base says, or if
    a line of ground_truth.txt cannot be read.
    """
    if not (source / IMAGE_FOLDER).is_dir():
      raise UserError(f'{source} has no folder {IMAGE_FOLDER}/. {self.layout}')
    lines = self._read_ground_truth(source / GROUND_TRUTH)
    found = class_folders.list_classes(self, source, source / IMAGE_FOLDER, self.LABELS)
    names = FileNames((example.path for example in found), source)
    images_of = names.find_all(lines, source / GROUND_TRUTH)
    targets = {images_of[name]: target for name, target in lines.items() if name in images_of}
    if len(targets) < len(lines):
      self.ignore(f'lines of {GROUND_TRUTH} without an image', len(lines) - len(targets))
    return {
        split: [dataclasses.replace(example, **targets.get(example.path, {})) for example in examples]
        for split, examples in splits.seeded_splits(found, PERCENT, self.SPLIT_SEED).items()}

  def attributes(self, source: pathlib.Path, example: RawExample) -> dict:
    """Returns no attributes. Raises images.RejectedError if an image has no votes, or its shares do not sum to 1."""
    if not example.distribution:
      raise images.RejectedError(f'no line in {GROUND_TRUTH}')
    total = sum(example.distribution)
    if min(example.distribution) < 0 or not math.isclose(total, 1, abs_tol=SUM_TOLERANCE):
      raise images.RejectedError(f'its shares of votes in {GROUND_TRUTH} are no distribution: they sum to {total:g}')
    return super().attributes(source, example)

  def _read_ground_truth(self, path: pathlib.Path) -> dict[str, dict]:
    """Path of an image, as the file names it -> `distribution` and `vad` of its RawExample; there is no dominance."""
    targets: dict[str, dict] = {}
    if not path.exists():
      raise UserError(f'{path.parent} has no file {path.name}. {self.layout}')
    for number, line in enumerate(read_text(path, 'fetch it again').split('\n'), start=1):
      if not line.strip():
        continue
      name, *columns = line.rsplit(maxsplit=2 + len(self.DISTRIBUTION))
      try:
        valence, arousal, *distribution = (float(column.replace(',', '.')) for column in columns)
      except ValueError:
        if number == 1:  # The header.
          continue
        distribution = []
      image = f"{IMAGE_FOLDER}/{tidy_name(name).removeprefix(f'{IMAGE_FOLDER}/')}"
      if len(distribution) != len(self.DISTRIBUTION):
        raise UserError(f'{path} line {number} is not a file name and {2 + len(self.DISTRIBUTION)} numbers: correct it')
      if image in targets:
        raise UserError(f"{path} line {number} names '{name}' again: every image has one line")
      targets[image] = {'distribution': tuple(distribution), 'vad': (valence, arousal, math.nan)}
    return targets
