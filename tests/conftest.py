"""Shared by all tests: commands and what a mistake ends in, small random models, and the measure of parity."""

from collections.abc import Callable, Iterator
import gc
import os
from pathlib import Path
import runpy
import shutil
import signal
import sys
from typing import Any

# Before jax is imported: eight emulated devices, for the promises about sharding; and quick compilation, since these
# models are so small that compiling them is what takes the time. Without the fusion emitters, it takes a third of it.
os.environ['XLA_FLAGS'] = ' '.join([
    os.environ.get('XLA_FLAGS', ''), '--xla_force_host_platform_device_count=8', '--xla_backend_optimization_level=0',
    '--xla_llvm_disable_expensive_passes=true', '--xla_cpu_use_fusion_emitters=false',
    '--xla_cpu_parallel_codegen_split_count=1'])
# What one process has compiled, the others of this and of later sessions load: pytest's workers, and the verbs that
# tests start. A program is found by its content, the compiler and its options. `pytest --cache-clear` empties it.
os.environ.setdefault('JAX_COMPILATION_CACHE_DIR', str(Path(__file__).parents[1] / '.pytest_cache' / 'd' / 'compiled'))
os.environ.setdefault('JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS', '0.1')

from absl import flags
import filelock
import numpy as np
import pytest

from tests.support import siglip_folders, small_runs
from uniemox_jax.models.clip import CLIPConfig

PARITY = 1e-5
# Few tests that take long. xdist gives out files in this order: begun last, one of them would keep one worker alone.
# The first makes the runs that others share, and the second needs none of them: so no worker waits for another.
LONG_FILES = (
    'test_runs', 'test_train_step', 'test_average', 'test_two_streams', 'test_task_runs', 'test_look',
    'test_initialisations', 'test_preemption', 'test_topologies', 'test_teacher_views')

# A process that has loaded jax, tensorflow and torch holds millions of objects, and every collection looks at them all:
# with Python's own thresholds, this took a fourteenth of the tests' CPU time.
gc.set_threshold(100_000, 20, 50)

# A shell lets what it starts in the background ignore Ctrl-C, and processes hand that on. Those that tests start are to
# take it as they do in a terminal.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
  signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_xdist_auto_num_workers() -> int:
  """One worker more than there are CPUs, since many tests wait for processes that they started."""
  return (os.cpu_count() or 1) + 1


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
  places = {name: place for place, name in enumerate(LONG_FILES)}
  items.sort(key=lambda item: places.get(item.path.stem, len(places)))


@pytest.fixture(autouse=True)
def no_process_outlives_its_test() -> Iterator[None]:
  yield
  small_runs.end_started()


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
def built_once(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, Callable[[Path], object]], Path]:
  """Makes a folder in the first of pytest's processes that asks for it by name; the others wait, and get the same.

  Do not write into it.
  """
  folder = tmp_path_factory.getbasetemp()
  if 'PYTEST_XDIST_WORKER' in os.environ:
    folder = folder.parent  # each process has a folder of its own below this one

  def build(name: str, make: Callable[[Path], object]) -> Path:
    made, done = folder / name, folder / f'{name}.done'
    with filelock.FileLock(folder / f'{name}.lock'):
      if not done.exists():
        shutil.rmtree(made, ignore_errors=True)  # what a try that failed has left
        make(made)
        done.touch()
    return made

  return build


@pytest.fixture(scope='session')
def clip_folder(built_once: Callable[..., Path]) -> Path:
  """The same CLIP in Hugging Face form. Do not write into it."""
  return built_once('shared_clip', small_runs.write_teacher)


@pytest.fixture(scope='session')
def siglip_folder(random_torch: Callable[..., Any], built_once: Callable[..., Path]) -> Path:
  """A random SigLIP in Hugging Face form. Do not write into it."""
  return built_once('shared_siglip', lambda folder: siglip_folders.write_siglip(folder, random_torch, 'siglip'))


@pytest.fixture(scope='session')
def siglip2_folder(random_torch: Callable[..., Any], built_once: Callable[..., Path]) -> Path:
  """A random SigLIP 2 in Hugging Face form. Do not write into it."""
  return built_once('shared_siglip2', lambda folder: siglip_folders.write_siglip(folder, random_torch, 'siglip2'))


@pytest.fixture(scope='session')
def data_dir(built_once: Callable[..., Path]) -> str:
  """Records of small drawn sets, see `small_runs.write_records`."""
  return str(built_once('shared_records', small_runs.write_records) / 'data')


@pytest.fixture(scope='module')
def one_device() -> Iterator[None]:
  """A module's verbs take one of the emulated devices: for tests of which sharding is no promise, this is quicker."""
  import jax

  from uniemox_jax.runtime import sharding
  make_mesh = sharding.make_mesh
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(
        sharding, 'make_mesh',
        lambda data=-1, fsdp=1, devices=None: make_mesh(data, fsdp,
                                                        jax.devices()[:1] if devices is None else devices))
    yield


@pytest.fixture(scope='session')
def pretrained_run(data_dir: str, clip_folder: Path, built_once: Callable[..., Path]) -> Path:
  """Workdir of a pretraining run on eight devices, of which steps 2 and 3 are traced. Do not write into it."""
  from uniemox_jax.pretrain import pretrain
  from uniemox_jax.runtime.clock import Profile
  config = small_runs.shared_pretrain_config(data_dir, clip_folder)
  return built_once('shared_pretrained', lambda folder: pretrain(config, str(folder), Profile(2, 3)))


@pytest.fixture(scope='session')
def finetuned_run(data_dir: str, pretrained_run: Path, built_once: Callable[..., Path]) -> Path:
  """Workdir of a fine-tuning run that started from `pretrained_run`. Do not write into it."""
  from uniemox_jax.finetune import finetune
  config = small_runs.finetune_config(data_dir)
  config.init = str(pretrained_run)
  return built_once('shared_finetuned', lambda folder: finetune(config, str(folder)))
