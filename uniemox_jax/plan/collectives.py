"""What a compiled program sends between devices, read from its text (optimised HLO)."""

from collections import Counter, defaultdict
import math
import re
from typing import NamedTuple

_KINDS = 'all-reduce|all-gather|reduce-scatter|all-to-all|ragged-all-to-all|collective-permute|collective-broadcast'
# `-start` names the operands again; the result is what its `-done` gives.
_COLLECTIVE = re.compile(rf' ({_KINDS})(-done)?\((.*?)\)')
_CHANNEL = re.compile(r'channel_id=\d+')
_COMPUTATION = re.compile(r'^(ENTRY )?%?([\w.\-]+) \(.*\{$')
_CALLED = re.compile(
    r'(?:calls|to_apply|body|condition|called_computations|branch_computations)='
    r'\{?((?:%[\w.\-]+(?:, )?)+)')
_KNOWN_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')
_CONDITION = re.compile(r' while\(.*condition=%([\w.\-]+)')
_LIMIT = re.compile(r' = s32\[\]\S* constant\((\d+)\)')
_ARRAY = re.compile(r'\b(pred|[a-z]+\d+(?:e\d+m\d+\w*)?)\[([\d,]*)\]')


class Collective(NamedTuple):
  """All collectives of one kind in one program.

  count: runs a step, loops unrolled. bytes: on one device, over all runs, the larger of what each takes and gives; a
  ring sends about that (gather, scatter) or twice that (reduce). largest: bytes of one run.
  """

  kind: str
  count: int  # type: ignore[assignment]  # plan.json has this key
  bytes: int
  largest: int


def _bytes(shapes: str) -> int:
  """Of all arrays named in a piece of HLO text."""
  bits = 0
  for dtype, dims in _ARRAY.findall(shapes):
    width = 8 if dtype == 'pred' else int(re.findall(r'\d+', dtype)[0])
    bits += width * math.prod(int(size) for size in dims.split(',') if size)
  return -(-bits // 8)


def _computations(text: str) -> tuple[str, dict[str, list[str]]]:
  """The entry's name, and the instructions of every computation."""
  entry, name, lines = '', '', defaultdict(list)
  for line in text.splitlines():
    if match := _COMPUTATION.match(line):
      name = match[2]
      entry = name if match[1] else entry
    elif line.startswith(' '):
      lines[name].append(line)
  return entry, lines


def _trips(line: str, lines: dict[str, list[str]]) -> int:
  """How often an instruction runs what it calls: 1, but for a loop that counts up to a constant, as `scan` does."""
  if not (condition := _CONDITION.search(line)):
    return 1
  known = [match[1] for match in [_KNOWN_TRIPS.search(line), *map(_LIMIT.search, lines[condition[1]])] if match]
  return int(known[0]) if known else 1


def _runs(entry: str, lines: dict[str, list[str]]) -> Counter[str]:
  """How often each computation runs a step; a loop without a length in the text, as in rejection sampling, once."""
  runs: Counter[str] = Counter()

  def visit(name: str, times: int) -> None:
    runs[name] += times
    for line in lines[name]:
      for names in _CALLED.findall(line):
        for called in names.split(', '):
          visit(called.lstrip('%'), times * _trips(line, lines))

  visit(entry, 1)
  return runs


def read_collectives(text: str) -> list[Collective]:
  """Every kind of collective in optimised HLO text (`jax.stages.Compiled.as_text()`), the most bytes first."""
  entry, lines = _computations(text)
  found: dict[str, tuple[str, int, int]] = {}  # channel -> kind, runs, bytes of one run
  for name, times in _runs(entry, lines).items():
    results = dict(line.removeprefix('  ROOT').strip().split(' = ', 1) for line in lines[name] if ' = ' in line)
    for line in lines[name]:
      if not (match := _COLLECTIVE.search(line)):
        continue
      kind, done, operands = match.groups()
      taken = 0 if done else sum(_bytes(results.get(operand, '').split('(')[0]) for operand in operands.split(', '))
      # The TPU compiler spreads one collective over several fusions that share its channel: it is sent once.
      channel = _CHANNEL.search(line)
      key = channel[0] if channel else line
      found[key] = kind, min(times, found.get(key, (kind, times))[1]), max(_bytes(line[:match.start()]), taken)
  totals: dict[str, Collective] = {}
  for kind, runs, size in found.values():
    so_far = totals.get(kind, Collective(kind, 0, 0, 0))
    totals[kind] = Collective(kind, so_far.count + runs, so_far.bytes + runs * size, max(so_far.largest, size))
  return sorted(totals.values(), key=lambda total: -total.bytes)
