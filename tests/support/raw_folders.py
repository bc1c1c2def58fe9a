"""Draws tiny raw folders in the datasets' true layouts."""

from collections.abc import Iterable
import hashlib
import pathlib

from PIL import Image


def draw_picture(path: pathlib.Path, size: tuple[int, int] = (24, 20)) -> pathlib.Path:
  """A one-coloured picture; the colour follows from the path, the format from the suffix."""
  path.parent.mkdir(parents=True, exist_ok=True)
  colour = tuple(hashlib.sha256(path.as_posix().encode()).digest()[:3])
  Image.new('RGB', size, colour).save(path)
  return path


def draw_classes(folder: pathlib.Path, classes: Iterable[str], count: int, suffix: str = '.jpg') -> pathlib.Path:
  """`<folder>/<class>/0000.jpg` and so on. Returns `folder`."""
  for name in classes:
    for number in range(count):
      draw_picture(folder / name / f'{number:04d}{suffix}')
  return folder


def without_source(manifest: dict) -> dict:
  """A manifest without its raw folder, to compare builds of equal images."""
  return {name: value for name, value in manifest.items() if name != 'source'}
