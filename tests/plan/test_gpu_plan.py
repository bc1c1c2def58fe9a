"""Plans for GPUs: which topologies there are, what a GPU leaves a program, and where the compiler is.

What the compiler itself says is in tests/with_gpu_compiler.
"""

import importlib.metadata
import json
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict
import pytest

from configs import demo
from data_pipelines.errors import UserError
from uniemox_jax.plan import gpu_cards, planning, step_compiler
from uniemox_jax.runtime import hardware
from uniemox_jax.runtime.hardware import GIB

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(('card', 'capability'), [('t4', '7.5'), ('l4', '8.9'), ('v100', '7.0'), ('a100', '8.0'),
                                                  ('h100', '9.0'), ('rtx4090', '8.9')])
def test_gpus_of_colab_and_the_clouds_are_known(card: str, capability: str) -> None:
  gpus = gpu_cards.parse_topology(f'{card}:8')
  assert (gpus.name, gpus.chips) == (f'{card}:8', 8)
  major, _, minor = capability.partition('.')
  assert f'cuda_compute_capability {{ major: {major} minor: {minor} }}\n' in gpus.target
  assert f'device_description_str: "{gpus.device_kind}"\n' in gpus.target


@pytest.mark.parametrize('name', ['t4', 't4:0', 't4:9', 't4:1x1', 't4:', 'k80:1', 'v9:2x2'])
def test_unknown_topology_is_refused_with_what_there_is(name: str) -> None:
  with pytest.raises(UserError, match='--topology .*(h100:8|t4:1)'):
    gpu_cards.parse_topology(name)


def test_a_slice_is_still_a_slice() -> None:
  assert gpu_cards.parse_topology('v5e:4x4') == hardware.parse_slice('v5e:4x4')


def test_near_the_limit_of_a_gpu_nothing_is_said() -> None:
  t4, h100 = gpu_cards.parse_topology('t4:1'), gpu_cards.parse_topology('h100:1')
  assert t4.limit == round(
      14.7 * GIB) - 5 * GIB  # CUDA and waiting batches weigh more than the quarter outside the pool
  assert h100.limit == pytest.approx(0.75 * 79.1 * GIB)
  assert [t4.fits(round(share * t4.limit)) for share in (0.89, 0.91, 1.09, 1.11)] == [True, None, None, False]


def _answer(total: int, fits: bool | None) -> dict[str, Any]:
  numbers = dict.fromkeys(
      [f'{name}_bytes_per_device' for name in ('params', 'optimizer', 'teacher', 'batch', 'temporary')], 1)
  return numbers | {
      'fits': fits, 'hbm_bytes_per_device': total, 'params': 1, 'student_flops_per_example': 3, 'collectives': [],
      'teacher_flops_per_example': 1, 'activation_values_per_example': 1, 'compiler_clock': None, 'versions': {}}


@pytest.mark.parametrize(('fits', 'said'), [(True, ': fits'), (None, 'undecided'), (False, 'does not fit')])
def test_plan_of_gpus_tells_memory_and_no_time(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, fits: bool | None, said: str) -> None:
  asked = []

  def fake(config: ConfigDict, topology: str, python: str) -> dict[str, Any]:
    asked.append((topology, python))
    return _answer(2 * GIB, fits)

  python = tmp_path / 'python'
  python.touch(mode=0o755)
  monkeypatch.setattr(planning, 'compile_in_subprocess', fake)
  result = planning.plan(demo.get_config('pretrain'), 'h100:8', str(python))
  assert asked == [('h100:8', str(python))]
  assert (result['devices'], result['device_kind'], result['fits']) == (8, 'NVIDIA H100 80GB HBM3', fits)
  assert result['roofline'] is None and result['compiler_clock'] is None
  text = planning.format_plan(result)
  assert said in text.splitlines()[0] and '2.00 GiB' in text and 'of time the compiler says nothing' in text


def test_missing_gpu_compiler_is_the_line_to_make_it(tmp_path: Path) -> None:
  with pytest.raises(UserError, match='make gpu-compiler'):
    planning.plan(demo.get_config('pretrain'), 't4:1', str(tmp_path / 'bin' / 'python'))


def test_python_without_the_gpu_compiler_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
  request = tmp_path / 'request.json'
  request.write_text(json.dumps({'config': demo.get_config('pretrain').to_dict(), 'topology': 't4:1'}))
  monkeypatch.setattr(gpu_cards.importlib.util, 'find_spec', lambda name: None)
  step_compiler.main(str(request))
  assert 'uniemox_jax[gpu_plan]' in json.loads(request.read_text())['error']


def test_compiler_gets_this_code_and_keeps_the_flags_of_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
  monkeypatch.setenv('XLA_FLAGS', '--xla_dump_to=there')
  monkeypatch.setenv('PYTHONPATH', 'mine')
  environment = planning._gpu_environment()
  assert environment['XLA_FLAGS'] == '--xla_dump_to=there --xla_gpu_enable_triton_gemm=false'
  assert environment['PYTHONPATH'].split(':') == [str(ROOT), 'mine']


def test_environment_of_make_has_the_compiler_of_our_jax() -> None:
  text = (ROOT / 'Makefile').read_text()
  for package in ('plugin', 'pjrt'):
    assert f'jax-cuda12-{package}=={importlib.metadata.version("jax")}' in text
