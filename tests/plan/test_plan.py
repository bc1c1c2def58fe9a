"""The plan: what compiled programs send and hold, on emulated devices and by the TPU compiler where it is installed."""

import importlib.util
import json
from pathlib import Path
import subprocess
from typing import Any

import jax
from ml_collections import ConfigDict
import pytest

from configs import demo, finetune, pretrain_emoset_vitl16, pretrain_emoverse_vitb16, uniemox_plus_vitb16
from data_pipelines.errors import UserError
from uniemox_jax.plan import compiler_clock, planning, step_compiler
from uniemox_jax.plan.collectives import read_collectives
from uniemox_jax.runtime import hardware

ROOT = Path(__file__).parents[2]
DEVICES = 8
needs_tpu_compiler = pytest.mark.skipif(
    importlib.util.find_spec('libtpu') is None, reason="the TPU compiler is missing: pip install 'uniemox_jax[tpu]'")
HLO = """HloModule jit_step

%body (loop: (s32[], f32[8])) -> (s32[], f32[8]) {
  %loop = (s32[], f32[8]{0}) parameter(0)
  %x = f32[8]{0} get-tuple-element(%loop), index=1
  %sum = f32[8]{0:T(128)S(1)} all-reduce(%x), channel_id=1, to_apply=%add
  ROOT %out = (s32[], f32[8]{0}) tuple(%i, %sum)
}

%limit (loop: (s32[], f32[8])) -> pred[] {
  %three = s32[]{:T(128)} constant(3)
  ROOT %lt = pred[] compare(%i, %three), direction=LT
}

%piece.1 (part: f32[4]) -> f32[32] {
  %part = f32[4]{0} parameter(0)
  ROOT %gathered = f32[32]{0} all-gather(%part), channel_id=7, dimensions={0}
}

%piece.2 (part: f32[4]) -> f32[32] {
  %part = f32[4]{0} parameter(0)
  ROOT %gathered = f32[32]{0} all-gather(%part), channel_id=7, dimensions={0}
}

ENTRY %main (a: f32[8], b: bf16[16,2]) -> f32[8] {
  %a = f32[8]{0} parameter(0)
  %b = bf16[16,2]{1,0} parameter(1)
  %start = (f32[8]{0}, f32[64]{0}) all-gather-start(%a), channel_id=2, dimensions={0}
  %done = f32[64]{0} all-gather-done(%start)
  %scattered = bf16[2,2]{1,0} reduce-scatter(%b), channel_id=3, dimensions={0}
  %one = f32[32]{0} fusion(%a), kind=kCustom, calls=%piece.1
  %two = f32[32]{0} fusion(%a), kind=kCustom, calls=%piece.2
  %while = (s32[], f32[8]{0}) while(%init), condition=%limit, body=%body
  ROOT %result = f32[8]{0} get-tuple-element(%while), index=1
}
"""


def test_collectives_are_counted_through_loops_and_once_where_the_compiler_splits_them() -> None:
  found = {total.kind: total[1:] for total in read_collectives(HLO)}
  assert found == {'all-reduce': (3, 3 * 32, 32), 'all-gather': (2, 256 + 128, 256), 'reduce-scatter': (1, 64, 64)}


CONDITIONAL = """
%first (x: f32[8]) -> f32[8] {
  ROOT %reduced = f32[8]{0} all-reduce(%x), channel_id=1
}

%second (x: f32[8]) -> f32[8] {
  ROOT %x = f32[8]{0} parameter(0)
}

%body (x: f32[8]) -> f32[8] {
  ROOT %either = f32[8]{0} conditional(%place, %x, %x), branch_computations={%first, %second}
}

ENTRY %main (a: f32[8]) -> f32[8] {
  ROOT %while = f32[8]{0} while(%a), condition=%limit, body=%body, backend_config={"known_trip_count":{"n":"5"}}
}
"""


def test_branches_of_a_conditional_share_its_runs() -> None:
  assert read_collectives(CONDITIONAL)[0][1] == 3  # half of 5, rounded up


def _config(data: int, fsdp: int, **changes: Any) -> ConfigDict:
  """The demo's pretraining, smaller, on `DEVICES` devices, scanned as the large configs are."""
  config = demo.get_config('pretrain')
  config.batch_size = 16
  config.mesh = ConfigDict({'data': data, 'fsdp': fsdp})
  config.model.update(image_size=32, width=64, depth=3, decoder_width=32, patch_size=8, scan=True)
  config.teacher_shape = ConfigDict({
      'image_size': 32, 'patch_size': 8, 'width': 32, 'depth': 1, 'heads': 2, 'projection': 32})
  config.update(changes)
  return config


def _assert_sends_gradients_once(config: ConfigDict, params: int, collectives: list[dict[str, Any]]) -> None:
  """On a pure data mesh: gradients at most 1.1 times, else nothing above L1's texts and fused tokens."""
  reduced = sum(sent['bytes'] for sent in collectives if sent['kind'] in ('all-reduce', 'reduce-scatter'))
  assert 0.9 * params < reduced <= 1.1 * params
  texts_and_fused = 2 * config.batch_size * config.model.decoder_width * 4
  assert sum(sent['bytes'] for sent in collectives if sent['kind'] != 'all-reduce') <= texts_and_fused


def _assert_fsdp_divides(whole: dict[str, Any], divided: dict[str, Any]) -> None:
  for name in ('params_bytes_per_device', 'optimizer_bytes_per_device'):
    assert DEVICES <= 1.05 * whole[name] / divided[name] <= 1.05 * DEVICES, name


def test_data_mesh_sends_the_gradients_once_and_the_texts() -> None:
  config = _config(DEVICES, 1)
  program = step_compiler.training_program(config, jax.devices())
  measured = step_compiler.measure_program(step_compiler.compile_program(program))
  _assert_sends_gradients_once(config, step_compiler.sizes(program)['params_bytes_per_device'], measured['collectives'])


def test_fsdp_divides_parameters_and_optimizer_in_the_compiled_program() -> None:
  programs = [step_compiler.training_program(_config(*mesh), jax.devices()) for mesh in ((DEVICES, 1), (1, DEVICES))]
  whole, divided = [step_compiler.sizes(program) for program in programs]
  _assert_fsdp_divides(whole, divided)
  held = step_compiler.compile_program(programs[1]).memory_analysis().argument_size_in_bytes
  assert held == pytest.approx(sum(size for name, size in divided.items() if name.endswith('per_device')), abs=64)


@pytest.mark.parametrize('scan', [True, False])
def test_fsdp_sends_parameters_and_leaves_activations_where_they_are(scan: bool) -> None:
  config = _config(1, DEVICES)
  config.model.scan = scan
  program = step_compiler.training_program(config, jax.devices())
  sent = {
      one['kind']: one['bytes']
      for one in step_compiler.measure_program(step_compiler.compile_program(program))['collectives']}
  tokens = 2 * config.batch_size * 5 * config.model.width * 4  # of both views, after one block
  assert sent['all-to-all'] < tokens / 2
  # Each layer's parameters are gathered for its forward and its backward pass.
  assert sent['all-gather'] < 2 * DEVICES * step_compiler.sizes(program)['params_bytes_per_device'] + tokens


def test_views_that_come_again_leave_the_teacher_out_of_the_step_and_of_its_flops() -> None:
  own, read = (
      step_compiler.sizes(step_compiler.training_program(_config(DEVICES, 1, teacher_views=views), jax.devices()))
      for views in (0, 4))
  compared = 2 * 16 * 32  # with each text of the batch, in L1
  assert own['teacher_flops_per_example'] > 100 * compared
  assert read['teacher_flops_per_example'] == compared
  assert read['student_flops_per_example'] == own['student_flops_per_example']
  assert read['teacher_bytes_per_device'] == 4  # the scale
  assert read['batch_bytes_per_device'] - own['batch_bytes_per_device'] == 16 // DEVICES * 32 * 4


def _programs_without_and_with_canvas() -> list[step_compiler.Program]:
  return [
      step_compiler.training_program(_config(DEVICES, 1, crop_canvas=canvas, accum_steps=2), jax.devices())
      for canvas in (0, 48)]


def test_crops_on_a_canvas_are_planned_for_in_the_batch() -> None:
  views, crops = (
      step_compiler.sizes(program)['batch_bytes_per_device'] for program in _programs_without_and_with_canvas())
  a_view = 3 * (48**2 - 32**2) + 4 * 4
  assert crops - views == 16 // DEVICES * (2 * a_view + 1)


def test_draws_of_augmentation_are_planned_for_in_the_batch() -> None:
  config = demo.get_config('finetune')
  config.update(batch_size=16, crop_canvas=128, streams='scene+person')
  with_draws = config.copy_and_resolve_references()
  with_draws.augment.update(randaugment=9.0, erase=0.25)
  plain, drawn = (step_compiler.training_program(each, jax.devices()) for each in (config, with_draws))
  assert {name for name in drawn.batch.keys() - plain.batch.keys() if name.startswith('person')
         } == {'person_operation', 'person_amount', 'person_erased', 'person_noise'}
  bytes_of_plain, bytes_of_drawn = (
      step_compiler.sizes(program)['batch_bytes_per_device'] for program in (plain, drawn))
  assert bytes_of_drawn - bytes_of_plain == 16 // DEVICES * 2 * 4 * (2 + 2 + 4 + 4)


@pytest.mark.slow
def test_crops_on_a_canvas_are_sent_nowhere() -> None:
  sent, as_well = (
      step_compiler.measure_program(step_compiler.compile_program(program))['collectives']
      for program in _programs_without_and_with_canvas())
  assert as_well == sent


@needs_tpu_compiler
@pytest.mark.slow
def test_tpu_compiler_keeps_both_promises() -> None:
  whole, divided = [planning.plan(_config(*mesh), 'v5e:2x4') for mesh in ((DEVICES, 1), (1, DEVICES))]
  _assert_sends_gradients_once(_config(DEVICES, 1), whole['params_bytes_per_device'], whole['collectives'])
  _assert_fsdp_divides(whole, divided)
  assert whole['devices'] == DEVICES
  assert whole['device_kind'] == 'TPU v5 lite'
  assert 0 < whole['hbm_bytes_per_device'] < whole['hbm_limit_bytes_per_device']
  clock = whole['compiler_clock']
  assert clock['seconds'] > whole['roofline']['compute_seconds']
  assert set(compiler_clock.PARTS) - {'head'} <= clock['parts'].keys()


@needs_tpu_compiler
@pytest.mark.slow
def test_what_does_not_fit_is_an_answer_not_an_error() -> None:
  result = planning.plan(_config(-1, 1, batch_size=2**22), 'v5e:1x1')
  assert not result['fits']
  assert result['hbm_bytes_per_device'] > result['hbm_limit_bytes_per_device']
  assert 'does not fit' in planning.format_plan(result)


def test_refusal_of_the_compiler_tells_what_would_be_needed() -> None:
  said = (
      'RESOURCE_EXHAUSTED: E1000: CompileTimeHbmOom: Ran out of memory on HBM, the total memory required for HLO '
      'temporaries (372.65G) exceeds available HBM (15.75G). HLO module: jit__step.\nSee https://openxla.org')
  refused = step_compiler.out_of_memory(said)
  assert refused['hbm_bytes_per_device'] == round(372.65 * 2**30)
  assert not refused['fits']
  assert step_compiler.out_of_memory('INTERNAL: something else') is None


def test_crash_of_the_compiler_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
  crashed = subprocess.CompletedProcess([], -11, '', 'Traceback\nFatal: segmentation fault\n')
  monkeypatch.setattr(planning.subprocess, 'run', lambda *args, **options: crashed)
  with pytest.raises(UserError, match='code -11 on v5e:4x4: Fatal: segmentation fault'):
    planning.compile_in_subprocess(_config(8, 1), 'v5e:4x4')


def test_missing_compiler_is_the_line_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
  monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
  with pytest.raises(UserError, match=r"pip install 'uniemox_jax\[tpu\]'"):
    planning.plan(_config(8, 1), 'v5e:4x4')


@pytest.mark.parametrize('name', ['v5e', 'v9:2x2', 'v5e:4', 'v5e:0x4', 'v5e:4x4x4x4'])
def test_unknown_slice_is_refused(name: str) -> None:
  with pytest.raises(UserError, match='--topology'):
    hardware.parse_slice(name)


def test_teacher_without_a_shape_is_refused() -> None:
  config = _config(8, 1)
  del config['teacher_shape']
  with pytest.raises(UserError, match='teacher_shape'):
    step_compiler.training_program(config, jax.devices())


@pytest.mark.parametrize('section', ['', 'clip'])
def test_config_of_another_verb_is_refused(section: str) -> None:
  with pytest.raises(UserError, match='pretrain or finetune'):
    step_compiler.training_program(demo.get_config(section), jax.devices())


def _answer(config: ConfigDict, topology: str, needed: int) -> dict[str, Any]:
  """A plan as `plan.plan` gives it, of a program that needs so many bytes."""
  chip = hardware.parse_slice(topology).chip
  numbers = dict.fromkeys(
      [f'{name}_bytes_per_device' for name in ('params', 'optimizer', 'teacher', 'batch', 'temporary')], 1)
  measured = numbers | {
      'fits': needed <= chip.hbm, 'hbm_bytes_per_device': needed, 'params': 1, 'message': 'too large',
      'student_flops_per_example': 3, 'teacher_flops_per_example': 1, 'activation_values_per_example': 1,
      'collectives': [], 'compiler_clock': None, 'versions': {}}
  return planning.complete_plan(measured, config, hardware.parse_slice(topology))


@pytest.mark.parametrize('largest', [1, 7, 64, 133, 1000])
def test_search_ends_at_the_largest_batch_that_fits(monkeypatch: pytest.MonkeyPatch, largest: int) -> None:
  tried = []

  def fake(config: ConfigDict, topology: str, gpu_compiler: str = '') -> dict[str, Any]:
    tried.append(config.batch_size // 4)
    return _answer(config, topology, int(hardware.CHIPS['v5e'].hbm * (0.3 + 0.7 * tried[-1] / (largest + 0.5))))

  monkeypatch.setattr(planning, 'plan', fake)
  monkeypatch.setattr(planning, '_versions', lambda: {})
  result = planning.search_batch(_config(-1, 1, batch_size=64), 'v5e:2x2')
  assert result['largest_batch_per_device'] == result['examples_per_step'] // 4 == largest
  assert len(tried) <= 10


def test_search_is_short_where_the_compiler_saves_memory_near_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
  # As libtpu does for demo:pretrain on one v5e: linear up to 4,525 examples per device, and 30 more fit.
  tried, limit = [], hardware.CHIPS['v5e'].hbm

  def fake(config: ConfigDict, topology: str, gpu_compiler: str = '') -> dict[str, Any]:
    tried.append(config.batch_size)
    needed = limit * tried[-1] / 4525.5
    return _answer(config, topology, int(needed if tried[-1] > 4555 else min(needed, limit)))

  monkeypatch.setattr(planning, 'plan', fake)
  monkeypatch.setattr(planning, '_versions', lambda: {})
  assert planning.search_batch(_config(-1, 1, batch_size=3400), 'v5e:1x1')['largest_batch_per_device'] == 4555
  assert len(tried) <= 14


def test_all_resumes_and_changes_the_document_between_its_marks_only(tmp_path, monkeypatch) -> None:
  planned = []

  def fake(config: ConfigDict, topology: str, gpu_compiler: str = '') -> dict[str, Any]:
    planned.append(topology)
    if len(planned) == 5:
      raise UserError('the compiler crashed')
    return _answer(config, topology, 2**20)

  monkeypatch.setattr(planning, 'plan', fake)
  monkeypatch.setattr(planning, '_versions', lambda: {})
  monkeypatch.chdir(tmp_path)
  (tmp_path / 'docs').mkdir()
  (tmp_path / planning.DOCUMENT).write_text(f'before\n{planning.BEGIN}\nold\n{planning.END}\nafter\n')
  total = sum(map(len, planning.SHIPPED.values()))
  with pytest.raises(UserError, match=f'1 of {total} plans failed: pretrain_emoset_vitb16 on v4:4x4x4: .* crashed'):
    planning.plan_all('plans')
  planning.plan_all('plans')
  assert len(planned) == total + 1
  text = (tmp_path / planning.DOCUMENT).read_text()
  assert text.startswith(f'before\n{planning.BEGIN}\n| config') and text.endswith(f'{planning.END}\nafter\n')
  assert text.count('\n| `') == total and 'old' not in text
  assert json.loads((tmp_path / 'plans' / 'finetune_emo8-v5e_2x4' / 'plan.json').read_text())['devices'] == 8


def test_every_shipped_config_is_planned_and_fits_its_slices() -> None:
  # A probe trains no step, a comparison those of others; the harder world's step is the demo's, EmoVerse's EmoSet's.
  shipped = {path.stem for path in (ROOT / 'configs').glob('*.py')} - {'__init__', 'probe', 'compare', 'hard_world'}
  same, emoset = pretrain_emoverse_vitb16.get_config(), planning.shipped_config('pretrain_emoset_vitb16')
  same.dataset = emoset.dataset
  assert same.to_dict() == emoset.to_dict()
  # UniEmoX+ takes the mean of some tokens in place of one: nothing that a plan would see.
  plus = uniemox_plus_vitb16.get_config()
  plus.model.embedding = 'class_token'
  assert plus.to_dict() == emoset.to_dict()
  shipped -= {'pretrain_emoverse_vitb16', 'uniemox_plus_vitb16', 'uniemox_plus_vitl16'}
  assert {name.partition(':')[0] for name in planning.SHIPPED} == shipped
  for name, topologies in planning.SHIPPED.items():
    config = planning.shipped_config(name)
    assert [hardware.parse_slice(topology).generation for topology in topologies] == list(hardware.CHIPS)
    assert not [topology for topology in topologies if config.batch_size % hardware.parse_slice(topology).chips]
    if 'teacher_shape' in config:
      assert config.teacher_shape.projection == config.model.decoder_width


@pytest.mark.parametrize('config', [finetune.get_config(), pretrain_emoset_vitl16.get_config()], ids=['L', 'pretrain'])
def test_shipped_step_is_planned_without_data_weights_or_network(config: ConfigDict) -> None:
  program = step_compiler.training_program(config, jax.devices())
  rows = {leaf.shape[0] for leaf in jax.tree.leaves(program.batch)}
  assert rows == {config.batch_size}
  assert all(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(program[1:4]))
