"""Reads pixels of more than 8 bits a value, of which Pillow keeps the upper byte or clips the rest."""

import sys
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageFile

_DEPTHS = (8, 10, 12, 16)
"""Bits of a grey or colour value that files of 16 bits hold; cameras and scanners leave the upper ones empty."""


def leave_unturned(encoded: ImageFile.ImageFile) -> None:
  """Stops what Pillow does after the pixels of a TIFF: it reads more metadata, and turns the image."""
  encoded.load_end = lambda: None  # type: ignore[method-assign]


def raw_mode(encoded: ImageFile.ImageFile) -> str:
  """The form of a pixel in the file, in Pillow's words, such as 'RGB;16B'; empty if Pillow does not say."""
  parts = encoded.tile[0].args if encoded.tile else ''
  first = parts[0] if isinstance(parts, tuple) and parts else parts
  return first if isinstance(first, str) else ''


def eight_bits(
    encoded: ImageFile.ImageFile, raw_mode: str, turn: Image.Transpose | None, file: BinaryIO) -> Image.Image:
  """Turns the image upright, and shrinks values of more than 8 bits by the depth that the largest of them needs.

  Of 16 bits, Pillow clips grey to 255 and keeps the upper byte of colours, which is 0 to 15 if there are 12 bits.
  """
  # First of all: until then Pillow takes a TIFF that is to be turned for the size that it will have.
  upright = encoded if turn is None else encoded.transpose(turn)
  if encoded.mode.startswith('I'):
    return Image.fromarray(_shifted(np.asarray(upright)))
  if not raw_mode.startswith(('RGB;16', 'RGBA;16')) or (upper := np.asarray(upright))[..., :3].max() >= 16:
    return upright
  file.seek(0)
  again = Image.open(file, formats=(encoded.format or '',))
  if encoded.format == 'TIFF':
    leave_unturned(again)
  # The lower byte is what the other byte order takes for the upper one.
  order = raw_mode[-1].replace('N', 'L' if sys.byteorder == 'little' else 'B')
  mode = raw_mode[:-1] + ('B' if order == 'L' else 'L')
  again.tile = [
      tile._replace(args=(mode, *tile.args[1:]) if isinstance(tile.args, tuple) else mode) for tile in again.tile]
  again.load()
  values = upper.astype(np.uint16) << 8 | np.asarray(again if turn is None else again.transpose(turn))
  return Image.fromarray(shrunk(values))


def shrunk(values: np.ndarray) -> np.ndarray:
  """Shrinks 16 bits a value to 8, (H, W) or (H, W, 3 or 4), by the depth that the largest needs; opacity by its own."""
  if values.ndim == 2:
    return _shifted(values)
  return np.concatenate([_shifted(values[..., :3]), _shifted(values[..., 3:])], axis=2)


def _shifted(values: np.ndarray) -> np.ndarray:
  largest = int(values.max(initial=0))
  depth = next((depth for depth in _DEPTHS if largest < 1 << depth), largest.bit_length())
  return (values >> depth - 8).clip(0, 255).astype(np.uint8)
