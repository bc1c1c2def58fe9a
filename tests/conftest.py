"""Shared by all tests: commands and what a mistake ends in, small random models, and the measure of parity."""

from collections.abc import Callable, Iterator
import os
from pathlib import Path
import runpy
import sys
from typing import Any

# Before jax wakes up: eight emulated devices, for the promises about sharding; and quick compilation, since these
# models are so small that compiling them is what takes the time.
os.environ['XLA_FLAGS'] = ' '.join([
    os.environ.get('XLA_FLAGS', ''), '--xla_force_host_platform_device_count=8', '--xla_backend_optimization_level=0',
    '--xla_llvm_disable_expensive_passes=true'
])

from absl import flags
import numpy as np
import pytest

from tests.support import small_runs
from uniemox_jax.models.clip import CLIPConfig

PARITY = 1e-5


@pytest.fixture(scope='session')
def assert_parity() -> Callable[[Any, Any], None]:
  """Fails unless the relative L2 distance of two float32 arrays is below 1e-5."""

  def check(ours: Any, theirs: Any) -> None:
    ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    assert ours.shape == theirs.shape
    assert np.linalg.norm(ours - theirs) < PARITY * np.linalg.norm(theirs)

  return check


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., int]]:
  """Runs `python -m MODULE ARGUMENTS` in this process, and gives the exit code."""
  before = set(flags.FLAGS)

  def run(module: str, *arguments: Any) -> int:
    monkeypatch.setattr(sys, 'argv', [module, *map(str, arguments)])
    with pytest.raises(SystemExit) as stopped:
      runpy.run_module(module, run_name='__main__')
    return stopped.value.code

  yield run
  for name in set(flags.FLAGS) - before:
    delattr(flags.FLAGS, name)


@pytest.fixture(scope='session')
def assert_one_line() -> Callable[..., None]:
  """Fails unless a command ended as a user's mistake should: code 2, one line that names the thing and the remedy."""

  def check(code: int, stderr: str, thing: str, remedy: str) -> None:
    assert code == 2
    assert stderr.startswith('error: ') and stderr.count('\n') == 1, stderr
    assert thing in stderr and remedy in stderr

  return check


@pytest.fixture(scope='session')
def random_torch() -> Callable[..., Any]:
  """Makes a PyTorch model whose every parameter, biases and LayerNorms too, is random: zeros would hide swaps."""
  import torch

  def make(model_class: type, config: Any, noise: float = 0.1) -> Any:
    torch.manual_seed(0)
    model = model_class(config).eval()
    with torch.no_grad():
      for parameter in model.parameters():
        parameter.add_(torch.randn_like(parameter) * noise)
    return model

  return make


@pytest.fixture(scope='session')
def clip_config() -> CLIPConfig:
  """A CLIP of 16-wide towers with OpenAI's vocabulary."""
  return small_runs.random_clip()[0]


@pytest.fixture(scope='session')
def clip_params() -> dict[str, Any]:
  """Random parameters of `clip_config`, none of them zero."""
  return small_runs.random_clip()[1]


@pytest.fixture(scope='session')
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
  """The same CLIP in Hugging Face form. Do not write into it."""
  return small_runs.write_teacher(tmp_path_factory.mktemp('clip') / 'model')


@pytest.fixture(scope='session')
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> str:
  """Records of small drawn sets, see `small_runs.write_records`."""
  return small_runs.write_records(tmp_path_factory.mktemp('records'))
