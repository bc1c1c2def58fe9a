"""Reads what a compiled program sends between devices from its text (optimised HLO)."""

import re
from typing import NamedTuple

from uniemox_jax.plan.program_text import ProgramText, array_bytes

_KINDS = 'all-reduce|all-gather|reduce-scatter|all-to-all|ragged-all-to-all|collective-permute|collective-broadcast'
# `-start` names the operands again; the result is what its `-done` gives.
_COLLECTIVE = re.compile(rf' ({_KINDS})(-done)?\((.*?)\)')
_CHANNEL = re.compile(r'channel_id=\d+')


class Collective(NamedTuple):
  """All collectives of one kind in one program.

  count: how often they run a step, loops unrolled. bytes: on one device, over all runs, the larger of what each takes
  and gives; a ring sends about that (gather, scatter) or twice that (reduce). largest: the most bytes of one run.
  """

  kind: str
  count: int  # type: ignore[assignment]  # plan.json has this key
  bytes: int
  largest: int


def read_collectives(text: str) -> list[Collective]:
  """Finds every kind of collective in optimised HLO text (`jax.stages.Compiled.as_text()`), the most bytes first."""
  program = ProgramText.read(text)
  found: dict[str, tuple[str, int, int]] = {}  # channel -> kind, runs, bytes of one run
  for name, times in program.runs().items():
    lines = program.computations[name]
    results = dict(line.removeprefix('  ROOT').strip().split(' = ', 1) for line in lines if ' = ' in line)
    for line in lines:
      if not (match := _COLLECTIVE.search(line)):
        continue
      kind, done, operands = match.groups()
      taken = 0 if done else sum(
          array_bytes(results.get(operand, '').split('(')[0]) for operand in operands.split(', '))
      # The TPU compiler spreads one collective over several fusions that share its channel: it is sent once.
      channel = _CHANNEL.search(line)
      key = channel[0] if channel else line
      found[key] = kind, min(times, found.get(key, (kind, times))[1]), max(array_bytes(line[:match.start()]), taken)
  totals: dict[str, Collective] = {}
  for kind, runs, size in found.values():
    so_far = totals.get(kind, Collective(kind, 0, 0, 0))
    totals[kind] = Collective(kind, so_far.count + runs, so_far.bytes + runs * size, max(so_far.largest, size))
  return sorted(totals.values(), key=lambda total: -total.bytes)
