"""Sealed JSON: whatever bit is flipped, the reader says so or gives the same."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from data_pipelines import checksums, seals, storage
from data_pipelines.errors import UserError

VALUE = {'name': 'é', 'steps': [1, 2.5, None], 'deep': {'nan': float('inf'), 'seal': 'x'}}


def flipped_bits(content: bytes, read: Callable[[bytes], Any]) -> tuple[int, int]:
  """How many single flipped bits were refused, and how many changed nothing; fails if one changed the result."""
  whole, refused, same = read(content), 0, 0
  for bit in range(8 * len(content)):
    damaged = bytearray(content)
    damaged[bit // 8] ^= 1 << bit % 8
    try:
      found = read(bytes(damaged))
    except UserError:
      refused += 1
      continue
    assert found == whole, damaged
    same += 1
  return refused, same


def test_no_flipped_bit_of_a_sealed_file_changes_what_is_read(tmp_path: Path):
  path = tmp_path / 'value.json'
  storage.write_sealed(path, VALUE)

  def read(content: bytes) -> Any:
    path.write_bytes(content)
    return storage.read_json(path)

  assert read(path.read_bytes()) == VALUE
  refused, same = flipped_bits(path.read_bytes(), read)
  assert refused > 10 * same


def test_no_flipped_bit_of_sealed_lines_changes_what_is_read():

  def read(content: bytes) -> Any:
    with storage.parsing('lines.jsonl'):
      return seals.read_lines(content)[0]

  lines = [{'step': step, 'loss': 1 / step} for step in (1, 2, 3)]
  content = ''.join(line for line, _ in seals.seal_lines(lines)).encode()
  assert read(content) == lines
  assert flipped_bits(content, read)[0] > 6 * len(content)


@pytest.mark.parametrize('order', [(0, 2), (1, 2), (0, 0, 1, 2), (1, 0, 2), (0, 2, 1)])
def test_sealed_lines_cannot_be_left_out_doubled_or_moved(order: tuple[int, ...]):
  lines = [line for line, _ in seals.seal_lines({'step': step} for step in range(3))]
  with pytest.raises(ValueError, match=r'line \d: it is not what was written'):
    seals.read_lines(''.join(lines[place] for place in order).encode())


def test_what_an_earlier_version_wrote_without_a_seal_is_read(tmp_path: Path):
  storage.write_json(tmp_path / 'value.json', VALUE)
  assert storage.read_json(tmp_path / 'value.json') == VALUE
  assert seals.read_lines(b'{"step": 1}\n{"step": 2}\n') == ([{'step': 1}, {'step': 2}], '')


def test_a_file_that_changed_beside_its_checksums_is_named_until_they_are_deleted(tmp_path: Path):
  files = [tmp_path / 'one', tmp_path / 'other']
  for file in files:
    file.write_bytes(b'content')
  sums = tmp_path / checksums.FOLDER
  checksums.write_checksums(sums, files)
  checksums.compare_checksums(sums)
  files[1].write_bytes(b'Content')
  with pytest.raises(UserError, match=f'{files[1]} is missing, or is not what was written.* delete {sums}'):
    checksums.compare_checksums(sums)
  sums.unlink()
  checksums.compare_checksums(sums)
