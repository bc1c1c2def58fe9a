"""Reads images in numpy arrays, `*.npy`, as data alone: nothing is unpickled."""

from collections.abc import Iterator
import contextlib
import io
import pathlib

import numpy as np
from PIL import Image

from data_pipelines.errors import first_line
from data_pipelines.images import CheckedImage, RejectedError

SUFFIX = '.npy'


@contextlib.contextmanager
def open_array(path: pathlib.Path, max_megapixels: float) -> Iterator[CheckedImage]:
  """Opens an array uint8 (H, W, 3), RGB, or (H, W), grey, as `images.open_image` opens an image.

  Raises:
    RejectedError: the file is missing, holds no such array, or has too many pixels.
  """
  if not path.is_file():
    raise RejectedError('cannot be read: no such file')
  try:
    pixels = np.load(path, mmap_mode='r', allow_pickle=False)  # Mapped, so that no header makes it take memory.
  except Exception as error:  # numpy parses the header as Python, and raises what that raises.
    raise RejectedError(f'cannot be decoded: {first_line(error)}') from error
  if not isinstance(pixels, np.ndarray) or pixels.dtype != np.uint8 or not _is_image(pixels.shape):
    found = f'{pixels.dtype} {pixels.shape}' if isinstance(pixels, np.ndarray) else 'an archive of arrays'
    raise RejectedError(f'no array uint8 (height, width, 3), but {found}')
  height, width = pixels.shape[:2]
  if height * width > max_megapixels * 1e6:
    raise RejectedError(f'{width} x {height} pixels: over {max_megapixels:g} megapixels')
  yield CheckedImage(Image.fromarray(np.ascontiguousarray(pixels)).convert('RGB'), io.BytesIO(), clean=False)


def _is_image(shape: tuple[int, ...]) -> bool:
  return 0 not in shape and (len(shape) == 2 or len(shape) == 3 and shape[2] == 3)
