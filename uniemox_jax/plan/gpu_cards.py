"""GPUs by name, as `plan` compiles for them: what each is, and how much of its memory a program may count on."""

import functools
import importlib.util
import sys
from typing import Any, NamedTuple

from data_pipelines.errors import UserError
from uniemox_jax.runtime.hardware import CHIPS, GIB, Slice, gpu_facts, parse_slice

MOST = 8
"""The most GPUs of one machine."""
POOL, RESERVED = 0.75, 5 * GIB
"""The share of the memory that jax takes for its arrays; and the bytes that CUDA's context, NCCL's buffers and batches
that wait may take beside them, which weigh more on a small GPU."""
MARGIN = 0.1
"""How far from the limit a total must be for an answer: on a GPU the compiler tries kernels, and may choose others."""
LIMIT = (
    f'the smaller of {POOL:.0%} of the memory (the pool of jax) and of all but {RESERVED // GIB} GiB (for CUDA, NCCL '
    f'and waiting batches); within {MARGIN:.0%} of it a plan is undecided')
_TARGET = """gpu_device_info {{
  threads_per_block_limit: 1024
  threads_per_warp: 32
  shared_memory_per_block: 49152
  shared_memory_per_core: {shared_memory}
  shared_memory_per_block_optin: {shared_memory_of_block}
  threads_per_core_limit: {threads}
  core_count: {multiprocessors}
  fpus_per_core: {float_units}
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  thread_dim_limit_x: 1024
  thread_dim_limit_y: 1024
  thread_dim_limit_z: 64
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
  memory_bandwidth: {bandwidth:.0f}
  l2_cache_size: {l2}
  clock_rate_ghz: {clock}
  device_memory_size: {bytes}
  cuda_compute_capability {{ major: {major} minor: {minor} }}
}}
platform_name: "CUDA"
device_description_str: "{name}"
"""


class Gpus(NamedTuple):
  """GPUs of one kind in one machine: their name for `--topology`, such as h100:8, and how many there are.

  fields: what the data file says of the kind and of its compute capability.
  """

  name: str
  chips: int
  fields: dict[str, Any]

  @property
  def device_kind(self) -> str:
    """As `jax.Device` says it."""
    return self.fields['name']

  @property
  def compiler(self) -> str:
    """The package that has its compiler."""
    return 'jax-cuda12-plugin'

  @property
  def limit(self) -> int:
    """The bytes of one GPU that a program may count on."""
    memory = round(self.fields['memory'] * GIB)
    return min(round(POOL * memory), memory - RESERVED)

  def fits(self, total: int) -> bool | None:
    """Whether a program with so many bytes fits; None within `MARGIN` of the limit, where nobody can say."""
    return None if abs(total - self.limit) <= MARGIN * self.limit else total < self.limit

  @property
  def target(self) -> str:
    """The text of a `GpuTargetConfigProto`, which XLA's compiler needs. Without some fields it ends silently."""
    major, _, minor = self.fields['capability'].partition('.')
    return _TARGET.format(**self.fields, bytes=round(self.fields['memory'] * GIB), major=major, minor=minor)


@functools.cache
def cards() -> dict[str, dict[str, Any]]:
  """Every kind that can be compiled for, by its name: its fields, and those of its compute capability."""
  read = gpu_facts()
  return {name: card | read[f"capability {card['capability']}"] for name, card in read.items() if 'capability' in card}


def parse_topology(name: str) -> Slice | Gpus:
  """Reads which TPU slice or GPUs `--topology` names.

  Raises:
    UserError: it names neither.
  """
  kind, _, count = name.partition(':')
  if kind in cards():
    if count not in map(str, range(1, MOST + 1)):
      raise UserError(f"--topology '{name}': give from 1 to {MOST} GPUs of one machine, such as {kind}:1")
    return Gpus(name, int(count), cards()[kind])
  if kind not in CHIPS:
    raise UserError(
        f"--topology '{name}' is neither a TPU slice such as v5e:4x4 ({', '.join(CHIPS)}) nor GPUs such as h100:8 "
        f"({', '.join(cards())})")
  return parse_slice(name)


def gpu_devices(where: Gpus) -> list[Any]:
  """The GPUs as XLA's compiler describes them; nothing can run on them.

  Raises:
    UserError: this environment has no compiler for them.
  """
  from jax.experimental import topologies

  if importlib.util.find_spec('jax_cuda12_plugin') is None:
    raise UserError(
        f"{sys.executable} has no compiler for GPUs: pip install 'uniemox_jax[gpu_plan]' in an environment of its own, "
        'and give its Python as --gpu_compiler (docs/gpu.md)')

  return list(
      topologies.get_topology_desc(platform='cuda', target_config=where.target, topology=f'1x1x{where.chips}').devices)
