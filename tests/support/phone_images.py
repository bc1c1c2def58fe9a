"""HEIC and AVIF, as phones write them, of the corpus: turned by the container, and perhaps by EXIF."""

import functools
import io
from pathlib import Path
import struct

from PIL import Image

HEIC = Path(__file__).parents[1] / 'fixtures' / 'heic'
"""Files of the corpus's photo, and noise.heic. Encoded once by pillow-heif 1.8.1, which tests do without:
`image.save(name, quality=90, exif=block)`; in turned.heic the photo lies on its side, and the block says so."""
_EXIF_6, _EXIF_1 = (b'\x01\x12\0\x03\0\0\0\1\0' + turn for turn in (b'\6', b'\1'))
_ON_ITS_SIDE, _MIRRORED = Image.Transpose.ROTATE_90, Image.Transpose.FLIP_LEFT_RIGHT


@functools.cache
def stored_heic(name: str) -> bytes:
  """One of the files of HEIC."""
  return (HEIC / f'{name}.heic').read_bytes()


def saved_avif(image: Image.Image, orientation: int = 1) -> bytes:
  """Pillow writes the orientation into the container, and not into EXIF."""
  buffer, exif = io.BytesIO(), Image.Exif()
  exif[0x0112] = orientation
  image.save(buffer, 'AVIF', quality=95, exif=exif)
  return buffer.getvalue()


def sized(data: bytes, width: int, height: int) -> bytes:
  """The file, whose header says another size."""
  place = data.index(b'ispe') + 8
  return data[:place] + struct.pack('>II', width, height) + data[place + 8:]


def readable(photo: Image.Image) -> dict[str, bytes]:
  """Files that show the photo."""
  turned = stored_heic('turned')
  assert _EXIF_6 in turned
  return {
      'plain.heic': stored_heic('upright'), 'HEIC called.jpg': stored_heic('upright'),
      'of any brand.heif': stored_heic('upright').replace(b'ftypheic', b'ftypmif1'), 'turned by both.heic': turned,
      'turned, but not by EXIF.heic': turned.replace(_EXIF_6, _EXIF_1), 'rgba.heic': stored_heic('alpha'),
      'damaged EXIF.heic': stored_heic('damaged_exif'), 'turned.avif': saved_avif(photo.transpose(_ON_ITS_SIDE), 6),
      'mirrored.avif': saved_avif(photo.transpose(_MIRRORED), 2)}  # fmt: skip


def unusable_of_phones(too_large: str) -> dict[str, tuple[bytes, str]]:
  """Files that must be rejected, and a part of the reason; `too_large` is that of too many pixels."""
  noise, upright = stored_heic('noise'), stored_heic('upright')
  return {
      'half.heic': (noise[:len(noise) // 2], 'cannot be decoded: .*end of file'),
      'header only.heic': (noise[:99], 'HEIC that is damaged'),
      'bomb.heic': (sized(upright, 10_000, 10_000), f'10000 x 10000 pixels: {too_large}'), 'larger bomb.heic':
          (sized(upright, 60_000,
                 60_000), too_large), 'larger than it says.heic': (sized(upright, 60, 40), 'cannot be decoded: '),
      'bomb.avif': (sized(saved_avif(Image.new('RGB', (64, 64))), 10_000, 10_000), too_large)}  # fmt: skip
