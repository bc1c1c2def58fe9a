"""Opens and checks an image once, when records are built, so that training only meets clean RGB JPEGs."""

from collections.abc import Iterator
import contextlib
import io
import os
import pathlib
import threading
from typing import BinaryIO, NamedTuple
import warnings

import numpy as np
from PIL import Image, ImageCms, ImageOps

from data_pipelines import storage

MAX_MEGAPIXELS = 64
JPEG_QUALITY = 95

# What is opened, whatever the file is called. Other formats (EPS, PDF...) may start other programs.
_PILLOW_FORMATS = ('JPEG', 'PNG', 'GIF', 'WEBP', 'BMP', 'TIFF', 'AVIF', 'PPM')
SUFFIXES = ('.jpg', '.jpeg', '.jfif', '.png', '.gif', '.webp', '.bmp', '.tif', '.tiff', '.avif', '.heic')
"""Endings of image file names, including formats that cannot be opened."""
_JPEG_END = b'\xff\xd9'
_HEIC = (b'ftyphei', b'ftyphev', b'ftypmif1', b'ftypmsf1')
_EXIF_ORIENTATION, _UPRIGHT = 0x0112, 1

# A decoded pixel takes four bytes, and some conversions need it two or three times: images over 16 megapixels are
# taken one at a time, whatever the number of threads.
_LARGE = 16_000_000
_ONE_LARGE = threading.Lock()

Image.init()  # Registers all formats once; Image.open alone knows only the most frequent ones at first.
warnings.filterwarnings('ignore', module=r'PIL\.')  # They name no file; what matters becomes a RejectedError.


class RejectedError(Exception):
  """An image that cannot become a record; the message is the reason, for rejects.csv."""


class CheckedImage(NamedTuple):
  """An image that passed every check.

  original: the image as displayed, mode RGB, sRGB colours, at its original size; file: the open file; clean: whether
  that is a complete, upright baseline RGB JPEG of just these pixels.
  """

  original: Image.Image
  file: BinaryIO
  clean: bool

  def jpeg(self, short_side: int) -> bytes:
    """The image as an RGB JPEG, its short side at most `short_side` pixels; 0 keeps the original size.

    A file that is clean and small enough is kept byte for byte; everything else is encoded again.
    """
    if short_side and min(self.original.size) > short_side:
      return encode_jpeg(shrink(self.original, short_side))
    stored = _decodable_jpeg(self.file) if self.clean else None
    return stored or encode_jpeg(self.original)


def is_image(path: pathlib.Path) -> bool:
  """Whether a file has an image's suffix or, since names from the web may end in anything, an image's first bytes."""
  if path.suffix.lower() in SUFFIXES:
    return True
  if not path.is_file():  # Opening a pipe never ends.
    return False
  try:
    Image.open(path, formats=_PILLOW_FORMATS).close()
  except Exception:  # Malformed files make Pillow raise nearly anything.
    return False
  return True


@contextlib.contextmanager
def open_image(path: pathlib.Path, max_megapixels: float = MAX_MEGAPIXELS) -> Iterator[CheckedImage]:
  """Reads and checks one image. Of images over 16 megapixels, only one is in use at a time, over all threads.

  It is turned upright, laid on white where transparent, and converted to RGB (to sRGB if a profile defines its
  colours). Of several frames, the first is taken.

  Args:
    path: the file, of any of the usual formats and under any name.
    max_megapixels: limit of the size in the file's header, above which nothing is decoded; at most 178, Pillow's own.

  Raises:
    RejectedError: missing, empty, too many pixels, truncated, or nothing that Pillow can decode.
  """
  if path.is_fifo():
    raise RejectedError('cannot be read: a pipe, which has no end')
  try:
    file = storage.open_local(path)
  except OSError as error:
    raise RejectedError(f'cannot be read: {error.strerror}') from error
  with file:
    encoded = _identified(file, max_megapixels)
    with _ONE_LARGE if encoded.width * encoded.height > _LARGE else contextlib.nullcontext():
      try:
        encoded.load()
        profile = _foreign_profile(encoded)
        clean = profile is None and _is_clean_jpeg(encoded, file)
        original = _displayed(encoded, profile)
      except RejectedError:
        raise
      except Exception as error:  # Malformed files make Pillow raise nearly anything.
        raise RejectedError(f'cannot be decoded: {error or type(error).__name__}') from error
      yield CheckedImage(original, file, clean)


def shrink(image: Image.Image, short_side: int) -> Image.Image:
  """The image with its short side at most `short_side` pixels; smaller ones are returned as they are."""
  scale = short_side / min(image.size)
  if scale >= 1:
    return image
  width, height = (max(1, round(side * scale)) for side in image.size)
  return image.resize((width, height), Image.Resampling.BICUBIC)


def evaluation_view(image: Image.Image, size: int) -> np.ndarray:
  """Short side to round(size * 256 / 224), then the central uint8 (size, size, 3): `augment.evaluation_view` in Pillow.

  Only what the crop needs is resized. Pillow rounds between the two axes, so single pixels differ by 1.
  """
  sides_2 = np.array(image.size)
  resized_2 = np.round(sides_2 * (round(size * 256 / 224) / sides_2.min()))
  corner_2 = (resized_2 - size) // 2
  left, top, right, bottom = np.concatenate([corner_2, corner_2 + size]) * np.tile(sides_2 / resized_2, 2)
  return np.asarray(image.resize((size, size), Image.Resampling.BICUBIC, box=(left, top, right, bottom)))


def encode_jpeg(image: Image.Image) -> bytes:
  """JPEG bytes of an RGB image, quality 95."""
  buffer = io.BytesIO()
  image.save(buffer, 'JPEG', quality=JPEG_QUALITY)
  return buffer.getvalue()


def _identified(file: BinaryIO, max_megapixels: float) -> Image.Image:
  """The image with its header read and nothing decoded yet."""
  try:
    encoded = Image.open(file, formats=_PILLOW_FORMATS)
  except Image.DecompressionBombError as error:
    raise RejectedError(f'over {max_megapixels:g} megapixels') from error
  except Image.UnidentifiedImageError as error:
    raise RejectedError(_unidentified(file)) from error
  except Exception as error:  # As above; struct.error and KeyError are among them.
    raise RejectedError(f'cannot be decoded: {error or type(error).__name__}') from error
  if encoded.width * encoded.height > max_megapixels * 1e6:
    raise RejectedError(f'{encoded.width} x {encoded.height} pixels: over {max_megapixels:g} megapixels')
  return encoded


def _unidentified(file: BinaryIO) -> str:
  """Why Pillow recognises no image."""
  file.seek(0)
  start = file.read(12)
  if not start:
    return 'empty file'
  if start[4:].startswith(_HEIC):
    return 'HEIC, which Pillow alone cannot read: convert it to JPEG'
  return 'not an image in a known format'


def _displayed(encoded: Image.Image, profile: ImageCms.ImageCmsProfile | None) -> Image.Image:
  """First frame, upright, RGB; transparency becomes white. Copies no pixels of an upright RGB image."""
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
    # A profile that is damaged, or made for another mode, is ignored: the colours stay as they are.
    with contextlib.suppress(ImageCms.PyCMSError):
      srgb = ImageCms.createProfile('sRGB')
      upright = ImageCms.profileToProfile(upright, profile, srgb, outputMode='RGB') or upright
  return upright if upright.mode == 'RGB' else upright.convert('RGB')


def _foreign_profile(encoded: Image.Image) -> ImageCms.ImageCmsProfile | None:
  """The image's colour profile, if it can be read and is not sRGB: a wide gamut, or a printer's CMYK."""
  data = encoded.info.get('icc_profile')
  try:
    profile = ImageCms.ImageCmsProfile(io.BytesIO(data)) if data else None
    return profile if profile and 'sRGB' not in ImageCms.getProfileDescription(profile) else None
  except (ImageCms.PyCMSError, OSError):
    return None


def _is_clean_jpeg(encoded: Image.Image, file: BinaryIO) -> bool:
  """Whether the file is a complete, upright baseline RGB JPEG."""
  file.seek(-len(_JPEG_END), os.SEEK_END)
  return (
      file.read() == _JPEG_END and encoded.format == 'JPEG' and encoded.mode == 'RGB' and
      'progressive' not in encoded.info and encoded.getexif().get(_EXIF_ORIENTATION, _UPRIGHT) == _UPRIGHT)


def _decodable_jpeg(file: BinaryIO) -> bytes | None:
  """The file's bytes, unless training's decoder refuses them: of damaged JPEGs, Pillow reads some that it does not."""
  import tensorflow as tf

  file.seek(0)
  jpeg = file.read()
  try:
    tf.io.decode_jpeg(jpeg)
  except tf.errors.InvalidArgumentError:
    return None
  return jpeg
