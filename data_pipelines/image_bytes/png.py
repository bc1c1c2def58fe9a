"""Reads a PNG's chunks of length, kind, data and checksum."""

import struct
import zlib

from data_pipelines.image_bytes.orientation import bare_exif

START = b'\x89PNG\r\n\x1a\n'
_PIXELS = (b'IHDR', b'PLTE', b'tRNS', b'IDAT', b'IEND')
_ORIENTATION = (b'eXIf', b'iTXt')
"""The kinds of chunks that may hold the orientation; the latter as XMP."""


def bare_png(data: bytes) -> bytes:
  """Keeps of a PNG the pixels and the orientation."""
  chunks, place, exif = [START], len(START), b''
  while place + 12 <= len(data):
    end = place + 12 + int.from_bytes(data[place:place + 4])
    kind = data[place + 4:place + 8]
    if kind in _PIXELS:
      chunks.append(data[place:end])
    elif kind in _ORIENTATION and not exif and (exif := bare_exif(data[place + 8:end - 4])):
      chunk = b'eXIf' + exif[6:]
      chunks.insert(2, struct.pack('>I', len(chunk) - 4) + chunk + struct.pack('>I', zlib.crc32(chunk)))
    place = end
  return b''.join(chunks)
