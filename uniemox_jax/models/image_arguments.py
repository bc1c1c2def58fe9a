"""The `images` of a Python call, whatever they are, as a model's views (docs/commands.md, Python)."""

from collections.abc import Callable, Sequence
import io
import os
from pathlib import Path
from typing import Any

import jax
import numpy as np
from PIL import Image

from data_pipelines import images as image_files
from data_pipelines.user_files.views import printable
from uniemox_jax.models.preprocess import Statistics, check_normalised

WANTED = (
    'wanted a path, a PIL image, an array, or a list of them; arrays are grey (H, W), or end in 1, 3 or 4 channels, '
    'alone or with a batch axis in front, uint8, uint16, or float in 0..1')


class _NoImageError(ValueError):
  """Not an image; the message says what was given."""


def image_views(
    images: Any, size: int, view: Callable[[Image.Image], np.ndarray], mean: Statistics, std: Statistics,
    name: str = 'images') -> np.ndarray:
  """What the model reads of each image: uint8 (B, S, S, 3), or float32 where the images are normalised already.

  Args:
    images: a path, a PIL image, or an array (H, W), (H, W, C) or (B, H, W, C) of 1, 3 or 4 channels, uint8, uint16 or
      float in 0..1; or a list of these, of mixed sizes. Transparent images are laid on white. float32 (B, S, S, 3) is
      taken as normalised already.
    size: the model's input S, pixels.
    view: how the model wants an RGB image, uint8 (S, S, 3).
    mean, std: what normalised pixels would have been normalised with.
    name: of the argument, for messages.

  Raises:
    ValueError: anything else, or a file that cannot be read, by name.
  """
  array = images if isinstance(images, np.ndarray | jax.Array) else None
  if array is not None and array.dtype == np.float32 and array.shape[1:] == (size, size, 3):
    check_normalised(array, mean, std, name)
    return np.asarray(array)
  try:
    pixels = [view(_opened(one)) for one in _separate(images)]
  except _NoImageError as error:
    given = f'{array.dtype} {array.shape}' if array is not None else error
    values = f' from {np.min(array):.4g} to {np.max(array):.4g}' if array is not None and array.size else ''
    raise ValueError(f'{name}: {given}{values} is no image; {WANTED}') from error
  return np.reshape(np.array(pixels, np.uint8), (-1, size, size, 3))


def image_names(images: Any) -> list[str] | None:
  """The paths, where all images are such; None otherwise."""
  separate = _separate(images)
  if not all(isinstance(one, str | os.PathLike) for one in separate):
    return None
  return [printable(os.fspath(one)) for one in separate]


def _separate(images: Any) -> Sequence[Any]:
  """One after the other."""
  if isinstance(images, str | os.PathLike | Image.Image):
    return [images]
  if isinstance(images, list | tuple):
    return images
  array = np.asarray(images)
  return list(array) if array.ndim == 4 else [array]


def _opened(image: Any) -> Image.Image:
  """An RGB image as displayed."""
  if isinstance(image, str | os.PathLike):
    try:
      with image_files.open_image(Path(image)) as checked:
        return checked.original
    except image_files.RejectedError as error:
      raise ValueError(f'{printable(os.fspath(image))}: {error}') from error
  if isinstance(image, Image.Image):
    return _checked(image)
  array = np.asarray(image)
  if array.ndim == 3 and array.shape[-1] == 1:
    array = array[..., 0]
  if array.dtype.kind == 'f' and array.size and 0 <= array.min() <= array.max() <= 1:
    array = np.round(array * 255).astype(np.uint8)
  is_image = array.ndim == 2 or array.ndim == 3 and array.shape[-1] in (3, 4)
  if not is_image or not array.size or array.dtype not in (np.uint8, np.uint16):
    raise _NoImageError(f'{array.dtype} {np.shape(image)}')
  if array.dtype == np.uint16:
    array = (array >> 8).astype(np.uint8)
  return _checked(Image.fromarray(array))


def _checked(image: Image.Image) -> Image.Image:
  """As a file with these pixels is displayed."""
  if image.mode == 'RGB' and not image.getexif():
    return image
  buffer = io.BytesIO()
  image.save(buffer, 'TIFF' if image.mode == 'CMYK' else 'PNG', exif=image.getexif())
  with image_files.open_bytes(buffer.getvalue()) as checked:
    return checked.original
