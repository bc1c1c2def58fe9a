"""Puts checksums inside JSON objects, so that no reader takes what was damaged for what was written."""

from collections.abc import Iterable, Iterator
import json
from typing import Any

import google_crc32c

SEAL, _BEGIN = 'seal', 'crc32c:'
"""The key of an object's checksum, and how its value begins: one flipped bit cannot hide both."""


def add_seal(value: dict[str, Any], before: str = '') -> dict[str, Any]:
  """Adds its checksum to a JSON object as a last key, so that no reader takes what was damaged for what was written.

  `before` is the seal of the object before it, in a file of many.
  """
  text = before + json.dumps(value)
  return value | {SEAL: f'{_BEGIN}{google_crc32c.value(text.encode()):08x}'}


def take_seal(value: Any, before: str = '') -> Any:
  """Checks and removes the seal of `add_seal`. What has no seal, as from an earlier version, is returned as it is.

  Raises:
    ValueError: it is not what was sealed.
  """
  # Its value is looked for anywhere, in case that the damage has moved it.
  if not isinstance(value, dict) or SEAL not in value and f'"{_BEGIN}' not in json.dumps(value):
    return value
  content = {key: part for key, part in value.items() if key != SEAL}
  if add_seal(content, before) != value:
    raise ValueError(f'it is not what was written; if you changed it on purpose, delete its last key, "{SEAL}"')
  return content


def seal_lines(objects: Iterable[dict[str, Any]], before: str = '') -> Iterator[tuple[str, str]]:
  """Makes JSON lines, each sealed after the one before it: none can be changed, moved, doubled or left out unseen.

  `before` is the seal of the last line that the file has already.

  Yields:
    A line, and its seal.
  """
  for value in objects:
    sealed = add_seal(value, before)
    before = sealed[SEAL]
    yield json.dumps(sealed) + '\n', before


def read_lines(content: bytes) -> tuple[list[dict[str, Any]], str]:
  """Reads the objects that `seal_lines` wrote, and the seal of the last; lines of an earlier version have none.

  Raises:
    ValueError: a line is not JSON, not what was written, or not where it was; the message says which.
  """
  objects, before = [], ''
  for number, line in enumerate(content.splitlines(), start=1):
    try:
      value = json.loads(line)
      if not isinstance(value, dict):
        raise ValueError('it is no JSON object')
      found = take_seal(value, before)
      if before and found is value:
        raise ValueError('it has no seal, where the line before has one')
    except (ValueError, RecursionError) as error:
      raise ValueError(f'line {number}: {error}') from error
    objects.append(found)
    before = value.get(SEAL, '')
  return objects, before
