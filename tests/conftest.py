"""Shared by all tests: small random models with no zero left in them, and the measure of parity."""

from collections.abc import Callable
import os
from pathlib import Path
from typing import Any

# Before jax wakes up: eight emulated devices, for the promises about sharding; and quick compilation, since these
# models are so small that compiling them is what takes the time.
os.environ['XLA_FLAGS'] = ' '.join([
    os.environ.get('XLA_FLAGS', ''), '--xla_force_host_platform_device_count=8', '--xla_backend_optimization_level=0',
    '--xla_llvm_disable_expensive_passes=true'])

import jax
import numpy as np
import pytest

from uniemox_jax.models.clip import CLIPConfig, Tower
from uniemox_jax.teacher import abstract_clip, save_clip

PARITY = 1e-5


@pytest.fixture(scope='session')
def assert_parity() -> Callable[[Any, Any], None]:
  """Fails unless the relative L2 distance of two float32 arrays is below 1e-5."""
  def check(ours: Any, theirs: Any) -> None:
    ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    assert ours.shape == theirs.shape
    assert np.linalg.norm(ours - theirs) < PARITY * np.linalg.norm(theirs)

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
  vision, text = Tower(16, 2, 2, 32), Tower(16, 3, 4, 24)
  return CLIPConfig(vision=vision, text=text, image_size=32, patch_size=8, projection_dim=12)


@pytest.fixture(scope='session')
def clip_params(clip_config: CLIPConfig) -> dict[str, Any]:
  """Random parameters of `clip_config`, none of them zero."""
  rng = np.random.default_rng(0)
  return jax.tree.map(lambda x: (0.2 * rng.standard_normal(x.shape)).astype(np.float32), abstract_clip(clip_config)[1])


@pytest.fixture(scope='session')
def clip_folder(clip_config: CLIPConfig, clip_params: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
  """The same CLIP in Hugging Face form. Do not write into it."""
  folder = tmp_path_factory.mktemp('clip') / 'model'
  save_clip(folder, clip_config, clip_params)
  return folder
