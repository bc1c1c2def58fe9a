"""Computes perceptual hashes of images and of their mirror images. Copies of an image differ in only a few bits."""

from collections.abc import Iterator
from concurrent import futures
import io
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from data_pipelines.errors import UserError
from data_pipelines.light_tensorflow import tf
from data_pipelines.read_ahead import THREADS, read_ahead

HASHES = 3
"""The number of hashes of an image: the signs of its low frequencies (pHash), of its differences to the right, and of
those downwards."""
_SIDE = 64
"""Pixels: JPEGs are decoded at the least scale that has these."""
_FLAT = 2.0
"""Standard deviation of brightness, of 255, below which signs are those of noise."""


def image_hash_library() -> Any:
  """Imports the library. Raises UserError if it is not installed."""
  try:
    import imagehash
  except ImportError as error:
    raise UserError("ImageHash is not installed: pip install 'uniemox_jax[report]'") from error
  return imagehash


def hash_image(library: Any, content: bytes) -> np.ndarray | None:
  """Computes the hashes of an image, and of its mirror image.

  Args:
    library: the result of `image_hash_library`.
    content: a JPEG as records hold it.

  Returns:
    uint64 (2, HASHES); None for an image that is nearly of one colour, whose hashes mean nothing.
  """
  image = Image.open(io.BytesIO(content))
  image.draft('L', (_SIDE, _SIDE))
  grey = image.convert('L')
  if np.asarray(grey).std() < _FLAT:
    return None
  hashes = library.phash, library.dhash, library.dhash_vertical
  return np.array([[_number(make(view).hash) for make in hashes] for view in (grey, ImageOps.mirror(grey))], np.uint64)


def hash_images(examples: Iterator[tf.train.Example]) -> Iterator[tuple[str, np.ndarray | None]]:
  """Yields the id and `hash_image` of every record, in their order."""
  library = image_hash_library()

  def attempt(fields: Any) -> tuple[str, np.ndarray | None]:
    name, content = (fields[key].bytes_list.value[0] for key in ('id', 'image'))
    return name.decode(), hash_image(library, content)

  with futures.ThreadPoolExecutor(THREADS) as pool:
    submitted = (pool.submit(attempt, example.features.feature) for example in examples)
    for future in read_ahead(submitted, 2 * THREADS):
      yield future.result()


def _number(bits_8x8: np.ndarray) -> int:
  return int.from_bytes(np.packbits(bits_8x8).tobytes())
