"""Reads a JPEG's segments of marker, length and content, and its scans."""

from collections.abc import Iterator
import struct

from data_pipelines.image_bytes.orientation import bare_exif

START, END = b'\xff\xd8', b'\xff\xd9'
_EXIF, _SCAN, _SEQUENTIAL, _METADATA = 0xe1, 0xda, (0xc0, 0xc1), (*range(0xe0, 0xf0), 0xfe)
_COLOURS = ((0xe0, b'JFIF\0', 14), (0xee, b'Adobe', 12))
"""Segments among the metadata that say how colours are coded: marker, name, shortest length."""


def bare_jpeg(data: bytes) -> bytes:
  """Keeps of a JPEG the pixels, the orientation, and what says how colours are coded."""
  segments, exif = [START], b''
  for marker, start, end in _segments(data):
    content = data[start + 4:end]
    if marker == _EXIF and not exif and (exif := bare_exif(content)):
      segments.append(b'\xff\xe1' + struct.pack('>H', len(exif) + 2) + exif)
    elif marker not in _METADATA or any(
        marker == kept and len(content) >= length and content.startswith(name) for kept, name, length in _COLOURS):
      segments.append(data[start:None if marker == _SCAN else end])
  return b''.join(segments)


def _segments(data: bytes) -> Iterator[tuple[int, int, int]]:
  """(marker, first byte, end) of the segments, the scan as the last one."""
  place, marker = len(START), 0
  while marker != _SCAN and 0 <= (place := data.find(b'\xff', place)) < len(data) - 4:
    marker = data[place + 1]
    if marker == START[1]:  # Of a thumbnail, in a segment that is longer than it says: the image must not become that.
      return
    if marker < 0xc0 or 0xd0 <= marker <= 0xd9 or marker == 0xff:  # Filling, or what a wrong length has led to.
      place += 1
      continue
    end = place + 2 + max(2, int.from_bytes(data[place + 2:place + 4]))
    yield marker, place, end
    place = end if end < len(data) else place + 2


def may_lack_end_alone(data: bytes) -> bool:
  """Whether there is no end marker after a single scan of all components.

  A progressive file, or one of several scans, says nowhere how many scans it should hold.
  """
  segments = list(_segments(data))
  marker, start, _ = segments[-1] if segments else (0, 0, 0)
  components = [data[place + 9] for kind, place, _ in segments if kind in _SEQUENTIAL]
  return marker == _SCAN and components == [data[start + 4]] and END not in data[start:]
