"""One file for each kind of trouble that real folders hold: what can be read, and what cannot, and why."""

import functools
import io
import struct
from typing import Any
import zlib

import numpy as np
from PIL import Image, ImageCms

from tests.support import phone_images

WIDTH, HEIGHT = 120, 80
RED, BLUE = (220, 30, 20), (20, 30, 220)
_TURNED_BACK = {
    2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_90, 7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270}
_UNKNOWN = 'not an image in a known format'
_OR_BROKEN = 'known format|cannot be decoded'

Files = dict[str, bytes]


@functools.cache
def photo(width: int = WIDTH, height: int = HEIGHT) -> Image.Image:
  """Red on the left, blue on the right, and a smooth change between them, which JPEG stores to 2 of 255."""
  share_W = np.clip(np.linspace(-1, 2, width), 0, 1)[:, None]
  pixels_Wx3 = np.round((1 - share_W) * RED + share_W * BLUE).astype(np.uint8)
  return Image.fromarray(np.tile(pixels_Wx3, (height, 1, 1)))


def _noise() -> Image.Image:
  """Fills a file, so that there is something to cut off."""
  return Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8))


def _saved(image: Image.Image, file_format: str, **options: Any) -> bytes:
  buffer = io.BytesIO()
  image.save(buffer, file_format, **options)
  return buffer.getvalue()


def exif(orientation: int, *entries: tuple[int, int, int, bytes], extra: bytes = b'') -> bytes:
  """An Exif block, little-endian: the orientation and further entries (tag, type, count, four bytes), then `extra`.

  `extra` lies at the offset that an entry holds as b'HERE'.
  """
  rows = [(0x0112, 3, 1, struct.pack('<HH', orientation, 0)), *entries]
  here = struct.pack('<I', 8 + 2 + 12 * len(rows) + 4)
  table = b''.join(struct.pack('<HHI', *row[:3]) + (here if row[3] == b'HERE' else row[3]) for row in rows)
  return b'Exif\0\0II*\0\x08\0\0\0' + struct.pack('<H', len(rows)) + table + bytes(4) + extra


def _segment(marker: int, content: bytes) -> bytes:
  return struct.pack('>BBH', 0xff, marker, len(content) + 2) + content


def _with_segments(*segments: bytes, image: Image.Image | None = None, **options: Any) -> bytes:
  """A JPEG with these segments right after its start."""
  jpeg = _saved(image or photo(), 'JPEG', **options)
  return jpeg[:2] + b''.join(segments) + jpeg[2:]


def _chunk(kind: bytes, data: bytes) -> bytes:
  return struct.pack('>I', len(data)) + kind + data + struct.pack('>I', zlib.crc32(kind + data))


def _png(header: bytes, *chunks: bytes) -> bytes:
  return b'\x89PNG\r\n\x1a\n' + _chunk(b'IHDR', header) + b''.join(chunks) + _chunk(b'IEND', b'')


def _png_header(width: int, height: int, depth: int = 8, colours: int = 2, interlaced: int = 0) -> bytes:
  return struct.pack('>IIBBBBB', width, height, depth, colours, 0, 0, interlaced)


def _rows(pixels: np.ndarray) -> bytes:
  return b''.join(b'\0' + row.tobytes() for row in pixels)


def _photo_png(*chunks: bytes, after: bytes = b'', turned: bool = False) -> bytes:
  """The photo as a PNG with chunks before its pixels and after them."""
  image = photo().transpose(Image.Transpose.ROTATE_90) if turned else photo()
  pixels = _chunk(b'IDAT', zlib.compress(_rows(np.asarray(image))))
  return _png(_png_header(*image.size), *chunks, pixels, after)


def _interlaced_png() -> bytes:
  starts = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))
  data = b''.join(_rows(np.asarray(photo())[top::down, left::right]) for top, left, down, right in starts)
  return _png(_png_header(WIDTH, HEIGHT, interlaced=1), _chunk(b'IDAT', zlib.compress(data)))


def _deep(bits: int) -> np.ndarray:
  """The photo in the lower bits of 16."""
  return np.round(np.asarray(photo()) / 255 * (2**bits - 1)).astype(np.uint16)


def _deep_png(bits: int, *chunks: bytes, alpha: bool = False) -> bytes:
  pixels = _deep(bits)
  if alpha:
    pixels = np.concatenate([pixels, np.full((HEIGHT, WIDTH, 1), 2**16 - 1, np.uint16)], axis=2)
  data = _chunk(b'IDAT', zlib.compress(_rows(pixels.astype('>u2').reshape(HEIGHT, -1))))
  return _png(_png_header(WIDTH, HEIGHT, 16, 6 if alpha else 2), *chunks, data)


def _deep_tiff(bits: int, order: str, *, deflated: bool = False, turned: bool = False, strips: int = 1) -> bytes:
  """Colours of 16 bits; `order` is '<' or '>'."""
  pixels = np.rot90(_deep(bits)) if turned else _deep(bits)
  height, width, _ = pixels.shape
  data = [part.astype(f'{order}u2').tobytes() for part in np.split(pixels, strips)]
  data = list(map(zlib.compress, data)) if deflated else data
  after = 8 + 2 + 11 * 12 + 4
  first = after + 6 + 8 * strips
  starts = [first + sum(map(len, data[:strip])) for strip in range(strips)]
  lengths = list(map(len, data))
  entries = [(256, 3, 1, width), (257, 3, 1, height), (258, 3, 3, after), (259, 3, 1, 8 if deflated else 1),
             (262, 3, 1, 2), (273, 4, strips, after + 6 if strips > 1 else starts[0]), (274, 3, 1, 6 if turned else 1),
             (277, 3, 1, 3), (278, 3, 1, height // strips),
             (279, 4, strips, after + 6 + 4 * strips if strips > 1 else lengths[0]), (284, 3, 1, 1)]  # fmt: skip
  table = b''.join(
      struct.pack(f'{order}HHI', *entry[:3]) +
      (struct.pack(f'{order}HH', entry[3], 0) if entry[1:3] == (3, 1) else struct.pack(f'{order}I', entry[3]))
      for entry in entries)
  head = (b'II*\0' if order == '<' else b'MM\0*') + struct.pack(f'{order}I', 8) + struct.pack(f'{order}H', len(entries))
  lists = struct.pack(f'{order}HHH', 16, 16, 16) + struct.pack(f'{order}{2 * strips}I', *starts, *lengths)
  return head + table + bytes(4) + lists + b''.join(data)


def _other_profile() -> bytes:
  """A profile that names the primaries in another order, as a stand-in for a wide gamut: blue is red in it."""
  srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile('sRGB')).tobytes()
  profile = bytearray(srgb.replace(b's\0R\0G\0B', b'o\0w\0n\0s'))  # Its name, in UTF-16.
  red, blue = profile.index(b'rXYZ'), profile.index(b'bXYZ')
  profile[red:red + 4], profile[blue:blue + 4] = b'bXYZ', b'rXYZ'
  return bytes(profile)


def _jpegs() -> Files:
  jpeg = _saved(photo(), 'JPEG')
  return {
      'baseline.jpg': jpeg, 'progressive.jpg': _saved(photo(), 'JPEG', progressive=True),
      'garbage after the end.jpg': jpeg + bytes(1000),
      'two images.jpg': _saved(photo(), 'MPO', save_all=True,
                               append_images=[photo()]), 'cmyk.jpg': _saved(photo().convert('CMYK'), 'JPEG'),
      'no chroma subsampling.jpg': _saved(photo(), 'JPEG', subsampling=0),
      'subsampled in one direction.jpg': _saved(photo(), 'JPEG',
                                                subsampling=1), 'not YCbCr.jpg': _saved(photo(), 'JPEG', keep_rgb=True),
      'restart markers.jpg': _saved(photo(), 'JPEG', restart_marker_blocks=3),
      'quality 100, own tables.jpg': _saved(photo(), 'JPEG', quality=100,
                                            optimize=True), 'no end marker.jpg': jpeg[:-2],
      'half an end marker.jpg': jpeg[:-1], 'zeros for the end marker.jpg': jpeg[:-2] + bytes(500)}  # fmt: skip


def _turned() -> Files:
  """Metadata around an orientation, which must be applied."""

  def turned(image_format: str, **options: Any) -> bytes:
    return _saved(photo().transpose(Image.Transpose.ROTATE_90), image_format, **options)

  def jpeg(block: bytes, *others: bytes) -> bytes:
    return _with_segments(_segment(0xe1, block), *others, image=photo().transpose(Image.Transpose.ROTATE_90))

  xmp = b'<rdf:Description tiff:Orientation="6"/>'
  rational = 0x011a, 10, 1, b'HERE'
  tiff = Image.Exif()
  tiff[0x0112] = 6
  return {
      f'orientation {turn}.jpg': _saved(photo().transpose(back), 'JPEG', exif=exif(turn))
      for turn, back in _TURNED_BACK.items()} | {
          'turned, a rational of -1 over 0.jpg': jpeg(exif(6, rational, extra=struct.pack('<ii', -1, 0))),
          'turned, a rational of 1 over 0.jpg': jpeg(exif(6, (0x011b, 5, 1, b'HERE'), extra=struct.pack('<II', 1, 0))),
          'turned, a block that lies outside.jpg': jpeg(exif(6, (0x8769, 4, 1, b'\xff\xff\xff\x7f'))),
          'turned, a text without end.jpg': jpeg(exif(6, (0x010e, 2, 2**31, b'HERE'))), 'turned, an unknown type.jpg':
              jpeg(exif(6, (0x010f, 99, 1, b'abcd'))), 'turned, cut off.jpg': jpeg(exif(6, rational)[:-6]),
          'turned, EXIF twice.jpg': jpeg(exif(6), _segment(0xe1, b'Exif\0\0MM')), 'turned, broken list of images.jpg':
              jpeg(exif(6), _segment(0xe2, b'MPF\0II*\0\x08\0\0\0\1\0')), 'turned, resolution cut off.jpg':
                  jpeg(exif(6), _segment(0xe0, b'JFIF\0\1')), 'turned by XMP.jpg':
                      jpeg(b'http://ns.adobe.com/xap/1.0/\0' + xmp), 'turned by XMP, resolution cut off.jpg':
                          jpeg(b'http://ns.adobe.com/xap/1.0/\0' + xmp, _segment(
                              0xe0, b'JFIF\0')), 'turned by XMP, two MB of text.png':
                                  _photo_png(
                                      _chunk(b'zTXt', b'a\0\0' + zlib.compress(bytes(2**21))),
                                      _chunk(b'iTXt', b'XML:com.adobe.xmp\0\0\0\0\0' + xmp), turned=True), 'turned.png':
                                          _photo_png(_chunk(b'eXIf',
                                                            exif(6)[6:]), turned=True),
          'turned after the pixels.png': _photo_png(after=_chunk(
              b'eXIf',
              exif(6)[6:]), turned=True), 'turned, two MB of text.png':
                  _photo_png(
                      _chunk(b'zTXt', b'a\0\0' + zlib.compress(bytes(2**21))), _chunk(b'eXIf',
                                                                                      exif(6)[6:]),
                      turned=True), 'turned.webp': turned('WEBP', exif=exif(6)), 'turned, a rational of -1 over 0.webp':
                          turned('WEBP', exif=exif(6, rational, extra=struct.pack('<ii', -1, 0))), 'turned.tif':
                              turned('TIFF', exif=tiff), 'turned lzw.tif':
                                  turned('TIFF', exif=tiff, compression='tiff_lzw')}  # fmt: skip


def _damaged_metadata() -> Files:
  """Metadata that cannot be read, around pixels that can."""
  profile, text = _other_profile(), zlib.compress(bytes(2**21))
  wrong = bytearray(_chunk(b'tEXt', b'a\0b'))
  wrong[-1] ^= 1
  return {
      'damaged EXIF.jpg': _saved(photo(), 'JPEG', exif=b'Exif\0\0II*\0\xff\xff\xff\xff'),
      'no EXIF in the EXIF.jpg': _with_segments(_segment(0xe1, b'Exif\0\0nothing of the kind')
                                               ), 'empty EXIF.jpg': _with_segments(_segment(0xe1, b'Exif\0\0')),
      'broken profile.jpg': _saved(photo(), 'JPEG', icc_profile=b'nothing'),
      'profile of other primaries.jpg': _saved(photo(), 'JPEG', icc_profile=profile),
      'half a profile.jpg': _with_segments(_segment(0xe2, b'ICC_PROFILE\0\1\2' + profile[:100])),
      'profile of no parts.jpg': _with_segments(_segment(0xe2, b'ICC_PROFILE\0')), 'XMP that is no text.jpg':
          _with_segments(_segment(0xe1, b'http://ns.adobe.com/xap/1.0/\0\xff\xfe\xfd')), 'broken list of images.jpg':
              _with_segments(_segment(0xe2, b'MPF\0nothing')), 'list of images without a number.jpg':
                  _with_segments(_segment(0xe2, b'MPF\0II*\0\x08\0\0\0\1\0\0\xb0\7\0\4\0\0\x000100\0\0\0\0')
                                ), 'resolution cut off.jpg': _with_segments(_segment(0xe0, b'JFIF\0')),
      'Adobe cut off.jpg': _with_segments(_segment(0xee, b'Adobe')), 'Photoshop cut off.jpg':
          _with_segments(_segment(0xed, b'Photoshop 3.0\x008BIM\3\xed\0')
                        ), 'comment that is no text.jpg': _with_segments(_segment(0xfe, bytes(range(256)))),
      'segment longer than it says.jpg': _with_segments(_segment(0xe5, b'') + b'eight by'),
      'fill bytes.jpg': _with_segments(b'\xff\xff\xff' + _segment(0xfe, b'x')), 'two MB of text.png':
          _photo_png(_chunk(b'zTXt', b'a\0\0' + text)
                    ), 'two MB of text after the pixels.png': _photo_png(after=_chunk(b'zTXt', b'a\0\0' + text)),
      'two MB of text in UTF-8.png': _photo_png(_chunk(b'iTXt', b'a\0\1\0\0\0' + text)), 'text cut off.png':
          _photo_png(_chunk(b'zTXt', b'a')), 'text that does not inflate.png':
              _photo_png(_chunk(b'zTXt', b'a\0\0nothing')), 'text with a wrong checksum.png': _photo_png(bytes(wrong)),
      'broken profile.png': _photo_png(_chunk(b'iCCP', b'a\0\0nothing')), 'profile without end.png':
          _photo_png(_chunk(b'iCCP', b'a\0\0' + text)), 'resolution cut off.png': _photo_png(_chunk(
              b'pHYs', b'\0')), 'gamma cut off.png': _photo_png(_chunk(b'gAMA', b'')), 'no EXIF in the EXIF.png':
                  _photo_png(_chunk(b'eXIf', b'nothing of the kind')
                            ), 'no EXIF in the EXIF.webp': _saved(photo(), 'WEBP', exif=b'nothing of the kind'),
      'broken profile.webp': _saved(photo(), 'WEBP', icc_profile=b'nothing'), 'EXIF outside.tif':
          _saved(photo(), 'TIFF',
                 tiffinfo={270: 'here'}).replace(b'\x0e\x01\x02\0\5\0\0\0',
                                                 b'\x69\x87\4\0\1\0\0\0'), 'profile longer than the file.tif':
                                                     _saved(photo(), 'TIFF', tiffinfo={270: 'here'}).replace(
                                                         b'\x0e\x01\x02\0\5\0\0\0', b'\x73\x87\7\0\xff\xff\xff\x7f'),
      'segment longer than the file.jpg': _with_segments(b'\xff\xe5\xff\xff'), 'segment of no length.jpg':
          _with_segments(b'\xff\xe5\0\0'), 'broken profile.tif': _saved(photo(), 'TIFF',
                                                                        icc_profile=b'nothing')}  # fmt: skip


def _others() -> Files:
  """Other formats, pixel forms and names."""
  clear = photo().convert('RGBA')
  several = {'save_all': True, 'append_images': [_noise().resize(photo().size)]}
  palette = photo().quantize(64)
  png = _saved(photo(), 'PNG')
  text = ' '.join(map(str, np.asarray(photo()).ravel()))
  return {
      'PNG called.jpg': png, 'no extension': png, 'UPPERCASE.PNG': png, 'Strandcafé ☂, "quoted".png': png,
      'JPEG called.png': _saved(photo(), 'JPEG'), 'WebP called.gif': _saved(photo(), 'WEBP', lossless=True),
      'no end.png': png[:-12], 'text inside.png': _photo_png(_chunk(b'tEXt', b'a\0b')),
      'interlaced.png': _interlaced_png(), 'animated.png': _saved(photo(), 'PNG',
                                                                  **several), 'palette.png': _saved(palette, 'PNG'),
      'palette with one clear colour.png': _saved(palette, 'PNG', transparency=63), 'rgba.png': _saved(clear, 'PNG'),
      'sixteen bits.png': _deep_png(16), 'sixteen bits and alpha.png': _deep_png(16, alpha=True),
      'sixteen bits with a clear colour.png': _deep_png(16, _chunk(b'tRNS', struct.pack('>HHH', 1, 2, 3))),
      'twelve bits of sixteen.png': _deep_png(12), 'ten bits of sixteen.png': _deep_png(10),
      'eight bits of sixteen.png': _deep_png(8), 'sixteen bits.tif': _deep_tiff(16, '<'), 'twelve bits of sixteen.tif':
          _deep_tiff(12, '<'), 'twelve bits of sixteen, big-endian.tif': _deep_tiff(12, '>'),
      'twelve bits of sixteen, deflated.tif': _deep_tiff(12, '<', deflated=True), 'twelve bits of sixteen, turned.tif':
          _deep_tiff(12, '<', turned=True), 'twelve bits of sixteen, in strips.tif': _deep_tiff(12, '>', strips=4),
      'twelve bits of sixteen and alpha.png': _deep_png(12,
                                                        alpha=True), 'animated.gif': _saved(photo(), 'GIF', **several),
      'not interlaced.gif': _saved(palette, 'GIF', interlace=0,
                                   comment=b'\xff'), 'clear colour.gif': _saved(palette, 'GIF', transparency=63),
      'lossy.webp': _saved(photo(), 'WEBP'), 'lossless.webp': _saved(photo(), 'WEBP', lossless=True), 'rgba.webp':
          _saved(clear, 'WEBP', lossless=True), 'animated.webp': _saved(photo(), 'WEBP', **several), 'plain.bmp':
              _saved(photo(), 'BMP'), 'palette.bmp': _saved(palette, 'BMP'), 'rgba.bmp': _saved(clear, 'BMP'),
      'lzw.tif': _saved(photo(), 'TIFF', compression='tiff_lzw'), 'deflated.tif':
          _saved(photo(), 'TIFF',
                 compression='tiff_adobe_deflate'), 'packed.tif': _saved(photo(), 'TIFF', compression='packbits'),
      'JPEG inside.tif': _saved(photo(), 'TIFF', compression='jpeg',
                                quality=95), 'of 64 bits.tif': _saved(photo(), 'TIFF',
                                                                      big_tiff=True), 'rgba.tif': _saved(clear, 'TIFF'),
      'palette.tif': _saved(palette, 'TIFF'), 'cmyk.tif': _saved(photo().convert('CMYK'), 'TIFF'), 'pages.tif':
          _saved(photo(), 'TIFF',
                 **several), 'plain.ppm': _saved(photo(),
                                                 'PPM'), 'text.ppm': f'P3 {WIDTH} {HEIGHT} 255 {text}'.encode(),
      'twelve bits.ppm': f'P6 {WIDTH} {HEIGHT} 4095 '.encode() + _deep(12).astype('>u2').tobytes(), 'plain.avif':
          _saved(photo(), 'AVIF',
                 quality=95), 'large.png': _saved(photo(6000, 4000),
                                                  'PNG'), 'large.jpg': _saved(photo(6000, 4000), 'JPEG')}  # fmt: skip


def coloured() -> Files:
  """Files that all show the photo in its colours."""
  return _jpegs() | _turned() | _damaged_metadata() | phone_images.readable(photo()) | _others()


def colourless() -> dict[str, bytes]:
  """Files that cannot show the photo's colours, and are images all the same."""
  grey = photo().convert('L')

  def deep(value: int, dtype: type) -> Image.Image:
    return Image.fromarray(np.full((HEIGHT, WIDTH), value, dtype))

  return {
      'grey.jpg': _saved(grey, 'JPEG'), 'grey.pgm': _saved(grey, 'PPM'), 'grey.tif': _saved(grey, 'TIFF'),
      'grey sixteen bits.png': _saved(deep(0x8000, np.uint16),
                                      'PNG'), 'grey twelve bits of sixteen.png': _saved(deep(0x800, np.uint16), 'PNG'),
      'grey ten bits of sixteen.png': _saved(deep(0x200, np.uint16), 'PNG'),
      'grey eight bits of sixteen.png': _saved(deep(0x80, np.uint16),
                                               'PNG'), 'grey sixteen bits.tif': _saved(deep(0x8000, np.uint16), 'TIFF'),
      'grey twelve bits of sixteen.tif': _saved(deep(0x800, np.uint16), 'TIFF'), 'grey sixteen bits, turned.tif':
          _saved(deep(0x8000, np.uint16).transpose(Image.Transpose.ROTATE_90), 'TIFF',
                 tiffinfo={274: 6}), 'grey thirty-two bits.tif': _saved(deep(0x8000, np.int32), 'TIFF'),
      'grey and alpha.png': _saved(photo().convert('LA'),
                                   'PNG'), 'one bit.png': _saved(photo().convert('1', dither=Image.Dither.NONE), 'PNG'),
      'fax.tif': _saved(grey.point(lambda level: 255 * (level > 60), '1'), 'TIFF',
                        compression='group4'), 'one pixel.png': _saved(photo().crop((0, 0, 1, 1)), 'PNG'),
      'a line.png': _saved(photo().resize((5000, 1)), 'PNG'), 'a column.png': _saved(photo().resize(
          (1, 5000)), 'PNG'), 'a line.jpg': _saved(photo().resize(
              (60_000, 1)), 'JPEG'), 'all clear.png': _saved(Image.new('RGBA', (30, 30), (0, 0, 0, 0)),
                                                             'PNG')}  # fmt: skip


def _cut() -> dict[str, tuple[bytes, str]]:
  """Files that lack a part of their pixels."""
  noise = _noise()

  def cut(file_format: str, count: int = 900, **options: Any) -> bytes:
    return _saved(noise, file_format, **options)[:-count]

  jpeg, png = _saved(noise, 'JPEG'), _saved(noise, 'PNG')
  damaged = bytearray(png)
  damaged[len(png) // 2] ^= 1
  return {
      'half.jpg': (jpeg[:len(jpeg) // 2], 'truncated'), 'four bytes less.jpg': (jpeg[:-6], 'truncated'),
      'a row less.jpg': (jpeg[:-400], 'truncated'), 'header only.jpg': (jpeg[:100], _OR_BROKEN),
      'half progressive.jpg': (cut('JPEG', progressive=True), 'truncated'), 'progressive without end.jpg':
          (cut('JPEG', 2, progressive=True), 'truncated'), 'thumbnail outside of its segment.jpg':
              (_with_segments(b'\xff\xe1\0\x08Exif\0\0', _saved(noise.resize((16, 16)), 'JPEG')), _UNKNOWN),
      'half, and broken metadata.jpg': (_with_segments(_segment(0xe0, b'JFIF\0'), image=noise)[:-900], _OR_BROKEN),
      'half.png': (png[:len(png) // 2], 'truncated'), 'damaged.png': (bytes(damaged), 'cannot be decoded'), 'half.gif':
          (cut('GIF'), 'truncated'), 'half.webp': (cut('WEBP'), 'cannot be decoded'), 'half.bmp':
              (cut('BMP'), 'truncated'), 'half.tif': (cut('TIFF'), 'truncated'), 'half deflated.tif':
                  (cut('TIFF', compression='tiff_adobe_deflate'), _OR_BROKEN), 'half.ppm':
                      (cut('PPM'), 'truncated'), 'half.avif': (cut('AVIF'), _OR_BROKEN)}  # fmt: skip


def unusable() -> dict[str, tuple[bytes, str]]:
  """Files that must be rejected, and a part of the reason."""
  noise = _noise()
  endless = _chunk(b'zTXt', b'a\0\0' + zlib.compress(bytes(2**27), 9))
  too_large = 'over 64 megapixels'

  def container(brand: bytes) -> bytes:
    return b'\0\0\0\x18ftyp' + brand + bytes(500)

  return _cut() | phone_images.unusable_of_phones(too_large) | {
      'empty.jpg': (b'', 'empty file'), 'zeros.jpg': (bytes(5000), _UNKNOWN), 'spaces.jpg':
          (b' ' * 99, _UNKNOWN), 'web page.jpg': (b'<!DOCTYPE html><title>404</title>', _UNKNOWN), 'not fetched.jpg':
              (b'version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n', _UNKNOWN), 'no access.jpg':
                  (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', _UNKNOWN), 'archive.jpg':
                      (b'PK\3\4' + bytes(500), _UNKNOWN), 'drawing.svg':
                          (b'<svg xmlns="http://www.w3.org/2000/svg"/>', _UNKNOWN), 'paper.pdf':
                              (_saved(noise, 'PDF'), _UNKNOWN),
      'phone.jpg': (container(b'heic\0\0\0\0heicmif1'), 'HEIC that is damaged'), 'film.jpg':
          (container(b'isom\0\0\x02\0isomiso2'), _UNKNOWN), 'JPEG 2000.jpg':
              (_saved(noise, 'JPEG2000'), _UNKNOWN), 'icon.png': (_saved(noise, 'ICO'), _UNKNOWN), 'Targa.bmp':
                  (_saved(noise, 'TGA'), _UNKNOWN), 'PostScript.jpg': (_saved(noise, 'EPS'), _UNKNOWN), 'no size.png':
                      (_png(_png_header(0, 0)), f'{_OR_BROKEN}|0 x 0'), 'no pixels.png':
                          (_png(_png_header(8, 8)), _OR_BROKEN), 'endless text.png':
                              (_png(_png_header(8, 8), endless), _OR_BROKEN), 'floating point.tif':
                                  (_saved(Image.new('F', (9, 9), 0.5), 'TIFF'), 'floating-point'), 'bomb.png':
                                      (_png(_png_header(10_000, 10_000)), f'10000 x 10000 pixels: {too_large}'),
      'bomb with broken text.png':
          (_png(_png_header(10_000, 10_000), _chunk(b'zTXt', b'a\0\0' + zlib.compress(bytes(2**21)))), too_large
          ), 'larger bomb.png': (_png(_png_header(60_000, 60_000)), too_large), 'bomb.gif':
              (_saved(noise, 'GIF')[:6] + struct.pack('<HH', 60_000, 2_000) + _saved(noise, 'GIF')[10:], too_large
              )}  # fmt: skip
