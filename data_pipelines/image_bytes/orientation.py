"""The one piece of metadata that changes what an image shows."""

import contextlib

from PIL import Image

TAG = 0x0112
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90}
"""Value of the tag -> what makes the image upright; any other value is upright already."""


def bare_exif(exif: bytes) -> bytes:
  """An Exif block of the orientation alone; upright if it cannot be read."""
  bare = Image.Exif()
  with contextlib.suppress(Exception):  # Of malformed Exif, Pillow raises nearly anything.
    whole = Image.Exif()
    whole.load(exif)
    if whole[TAG] in TURNS:
      bare[TAG] = whole[TAG]
  return bare.tobytes()
