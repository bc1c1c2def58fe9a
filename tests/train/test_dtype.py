"""`dtype='auto'`: what the devices compute well, settled before anything else, kept by the run."""

from collections.abc import Callable
import dataclasses
import importlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from ml_collections import ConfigDict
import pytest

from configs import demo
from configs import probe as probe_config
from uniemox_jax.train import run_folder
from uniemox_jax.train.config import FinetuneConfig, PretrainConfig
from uniemox_jax.train.schema import parse


def _device(platform: str, capability: str | None = None) -> Any:
  fields = {'platform': platform, 'device_kind': 'Some device'
           } | ({'compute_capability': capability} if capability else {})
  return SimpleNamespace(**fields)


@pytest.mark.parametrize(('device', 'dtype'), [(_device('tpu'), 'bfloat16'), (_device('gpu', '7.5'), 'float32'),
                                               (_device('gpu', '7.0'), 'float32'), (_device('gpu', '8.0'), 'bfloat16'),
                                               (_device('gpu', '12.0'), 'bfloat16'),
                                               (_device('gpu', 'gfx90a'), 'float32'), (_device('cpu'), 'float32')])
def test_auto_is_bfloat16_where_its_attention_compiles(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str], device: Any,
    dtype: str) -> None:
  monkeypatch.setattr(run_folder.jax, 'devices', lambda: [device])
  settled = run_folder.settle_dtype(FinetuneConfig(dtype='auto'), str(tmp_path))
  assert settled == FinetuneConfig(dtype=dtype)
  assert capsys.readouterr().out == f'dtype: {dtype}, chosen for Some device\n'


def test_auto_goes_on_as_the_run_began(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
  run_folder.keep_config(FinetuneConfig(dtype='bfloat16'), str(tmp_path))
  settled = run_folder.settle_dtype(FinetuneConfig(dtype='auto'), str(tmp_path))
  assert settled.dtype == 'bfloat16'
  began = dataclasses.asdict(settled)
  assert run_folder.changed_keys(began, began | {'dtype': 'auto'}) == []
  assert run_folder.changed_keys(began, began | {'dtype': 'float32'}) == ['dtype']
  assert capsys.readouterr().out == 'dtype: bfloat16, as the run began\n'
  run_folder.keep_config(settled, str(tmp_path))


def test_given_dtype_is_not_touched(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
  config = parse(PretrainConfig, demo.get_config('pretrain'))
  assert run_folder.settle_dtype(config, str(tmp_path)) is config
  assert capsys.readouterr().out == ''


@pytest.mark.parametrize(('verb', 'config'), [('train_clip', lambda: demo.get_config('clip')),
                                              ('pretrain', lambda: demo.get_config('pretrain')),
                                              ('finetune', lambda: demo.get_config('finetune')),
                                              ('embed', lambda: demo.get_config('pretrain')),
                                              ('probe', probe_config.get_config)])
def test_every_verb_settles_the_dtype_before_it_looks_at_data(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, verb: str, config: Callable[[], ConfigDict]) -> None:
  asked = []

  class SettledError(Exception):
    """Ends the verb where the dtype is settled."""

  def settle(config: Any, workdir: str | None) -> Any:
    asked.append((config.dtype, workdir))
    raise SettledError

  module = importlib.import_module(f'uniemox_jax.{verb}')
  monkeypatch.setattr(module, 'settle_dtype', settle)
  given = config()
  given.dtype = 'auto'
  workdir = [] if verb == 'embed' else [str(tmp_path)]
  with pytest.raises(SettledError):
    getattr(module, verb)(given, *workdir)
  assert asked == [('auto', *(workdir or [None]))]
