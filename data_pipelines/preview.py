"""Draws a contact sheet of what the model will see, for a look before a long run.

python -m data_pipelines.preview --data_dir=DIR --dataset=emoset --out=preview.png

Both views come from `pipeline.train_batches`, as in training, with its default settings: the sheet shows the first
examples that training with this seed sees, whatever its batch size.
"""

from collections.abc import Sequence
import io
import json
import os

from absl import flags, logging
import numpy as np
from PIL import Image, ImageDraw, ImageOps

from data_pipelines import command, storage
from data_pipelines.batches import pipeline
from data_pipelines.drawing.sheet_text import contact_sheet
from data_pipelines.errors import UserError
from data_pipelines.person_boxes import crops
from data_pipelines.records import caption_text, manifest, reader
from data_pipelines.records.label_sets import VAD

LEGEND = (
    'Left: the stored image, never flipped, with all its person boxes (green; yellow for a score below '
    f'{crops.MIN_SCORE:g}). Middle: scene view. Right: person view, or the scene in a red frame if there is no person.')
COLUMNS = 2

_BOX, _UNSURE, _NO_PERSON = 'lime', 'yellow', 'red'


def preview(
    data_dir: str | os.PathLike, dataset: str, split: str = 'train', out: str | os.PathLike = 'preview.png',
    count: int = 16, seed: int = 0, image_size: int = 224) -> str:
  """Writes the contact sheet: for each example the stored image, scene and person view, id, targets and caption.

  Captions are whole; training drops objects from the end of those that are too long for the teacher.

  Args:
    data_dir, dataset, split: as for `reader.open_split`.
    out: the PNG, written whole or not at all.
    count: how many examples are shown; a smaller split shows all.
    seed: the seed of order and augmentation, as in training.
    image_size: the side of the views, pixels.

  Returns:
    One line for the user: the file, and how many examples it shows.

  Raises:
    UserError: there are no such records, or `out` cannot be written.
  """
  place = storage.absolute(out)
  if not storage.is_remote(out) and (place.is_dir() or not place.parent.is_dir()):
    raise UserError(f'--out={out} is not a file in a folder that exists: name one, such as preview.png')
  opened = reader.open_split(data_dir, dataset, split)
  count = min(count, opened.num_examples)
  batch = next(pipeline.train_batches(opened, batch_size=count, seed=seed, image_size=image_size))
  shown = [opened.features.deserialize_example_np(opened.read(position)) for position in batch['position']]
  shares = manifest.read_manifest(opened.folder)['distribution']
  tiles = [(panels(record, scene, person), '\n'.join(description(record, opened.labels, shares)))
           for record, scene, person in zip(shown, batch['scene'], batch['person'])]
  _write(out, contact_sheet(tiles, f'{dataset} {split}, seed {seed}. {LEGEND}', COLUMNS))
  with_person = sum(bool(record['persons']) for record in shown)
  return f'{out}: shows {count} of the {opened.num_examples} examples of {dataset} {split}, {with_person} with a person'


def panels(record: dict, scene_SxSx3: np.ndarray, person_SxSx3: np.ndarray) -> list[Image.Image]:
  """Draws the stored image with its boxes, fitted into S x S and centred, and the two views (uint8)."""
  size = scene_SxSx3.shape[:2]
  original = Image.fromarray(record['image'])
  scale = min(size[0] / original.width, size[1] / original.height)
  stored = original.resize((max(1, round(original.width * scale)), max(1, round(original.height * scale))))
  pen = ImageDraw.Draw(stored)
  for (ymin, xmin, ymax, xmax), score in zip(record['boxes'], record['box_scores']):
    corners = (np.array([xmin, ymin, xmax, ymax]) * (stored.size * 2)).tolist()
    pen.rectangle(corners, outline=_BOX if score >= crops.MIN_SCORE else _UNSURE, width=2)
  person = Image.fromarray(person_SxSx3)
  if not record['persons']:
    ImageDraw.Draw(person).rectangle((0, 0, size[0] - 1, size[1] - 1), outline=_NO_PERSON, width=4)
  return [ImageOps.pad(stored, size, color='lightgrey'), Image.fromarray(scene_SxSx3), person]


def description(record: dict, labels: Sequence[str], shares: Sequence[str]) -> list[str]:
  """Describes a record in lines of text: id, each target that it has, and its caption in each style.

  Args:
    record: a record of `schema.record_features`, as numpy.
    labels: the class names in label order.
    shares: the names of the entries of `distribution`.
  """
  label = labels[record['label']] if record['label'] >= 0 else None
  vad = zip(VAD, record['vad'])
  texts = {
      'label': label,
      'labels': ', '.join(labels[index] for index in record['labels']),
      'distribution': ', '.join(f'{name} {share:.2f}' for name, share in zip(shares, record['distribution'])),
      'VAD': ', '.join(f'{name} {value:.2f}' for name, value in vad if not np.isnan(value)),}
  known = [f'{name}: {text}' for name, text in texts.items() if text]
  attributes = json.loads(record['attributes'])
  captions = [f'{style} caption: {caption_text.caption(attributes, label, style)}' for style in caption_text.STYLES]
  return [record['id'].decode(), *(known or ['no label']), *captions]


def _write(out: str | os.PathLike, sheet: Image.Image) -> None:
  """Writes the PNG whole or not at all."""
  buffer = io.BytesIO()
  sheet.save(buffer, 'PNG')
  try:
    storage.write_bytes(out, buffer.getvalue())
  except OSError as error:
    raise UserError(f'{out} cannot be written ({error.strerror}): choose another --out') from error


def main() -> None:
  """Runs the command."""
  logging.set_verbosity(logging.WARNING)
  values = flags.FLAGS
  command.require_flags('data_dir', 'dataset')
  print(
      preview(values.data_dir, values.dataset, values.split, values.out, values.count, values.seed, values.image_size))


if __name__ == '__main__':
  command.define_path('data_dir', None, 'Folder that holds DATASET/VERSION/.')
  flags.DEFINE_string('dataset', None, 'Name of the dataset, such as emoset.')
  flags.DEFINE_string('split', 'train', 'One split, or several joined as train+val.')
  command.define_path('out', 'preview.png', 'The PNG that is written.')
  flags.DEFINE_integer('count', 16, 'Examples shown.', 1, 400)
  flags.DEFINE_integer('seed', 0, 'Seed of order and augmentation, as in training.')
  flags.DEFINE_integer('image_size', 224, 'Side of the views, pixels.', 64, 1024)
  command.run(main)
