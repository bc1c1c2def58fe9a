"""PNG: chunks of length, kind, data and checksum."""

import struct
import zlib

from data_pipelines.image_bytes.orientation import bare_exif

START = b'\x89PNG\r\n\x1a\n'
_PIXELS = (b'IHDR', b'PLTE', b'tRNS', b'IDAT', b'IEND')


def bare_png(data: bytes) -> bytes:
  """The PNG of the pixels alone, and of the orientation."""
  chunks, place = [START], len(START)
  while place + 12 <= len(data):
    end = place + 12 + int.from_bytes(data[place:place + 4])
    kind = data[place + 4:place + 8]
    if kind in _PIXELS:
      chunks.append(data[place:end])
    elif kind == b'eXIf':
      chunk = kind + bare_exif(data[place + 8:end - 4])[6:]
      chunks.insert(2, struct.pack('>I', len(chunk) - 4) + chunk + struct.pack('>I', zlib.crc32(chunk)))
    place = end
  return b''.join(chunks)
