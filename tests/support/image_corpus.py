"""One file for each kind of trouble that real folders hold: what can be read, and what cannot, and why."""

import io
import struct
import zlib

import numpy as np
from PIL import Image, ImageCms

WIDTH, HEIGHT = 120, 80
RED, BLUE = (220, 30, 20), (20, 30, 220)


def _photo(width=WIDTH, height=HEIGHT) -> Image.Image:
  """The left half is red, the right half blue."""
  picture = Image.new('RGB', (width, height), RED)
  picture.paste(BLUE, (width // 2, 0, width, height))
  return picture


def _noise() -> Image.Image:
  """Fills a file, so that there is something to cut off."""
  return Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8))


def _saved(picture: Image.Image, file_format: str, **options) -> bytes:
  buffer = io.BytesIO()
  picture.save(buffer, file_format, **options)
  return buffer.getvalue()


def _chunk(kind: bytes, data: bytes) -> bytes:
  return struct.pack('>I', len(data)) + kind + data + struct.pack('>I', zlib.crc32(kind + data))


def _png(header: bytes, *chunks: bytes) -> bytes:
  return b'\x89PNG\r\n\x1a\n' + _chunk(b'IHDR', header) + b''.join(chunks) + _chunk(b'IEND', b'')


def _png_header(width, height, depth=8, colours=2) -> bytes:
  return struct.pack('>IIBBBBB', width, height, depth, colours, 0, 0, 0)


def _deep_png() -> bytes:
  rows = (np.asarray(_photo()).astype('>u2') * 257).reshape(HEIGHT, -1)
  data = b''.join(b'\0' + row.tobytes() for row in rows)
  return _png(_png_header(WIDTH, HEIGHT, depth=16), _chunk(b'IDAT', zlib.compress(data)))


def _turned() -> bytes:
  exif = Image.Exif()
  exif[0x0112] = 6
  return _saved(_photo().transpose(Image.Transpose.ROTATE_90), 'JPEG', exif=exif)


def _swapped_channels() -> tuple[Image.Image, bytes]:
  """A picture whose profile names the primaries in another order, as a stand-in for a wide gamut: blue is red in it."""
  srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile('sRGB')).tobytes()
  profile = bytearray(srgb.replace(b's\0R\0G\0B', b'o\0w\0n\0s'))  # Its name, in UTF-16.
  red, blue = profile.index(b'rXYZ'), profile.index(b'bXYZ')
  profile[red:red + 4], profile[blue:blue + 4] = b'bXYZ', b'rXYZ'
  return Image.merge('RGB', _photo().split()[::-1]), bytes(profile)


def coloured() -> dict[str, bytes]:
  """Files that all show the photo in its colours."""
  photo = _photo()
  clear = photo.convert('RGBA')
  other, profile = _swapped_channels()
  masked = photo.quantize(8)
  return {
      'baseline.jpg': _saved(photo, 'JPEG'), 'progressive.jpg': _saved(photo, 'JPEG', progressive=True),
      'turned by EXIF.jpg': _turned(), 'damaged EXIF.jpg': _saved(photo, 'JPEG', exif=b'Exif\0\0II*\0\xff\xff\xff\xff'),
      'garbage after the end.jpg': _saved(photo, 'JPEG') + bytes(1000),
      'two pictures.jpg': _saved(photo, 'MPO', save_all=True,
                                 append_images=[photo]), 'cmyk.jpg': _saved(photo.convert('CMYK'), 'JPEG'),
      'no chroma subsampling.jpg': _saved(photo, 'JPEG', subsampling=0), 'other primaries.jpg':
          _saved(other, 'JPEG',
                 icc_profile=profile), 'broken profile.jpg': _saved(photo, 'JPEG', icc_profile=b'nothing'),
      'PNG called.jpg': _saved(photo, 'PNG'), 'no extension': _saved(photo,
                                                                     'PNG'), 'UPPERCASE.PNG': _saved(photo, 'PNG'),
      'Strandcafé ☂, "quoted".png': _saved(photo, 'PNG'), 'sixteen bits.png': _deep_png(),
      'palette.png': _saved(photo.quantize(8),
                            'PNG'), 'palette with one clear colour.png': _saved(masked, 'PNG', transparency=7),
      'rgba.png': _saved(clear, 'PNG'), 'no end.png': _saved(photo, 'PNG')[:-12], 'text inside.png':
          _png(_png_header(WIDTH, HEIGHT), _chunk(b'tEXt', b'a\0b'), _chunk(b'IDAT', _idat(photo))), 'animated.gif':
              _saved(photo, 'GIF', save_all=True,
                     append_images=[_noise().resize(photo.size)]), 'lossy.webp': _saved(photo, 'WEBP'), 'animated.webp':
                         _saved(photo, 'WEBP', save_all=True,
                                append_images=[_noise().resize(photo.size)]), 'plain.bmp': _saved(photo, 'BMP'),
      'lzw.tif': _saved(photo, 'TIFF', compression='tiff_lzw'), 'cmyk.tif': _saved(photo.convert('CMYK'), 'TIFF'),
      'pages.tif': _saved(photo, 'TIFF', save_all=True, append_images=[_noise()]), 'plain.ppm': _saved(photo, 'PPM'),
      'plain.avif': _saved(photo, 'AVIF'), 'large.png': _saved(_photo(6000, 4000),
                                                               'PNG'), 'large.jpg': _saved(_photo(6000, 4000), 'JPEG')}


def _idat(picture: Image.Image) -> bytes:
  return zlib.compress(b''.join(b'\0' + row.tobytes() for row in np.asarray(picture)))


def colourless() -> dict[str, bytes]:
  """Files that cannot show the photo's colours, and are pictures all the same."""
  photo = _photo()
  deep = Image.fromarray(np.full((HEIGHT, WIDTH), 0x8000, np.uint16))
  return {
      'grey.jpg': _saved(photo.convert('L'), 'JPEG'), 'grey sixteen bits.png': _saved(deep, 'PNG'),
      'grey and alpha.png': _saved(photo.convert('LA'), 'PNG'), 'one bit.png': _saved(photo.convert('1'), 'PNG'),
      'one pixel.png': _saved(photo.crop((0, 0, 1, 1)), 'PNG'), 'a line.png': _saved(photo.resize(
          (5000, 1)), 'PNG'), 'all clear.png': _saved(Image.new('RGBA', (30, 30), (0, 0, 0, 0)), 'PNG')}


def unusable() -> dict[str, tuple[bytes, str]]:
  """Files that must be rejected, and a part of the reason."""
  noise = _noise()
  jpeg, png, gif = _saved(noise, 'JPEG'), _saved(noise, 'PNG'), _saved(noise, 'GIF')
  endless = _chunk(b'zTXt', b'a\0\0' + zlib.compress(bytes(2**27), 9))
  damaged = bytearray(png)
  damaged[len(png) // 2] ^= 1
  unknown = 'not an image in a known format'
  return {
      'empty.jpg': (b'', 'empty file'), 'zeros.jpg': (bytes(5000), unknown),
      'web page.jpg': (b'<!DOCTYPE html><title>404</title>', unknown), 'drawing.svg':
          (b'<svg xmlns="http://www.w3.org/2000/svg"/>', unknown), 'paper.pdf': (_saved(noise, 'PDF'), unknown),
      'phone.jpg': (b'\0\0\0\x18ftypheic\0\0\0\0heicmif1' + bytes(500), 'HEIC.*convert it'), 'film.jpg':
          (b'\0\0\0\x18ftypisom\0\0\x02\0isomiso2' + bytes(500), unknown), 'half.jpg':
              (jpeg[:len(jpeg) // 2], 'truncated'), 'no end marker.jpg': (jpeg[:-2], 'truncated'), 'header only.jpg':
                  (jpeg[:100], 'known format|cannot be decoded'), 'half progressive.jpg':
                      (_saved(noise, 'JPEG', progressive=True)[:-900], 'truncated'), 'half.png':
                          (png[:len(png) // 2], 'truncated'), 'damaged.png': (bytes(damaged), 'cannot be decoded'),
      'no size.png': (_png(_png_header(0, 0)), 'known format|cannot be decoded|0 x 0'), 'endless text.png':
          (_png(_png_header(8, 8), endless), 'cannot be decoded|known format'), 'half.gif':
              (gif[:-900], 'truncated'), 'half.webp': (_saved(noise, 'WEBP')[:-900], 'cannot be decoded'), 'half.bmp':
                  (_saved(noise, 'BMP')[:-900], 'truncated'), 'half.tif': (_saved(noise, 'TIFF')[:-900], 'truncated'),
      'half.avif': (_saved(noise, 'AVIF')[:-900], 'known format|cannot be decoded'), 'floating point.tif':
          (_saved(Image.new('F', (9, 9), 0.5), 'TIFF'), 'floating-point'), 'bomb.png':
              (_png(_png_header(10_000, 10_000)), '10000 x 10000 pixels: over 64 megapixels'), 'larger bomb.png':
                  (_png(_png_header(60_000, 60_000)), 'over 64 megapixels'), 'bomb.gif':
                      (gif[:6] + struct.pack('<HH', 60_000, 2_000) + gif[10:], 'over 64 megapixels')}
