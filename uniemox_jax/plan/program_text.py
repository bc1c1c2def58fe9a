"""Reads the text of a compiled program (optimised HLO): its computations, and how often a step runs each of them."""

from collections import Counter, defaultdict
import math
import re
from typing import NamedTuple

_COMPUTATION = re.compile(r'^(ENTRY )?%?([\w.\-]+) \(.*\{$')
_CALLED = re.compile(
    r'(?:calls|to_apply|body|condition|called_computations|branch_computations)='
    r'\{?((?:%[\w.\-]+(?:, )?)+)')
_KNOWN_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')
_CONDITION = re.compile(r' while\(.*condition=%([\w.\-]+)')
_LIMIT = re.compile(r' = s32\[\]\S* constant\((\d+)\)')

ARRAY = re.compile(r'\b(pred|[a-z]+\d+(?:e\d+m\d+\w*)?)\[([\d,]*)\]')
"""The pattern of an array's type and sizes in the text."""


def array_sizes(shape: str) -> list[int]:
  """The sizes of the first array named in a piece of the text."""
  match = ARRAY.search(shape)
  return [int(size) for size in match[2].split(',') if size] if match else []


def array_bytes(shapes: str) -> int:
  """The bytes of all arrays named in a piece of the text."""
  bits = 0
  for dtype, dims in ARRAY.findall(shapes):
    width = 8 if dtype == 'pred' else int(re.findall(r'\d+', dtype)[0])
    bits += width * math.prod(int(size) for size in dims.split(',') if size)
  return -(-bits // 8)


def largest_array(shapes: str) -> str:
  """The largest of the arrays named in a piece of the text; '' if there is none."""
  return max((array[0] for array in ARRAY.finditer(shapes)), key=array_bytes, default='')


class ProgramText(NamedTuple):
  """The name of a program's entry computation, and the instructions of every computation, one per line."""

  entry: str
  computations: defaultdict[str, list[str]]

  @classmethod
  def read(cls, text: str) -> 'ProgramText':
    """Reads the text that `jax.stages.Compiled.as_text()` gives."""
    entry, name = '', ''
    lines: defaultdict[str, list[str]] = defaultdict(list)
    for line in text.splitlines():
      if match := _COMPUTATION.match(line):
        name = match[2]
        entry = name if match[1] else entry
      elif line.startswith(' '):
        lines[name].append(line)
    return cls(entry, lines)

  def trips(self, line: str) -> int:
    """How often an instruction runs what it calls: once, except a loop that counts up to a constant, as `scan` does."""
    if not (condition := _CONDITION.search(line)):
      return 1
    limits = map(_LIMIT.search, self.computations[condition[1]])
    known = [match[1] for match in [_KNOWN_TRIPS.search(line), *limits] if match]
    return int(known[0]) if known else 1

  def called(self, line: str) -> list[str]:
    """The computations that an instruction names."""
    return [called for names in _CALLED.findall(line) for called in re.findall(r'%([\w.\-]+)', names)]

  def runs(self, whole: re.Pattern[str] | None = None) -> Counter[str]:
    """How often each computation runs a step. A loop without a length in the text, as in rejection sampling, runs once.
    The branches of a conditional share its runs equally, rounded up, since a compiler does not know which one is taken.

    What an instruction calls is left out if `whole` is found in its line, which then stands for all of it.
    """
    runs: Counter[str] = Counter()

    def visit(name: str, times: int) -> None:
      runs[name] += times
      for line in self.computations[name]:
        if not (whole and whole.search(line)):
          called = self.called(line)
          branches = len(called) if ' conditional(' in line else 1
          for one in called:
            visit(one, -(-times * self.trips(line) // branches))

    visit(self.entry, 1)
    return runs
