"""Checks whether a config fits a TPU slice or GPUs, before renting them, by compiling its real step for them.

python -m uniemox_jax.plan --config=configs/pretrain_emoset_vitl16.py --topology=v5e:16x16 [--workdir=DIR]
--search_batch finds the largest batch per device that fits. --all writes the table of docs/tpu.md, and resumes.
It needs the compiler (libtpu, or for GPUs an environment of its own), but no TPU, GPU, data, weights or network.
"""

import importlib.metadata
import math
import os
from pathlib import Path
import subprocess
import sys
from typing import Any

from ml_collections import ConfigDict
from tqdm import tqdm

from data_pipelines.errors import UserError
from data_pipelines.storage import (
    exists,
    parsing,
    read_json,
    read_json_object,
    temporary_folder,
    write_json,
    write_sealed,
    write_text,
)
from uniemox_jax.plan.compiler_clock import format_clock, timed
from uniemox_jax.plan.gpu_cards import LIMIT, Gpus, parse_topology
from uniemox_jax.plan.kernel_schedules import compiler_flags
from uniemox_jax.runtime import cli
from uniemox_jax.runtime.hardware import GIB, Chip, Slice, require_compiler
from uniemox_jax.train.config import PretrainConfig, parse_trainable

COMPILER_ENVIRONMENT = {'JAX_PLATFORMS': 'cpu', 'TPU_SKIP_MDS_QUERY': '1', 'ALLOW_MULTIPLE_LIBTPU_LOAD': '1'}
_EIGHT_CHIPS = ('v4:2x2x2', 'v5e:2x4', 'v5p:2x2x2', 'v6e:2x4')
SHIPPED = {
    'pretrain_emoset_vitl16': ('v4:4x4x4', 'v5e:16x16', 'v5p:4x4x4', 'v6e:8x8'),
    'pretrain_emoset_vitb16': ('v4:4x4x4', 'v5e:8x8', 'v5p:4x4x4', 'v6e:8x8'), 'finetune:emo8': _EIGHT_CHIPS,
    'demo:pretrain': _EIGHT_CHIPS, 'demo:finetune': _EIGHT_CHIPS}
"""The plans of `--all`: every shipped config that trains a student, on one slice of each generation."""
GPU_COMPILER = os.path.join('.venv-gpu', 'bin', 'python')
"""The Python that compiles for GPUs, as `make gpu-compiler` makes it. Beside the compiler's package every other run of
jax would look for a GPU, and print a traceback."""
DOCUMENT = os.path.join('docs', 'tpu.md')
BEGIN, END = '<!-- plan --all: begin -->', '<!-- plan --all: end -->'
ASSUMPTIONS = (
    'estimate, nothing ran: matrix products at the peak of bf16; each reads and writes its activations in HBM once, 2 '
    'bytes a value; weights are read twice and the update moves 8 values a weight (10 where an average is kept), '
    'float32; recomputation is free; what is sent is added in full, none of it hidden')


def compile_in_subprocess(config: ConfigDict, topology: str, python: str = sys.executable) -> dict[str, Any]:
  """Runs `uniemox_jax.plan.step_compiler` in a process of its own, by this `python`, and returns what it measured.

  Raises:
    UserError: the config or the topology has a mistake, or the compiler crashed.
  """
  with temporary_folder() as scratch:
    path, schedules = os.path.join(scratch, 'request.json'), os.path.join(scratch, 'schedules')
    write_json(path, {'config': config.to_dict(), 'topology': topology, 'schedules': schedules})
    environment = (_gpu_environment() if isinstance(parse_topology(topology), Gpus) else _tpu_environment(schedules))
    # When this process ends, its end of the pipe closes, and the compiler ends too.
    read_end, write_end = os.pipe()
    try:
      done = subprocess.run([python, '-m', 'uniemox_jax.plan.step_compiler', path], text=True, capture_output=True,
                            env=os.environ | environment, check=False, stdin=read_end)
    finally:
      os.close(read_end)
      os.close(write_end)
    answer = read_json(path)
  if 'error' in answer:
    raise UserError(answer['error'])
  if 'fits' not in answer:
    last = (done.stderr.strip().splitlines() or ['it said nothing'])[-1]
    raise UserError(f'the compiler stopped with code {done.returncode} on {topology}: {last}')
  return answer


def _tpu_environment(schedules: str) -> dict[str, str]:
  """Variables for the TPU's compiler, which writes the schedules of kernels into this folder."""
  given = os.environ.get('LIBTPU_INIT_ARGS', '')
  return COMPILER_ENVIRONMENT | {'LIBTPU_INIT_ARGS': f'{given} {compiler_flags(schedules)}'.strip()}


def _gpu_environment() -> dict[str, str]:
  """Variables for the GPU compiler, whose environment may have another copy of this code, or none."""
  code, more = str(Path(__file__).parents[2]), os.environ.get('PYTHONPATH')
  # Triton's products are tuned on the GPU itself: without one, the compiler finds no sizes of tiles.
  flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_gpu_enable_triton_gemm=false"
  return {
      'JAX_PLATFORMS': 'cpu', 'XLA_FLAGS': flags.strip(),
      'PYTHONPATH': os.pathsep.join([code, more] if more else [code])}


def _require_gpu_compiler(python: str) -> None:
  """Raises UserError where there is no Python at this path."""
  if not exists(python):
    raise UserError(
        f'--gpu_compiler={python} does not exist: make gpu-compiler makes it in a clone; elsewhere, give the Python of '
        'an environment of its own with uniemox_jax[gpu_plan] (docs/gpu.md)')


def roofline(measured: dict[str, Any], chip: Chip, examples_per_device: float) -> dict[str, Any]:
  """Computes the seconds of a step by `ASSUMPTIONS`, and each part of them."""
  flops = measured['student_flops_per_example'] + measured['teacher_flops_per_example']
  updated = 4 * measured['params_bytes_per_device'] + 2 * measured['optimizer_bytes_per_device']
  weights = 2 * 4 * measured['params'] + updated
  sent = sum(kind['bytes'] * (2 if kind['kind'] == 'all-reduce' else 1) for kind in measured['collectives'])
  compute = flops * examples_per_device / chip.peak
  memory = (2 * measured['activation_values_per_example'] * examples_per_device + weights) / chip.hbm_bandwidth
  network = sent / chip.ici_bandwidth
  return {
      'compute_seconds': compute, 'memory_seconds': memory, 'network_seconds': network,
      'seconds': max(compute, memory) + network, 'assumptions': ASSUMPTIONS}


def plan(config: ConfigDict, topology: str, gpu_compiler: str = GPU_COMPILER) -> dict[str, Any]:
  """Makes the contents of plan.json (docs/tpu.md says what each key means).

  Raises:
    UserError: see `compile_in_subprocess`.
  """
  where = parse_topology(topology)
  if isinstance(where, Gpus):
    _require_gpu_compiler(gpu_compiler)
    return complete_plan(compile_in_subprocess(config, topology, gpu_compiler), config, where)
  require_compiler()
  return complete_plan(compile_in_subprocess(config, topology), config, where)


def complete_plan(measured: dict[str, Any], config: ConfigDict, where: Slice | Gpus) -> dict[str, Any]:
  """Adds to what was measured what follows from the config and the devices. For GPUs there is no time, which nothing
  here knows."""
  flops = measured['student_flops_per_example'] + measured['teacher_flops_per_example']
  batch, devices = config.batch_size, where.chips
  estimate = clock = None
  if isinstance(where, Slice) and measured['fits']:
    estimate = roofline(measured, where.chip, batch / devices)
    if cycles := measured['compiler_clock']:
      clock = timed(cycles, where.chip, flops * batch / devices)
  return measured | dict(
      topology=where.name, devices=devices, device_kind=where.device_kind, hbm_limit_bytes_per_device=where.limit,
      examples_per_step=batch, flops_per_example=flops, model_flops_per_step=flops * batch, bytes_per_example=2 *
      measured['activation_values_per_example'], roofline=estimate, compiler_clock=clock, config=config.to_dict())


def _versions() -> dict[str, str]:
  return {name: importlib.metadata.version(name) for name in ('jax', 'jaxlib', 'libtpu')}


def search_batch(config: ConfigDict, topology: str, gpu_compiler: str = GPU_COMPILER) -> dict[str, Any]:
  """Finds the plan of the exactly largest batch that fits. It assumes that memory grows with the batch. Undecided is no
  fit.

  It doubles or halves the config's batch until one batch fits and another does not. Between the two it tries where
  memory, were it linear, would reach the limit, but at least a margin away from both. The margin doubles each time:
  near the limit the compiler saves memory, so that more fits than smaller batches suggest.

  Raises:
    UserError: not even the smallest batch fits; and see `compile_in_subprocess`.
  """
  checked = parse_trainable(config)
  where = parse_topology(topology)
  devices, limit = where.chips, where.limit
  local = isinstance(checked, PretrainConfig) and checked.loss.negatives == 'local'
  groups = config.loss.local_batch if local else 1
  unit = checked.accum_steps * groups // math.gcd(groups, devices)
  best: dict[str, Any] = {}
  memory: dict[int, int | None] = {}
  # In units of `unit` examples per device: the most that fit, and the fewest that do not.
  fitting, failing, margin = 0, None, 1
  units = max(1, checked.batch_size // (devices * unit))
  while failing is None or failing - fitting > 1:
    tried = config.copy_and_resolve_references()
    tried.batch_size = units * unit * devices
    print(f'{units * unit} examples per device: compiling …', flush=True)
    result = plan(tried, topology, gpu_compiler)
    memory[units] = result['hbm_bytes_per_device']
    print(f'{units * unit} examples per device: {_gib(memory[units])}: {_verdict(result)}', flush=True)
    if result['fits']:
      best, fitting = result, units
    else:
      failing = units
    if failing is None:
      units = 2 * fitting
    elif not fitting:
      units = failing // 2
    else:
      units, margin = _between(fitting, failing, memory, limit, margin), 2 * margin
  if not best:
    raise UserError(
        f'not even {unit} examples per device fit {topology}: take more devices, --config.mesh.fsdp, '
        '--config.model.remat=full or a larger device')
  return best | {'largest_batch_per_device': fitting * unit}


def _between(fitting: int, failing: int, memory: dict[int, int | None], limit: int, margin: int) -> int:
  """Where linear memory would reach the limit, but `margin`, or half the distance, away from both batches."""
  low, high = memory[fitting] or 0, memory[failing] or 0
  if high <= low:
    return (fitting + failing) // 2
  reach = fitting + math.floor((failing - fitting) * (limit - low) / (high - low))
  margin = min(margin, (failing - fitting) // 2)
  return min(max(reach, fitting + margin), failing - margin)


def _gib(size: int | None) -> str:
  return 'unknown' if size is None else f'{size / GIB:.2f} GiB' if size >= GIB / 100 else f'{size / 2**20:.1f} MiB'


def _verdict(result: dict[str, Any]) -> str:
  return 'undecided, too near the limit' if result['fits'] is None else 'fits' if result['fits'] else 'does not fit'


def format_plan(result: dict[str, Any]) -> str:
  """The lines that the command prints of a plan."""
  rows = [('parameters', 'params'), ('optimizer', 'optimizer'), ('teacher', 'teacher'), ('batch', 'batch'),
          ('temporaries', 'temporary'), ('total', 'hbm'), ('limit', 'hbm_limit')]
  examples, devices = result['examples_per_step'], result['devices']
  lines = [
      f"{result['topology']}: {devices} x {result['device_kind']}, {examples} examples a step, "
      f'{examples / devices:g} per device: {_verdict(result)}', 'bytes per device']
  lines += [f'  {title:12}{_gib(result.get(name + "_bytes_per_device")):>12}' for title, name in rows]
  if result['fits'] is False and 'message' in result:  # The compiler refused it, so nothing else is known.
    return '\n'.join([*lines, result['message']])
  lines.append('sent a step, from each device')
  lines += [
      f"  {sent['kind']:20}{sent['count']:6} times{_gib(sent['bytes']):>12}   largest {_gib(sent['largest'])}"
      for sent in result['collectives']] or ['  nothing']
  lines.append(
      f"model FLOPs: {result['model_flops_per_step'] / 1e12:.4g} T a step; an example "
      f"{result['flops_per_example'] / 1e9:.4g} G (student {result['student_flops_per_example'] / 1e9:.4g}, "
      f"teacher {result['teacher_flops_per_example'] / 1e9:.4g}), {_gib(result['bytes_per_example'])} of HBM")
  lines += _times(result)
  if 'largest_batch_per_device' in result:
    lines.append(f"largest batch that fits: {result['largest_batch_per_device']} examples per device")
  return '\n'.join(lines)


def _times(result: dict[str, Any]) -> list[str]:
  """The lines of a plan that tell time: of a TPU, the roofline and the compiler's cycles."""
  estimate = result['roofline']
  if estimate is None:
    return [f'limit: {LIMIT}; of time the compiler says nothing']
  parts = ', '.join(f"{name} {1e3 * estimate[name + '_seconds']:.4g} ms" for name in ('compute', 'memory', 'network'))
  lines = [
      f"roofline: {1e3 * estimate['seconds']:.4g} ms a step, "
      f"{result['examples_per_step'] / estimate['seconds']:.4g} examples/s ({parts}); {ASSUMPTIONS}"]
  return lines + (format_clock(result['compiler_clock']) if result['compiler_clock'] else [])


def shipped_config(name: str) -> ConfigDict:
  """Loads the config of a key of `SHIPPED`."""
  module, colon, argument = name.partition(':')
  return cli.load_config(f'configs/{module}.py{colon}{argument}')


def _read_plan(path: str, config: ConfigDict) -> dict[str, Any] | None:
  """The plan that an earlier run left, if it was made of the same config by the same compiler, and has all keys."""
  if not exists(path):
    return None
  result = read_json_object(path)
  with parsing(path):
    same = result['config'] == config.to_dict() and result['versions'] == _versions() and 'compiler_clock' in result
    return result if same else None


def _table_row(name: str, topology: str, result: dict[str, Any]) -> str:
  estimate, clock = result['roofline'], result['compiler_clock']
  cells = [
      f'`{name}`', topology, f"{result['examples_per_step']}",
      *(_gib(result[key + '_bytes_per_device']) for key in ('params', 'optimizer', 'hbm', 'hbm_limit')),
      'yes' if result['fits'] else '**no**',
      _gib(sum(sent['bytes'] for sent in result['collectives'])) if estimate else '-',
      f"{1e3 * estimate['seconds']:.3g} ms" if estimate else '-',
      *([f"{1e3 * clock['seconds']:.3g} ms", f"{clock['mfu']:.0%}"] if clock else '--'),
      f"{result['flops_per_example'] / 1e9:.3g} G"]
  return f"| {' | '.join(cells)} |"


def plan_all(workdir: str) -> None:
  """Plans every shipped config and rewrites the table of docs/tpu.md after each; what `workdir` holds is kept.

  Raises:
    UserError: docs/tpu.md or its marks are missing; or, after all others are planned, the compiler failed on some.
  """
  if not exists(DOCUMENT):
    raise UserError(f'{DOCUMENT} does not exist here: run --all in a clone of the repository')
  before, begin, rest = Path(DOCUMENT).read_text(encoding='utf-8').partition(BEGIN)
  _, end, after = rest.partition(END)
  if not (begin and end):
    raise UserError(f'{DOCUMENT} has lost its marks: put the lines {BEGIN} and {END} back')
  table = [
      '| config | slice | batch | parameters | optimizer | total | limit | fits | sent | roofline | by cycles | MFU | '
      'FLOPs |', '|---' * 13 + '|']
  plans = [(name, topology) for name, topologies in SHIPPED.items() for topology in topologies]
  failed = []
  for name, topology in tqdm(plans, desc='plans', unit='plan'):
    config = shipped_config(name)
    path = os.path.join(workdir, f'{name}-{topology}'.replace(':', '_'), 'plan.json')
    result = _read_plan(path, config)
    try:
      if result is None:
        result = plan(config, topology)
        write_sealed(path, result)
    except UserError as error:
      failed.append(f'{name} on {topology}: {error}')
      continue
    table.append(_table_row(name, topology, result))
    write_text(DOCUMENT, '\n'.join([before + BEGIN, *table, END]) + after)
  if failed:
    raise UserError(f"{len(failed)} of {len(plans)} plans failed: {'; '.join(failed)}")
