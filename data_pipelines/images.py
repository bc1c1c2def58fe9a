"""Every picture is opened and checked once, when the records are built; training then only meets clean RGB JPEGs."""

from collections.abc import Iterator
import contextlib
import dataclasses
import io
import os
import pathlib
import threading
import warnings

import numpy as np
from PIL import Image, ImageCms, ImageOps

MAX_MEGAPIXELS = 64
JPEG_QUALITY = 95

# The formats that are opened, whatever the file is called. Others (EPS, PDF...) may start other programs.
FORMATS = ('JPEG', 'PNG', 'GIF', 'WEBP', 'BMP', 'TIFF', 'AVIF', 'PPM')
SUFFIXES = ('.jpg', '.jpeg', '.jfif', '.png', '.gif', '.webp', '.bmp', '.tif', '.tiff', '.avif', '.heic')
"""What the names of pictures end in, those of them that cannot be opened included."""
_JPEG_END = b'\xff\xd9'
_HEIC = (b'ftyphei', b'ftyphev', b'ftypmif1', b'ftypmsf1')

# A decoded pixel takes four bytes, and some conversions need it two or three times: pictures over 16 megapixels are
# taken one at a time, whatever the number of threads.
_LARGE = 16_000_000
_ONE_LARGE = threading.Lock()

Image.init()  # Registers all formats once; Image.open alone knows only the most frequent ones at first.
warnings.filterwarnings('ignore', module=r'PIL\.')  # They name no file; what matters becomes a RejectedError.


def is_picture(path: pathlib.Path) -> bool:
  """Whether a file is called a picture or, names from the web may end in anything, is one by its first bytes."""
  if path.suffix.lower() in SUFFIXES:
    return True
  if not path.is_file():  # Opening a pipe never ends.
    return False
  try:
    Image.open(path, formats=FORMATS).close()
  except Exception:  # Malformed files make Pillow raise nearly anything.
    return False
  return True


class RejectedError(Exception):
  """A picture that cannot become a record; the message is the reason, for rejects.csv."""


@dataclasses.dataclass(frozen=True)
class Picture:
  """A picture that passed every check.

  Attributes:
    jpeg: RGB JPEG bytes, short side at most what was asked for.
    original: the picture as displayed, mode RGB, sRGB colours, at its original size.
  """

  jpeg: bytes
  original: Image.Image


def read_picture(path: pathlib.Path, short_side: int, max_megapixels: float = MAX_MEGAPIXELS) -> Picture:
  """Reads and checks one picture, as `opened_picture` does."""
  with opened_picture(path, short_side, max_megapixels) as picture:
    return picture


@contextlib.contextmanager
def opened_picture(path: pathlib.Path, short_side: int, max_megapixels: float = MAX_MEGAPIXELS) -> Iterator[Picture]:
  """Reads and checks one picture. While it is in use, other threads wait with theirs if both are over 16 megapixels.

  A baseline RGB JPEG that is upright and small enough is kept byte for byte; everything else is turned upright,
  laid on white where transparent, converted to RGB (to sRGB, where a profile says what its colours are), shrunk (never
  enlarged) and encoded again. Of several frames, the first is taken.

  Args:
    path: the file, of any of the usual formats and under any name.
    short_side: longest allowed short side, pixels; 0 keeps the original size.
    max_megapixels: most pixels that are decoded, by what the file's header says; up to 178, Pillow's own limit.

  Raises:
    RejectedError: missing, empty, too many pixels, truncated, or nothing that Pillow can decode.
  """
  with _opened(path, max_megapixels) as (encoded, file):
    yield _picture(encoded, file, short_side)


@contextlib.contextmanager
def opened_original(path: pathlib.Path, max_megapixels: float = MAX_MEGAPIXELS) -> Iterator[Image.Image]:
  """The picture as displayed at its original size, mode RGB, sRGB colours: what `opened_picture` starts from.

  Args and errors are those of `opened_picture`; nothing is encoded.
  """
  with _opened(path, max_megapixels) as (encoded, file):
    yield _original(encoded, file)[0]


def shrink(picture: Image.Image, short_side: int) -> Image.Image:
  """The picture with its short side at most `short_side` pixels; smaller ones are returned as they are."""
  scale = short_side / min(picture.size)
  if scale >= 1:
    return picture
  return picture.resize([max(1, round(side * scale)) for side in picture.size], Image.Resampling.BICUBIC)


def evaluation_view(picture: Image.Image, size: int) -> np.ndarray:
  """Short side to round(size * 256 / 224), then the central uint8 (size, size, 3): `augment.evaluation_view` in Pillow.

  Only what the crop needs is resized. Pillow rounds between the two axes: pixels differ by 1 here and there.
  """
  sides_2 = np.array(picture.size)
  resized_2 = np.round(sides_2 * (round(size * 256 / 224) / sides_2.min()))
  corner_2 = (resized_2 - size) // 2
  box = np.concatenate([corner_2, corner_2 + size]) * np.tile(sides_2 / resized_2, 2)
  return np.asarray(picture.resize((size, size), Image.Resampling.BICUBIC, box=tuple(box.tolist())))


def encode_jpeg(picture: Image.Image) -> bytes:
  """JPEG bytes of an RGB picture, quality 95."""
  buffer = io.BytesIO()
  picture.save(buffer, 'JPEG', quality=JPEG_QUALITY)
  return buffer.getvalue()


@contextlib.contextmanager
def _opened(path: pathlib.Path, max_megapixels: float) -> Iterator[tuple[Image.Image, io.BufferedReader]]:
  """The picture with its header read and nothing decoded yet, and its file."""
  if path.is_fifo():
    raise RejectedError('cannot be read: a pipe, which has no end')
  try:
    file = path.open('rb')
  except OSError as error:
    raise RejectedError(f'cannot be read: {error.strerror}') from error
  with file:
    encoded = _identified(file, max_megapixels)
    with _ONE_LARGE if encoded.width * encoded.height > _LARGE else contextlib.nullcontext():
      yield encoded, file


def _identified(file: io.BufferedReader, max_megapixels: float) -> Image.Image:
  try:
    encoded = Image.open(file, formats=FORMATS)
  except Image.DecompressionBombError as error:
    raise RejectedError(f'over {max_megapixels:g} megapixels') from error
  except Image.UnidentifiedImageError as error:
    raise RejectedError(_unidentified(file)) from error
  except Exception as error:  # Malformed files make Pillow raise nearly anything, struct.error and KeyError included.
    raise RejectedError(f'cannot be decoded: {error or type(error).__name__}') from error
  if encoded.width * encoded.height > max_megapixels * 1e6:
    raise RejectedError(f'{encoded.width} x {encoded.height} pixels: over {max_megapixels:g} megapixels')
  return encoded


def _unidentified(file: io.BufferedReader) -> str:
  file.seek(0)
  start = file.read(12)
  if not start:
    return 'empty file'
  if start[4:].startswith(_HEIC):
    return 'HEIC, which Pillow alone cannot read: convert it to JPEG'
  return 'not a picture in a known format'


def _original(encoded: Image.Image, file: io.BufferedReader) -> tuple[Image.Image, bool]:
  """The picture as displayed, and whether the file is an RGB JPEG that shows just that."""
  try:
    encoded.load()
    profile = _foreign_profile(encoded)
    clean = profile is None and _is_clean_jpeg(encoded, file)
    return _displayed(encoded, profile), clean
  except RejectedError:
    raise
  except Exception as error:  # As above.
    raise RejectedError(f'cannot be decoded: {error or type(error).__name__}') from error


def _picture(encoded: Image.Image, file: io.BufferedReader, short_side: int) -> Picture:
  original, clean = _original(encoded, file)
  if short_side and min(original.size) > short_side:
    return Picture(encode_jpeg(shrink(original, short_side)), original)
  if clean:
    file.seek(0)
    if _tensorflow_decodes(data := file.read()):
      return Picture(data, original)
  return Picture(encode_jpeg(original), original)


def _displayed(encoded: Image.Image, profile: ImageCms.ImageCmsProfile | None) -> Image.Image:
  """First frame, upright, RGB; transparency becomes white. Copies no pixels of an upright RGB picture."""
  if encoded.mode == 'F':
    raise RejectedError('floating-point pixels, whose range the file does not say: save it with 8 bits a channel')
  ImageOps.exif_transpose(encoded, in_place=True)
  upright = encoded
  if upright.mode.startswith('I'):
    # Pillow clips 16-bit grey to 255 instead of scaling it.
    upright = Image.fromarray((np.asarray(upright).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8))
  if upright.has_transparency_data:
    rgba = upright.convert('RGBA')
    upright = Image.alpha_composite(Image.new('RGBA', rgba.size, 'white'), rgba).convert('RGB')
  if upright.mode == 'P':
    upright = upright.convert('RGB')
  if profile:
    # A profile that is damaged, or made for another mode, says nothing: the colours stay as they are.
    with contextlib.suppress(ImageCms.PyCMSError):
      upright = ImageCms.profileToProfile(upright, profile, ImageCms.createProfile('sRGB'), outputMode='RGB')
  return upright if upright.mode == 'RGB' else upright.convert('RGB')


def _foreign_profile(encoded: Image.Image) -> ImageCms.ImageCmsProfile | None:
  """The picture's colour profile, if it can be read and is not sRGB: a wide gamut, or a printer's CMYK."""
  data = encoded.info.get('icc_profile')
  try:
    profile = ImageCms.ImageCmsProfile(io.BytesIO(data)) if data else None
    return profile if profile and 'sRGB' not in ImageCms.getProfileDescription(profile) else None
  except (ImageCms.PyCMSError, OSError):
    return None


def _tensorflow_decodes(jpeg: bytes) -> bool:
  """Whether training's decoder takes the bytes as they are: of damaged JPEGs, it refuses some that Pillow reads."""
  import tensorflow as tf

  try:
    tf.io.decode_jpeg(jpeg)
  except tf.errors.InvalidArgumentError:
    return False
  return True


def _is_clean_jpeg(encoded: Image.Image, file: io.BufferedReader) -> bool:
  file.seek(-len(_JPEG_END), os.SEEK_END)
  return (
      file.read() == _JPEG_END and encoded.format == 'JPEG' and encoded.mode == 'RGB' and
      'progressive' not in encoded.info and encoded.getexif().get(0x0112, 1) == 1  # EXIF orientation: 1 is upright.
  )
