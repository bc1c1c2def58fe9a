"""Turns the `images` of a Python call, whatever they are, into a model's views (docs/commands.md, Python)."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
import io
import os
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from data_pipelines import images as image_files
from data_pipelines.errors import first_line
from data_pipelines.image_bytes import depth
from data_pipelines.media.read_media import printable
from uniemox_jax.models.preprocess import Statistics, check_normalised

WANTED = (
    'wanted a path, a PIL image, an array, or a list of them; arrays are grey (H, W), or end or begin with 1, 3 or 4 '
    'channels, alone or with a batch axis in front; of whole numbers in 0..255, uint16, or float in 0..1')
CHANNELS = (1, 3, 4)
FEWEST_COLUMNS = 16
"""The least width of several grey images without a channel axis: a shorter last axis may be one of channels."""
_STORED_AS = {'YCbCr': 'RGB', 'HSV': 'RGB', 'RGBX': 'RGB', 'RGBa': 'RGBA', 'La': 'LA', 'PA': 'RGBA'}
"""Modes of Pillow that no PNG has, and those that hold the same."""


class _NoImageError(ValueError):
  """Not an image; the message says what was given."""


def image_views(
    images: Any, size: int, view: Callable[[Image.Image], np.ndarray], mean: Statistics, std: Statistics,
    name: str = 'images') -> np.ndarray:
  """Makes the view of each image that the model reads: uint8 (B, S, S, 3), or float32 if they are normalised already.

  Args:
    images: a path, a PIL image, or an array (H, W), (H, W, C), (B, H, W) or (B, H, W, C) of 1, 3 or 4 channels, which
      may stand in front of H, too: of whole numbers in 0..255, uint16, or float in 0..1; or a list of these, of mixed
      sizes. Transparent images are laid on white. float32 (B, S, S, 3) is taken as normalised already.
    size: the model's input S, pixels.
    view: how the model wants an RGB image, uint8 (S, S, 3).
    mean, std: the statistics that normalised pixels would have been normalised with.
    name: the argument's name, for messages.

  Raises:
    ValueError: `images` is anything else, or a file cannot be read, which is named.
  """
  images = _unpacked(images)
  array = images if isinstance(images, np.ndarray) else None
  if array is not None and array.dtype == np.float32 and array.shape[1:] == (size, size, 3):
    check_normalised(array, mean, std, name)
    return array
  try:
    pixels = [view(_opened(one)) for one in _separate(images)]
  except _NoImageError as error:
    given, is_mask = (str(error), False) if array is None else (f'{array.dtype} {array.shape}', array.dtype == bool)
    if array is not None and array.size and array.dtype.kind in 'iuf':
      given += f' from {array.min():.4g} to {array.max():.4g}'
    raise ValueError(f'{name}: {given}{", a mask," if is_mask else ""} is no image; {WANTED}') from error
  return np.reshape(np.array(pixels, np.uint8), (-1, size, size, 3))


def image_names(images: Any) -> list[str | None] | None:
  """The paths of the images, with None for an image that is no file; None if no image is a file."""
  names = [
      printable(os.fspath(one)) if isinstance(one, str | os.PathLike) else None for one in _separate(_unpacked(images))
  ]  # fmt: skip
  return None if names and not any(names) else names


def _unpacked(images: Any) -> Any:
  """A path, a PIL image, a list, or an array whose channels are last."""
  if isinstance(images, str | os.PathLike | Image.Image | list | tuple):
    return images
  array = _as_array(images)
  if array.dtype.kind == 'U' or array.dtype.kind == 'O' and array.ndim == 1:
    return array.tolist()  # paths, or images of mixed sizes
  return _channels_last(array)


def _as_array(image: Any) -> np.ndarray:
  try:
    return np.asarray(image)
  except Exception as error:  # Whatever the type of another library raises, such as a tensor with gradients.
    raise ValueError(f'a {type(image).__name__} is no array ({first_line(error)}); {WANTED}') from error


def _channels_last(array: np.ndarray) -> np.ndarray:
  first = array.ndim in (3, 4) and array.shape[-1] not in CHANNELS and array.shape[-3] in CHANNELS
  return np.moveaxis(array, -3, -1) if first else array


def _separate(images: Any) -> Sequence[Any]:
  """What `_unpacked` gives, one image after the other."""
  if isinstance(images, list | tuple):
    return images
  if not isinstance(images, np.ndarray):
    return [images]
  greys = images.ndim == 3 and images.shape[-1] not in CHANNELS and images.shape[-1] >= FEWEST_COLUMNS
  return list(images) if images.ndim == 4 or greys else [images]


def _opened(image: Any) -> Image.Image:
  """An RGB image as displayed."""
  if isinstance(image, str | os.PathLike):
    return _displayed(image_files.open_image(Path(image)), printable(os.fspath(image)))
  if isinstance(image, Image.Image):
    return _checked(image)
  if isinstance(image, list | tuple):  # Its numbers could be one image, or the rows of one.
    raise _NoImageError('a list within a list, make it an array: it')
  array = _channels_last(_as_array(image))
  if array.ndim == 3 and array.shape[-1] == 1:
    array = array[..., 0]
  is_image = array.ndim == 2 or array.ndim == 3 and array.shape[-1] in (3, 4)
  if not is_image or not array.size or array.dtype.kind not in 'iuf':
    raise _NoImageError(f'{array.dtype} {np.shape(image)}')
  return _checked(Image.fromarray(np.ascontiguousarray(_levels(array))))


def _levels(array: np.ndarray) -> np.ndarray:
  """The values of one image as uint8; 16 bits are shrunk as those of a file."""
  low, high, is_float = array.min(), array.max(), array.dtype.kind == 'f'
  if is_float and 0 <= low <= high <= 1:
    return np.round(array * 255).astype(np.uint8)
  if 0 <= low <= high <= 255 and (not is_float or (array == np.round(array)).all()):
    return array.astype(np.uint8)
  if array.dtype.kind == 'u' and array.dtype.itemsize == 2:
    return depth.shrunk(array)
  raise _NoImageError(f'{array.dtype} {array.shape}')


def _checked(image: Image.Image) -> Image.Image:
  """Shows the pixels as a file that holds them is displayed."""
  if 0 in image.size:
    raise _NoImageError(f'a PIL image of {image.width} x {image.height} pixels')
  try:
    image.load()
    if image.mode == 'RGB' and not image.getexif():
      return image
    exif, buffer = image.getexif(), io.BytesIO()
    # A TIFF has the modes that a PNG lacks.
    image.convert(_STORED_AS.get(image.mode, image.mode)).save(
        buffer, 'TIFF' if image.mode in ('CMYK', 'F', 'I', 'LAB') else 'PNG', exif=exif)
  except Exception as error:  # Of a malformed image, Pillow raises nearly anything.
    raise ValueError(f'a PIL image of mode {image.mode} cannot be used: {first_line(error)}') from error
  return _displayed(image_files.open_bytes(buffer.getvalue()), f'a PIL image of mode {image.mode}')


def _displayed(opening: AbstractContextManager[image_files.CheckedImage], name: str) -> Image.Image:
  try:
    with opening as checked:
      return checked.original
  except image_files.RejectedError as error:
    reason = str(error).replace(image_files.RAISES_LIMIT, 'a PIL image may be as large as it is')
    raise ValueError(f'{name}: {reason}') from error
