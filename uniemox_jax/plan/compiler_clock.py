"""Reads how long the TPU's compiler expects a step to take: the cycles that it writes beside its operations.

They are an estimate by its cost model, not a measurement: one operation after another, with no overlap. So their sum
says what is costly, and whether a change helps, better than how long a step will take.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping
import re
from typing import Any, NamedTuple

from uniemox_jax.plan.kernel_schedules import TARGET, Kernel, kernel_of
from uniemox_jax.plan.program_text import ProgramText, array_bytes, array_sizes, largest_array
from uniemox_jax.runtime.hardware import Chip

PARTS = ('inputs', 'teacher', 'encoder', 'decoder', 'fusion', 'head', 'losses', 'optimizer')
"""The scopes (`jax.named_scope`) of a step; an operation belongs to the innermost. The gradient is that of `losses`, so
this scope holds whatever has no closer name. `inputs` is masking, and pixels before their embedding."""
OTHER = 'other'
"""The name of the part for which the compiler names no scope."""
SHOWN = 10
MEANING = (
    "an estimate of the compiler's cost model, nothing ran: the cycles of its operations, one after another with "
    'no overlap, at the clock that the peak implies; what is sent between chips has none')

_CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')
_INSTRUCTION = re.compile(r'^\s+(?:ROOT )?%([\w.\-]+) = (.*?) ([a-z][a-z\-]*)\((.*)$')
_OPERATION_NAME = re.compile(r'op_name="([^"]*)"')
_PART = re.compile(rf'(?<![\w.])(?:{"|".join(PARTS)})(?![\w.])')
_TARGET = re.compile(r'custom_call_target="(\w+)"')
# Names, views, room that is set aside, and the start of what its '-done' counts: none of them takes time of its own.
_FREE = re.compile(
    'parameter|constant|tuple|get-tuple-element|bitcast|while|conditional|call|after-all|partition-id|replica-id|'
    'opt-barrier|.*-start|AllocateBuffer|ConcatBitcast|AssumeGatherIndicesInBound')


def part_of(path: str) -> str:
  """The part that an operation belongs to, by its path of scopes, as the compiler keeps it (`op_name`)."""
  return (_PART.findall(path) or [OTHER])[-1]


class Operation(NamedTuple):
  """Instructions of a program that are alike, over all of a step's runs of each.

  part: one of `PARTS`, or `OTHER`. name: jax's name of it, or else the compiler's. kind: 'attention product',
  'product', 'kernel', 'copy' or 'other'. backward: whether it computes the gradient. shape: that of its result, or of
  the largest of several. count: how often it runs a step. cycles: those of all runs.
  """

  part: str
  name: str
  kind: str
  backward: bool
  shape: str
  count: int  # type: ignore[assignment]  # plan.json has this key
  cycles: int


def _kind(name: str, opcode: str, path: str, called: list[str]) -> str:
  if opcode.startswith('copy') or name.startswith('copy'):
    return 'copy'
  if not any(' convolution(' in line or ' dot(' in line for line in called):
    return 'other'
  # Of the einsums of a step, all but those of the inputs and the losses are in attention.
  return 'attention product' if '->' in path and part_of(path) not in ('inputs', 'losses') else 'product'


def _operation(program: ProgramText, line: str, count: int, schedules: Mapping[Kernel, int]) -> Operation | None:
  """The instruction of a line; None where the compiler gives it no cycles."""
  match, estimate = _INSTRUCTION.match(line), _CYCLES.search(line)
  if not match:
    return None
  name, shape, opcode, rest = match.groups()
  named, result = _OPERATION_NAME.search(rest), largest_array(shape)
  path = named[1] if named else ''
  if estimate:
    called = [inner for computation in program.called(line) for inner in program.computations[computation]]
    kind, cycles = _kind(name, opcode, path, called), int(estimate[1])
  elif (kernel := kernel_of(name, shape)) in schedules:
    # Its grid has a program for each entry of its results' first axis.
    kind, cycles = 'kernel', schedules[kernel] * array_sizes(result)[0]
  else:
    return None
  last = opcode
  if opcode == 'fusion' or kind == 'kernel':  # what they are says only their path
    last = path.rpartition('/')[2] or name
  return Operation(
      part_of(path), re.sub(r'[.\d]+$', '', last), kind, 'transpose(' in path, result, count, count * cycles)


def read_operations(text: str,
                    schedules: Mapping[Kernel, int] | None = None) -> tuple[list[Operation], list[dict[str, Any]]]:
  """Reads the compiler's estimates of a program (`jax.stages.Compiled.as_text()` of a TPU's).

  Args:
    text: the program's text.
    schedules: the cycles of one program of each kernel (`kernel_schedules.read_schedules`).

  Returns:
    The operations, alike ones together, the costliest first. And what has no estimate, by the compiler's `name`: how
    often it runs a step (`count`), and the `bytes` of its largest results in all, the most first.
  """
  program = ProgramText.read(text)
  found: dict[tuple[Any, ...], Counter[str]] = defaultdict(Counter)
  missing: dict[str, Counter[str]] = defaultdict(Counter)
  for computation, runs in program.runs(whole=_CYCLES).items():
    for line in program.computations[computation]:
      if one := _operation(program, line, runs, schedules or {}):
        found[one[:-2]].update(count=one.count, cycles=one.cycles)
      elif match := _INSTRUCTION.match(line):
        target = _TARGET.search(line)
        name = target[1] if target else match[3]
        if not _FREE.fullmatch(name):
          missing[name].update(count=runs, bytes=runs * array_bytes(largest_array(match[2])))
  operations = [Operation._make((*alike, total['count'], total['cycles'])) for alike, total in found.items()]
  unknown = [{'name': name} | total for name, total in missing.items()]
  return sorted(operations, key=lambda one: -one.cycles), sorted(unknown, key=lambda one: -one['bytes'])


def summarise_cycles(text: str, schedules: Mapping[Kernel, int] | None = None) -> dict[str, Any] | None:
  """Sums up `read_operations` as plan.json keeps it, in cycles: in all, by part, by kind, and the costliest operations.

  None for a program whose compiler writes no cycles; those of CPUs and GPUs write none.
  """
  operations, unknown = read_operations(text, schedules)
  if not operations:
    return None
  parts, kinds = Counter[str](), Counter[str]()
  for operation in operations:
    parts[operation.part] += operation.cycles
    kinds[operation.kind] += operation.cycles
  return {
      'cycles': sum(parts.values()), 'parts': dict(parts.most_common()), 'kinds': dict(kinds.most_common()),
      'costliest': [operation._asdict() for operation in operations[:SHOWN]], 'without_estimate': unknown}


def timed(summary: dict[str, Any], chip: Chip, flops: float) -> dict[str, Any]:
  """Turns a summary of cycles into seconds, with the share of the peak that a device's `flops` a step would be."""
  seconds = {name: {key: cycles / chip.clock for key, cycles in summary[name].items()} for name in ('parts', 'kinds')}
  costliest = [operation | {'seconds': operation['cycles'] / chip.clock} for operation in summary['costliest']]
  total = summary['cycles'] / chip.clock
  return summary | seconds | {
      'seconds': total, 'mfu': flops / (total * chip.peak), 'costliest': costliest, 'meaning': MEANING}


def _missing_kernels(clock: dict[str, Any]) -> list[str]:
  """A line if the sum lacks what the time of a step is made of."""
  runs = sum(one['count'] for one in clock['without_estimate'] if one['name'] == TARGET)
  return [f'  TOO LITTLE: {runs} runs of kernels without a schedule are not in it'] if runs else []


def format_clock(clock: dict[str, Any]) -> list[str]:
  """The lines that `plan` prints of the result of `timed`."""

  def shares(name: str) -> str:
    return ', '.join(f"{key} {1e3 * seconds:.4g} ms" for key, seconds in clock[name].items())

  lines = [
      f"by the compiler's cycles: {1e3 * clock['seconds']:.4g} ms a step, MFU {clock['mfu']:.1%}; {MEANING}",
      *_missing_kernels(clock), f"  by part: {shares('parts')}", f"  by kind: {shares('kinds')}", '  costliest:']
  for one in clock['costliest']:
    name = one['name'] + (' (backward)' if one['backward'] else '')
    kind = '' if one['kind'] in ('other', one['name']) else f", {one['kind']}"
    lines.append(
        f"  {1e3 * one['seconds']:8.3f} ms  {one['part']:9} {name}{kind}, {one['shape']}, {one['count']} times")
  unknown = [one for one in clock['without_estimate'] if one['bytes'] >= 2**20]
  listed = ', '.join(f"{one['name']} {one['count']} times, {one['bytes'] / 2**20:.0f} MiB" for one in unknown)
  rest = sum(one['count'] for one in clock['without_estimate'] if one not in unknown)
  return [*lines, f"  without an estimate: {listed + '; ' if listed else ''}{rest} small ones"]
