"""Accelerators by name: TPU slices that can be planned for, and what a device can do at most.

Sources: of TPUs cloud.google.com/tpu/docs/{v4,v5e,v5p,v6e} for FLOP/s and bandwidths. The memory that a program may use
is less than the data sheet's: it is what libtpu 0.0.52 names when it refuses a program. GPUs stand in `gpu_cards.toml`.
"""

import functools
import importlib.util
import math
from pathlib import Path
import re
import tomllib
from typing import Any, NamedTuple

from data_pipelines.errors import UserError


class Chip(NamedTuple):
  """One TPU chip, which is one device here.

  peak: bf16 FLOP/s. multipliers: those of bf16 that work at once in its matrix units (MXU), 2 FLOPs each a cycle. hbm:
  bytes that a program may use. hbm_bandwidth: bytes/s. ici_bandwidth: bytes/s that it can send to its neighbours, all
  links together (half of the bidirectional figure). device_kind: the name that `jax.Device` gives.
  """

  peak: float
  multipliers: int
  hbm: int
  hbm_bandwidth: float
  ici_bandwidth: float
  device_kind: str

  @property
  def clock(self) -> float:
    """The cycles a second that the peak implies."""
    return self.peak / (2 * self.multipliers)


GIB = 2**30
# Four units of 128 x 128 a core, of which v4 and v5p have two a chip. In v6e a unit is 256 x 256; its peak, and the
# cycles that the compiler gives a large product, are those of four.
CHIPS = {
    'v4': Chip(275e12, 8 * 128**2, round(30.75 * GIB), 1228e9, 300e9,
               'TPU v4'), 'v5e': Chip(197e12, 4 * 128**2, round(15.75 * GIB), 819e9, 200e9, 'TPU v5 lite'),
    'v5p': Chip(459e12, 8 * 128**2, round(95.73 * GIB), 2765e9, 600e9,
                'TPU v5'), 'v6e': Chip(918e12, 4 * 256**2, round(31.24 * GIB), 1638e9, 400e9, 'TPU v6 lite')}


@functools.cache
def gpu_facts() -> dict[str, dict[str, Any]]:
  """The sections of `gpu_cards.toml`: GPUs by their names for `--topology`, and compute capabilities."""
  return tomllib.loads(Path(__file__).with_name('gpu_cards.toml').read_text(encoding='utf-8'))


def peak_flops(device_kind: str) -> float | None:
  """Peak bf16 FLOP/s of one device; None where it is not known, as for a CPU."""
  if device_kind == 'TPU v5p':  # what the runtime says where the compiler says TPU v5
    return CHIPS['v5p'].peak
  chips = {chip.device_kind: chip.peak for chip in CHIPS.values()}
  return (chips | {card.get('name'): card.get('peak') for card in gpu_facts().values()}).get(device_kind)


def best_dtype(device: Any) -> str:
  """'bfloat16' on a TPU and on NVIDIA's GPUs of compute capability 8.0 and above, 'float32' elsewhere.

  Older GPUs have no bfloat16 units. Their float16 would need its losses scaled, and has been tried on none of them.
  """
  capability = re.fullmatch(r'(\d+)\.\d+', str(getattr(device, 'compute_capability', '')))
  return 'bfloat16' if device.platform == 'tpu' or (capability and int(capability[1]) >= 8) else 'float32'


class Slice(NamedTuple):
  """A TPU slice: its name, such as v5e:4x4, its chip's name, and the chips along each axis of its torus."""

  name: str
  generation: str
  shape: tuple[int, ...]

  @property
  def chips(self) -> int:
    """The number of chips; each is one device."""
    return math.prod(self.shape)

  @property
  def limit(self) -> int:
    """The bytes of one device that a program may use."""
    return self.chip.hbm

  @property
  def device_kind(self) -> str:
    """The kind of its devices, by the name that `jax.Device` gives."""
    return self.chip.device_kind

  @property
  def compiler(self) -> str:
    """The package that has its compiler."""
    return 'libtpu'

  @property
  def chip(self) -> Chip:
    """What each device of the slice can do."""
    return CHIPS[self.generation]


def parse_slice(name: str) -> Slice:
  """Reads the name of a slice.

  Raises:
    UserError: it has not the form GENERATION:AxB or GENERATION:AxBxC, or the generation is unknown.
  """
  match = re.fullmatch(r'(\w+):(\d+(?:x\d+){1,2})', name)
  if not match or match[1] not in CHIPS:
    raise UserError(
        f"--topology '{name}' is not a TPU slice: give one such as v5e:4x4 or v4:2x2x4 "
        f"({', '.join(CHIPS)})")
  shape = tuple(int(size) for size in match[2].split('x'))
  if not all(shape):
    raise UserError(f"--topology '{name}' has no chips: every axis is at least 1")
  return Slice(name, match[1], shape)


def require_compiler() -> None:
  """Raises UserError if the TPU compiler is not installed."""
  if importlib.util.find_spec('libtpu') is None:
    raise UserError("the TPU compiler is missing: pip install 'uniemox_jax[tpu]' (it needs no TPU)")


def slice_devices(where: Slice) -> list[Any]:
  """The slice's devices as the TPU compiler describes them; nothing can run on them.

  Raises:
    UserError: there is no such slice.
  """
  from jax.experimental import topologies

  options: dict[str, Any] = {'chips_per_host_bounds': (1, 1, 1)} if where.chips == 1 else {}
  if where.generation == 'v4':
    options['chip_config_name'] = 'megacore'  # as Cloud TPU runs it: one device a chip, not one a core
  try:
    return list(topologies.get_topology_desc(platform='tpu', topology_name=where.name, **options).devices)
  except RuntimeError as error:
    raise UserError(f'--topology {where.name}: the TPU compiler refuses it: {error}') from error
