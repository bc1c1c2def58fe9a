"""Keeps some small images of each class."""

import io

from PIL import Image

from data_pipelines.drawing.page_rendering import data_uri
from data_pipelines.report.record_topics import StoredRecord

_SIDE = 112
_MOST, _PER_CLASS = 240, 8
"""The most images on the page, and of a class; each class has at least one."""


class ClassSheet:
  """The first images of each class, and of those without one."""

  def __init__(self, classes: int):
    self._per_class = max(1, min(_PER_CLASS, _MOST // max(classes, 1)))
    self.images: dict[str | None, list[tuple[str, str]]] = {}

  def add(self, record: StoredRecord) -> None:
    """Keeps an image if its class has too few yet."""
    for label in record.classes or (None,):
      kept = self.images.setdefault(label, [])
      if len(kept) < self._per_class:
        kept.append((record.id, _thumbnail(record.image)))
        return


def _thumbnail(content: bytes) -> str:
  """A small JPEG as a data URI."""
  image = Image.open(io.BytesIO(content))
  image.draft('RGB', (_SIDE, _SIDE))
  image.thumbnail((2 * _SIDE, _SIDE))
  file = io.BytesIO()
  image.convert('RGB').save(file, 'JPEG', quality=80)
  return data_uri(file.getvalue(), 'image/jpeg')
