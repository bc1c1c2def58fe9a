"""Reads the schedules of our kernels, for whose time the TPU's compiler writes no other estimate.

Every instruction of a kernel has its cycle. So the length of the schedule is the time of one program of its grid, if
its data arrive in time, which they do for `attention_kernel` (docs/performance.md).
"""

from collections.abc import Iterable
from pathlib import Path
import re

from uniemox_jax.plan.program_text import largest_array

TARGET = 'tpu_custom_call'
"""What the text of a program calls the target of a call to a kernel."""
_LABEL = 'hlo-static-bundle-profile'
_INSTRUCTION = re.compile(r'HLO: %([\w.\-]+) = (.*?) custom-call\(.*custom_call_target="' + TARGET + '"')
_ANY_INSTRUCTION = 'HLO: '
# At most one value a cycle is spilled to scalar memory, so it has as many slots as cycles. Stores of vectors have one
# slot on v5e and two on v6e.
_SPILL_SLOTS = re.compile(r' - SMEM_SPILL_COUNT: \(\d+/(\d+)\)')

Kernel = tuple[str, str]
"""The name of an instruction without its number, and the largest of its results. Of equal kernels the compiler keeps
one."""


def kernel_of(instruction: str, shapes: str) -> Kernel:
  """Finds which kernel an instruction of this name runs, from the text of its results."""
  return re.sub(r'[.\d]+$', '', instruction), largest_array(shapes)


def compiler_flags(folder: str) -> str:
  """The flags of libtpu (LIBTPU_INIT_ARGS) that make it write its schedules, and nothing else, into a folder."""
  return f'--xla_jf_dump_to={folder} --xla_jf_dump_llo_text=true --xla_jf_dump_llo_pass_label_regex=.*{_LABEL}.*'


def read_schedules(folder: str) -> dict[Kernel, int]:
  """Reads the cycles of one program of each kernel; none if the compiler wrote no files."""
  return {
      kernel: cycles for path in sorted(Path(folder).glob(f'*{_LABEL}*'))
      for kernel, cycles in _schedules(path.read_text(encoding='utf-8').splitlines())}


def _schedules(lines: Iterable[str]) -> Iterable[tuple[Kernel, int]]:
  kernel = None
  for line in lines:
    if line.startswith(_ANY_INSTRUCTION):
      match = _INSTRUCTION.match(line)
      kernel = kernel_of(*match.groups()) if match else None
    elif kernel and (slots := _SPILL_SLOTS.match(line)):
      yield kernel, int(slots[1])
