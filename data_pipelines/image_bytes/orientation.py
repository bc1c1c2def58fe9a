"""Reads the orientation, the one piece of metadata that changes what an image shows."""

import contextlib
import re

from PIL import Image

TAG = 0x0112
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90}
"""The turn that makes an image upright, by the tag's value; any other value is upright already."""
_XMP = re.compile(rb'tiff:Orientation(?:="|>)([1-8])')


def bare_exif(block: bytes) -> bytes:
  """Keeps the orientation alone, as an Exif block, from Exif or XMP; empty if there is none, or none can be read."""
  value = None
  with contextlib.suppress(Exception):  # Of malformed Exif, Pillow raises nearly anything.
    whole = Image.Exif()
    whole.load(block)
    value = whole.get(TAG)
  if match := _XMP.search(block):
    value = value or int(match[1])
  if value != 1 and value not in TURNS:
    return b''
  bare = Image.Exif()
  bare[TAG] = value
  return bare.tobytes()
