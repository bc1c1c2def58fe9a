"""Reads a PNG's chunks of length, kind, data and checksum."""

from collections.abc import Iterator
import struct
import zlib

from data_pipelines.image_bytes.orientation import bare_exif

START = b'\x89PNG\r\n\x1a\n'
_PIXELS = (b'IHDR', b'PLTE', b'tRNS', b'IDAT', b'IEND')
_ORIENTATION = (b'eXIf', b'iTXt')
"""The kinds of chunks that may hold the orientation; the latter as XMP."""


def _chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
  """Yields kind and bytes of every chunk; the last one's may be cut short."""
  place = len(START)
  while place + 12 <= len(data):
    end = place + 12 + int.from_bytes(data[place:place + 4])
    yield data[place + 4:place + 8], data[place:end]
    place = end


def is_whole_png(data: bytes) -> bool:
  """Whether this is a PNG with an end and nothing after it, whose chunks all have their checksums."""
  chunks = list(_chunks(data))
  return bool(chunks) and chunks[-1][0] == b'IEND' and data == START + b''.join(chunk for _, chunk in chunks) and all(
      zlib.crc32(chunk[4:-4]) == int.from_bytes(chunk[-4:]) for _, chunk in chunks)


def bare_png(data: bytes) -> bytes:
  """Keeps of a PNG the pixels and the orientation."""
  kept, exif = [START], b''
  for kind, chunk in _chunks(data):
    if kind in _PIXELS:
      kept.append(chunk)
    elif kind in _ORIENTATION and not exif and (exif := bare_exif(chunk[8:-4])):
      oriented = b'eXIf' + exif[6:]
      kept.insert(2, struct.pack('>I', len(oriented) - 4) + oriented + struct.pack('>I', zlib.crc32(oriented)))
  return b''.join(kept)
