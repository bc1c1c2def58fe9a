"""Opens and checks an image, for records and predictions alike: training only meets clean RGB JPEGs.

What an image shows is decided here alone (docs/predict.md, What an image shows): its pixels count, and metadata that
cannot be read is dropped. The view that models are evaluated on is made here too; it is torchvision's to the pixel.
"""

from collections.abc import Iterator
import contextlib
import hashlib
import io
import os
import pathlib
import threading
from typing import Any, BinaryIO, NamedTuple
import warnings

import numpy as np
import pi_heif
from PIL import Image, ImageFile

from data_pipelines import storage
from data_pipelines.image_bytes import depth, jpeg, orientation, png, tiff

MAX_MEGAPIXELS = 64
JPEG_QUALITY = 95
UNREADABLE_METADATA = 'images read without their damaged metadata'
RAISES_LIMIT = 'build and predict take --max_megapixels'
MISSING_END = 'JPEGs read without an end marker'

# What is opened, whatever the file is called. Other formats (EPS, PDF...) may start other programs.
_PILLOW_FORMATS = ('JPEG', 'PNG', 'GIF', 'WEBP', 'BMP', 'TIFF', 'AVIF', 'HEIF', 'PPM')
SUFFIXES = (
    '.jpg', '.jpeg', '.jfif', '.png', '.gif', '.webp', '.bmp', '.tif', '.tiff', '.avif', '.heic', '.heif', '.hif')
"""The endings of image file names."""
_ANIMATED = ('GIF', 'PNG', 'WEBP', 'AVIF')
_HEIC = (b'ftyphei', b'ftyphev', b'ftypmif1', b'ftypmsf1')

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

  original: the image as displayed, mode RGB, at its original size. file: the open file. clean: whether that is a
  complete, upright baseline RGB JPEG of just these pixels. repair: what the file was read without, else empty.
  animated: whether `animation_frames` gives more than the first frame.
  """

  original: Image.Image
  file: BinaryIO
  clean: bool
  repair: str = ''
  animated: bool = False

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
    max_megapixels: the size in the file's header above which nothing is decoded; at most 178, Pillow's own limit.

  Raises:
    RejectedError: the file is missing, empty, truncated, too large, or nothing that Pillow can decode.
  """
  with _opened(_file(path), max_megapixels) as checked:
    yield checked


def _file(path: pathlib.Path) -> BinaryIO:
  if path.is_fifo():
    raise RejectedError('cannot be read: a pipe, which has no end')
  try:
    return storage.open_local(path)
  except OSError as error:
    raise RejectedError(f'cannot be read: {error.strerror}') from error


@contextlib.contextmanager
def open_bytes(content: bytes, max_megapixels: float = MAX_MEGAPIXELS) -> Iterator[CheckedImage]:
  """Reads and checks an image in memory, as `open_image` does."""
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


def animation_frames(source: pathlib.Path | bytes,
                     max_megapixels: float = MAX_MEGAPIXELS) -> Iterator[tuple[float, Image.Image]]:
  """Decodes an animated GIF, PNG, WebP or AVIF frame by frame.

  Yields:
    Seconds from the start to a millisecond, and the frame as `open_image` shows it, which lasts until the next one is
    asked for. A frame of 10 ms or less counts as 100 ms, as in browsers.

  Raises:
    RejectedError: as `open_image`; also after some frames, if a later one is damaged.
  """
  milliseconds = 0.0
  with io.BytesIO(source) if isinstance(source, bytes) else _file(source) as file:
    encoded: Any = _identified(file, max_megapixels)
    try:
      # A PNG may begin with an image for programs that know no animations.
      for number in range(int(bool(encoded.info.get('default_image'))), encoded.n_frames):
        encoded.seek(number)
        encoded.load()
        turn, _ = _turn(encoded)
        yield round(milliseconds / 1000, 3), _displayed(encoded if turn is None else encoded.transpose(turn))
        duration = encoded.info.get('duration') or 0
        milliseconds += duration if duration > 10 else 100
    except Exception as error:  # Malformed files make Pillow raise nearly anything.
      raise RejectedError(f'cannot be decoded: {error or type(error).__name__}') from error


def shrink(image: Image.Image, short_side: int) -> Image.Image:
  """Resizes the short side to `short_side` pixels as in `centre_view`; a smaller image stays as it is."""
  shortest = min(image.size)
  if shortest <= short_side:
    return image
  width, height = (short_side * side // shortest for side in image.size)
  return image.resize((width, height), Image.Resampling.BICUBIC)


def short_side_of(size: int) -> int:
  """The short side, in pixels, of the image from which an evaluation view is cut (docs/method.md, Recipes).

  Above 224 there is no margin, as MAE and the original evaluate.
  """
  return round(size * 256 / 224) if size <= 224 else size


def evaluation_view(image: Image.Image, size: int) -> np.ndarray:
  """Resizes the short side to `short_side_of(size)`, then cuts out the centre, uint8 (size, size, 3)."""
  return centre_view(image, size, short_side_of(size))


def centre_view(
    image: Image.Image, size: int, short_side: int, squash: bool = False, floor: bool = False,
    resample: int = Image.Resampling.BICUBIC) -> np.ndarray:
  """Makes the view of torchvision's `Resize(short_side, resample)` and `CenterCrop(size)`, uint8 (size, size, 3).

  The long side is cut off to whole pixels; half a pixel of margin goes to the even neighbour. Only what the crop needs
  is resized, so memory is bounded whatever the shape of the image.

  Args:
    image: mode RGB.
    size: the side of the view, pixels.
    short_side: the pixels to which the short side is resized, at least `size`.
    squash: whether to resize both sides to `short_side`.
    floor: whether half a pixel of margin is cut off, as in transformers.
    resample: Pillow's BICUBIC or BILINEAR.
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
  return np.asarray(window.resize((size, size), Image.Resampling(resample), box=(left, top, right, bottom)))


def encode_jpeg(image: Image.Image) -> bytes:
  """Encodes an RGB image as JPEG, quality 95."""
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
      depth.leave_unturned(encoded)
      turn, repair = _turn(encoded)  # Afterwards Pillow has let go of the file.
    raw_mode = depth.raw_mode(encoded)
    animated = _is_animated(encoded)
    encoded.load()
    if not before:  # Of a PNG, metadata may follow the pixels.
      turn, repair = _turn(encoded)
    clean = not repair and turn is None and _is_clean_jpeg(encoded, file)
    return CheckedImage(_displayed(depth.eight_bits(encoded, raw_mode, turn, file)), file, clean, repair, animated)
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
  check_size(encoded.width, encoded.height, max_megapixels)
  return encoded


def check_size(width: int, height: int, max_megapixels: float) -> None:
  """Raises RejectedError if an image of this size is over the limit."""
  if width * height > max_megapixels * 1e6:
    raise RejectedError(f'{width} x {height} pixels: {_too_large(max_megapixels)}')


def _too_large(max_megapixels: float) -> str:
  return f'over {max_megapixels:g} megapixels ({RAISES_LIMIT})'


def _unidentified(file: BinaryIO) -> str:
  """Why Pillow recognises no image."""
  file.seek(0)
  start = file.read(12)
  if not start:
    return 'empty file'
  if start[4:].startswith(_HEIC):
    return 'cannot be decoded: HEIC that is damaged, truncated, or of an unknown kind'
  return 'not an image in a known format'


def _turn(encoded: ImageFile.ImageFile) -> tuple[Image.Transpose | None, str]:
  """What makes it upright, and what cannot be read about that."""
  if encoded.format == 'HEIF':  # libheif turns it by the file's own word, beside which EXIF's does not count.
    return None, ''
  try:
    return orientation.TURNS.get(encoded.getexif().get(orientation.TAG, 1)), ''
  except Exception:  # As above.
    return None, UNREADABLE_METADATA


def _is_animated(encoded: ImageFile.ImageFile) -> bool:
  """Whether its frames follow each other in time; pages of a TIFF do not. To be asked before the pixels are decoded."""
  try:
    return encoded.format in _ANIMATED and bool(getattr(encoded, 'is_animated', False))
  except Exception:  # As above.
    return False


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
  from data_pipelines.light_tensorflow import tf

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
