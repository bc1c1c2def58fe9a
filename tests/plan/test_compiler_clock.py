"""The compiler's cycles: read from a real program's text, with its loops, and by the parts that a step names."""

from pathlib import Path
import re

import jax
from ml_collections import ConfigDict
import pytest

from configs import demo
from uniemox_jax.plan import compiler_clock, kernel_schedules, step_compiler
from uniemox_jax.runtime import hardware
from uniemox_jax.train import loop

# The gradient of three scanned layers for one v5e, as libtpu 0.0.42.1 compiles it. Cut down to the entry, the loops,
# and of fused computations the products and the results; of what the compiler knows of an instruction, its cycles.
TEXT = (Path(__file__).parents[1] / 'fixtures' / 'scanned_layers_on_v5e.hlo.txt').read_text(encoding='utf-8')
ENTRY, LOOPS, TRIPS = 3543 + 8596 + 18575, 33666, 3


def test_cycles_of_a_loop_count_as_often_as_it_turns() -> None:
  assert sum(map(int, re.findall(r'"estimated_cycles":"(\d+)"', TEXT))) == ENTRY + LOOPS
  operations, unknown = compiler_clock.read_operations(TEXT)
  assert sum(operation.cycles for operation in operations) == ENTRY + TRIPS * LOOPS
  assert unknown[0] == {'name': 'copy-done', 'count': 1, 'bytes': 3 * 512 * 512 * 2}
  assert not [one['name'] for one in unknown if one['name'] in ('while', 'tuple', 'AllocateBuffer')]
  assert operations == sorted(operations, key=lambda operation: -operation.cycles)


def test_operations_are_told_by_part_kind_and_direction() -> None:
  operations, _ = compiler_clock.read_operations(TEXT)
  products = [operation for operation in operations if operation.kind == 'product']
  assert [(one.part, one.name, one.backward, one.shape, one.count, one.cycles) for one in products] == [
      ('encoder', 'dot_general', False, 'bf16[256,512]', 3, 3 * 7012),
      ('encoder', 'dot_general', True, 'bf16[3,512,512]', 3, 3 * 5212),
      ('encoder', 'dot_general', True, 'bf16[256,512]', 3, 3 * 4146)]
  (copy,) = [operation for operation in operations if operation.kind == 'copy']
  assert (copy.part, copy.count, copy.cycles) == ('other', 3, 3 * 2946)
  update = next(operation for operation in operations if operation.part == 'optimizer')
  assert (update.count, update.cycles) == (1, 18575)


def test_a_fusion_inside_a_fusion_is_not_counted_twice() -> None:
  text = TEXT.replace(
      'fusion(%param_0.97), kind=kLoop, calls=%bitcast_fusion.1.clone.1',
      'fusion(%param_0.97), kind=kLoop, calls=%bitcast_fusion.1.clone.1, backend_config={"estimated_cycles":"1000000"}')
  assert text != TEXT
  assert compiler_clock.summarise_cycles(text) == compiler_clock.summarise_cycles(TEXT)


# One instruction of a kernel as a program's text has it, and its place in the file of its schedule.
KERNEL = (
    '  %_forward_kernel.1 = bf16[128,197,512]{2,1,0:T(8,128)(2,1)} custom-call(%copy, %copy.1), '
    'custom_call_target="tpu_custom_call", metadata={op_name="jit(step)/decoder/attend/pallas_call"}')
# On v6e, stores and other operations share two slots a cycle.
V6E_SCHEDULE = f"""HLO: {KERNEL.strip()}
 - VECTOR_STORE_AND_MISC: (2318/5968) - 0.39
 - SMEM_SPILL_COUNT: (0/2984) - 0
"""
SCHEDULE = f"""HLO: %copy.1 = bf16[128,197,512] copy(%copy-done)
 - SMEM_SPILL_COUNT: (0/77) - 0
HLO: {KERNEL.strip()}
 - MXU_0 matmul_packed: (207/298) - 0.69
 - VECTOR_STORE: (1294/4757) - 0.27
 - SMEM_SPILL_COUNT: (0/4757) - 0
HLO: %copy.3 = bf16[128,197,512] copy(%_forward_kernel.1)
 - SMEM_SPILL_COUNT: (0/99) - 0
"""


def test_a_kernel_takes_the_cycles_of_its_schedule_for_each_sequence(tmp_path: Path) -> None:
  (tmp_path / '17-TLP-00-hlo-static-bundle-profile.txt').write_text(SCHEDULE, encoding='utf-8')
  schedules = kernel_schedules.read_schedules(str(tmp_path))
  assert schedules == {('_forward_kernel', 'bf16[128,197,512]'): 4757}
  first = TEXT.index('ENTRY ')
  entry = TEXT.index('\n', first)
  text = TEXT[:entry + 1] + KERNEL.replace('.1 =', '.7 =') + TEXT[entry:]  # of equal kernels one has a schedule
  without, _ = compiler_clock.read_operations(TEXT)
  operations, unknown = compiler_clock.read_operations(text, schedules)
  (kernel,) = [operation for operation in operations if operation.kind == 'kernel']
  assert (kernel.part, kernel.name, kernel.count, kernel.cycles) == ('decoder', 'pallas_call', 1, 128 * 4757)
  assert sum(one.cycles for one in operations) == sum(one.cycles for one in without) + kernel.cycles
  # Without its schedule it is named among what has no estimate, and never taken for nothing.
  assert 'tpu_custom_call' not in [one['name'] for one in unknown]
  assert 'tpu_custom_call' in [one['name'] for one in compiler_clock.read_operations(text)[1]]
  summary = compiler_clock.summarise_cycles(text)
  assert summary is not None
  said = compiler_clock.format_clock(compiler_clock.timed(summary, hardware.CHIPS['v5e'], 1e9))
  assert '1 runs of kernels without a schedule' in said[1] and 'tpu_custom_call' in said[-1]
  assert kernel_schedules.read_schedules(str(tmp_path / 'missing')) == {}


def test_the_schedule_of_another_generation_is_read_too(tmp_path: Path) -> None:
  (tmp_path / '17-TLP-00-hlo-static-bundle-profile.txt').write_text(V6E_SCHEDULE, encoding='utf-8')
  assert kernel_schedules.read_schedules(str(tmp_path)) == {('_forward_kernel', 'bf16[128,197,512]'): 2984}


def test_cycles_become_milliseconds_and_utilisation() -> None:
  chip = hardware.CHIPS['v5e']
  assert chip.clock == pytest.approx(1.5e9, rel=0.01)
  summary = compiler_clock.summarise_cycles(TEXT)
  assert summary is not None
  clock = compiler_clock.timed(summary, chip, flops=1e9)
  assert clock['seconds'] == pytest.approx(131712 / 1.503e9, rel=1e-3)
  assert clock['mfu'] == pytest.approx(1e9 / 197e12 / clock['seconds'])
  for name in ('parts', 'kinds'):
    assert sum(clock[name].values()) == pytest.approx(clock['seconds'])
  said = '\n'.join(compiler_clock.format_clock(clock))
  assert '0.08763 ms a step' in said and 'estimate' in said and 'no overlap' in said
  assert 'encoder   dot_general (backward), product, bf16[3,512,512], 3 times' in said
  assert 'without an estimate: copy-done 1 times, 2 MiB; ' in said


def test_a_program_without_cycles_has_no_clock() -> None:
  assert compiler_clock.summarise_cycles(re.sub(r', backend_config=\{"estimated_cycles":"\d+"\}', '', TEXT)) is None


def _named_parts(config: ConfigDict) -> set[str]:
  """The parts that the locations of a config's lowered step name."""
  program = step_compiler.training_program(config, jax.devices()[:1])
  key = jax.eval_shape(lambda: jax.random.key(0))
  with jax.set_mesh(program.mesh):
    lowered = loop.jit_step(program.step, program.state).lower(program.state, program.frozen, program.batch, key)
  paths = re.findall(r'"(jit\(step\)/[^"]*)"', lowered.as_text(debug_info=True))
  return {compiler_clock.part_of(path) for path in paths} - {compiler_clock.OTHER}


def test_every_part_of_a_step_is_named_in_its_program() -> None:
  assert _named_parts(demo.get_config('pretrain')) == set(compiler_clock.PARTS) - {'head'}
  assert _named_parts(demo.get_config('finetune')) == {'inputs', 'encoder', 'head', 'losses', 'optimizer'}
