"""Opens and checks an image, for records and predictions alike: training only meets clean RGB JPEGs.

What an image shows is decided here alone (docs/predict.md, What an image shows): its pixels count, and metadata that
cannot be read is dropped. So is the view that models are evaluated on, which is torchvision's to the pixel.
"""

from collections.abc import Iterator
import contextlib
import hashlib
import io
import os
import pathlib
import sys
import threading
from typing import BinaryIO, NamedTuple
import warnings

import numpy as np
import pi_heif
from PIL import Image, ImageFile

from data_pipelines import storage
from data_pipelines.image_bytes import jpeg, orientation, png, tiff

MAX_MEGAPIXELS = 64
JPEG_QUALITY = 95
UNREADABLE_METADATA = 'images read without their damaged metadata'
MISSING_END = 'JPEGs read without an end marker'

# What is opened, whatever the file is called. Other formats (EPS, PDF...) may start other programs.
_PILLOW_FORMATS = ('JPEG', 'PNG', 'GIF', 'WEBP', 'BMP', 'TIFF', 'AVIF', 'HEIF', 'PPM')
SUFFIXES = (
    '.jpg', '.jpeg', '.jfif', '.png', '.gif', '.webp', '.bmp', '.tif', '.tiff', '.avif', '.heic', '.heif', '.hif')
"""Endings of image file names."""
_HEIC = (b'ftyphei', b'ftyphev', b'ftypmif1', b'ftypmsf1')
_DEPTHS = (8, 10, 12, 16)
"""Bits of a grey or colour value that files of 16 bits hold; cameras and scanners leave the upper ones empty."""

# A decoded pixel takes four bytes, and some conversions need it two or three times: images over 16 megapixels are
# taken one at a time, whatever the number of threads.
_LARGE = 16_000_000
_ONE_LARGE = threading.Lock()

Image.init()  # Registers all formats once; Image.open alone knows only the most frequent ones at first.
# HEIC and HEIF. Images are read by several threads already.
pi_heif.register_heif_opener(thumbnails=False, depth_images=False, aux_images=False, decode_threads=1)
warnings.filterwarnings('ignore', module=r'PIL\.')  # They name no file; what matters becomes a RejectedError.


class RejectedError(Exception):
  """An image that cannot become a record; the message is the reason, for rejects.csv."""


class CheckedImage(NamedTuple):
  """An image that passed every check.

  original: the image as displayed, mode RGB, at its original size; file: the open file; clean: whether that is a
  complete, upright baseline RGB JPEG of just these pixels; repair: what the file had to be read without, else empty.
  """

  original: Image.Image
  file: BinaryIO
  clean: bool
  repair: str = ''

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
  except OSError:  # In no known format, or not to be read.
    return False
  except Exception:  # Of a malformed image, Pillow raises nearly anything.
    return True
  return True


@contextlib.contextmanager
def open_image(path: pathlib.Path, max_megapixels: float = MAX_MEGAPIXELS) -> Iterator[CheckedImage]:
  """Reads and checks one image. Of images over 16 megapixels, only one is in use at a time, over all threads.

  It is turned upright, laid on white where transparent, and converted to RGB. Of several frames, the first is taken.
  Colour profiles are not applied: torchvision does not, nor did those who made the weights that students start from.

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
  with _opened(file, max_megapixels) as checked:
    yield checked


@contextlib.contextmanager
def open_bytes(content: bytes, max_megapixels: float = MAX_MEGAPIXELS) -> Iterator[CheckedImage]:
  """As `open_image`, for an image that is in memory."""
  with _opened(io.BytesIO(content), max_megapixels) as checked:
    yield checked


@contextlib.contextmanager
def _opened(file: BinaryIO, max_megapixels: float) -> Iterator[CheckedImage]:
  with file, contextlib.ExitStack() as stack:
    try:
      checked = _checked(file, max_megapixels, stack)
    except _DamagedError:
      stack.close()
      repaired, repair = _repaired(file, max_megapixels)
      if not repair:
        raise
      checked = _checked(repaired, max_megapixels, stack)._replace(clean=False, repair=repair)
    yield checked


def shrink(image: Image.Image, short_side: int) -> Image.Image:
  """The image, its short side resized to `short_side` pixels as in `centre_view`; a smaller one as it is."""
  shortest = min(image.size)
  if shortest <= short_side:
    return image
  width, height = (short_side * side // shortest for side in image.size)
  return image.resize((width, height), Image.Resampling.BICUBIC)


def short_side_of(size: int) -> int:
  """The short side, in pixels, that an evaluation view of this size is cut from (docs/method.md, Recipes).

  Above 224 there is no margin, as MAE and the original evaluate.
  """
  return round(size * 256 / 224) if size <= 224 else size


def evaluation_view(image: Image.Image, size: int) -> np.ndarray:
  """The short side resized to `short_side_of(size)`, then the centre cut out, uint8 (size, size, 3)."""
  return centre_view(image, size, short_side_of(size))


def centre_view(
    image: Image.Image, size: int, short_side: int, squash: bool = False, floor: bool = False) -> np.ndarray:
  """The view of torchvision's `Resize(short_side, BICUBIC)` and `CenterCrop(size)`, uint8 (size, size, 3).

  The long side is cut off to whole pixels; half a pixel of margin goes to the even neighbour. Only what the crop needs
  is resized, so memory is bounded whatever the shape of the image.

  Args:
    image: mode RGB.
    size: of the view, pixels.
    short_side: what the short side is resized to, at least `size`.
    squash: resize both sides to `short_side`.
    floor: half a pixel of margin is cut off, as in transformers.
  """
  sides_2 = np.array(image.size)
  resized_2 = np.full(2, short_side) if squash else short_side * sides_2 // sides_2.min()
  half_2 = (resized_2 - size) / 2
  step_2 = sides_2 / resized_2
  start_2 = (np.floor(half_2) if floor else np.round(half_2)) * step_2
  # Pillow counts in float32, which is too coarse for long images: what the filter reaches is cut out first.
  reach_2 = np.ceil(2 * np.maximum(step_2, 1))
  first_2 = np.maximum(np.floor(start_2) - reach_2, 0)
  last_2 = np.minimum(np.ceil(start_2 + size * step_2) + reach_2, sides_2)
  window = image.crop((int(first_2[0]), int(first_2[1]), int(last_2[0]), int(last_2[1])))
  (left, top), (right, bottom) = start_2 - first_2, start_2 - first_2 + size * step_2
  return np.asarray(window.resize((size, size), Image.Resampling.BICUBIC, box=(left, top, right, bottom)))


def encode_jpeg(image: Image.Image) -> bytes:
  """JPEG bytes of an RGB image, quality 95."""
  buffer = io.BytesIO()
  image.save(buffer, 'JPEG', quality=JPEG_QUALITY)
  return buffer.getvalue()


class _DamagedError(RejectedError):
  """Pillow cannot decode it; without its metadata it may."""


def _checked(file: BinaryIO, max_megapixels: float, stack: contextlib.ExitStack) -> CheckedImage:
  """Decodes the file; `stack` releases what a large image occupies."""
  encoded = _identified(file, max_megapixels)
  if encoded.width * encoded.height > _LARGE:
    stack.enter_context(_ONE_LARGE)
  try:
    if before := encoded.format == 'TIFF':
      _leave_unturned(encoded)
      turn, repair = _turn(encoded)  # Afterwards Pillow has let go of the file.
    raw_mode = _raw_mode(encoded)
    encoded.load()
    if not before:  # Of a PNG, metadata may follow the pixels.
      turn, repair = _turn(encoded)
    clean = not repair and turn is None and _is_clean_jpeg(encoded, file)
    return CheckedImage(_displayed(_eight_bits(encoded, raw_mode, turn, file)), file, clean, repair)
  except RejectedError:
    raise
  except Exception as error:  # Malformed files make Pillow raise nearly anything.
    raise _DamagedError(f'cannot be decoded: {error or type(error).__name__}') from error


def _identified(file: BinaryIO, max_megapixels: float) -> ImageFile.ImageFile:
  """The image with its header read and nothing decoded yet."""
  file.seek(0)
  try:
    encoded = Image.open(file, formats=_PILLOW_FORMATS)
  except Image.DecompressionBombError as error:
    raise RejectedError(_too_large(max_megapixels)) from error
  except Image.UnidentifiedImageError as error:
    raise _DamagedError(_unidentified(file)) from error
  except Exception as error:  # As above; struct.error and KeyError are among them.
    raise _DamagedError(f'cannot be decoded: {error or type(error).__name__}') from error
  if encoded.width * encoded.height > max_megapixels * 1e6:
    raise RejectedError(f'{encoded.width} x {encoded.height} pixels: {_too_large(max_megapixels)}')
  return encoded


def _too_large(max_megapixels: float) -> str:
  return f'over {max_megapixels:g} megapixels (build and predict take --max_megapixels)'


def _unidentified(file: BinaryIO) -> str:
  """Why Pillow recognises no image."""
  file.seek(0)
  start = file.read(12)
  if not start:
    return 'empty file'
  if start[4:].startswith(_HEIC):
    return 'cannot be decoded: HEIC that is damaged, truncated, or of an unknown kind'
  return 'not an image in a known format'


def _leave_unturned(encoded: ImageFile.ImageFile) -> None:
  """Without what Pillow does after the pixels of a TIFF: it reads more metadata, and turns the image."""
  encoded.load_end = lambda: None  # type: ignore[method-assign]


def _turn(encoded: ImageFile.ImageFile) -> tuple[Image.Transpose | None, str]:
  """What makes it upright, and what cannot be read about that."""
  if encoded.format == 'HEIF':  # libheif turns it by the file's own word, beside which EXIF's does not count.
    return None, ''
  try:
    return orientation.TURNS.get(encoded.getexif().get(orientation.TAG, 1)), ''
  except Exception:  # As above.
    return None, UNREADABLE_METADATA


def _raw_mode(encoded: ImageFile.ImageFile) -> str:
  """How the file holds a pixel, in Pillow's words, such as 'RGB;16B'; empty where Pillow does not say."""
  parts = encoded.tile[0].args if encoded.tile else ''
  first = parts[0] if isinstance(parts, tuple) and parts else parts
  return first if isinstance(first, str) else ''


def _eight_bits(
    encoded: ImageFile.ImageFile, raw_mode: str, turn: Image.Transpose | None, file: BinaryIO) -> Image.Image:
  """Upright, and values of more than 8 bits shrunk by the depth that the largest of them needs.

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
    _leave_unturned(again)
  # The lower byte is what the other byte order takes for the upper one.
  order = raw_mode[-1].replace('N', 'L' if sys.byteorder == 'little' else 'B')
  mode = raw_mode[:-1] + ('B' if order == 'L' else 'L')
  again.tile = [
      tile._replace(args=(mode, *tile.args[1:]) if isinstance(tile.args, tuple) else mode) for tile in again.tile]
  again.load()
  values = upper.astype(np.uint16) << 8 | np.asarray(again if turn is None else again.transpose(turn))
  return Image.fromarray(np.concatenate([_shifted(values[..., :3]), _shifted(values[..., 3:])], axis=2))


def _shifted(values: np.ndarray) -> np.ndarray:
  largest = int(values.max(initial=0))
  depth = next((depth for depth in _DEPTHS if largest < 1 << depth), largest.bit_length())
  return (values >> depth - 8).clip(0, 255).astype(np.uint8)


def _displayed(upright: Image.Image) -> Image.Image:
  """First frame, RGB; transparency becomes white. Copies no pixels of an RGB image."""
  if upright.mode == 'F':
    raise RejectedError('floating-point pixels, whose range the file does not say: save it with 8 bits a channel')
  if upright.has_transparency_data:
    rgba = upright.convert('RGBA')
    upright = Image.alpha_composite(Image.new('RGBA', rgba.size, 'white'), rgba)
  return upright if upright.mode == 'RGB' else upright.convert('RGB')


def _is_clean_jpeg(encoded: ImageFile.ImageFile, file: BinaryIO) -> bool:
  """Whether the file is a complete baseline RGB JPEG."""
  file.seek(-len(jpeg.END), os.SEEK_END)
  return (
      file.read() == jpeg.END and encoded.format == 'JPEG' and encoded.mode == 'RGB' and
      'progressive' not in encoded.info)


def _decodable_jpeg(file: BinaryIO) -> bytes | None:
  """The file's bytes, unless training's decoder refuses them: of damaged JPEGs, Pillow reads some that it does not."""
  import tensorflow as tf

  file.seek(0)
  data = file.read()
  try:
    tf.io.decode_jpeg(data)
  except tf.errors.InvalidArgumentError:
    return None
  return data


def _repaired(file: BinaryIO, max_megapixels: float) -> tuple[BinaryIO, str]:
  """The file without its metadata and with its end, as far as they may be what is damaged; and which of the two it was.

  Only the orientation is kept, if it can be read. An empty text means that there is nothing to try.
  """
  file.seek(0)
  start = file.read(len(png.START))
  file.seek(0)
  if start == png.START:
    return io.BytesIO(png.bare_png(file.read())), UNREADABLE_METADATA
  if start.startswith(jpeg.START):
    bare = jpeg.bare_jpeg(file.read())
    complete = _with_end(bare, max_megapixels)
    return io.BytesIO(complete), UNREADABLE_METADATA if complete == bare else MISSING_END
  if start[:4] in tiff.START:
    return io.BytesIO(tiff.bare_tiff(file.read())), UNREADABLE_METADATA
  return file, ''


def _with_end(data: bytes, max_megapixels: float) -> bytes:
  """The JPEG with its end marker, if that alone is missing: then what follows the last pixel changes none of them."""
  if not jpeg.may_lack_end_alone(data):
    return data
  whole = data.removesuffix(b'\xff')
  shown = []
  for following in (b'\x55' * 99, b'\xaa' * 99):  # They differ from the first bit on.
    with contextlib.ExitStack() as stack, contextlib.suppress(RejectedError):
      checked = _checked(io.BytesIO(whole + following + jpeg.END), max_megapixels, stack)
      shown.append(hashlib.sha256(checked.original.tobytes()).digest())
  return whole + jpeg.END if len(shown) == 2 and shown[0] == shown[1] else data
