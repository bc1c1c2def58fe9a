"""Builds EmoSet-118K: split lists in JSON, images and annotations in folders by emotion."""

from collections.abc import Iterator
import functools
import importlib.resources
import json
import pathlib

import tensorflow_datasets as tfds

from data_pipelines import images, storage
from data_pipelines.building import base_builder, splits
from data_pipelines.building.raw_example import RawExample
from data_pipelines.errors import UserError
from data_pipelines.records.label_sets import EMOTIONS
from data_pipelines.source_files.file_names import FileNames, tidy_name

ATTRIBUTES = ('scene', 'object', 'brightness', 'colorfulness', 'facial_expression', 'human_action')


@functools.cache
def vocabulary() -> dict[str, frozenset[str]]:
  """Reads each attribute's values in EmoSet's own `info.json` (brightness and colorfulness as '0.0' ... '1.0')."""
  info = json.loads(importlib.resources.files(__package__).joinpath('info.json').read_text(encoding='utf-8'))
  return {attribute: frozenset(info[attribute]['label2idx']) for attribute in ATTRIBUTES}


class Builder(base_builder.BaseBuilder):
  """EmoSet-118K (Yang et al., EmoSet, ICCV 2023): one of Mikels' eight emotions each, with annotated attributes."""

  VERSION = tfds.core.Version('1.0.0')
  LABELS = EMOTIONS
  MANUAL_DOWNLOAD_INSTRUCTIONS = (
      'EmoSet-118K holds info.json, train.json, val.json, test.json, image/<emotion>/*.jpg and '
      'annotation/<emotion>/<id>.json; ask its authors for it, see https://vcc.tech/EmoSet')

  def list_examples(self, source: pathlib.Path) -> dict[str, list[RawExample]]:
    """Lists examples by split, as train.json, val.json and test.json do. Raises UserError as the base says."""
    for folder in ('image', 'annotation'):
      if not (source / folder).is_dir():
        raise UserError(f'{source} has no folder {folder}/. {self.layout}')
    if _emotion_order(self._json(source / 'info.json')) != {label: index for index, label in enumerate(self.LABELS)}:
      raise UserError(f'{source}/info.json does not number the emotions {", ".join(self.LABELS)}. {self.layout}')
    image_files = [path.relative_to(source).as_posix() for path in self._list_images(source)]
    annotations = [path.relative_to(source).as_posix() for path in self.files(source / 'annotation')]
    names = FileNames(image_files, source), FileNames(annotations, source)
    listed = {split: list(self._list_split(source, split, *names)) for split in splits.TRAIN_VAL_TEST}
    in_splits = {example.path for examples in listed.values() for example in examples}
    if unlisted := sum(path not in in_splits for path in image_files):
      self.ignore('images in no split', unlisted)
    return listed

  def attributes(self, source: pathlib.Path, example: RawExample) -> dict:
    """Reads the annotated attributes with values of EmoSet's vocabulary; others are dropped and counted by value.

    Raises images.RejectedError if the annotation cannot be read, or names another emotion than the split does.
    """
    try:
      annotation = storage.read_json_object(source / example.annotation)
      emotion = annotation['emotion']
    except (OSError, ValueError, KeyError) as error:
      raise images.RejectedError(f'annotation {example.annotation} cannot be read') from error
    if emotion != example.label:
      raise images.RejectedError(f"annotation says '{emotion}', the split says '{example.label}'")
    known: dict[str, object] = {}
    for attribute in ATTRIBUTES:
      value = annotation.get(attribute)
      if isinstance(value, list):
        kept = [item for item in value if self._is_known(attribute, item)]
        known |= {attribute: kept} if kept else {}
      elif value is not None and self._is_known(attribute, value):
        known[attribute] = value
    return known

  def _is_known(self, attribute: str, value: object) -> bool:
    known = str(float(value) if value in (0, 1) else value) in vocabulary()[attribute]
    if not known:
      self.ignore(f'{attribute}: {value}')
    return known

  def _json(self, path: pathlib.Path) -> object:
    if not path.exists():
      raise UserError(f'{path.parent} has no file {path.name}. {self.layout}')
    with storage.parsing(path, f'fetch it again. {self.layout}'):
      return storage.parse_json(path)

  def _list_split(self, source: pathlib.Path, split: str, image_names: FileNames,
                  annotation_names: FileNames) -> Iterator[RawExample]:
    entries = self._json(source / f'{split}.json')
    if not isinstance(entries, list) or not entries:
      raise UserError(f'{source}/{split}.json is not a list of images. {self.layout}')
    for entry in entries:
      # Copies differ: [emotion, image, annotation] or [emotion, id, image, annotation].
      if not isinstance(entry, list) or len(entry) not in (3, 4) or not all(isinstance(item, str) for item in entry):
        raise UserError(f'{source}/{split}.json holds {entry!r}, not [emotion, image, annotation]. {self.layout}')
      if entry[0] not in self.LABELS:
        raise UserError(f"{source}/{split}.json holds the unknown emotion '{entry[0]}'. {self.layout}")
    image_names.find_all(dict.fromkeys(entry[-2] for entry in entries), source / f'{split}.json')
    for entry in entries:
      label, *_, image, annotation = entry
      yield RawExample(
          path=image_names.find(image) or tidy_name(image), label=label, annotation=annotation_names.find(annotation) or
          tidy_name(annotation))

  def _list_images(self, source: pathlib.Path) -> list[pathlib.Path]:
    """The files of every emotion's folder, of which each has some."""
    for unknown in sorted(entry.name for entry in (source / 'image').iterdir() if entry.is_dir()):
      if unknown not in self.LABELS and not unknown.startswith('.'):
        raise UserError(f"{source}/image holds the unknown class '{unknown}'. {self.layout}")
    found = {label: self.files(source / 'image' / label) for label in self.LABELS}
    for label, files in found.items():
      if not files:
        raise UserError(f'{source}/image/{label} is missing or empty. {self.layout}')
    return [path for files in found.values() for path in files]


def _emotion_order(info: object) -> dict[str, int]:
  """Emotion -> index in an info.json; earlier ones have `label2idx` at the top. Empty if it numbers none."""
  holder = info.get('emotion', info) if isinstance(info, dict) else None
  order = holder.get('label2idx') if isinstance(holder, dict) else None
  return order if isinstance(order, dict) else {}
