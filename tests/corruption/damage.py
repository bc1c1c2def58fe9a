"""Ways to damage a file: of any file, of text, and of JSON, chosen by what the file holds."""

from collections.abc import Callable
import json
from pathlib import Path
import random
from typing import Any

Damage = Callable[[bytes, random.Random], bytes]


def _at(content: bytes, place: int, new: bytes) -> bytes:
  return content[:place] + new + content[place + len(new):]


def _flip_bit(content: bytes, draws: random.Random) -> bytes:
  place = draws.randrange(len(content))
  return _at(content, place, bytes([content[place] ^ 1 << draws.randrange(8)]))


def _change_byte(content: bytes, draws: random.Random) -> bytes:
  place = draws.randrange(len(content))
  return _at(content, place, bytes([(content[place] + draws.randrange(1, 256)) % 256]))


def _zero_block(content: bytes, draws: random.Random) -> bytes:
  place = draws.randrange(len(content))
  return _at(content, place, bytes(min(512, len(content) - place)))


def _truncate(content: bytes, draws: random.Random) -> bytes:
  return content[:draws.randrange(len(content))]


def _garbage(content: bytes, draws: random.Random) -> bytes:
  return draws.randbytes(len(content))


def _append(content: bytes, draws: random.Random) -> bytes:
  return content + draws.randbytes(draws.randrange(1, 64))


BYTES: dict[str, Damage] = {
    'a bit flipped': _flip_bit, 'a byte changed': _change_byte, 'a block of zeros': _zero_block, 'cut short': _truncate,
    'empty': lambda content, draws: b'', 'other bytes': _garbage, 'bytes appended': _append}


def _lines(change: Callable[[list[bytes], random.Random], None]) -> Damage:

  def damage(content: bytes, draws: random.Random) -> bytes:
    lines = content.splitlines(keepends=True)
    change(lines, draws)
    return b''.join(lines)

  return damage


def _duplicate(lines: list[bytes], draws: random.Random) -> None:
  place = draws.randrange(len(lines))
  lines.insert(place, lines[place])


def _remove(lines: list[bytes], draws: random.Random) -> None:
  del lines[draws.randrange(len(lines))]


def _swap(lines: list[bytes], draws: random.Random) -> None:
  one, other = (draws.randrange(len(lines)) for _ in range(2))
  lines[one], lines[other] = lines[other], lines[one]


def _invalid_utf8(content: bytes, draws: random.Random) -> bytes:
  return _at(content, draws.randrange(len(content)), b'\xff')


TEXT: dict[str, Damage] = {
    'a line twice': _lines(_duplicate), 'a line removed': _lines(_remove), 'two lines swapped': _lines(_swap),
    'not UTF-8': _invalid_utf8}

DEEP = b'[' * 100_000
OTHER_TYPES = ([], {}, 'x', 3, None, True, [[1]], -1, float('nan'), float('inf'), 10**400, 1e300)


def _places(value: Any) -> list[tuple[Any, Any]]:
  """Every (container, key) in a JSON value."""
  keys = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
  return [place for key, part in keys for place in ((value, key), *_places(part))]


def _json(change: Callable[[Any, Any, random.Random], Any]) -> Damage:
  """Changes one value in a JSON document, or in one line of JSON lines."""

  def damage(content: bytes, draws: random.Random) -> bytes:
    lines = content.splitlines(keepends=True) if _json_lines(content) else [content]
    chosen = draws.randrange(len(lines))
    value = json.loads(lines[chosen])
    if places := _places(value):
      change(*draws.choice(places), draws)
    indent = 2 if b'\n ' in content else None
    lines[chosen] = json.dumps(value, indent=indent).encode() + (b'\n' if lines[chosen].endswith(b'\n') else b'')
    return b''.join(lines)

  return damage


def _delete(container: Any, key: Any, draws: random.Random) -> None:
  del container[key]


def _other_type(container: Any, key: Any, draws: random.Random) -> None:
  container[key] = draws.choice(OTHER_TYPES)


def _other_number(container: Any, key: Any, draws: random.Random) -> None:
  old = container[key]
  container[key] = -old - 1 if isinstance(old, int | float) else f'{old}x' if isinstance(old, str) else None


JSON: dict[str, Damage] = {
    'a key removed': _json(_delete), 'a value of another type': _json(_other_type),
    'another value': _json(_other_number),
    'JSON of another type': lambda content, draws: json.dumps(draws.choice(OTHER_TYPES)).encode(),
    'nested 100,000 deep': lambda content, draws: DEEP,
    'a value nested 100,000 deep': lambda content, draws: b'{"a": ' * 100_000 + b'1' + b'}' * 100_000}


def _json_lines(content: bytes) -> bool:
  lines = content.splitlines()
  try:
    return len(lines) > 1 and all(isinstance(json.loads(line), dict | list) for line in lines)
  except ValueError:
    return False


def ways(content: bytes) -> dict[str, Damage]:
  """The damages that make sense for this content, by name."""
  if not content:
    return {'bytes appended': _append}
  found = dict(BYTES)
  try:
    content.decode()
  except UnicodeDecodeError:
    return found
  found |= TEXT
  try:
    json.loads(content)
    return found | JSON
  except ValueError:
    return found | JSON if _json_lines(content) else found


def damage(path: Path, other: Path | None, deletes: bool, draws: random.Random) -> str:
  """Damages a file in one way; says which. `other` is another file of the same kind, if there is one."""
  content = path.read_bytes()
  chosen = ways(content)
  name = draws.choice([*chosen, *(['deleted'] if deletes else []), *(['another of its kind'] if other else [])])
  if name == 'deleted':
    path.unlink()
  else:
    path.write_bytes(other.read_bytes() if name == 'another of its kind' and other else chosen[name](content, draws))
  return name
