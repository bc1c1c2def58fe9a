"""Every picture is opened and checked once, when the records are built; training then only meets clean RGB JPEGs."""

import dataclasses
import io
import pathlib

import numpy as np
from PIL import Image, ImageOps

MAX_PIXELS = 64_000_000
JPEG_QUALITY = 95

# The formats that are opened, whatever the file is called. Others (EPS, PDF...) may start other programs.
_FORMATS = ('JPEG', 'PNG', 'GIF', 'WEBP', 'BMP', 'TIFF', 'AVIF', 'PPM')
_JPEG_END = b'\xff\xd9'

Image.init()  # Registers all formats once; Image.open alone knows only the most frequent ones at first.


class RejectedError(Exception):
  """A picture that cannot become a record; the message is the reason, for rejects.csv."""


@dataclasses.dataclass(frozen=True)
class Picture:
  """A picture that passed every check.

  Attributes:
    jpeg: RGB JPEG bytes, short side at most what was asked for.
    original: the picture as displayed, mode RGB, at its original size.
  """

  jpeg: bytes
  original: Image.Image


def read_picture(path: pathlib.Path, short_side: int) -> Picture:
  """Reads and checks one picture.

  A baseline RGB JPEG that is upright and small enough is kept byte for byte; everything else is turned upright,
  laid on white where transparent, converted to RGB, shrunk (never enlarged) and encoded again.

  Args:
    path: the file, of any of the usual formats and under any name.
    short_side: longest allowed short side, pixels.

  Raises:
    RejectedError: missing, empty, over 64 megapixels, truncated, or nothing that Pillow can decode.
  """
  try:
    data = path.read_bytes()
  except OSError as error:
    raise RejectedError(f'cannot be read: {error.strerror}') from error
  if not data:
    raise RejectedError('empty file')
  try:
    encoded = Image.open(io.BytesIO(data), formats=_FORMATS)
    if encoded.width * encoded.height > MAX_PIXELS:
      raise RejectedError(f'{encoded.width} x {encoded.height} pixels: over {MAX_PIXELS // 1_000_000} megapixels')
    encoded.load()
    original = _displayed(encoded)
  except RejectedError:
    raise
  except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
    raise RejectedError(f'over {MAX_PIXELS // 1_000_000} megapixels') from error
  except Image.UnidentifiedImageError as error:
    raise RejectedError('not a picture in a known format') from error
  except Exception as error:  # Malformed files make Pillow raise nearly anything, struct.error and KeyError included.
    raise RejectedError(f'cannot be decoded: {error or type(error).__name__}') from error
  fits = min(original.size) <= short_side
  if fits and _is_clean_jpeg(encoded, data):
    return Picture(data, original)
  return Picture(encode_jpeg(shrink(original, short_side)), original)


def shrink(picture: Image.Image, short_side: int) -> Image.Image:
  """The picture with its short side at most `short_side` pixels; smaller ones are returned as they are."""
  scale = short_side / min(picture.size)
  if scale >= 1:
    return picture
  return picture.resize([max(1, round(side * scale)) for side in picture.size], Image.Resampling.BICUBIC)


def encode_jpeg(picture: Image.Image) -> bytes:
  """JPEG bytes of an RGB picture, quality 95."""
  buffer = io.BytesIO()
  picture.save(buffer, 'JPEG', quality=JPEG_QUALITY)
  return buffer.getvalue()


def _displayed(encoded: Image.Image) -> Image.Image:
  """First frame, upright, RGB; transparency becomes white."""
  upright = ImageOps.exif_transpose(encoded)
  if upright.mode.startswith('I'):
    # Pillow clips 16-bit grey to 255 instead of scaling it.
    upright = Image.fromarray((np.asarray(upright).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8))
  if upright.has_transparency_data:
    rgba = upright.convert('RGBA')
    upright = Image.alpha_composite(Image.new('RGBA', rgba.size, 'white'), rgba)
  return upright.convert('RGB')


def _is_clean_jpeg(encoded: Image.Image, data: bytes) -> bool:
  return (
    encoded.format == 'JPEG'
    and encoded.mode == 'RGB'
    and 'progressive' not in encoded.info
    and encoded.getexif().get(0x0112, 1) == 1  # EXIF orientation: 1 is upright.
    and data.endswith(_JPEG_END)
  )
