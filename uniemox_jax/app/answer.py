"""Makes the answer about an image, as JSON for the page: bars, a plane, boxes, maps, and a row of `predict`'s table."""

from collections.abc import Mapping, Sequence
import os
from typing import Any

import numpy as np
from PIL import Image

from data_pipelines import images
from data_pipelines.drawing.page_rendering import data_uri
from data_pipelines.errors import UserError
from data_pipelines.plain_text import single_line, visible
from uniemox_jax.app.tried_models import Said, TriedModel
from uniemox_jax.objectives.tasks import predict, split_columns, width
from uniemox_jax.predict.table_writer import csv_lines

SHOWN_SIDE = 640
"""The pixels of the long side of an image that is sent back to be shown."""
_UNITS = {'label': 'probability', 'labels': 'score', 'distribution': 'share'}
_PLACES = (('upper left', 'top', 'upper right'), ('left', 'centre', 'right'), ('lower left', 'bottom', 'lower right'))


class Answerer:
  """One or two models that are asked side by side. Nothing of an image is kept.

  It is not thread-safe: one image at a time.
  """

  def __init__(self, models: Mapping[str, TriedModel], max_megapixels: float):
    """`models` are by the name that the page shows."""
    self._models, self._max_megapixels = models, max_megapixels

  def describe(self) -> list[dict[str, Any]]:
    """Describes each model as the page does before it is asked."""
    return [{'name': name, 'sees_person': model.sees_person, 'words': model.words, 'maps': model.maps_note}
            for name, model in self._models.items()]

  def warm_up(self) -> None:
    """Compiles what an image needs. Raises UserError if a model has broken weights."""
    for model in self._models.values():
      model.ask(Image.new('RGB', (64, 64), 'grey'), '')

  def answer(self, content: bytes, name: str, typed: str) -> dict[str, Any]:
    """Answers with all that is shown of an image.

    Args:
      content: the content of the file.
      name: the name that its row gets; it opens nothing.
      typed: a visitor's words for the CLIPs, empty for their own.

    Raises:
      UserError: the words cannot be asked.
      RejectedError: the content is no image that can be read.
    """
    with images.open_bytes(content, self._max_megapixels) as checked:
      image = checked.original
      models = []
      for model in self._models.values():
        said = model.ask(image, typed)
        columns = model.columns(typed)
        models.append(_shown(said, model.spread) | _table(columns, {'path': visible(name), **said.columns}))
      return {
          'image': _jpeg(_small(image)), 'width': image.width, 'height': image.height, 'note': checked.repair,
          'models': models}

  def refused(self, name: str, typed: str, reason: str) -> dict[str, Any]:
    """Answers for a file that is refused: the reason, and rows that hold it. Raises UserError as `answer`."""
    row = {'path': visible(name), 'error': single_line(reason)}
    return {
        'error': single_line(reason), 'models': [_table(model.columns(typed), row) for model in self._models.values()]}


def _table(columns: Sequence[str], row: Mapping[str, Any]) -> dict[str, str]:
  return {'header': csv_lines([columns]), 'row': csv_lines([[row.get(name) for name in columns]])}


def _shown(said: Said, spread: float) -> dict[str, Any]:
  groups: list[dict[str, Any]] = []
  plane: dict[str, dict[str, float]] = {}
  outputs = split_columns(said.outputs_1xW[:, :width(said.tasks)].astype(np.float64), said.tasks)
  for task in said.tasks:
    values = predict(task, outputs[task.name])[0].tolist()
    if task.name == 'vad':
      for dimension, value, mean, std in zip(task.outputs, values, task.mean, task.std):
        reach = max(spread * std, abs(value - mean))
        plane[dimension] = {'value': value, 'low': mean - reach, 'high': mean + reach}
    else:
      bars = sorted(zip(task.outputs, values), key=lambda bar: -bar[1])
      groups.append({'unit': _UNITS[task.name], 'bars': bars})
  return {
      'groups': groups, 'plane': plane, 'chosen': said.columns.get('labels'), 'closest': said.closest,
      'seen': said.seen, 'person': said.person,
      'person_image': None if said.person_view is None else _jpeg(Image.fromarray(said.person_view)), 'maps': {
          name: [_map(values) for values in maps[:1 if said.person is None else 2]] for name, maps in said.maps.items()
      }}  # fmt: skip


def _map(values_RxC: np.ndarray) -> dict[str, Any]:
  """Whole numbers from 0 to 255, and where the patch with the most is, in words."""
  low, spread = values_RxC.min(), np.ptp(values_RxC)
  levels = np.round(255 * (values_RxC - low) / (spread if spread > 0 else 1.0)).astype(int)
  # By the middle of that patch: thirds of the image.
  row, column = ((2 * np.array(np.unravel_index(values_RxC.argmax(), values_RxC.shape)) + 1) * 3 //
                 (2 * np.array(values_RxC.shape))).tolist()
  where = 'everywhere alike' if spread <= 0 else f'most at the {_PLACES[row][column]}'
  return {'levels': levels.tolist(), 'where': where}


def _small(image: Image.Image) -> Image.Image:
  scale = min(1.0, SHOWN_SIDE / max(image.size))
  width_and_height = max(1, round(image.width * scale)), max(1, round(image.height * scale))
  return image.resize(width_and_height, Image.Resampling.BICUBIC, reducing_gap=3.0)


def _jpeg(image: Image.Image) -> str:
  return data_uri(images.encode_jpeg(image), 'image/jpeg')


def shown_names(sources: Sequence[str]) -> list[str]:
  """The names of the models that visitors read: the last part of a path, which does not say where it is.

  Raises:
    UserError: there are neither one nor two models.
  """
  if not 1 <= len(sources) <= 2:
    raise UserError(f'{len(sources)} checkpoints are given: give --checkpoint once, or twice to compare two models')
  names = [visible(os.path.basename(source.rstrip('/')) or source) for source in sources]
  return names if len(set(names)) == len(names) else [f'{name} ({place})' for place, name in enumerate(names, 1)]
