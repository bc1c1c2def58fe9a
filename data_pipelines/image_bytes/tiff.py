"""Reads a TIFF's list of entries of tag, type, count, and value or its place."""

import struct

START = {b'II*\0': '<', b'MM\0*': '>'}
"""The order of bytes, for `struct`, by the first bytes."""
_PIXELS = {
    *range(254, 260), 262, 266, *range(273, 275), *range(277, 282), 284, 292, 293, 317, 320, *range(322, 326), 332, 338,
    339, 347, *range(512, 522), *range(529, 533)}
"""Tags without which pixels cannot be decoded, and the orientation."""


def bare_tiff(data: bytes) -> bytes:
  """Keeps the first image's pixels and its orientation; a TIFF whose list is cut off stays as it is."""
  order = START[data[:4]]
  try:
    (place,) = struct.unpack_from(f'{order}I', data, 4)
    (count,) = struct.unpack_from(f'{order}H', data, place)
    entries = [data[start:start + 12] for start in range(place + 2, place + 2 + 12 * count, 12)]
    kept = [entry for entry in entries if struct.unpack_from(f'{order}H', entry)[0] in _PIXELS]
  except struct.error:
    return data
  # All else is found by its place in the file, so nothing may move.
  bare = struct.pack(f'{order}H', len(kept)) + b''.join(kept) + bytes(4)
  return data[:place] + bare + data[place + len(bare):]
