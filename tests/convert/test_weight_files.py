"""Weight files: every published form gives the same arrays, with what lies beside them, in little memory."""

import argparse
import json
from pathlib import Path
import subprocess
import sys
import textwrap

import numpy as np
import pytest

from tests.support.weight_files import FORMS, STATE, safe, save_file, saved, scripted, torch
from uniemox_jax.convert.formats.weight_files import read_weights


@pytest.mark.parametrize('form', FORMS)
def test_every_form_gives_the_same_arrays(form: str, tmp_path: Path) -> None:
  flat = read_weights(FORMS[form](tmp_path)).flat
  assert flat.keys() == STATE.keys()
  for name, tensor in STATE.items():
    assert flat[name].dtype == np.float32
    np.testing.assert_array_equal(flat[name], tensor)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float64, torch.float8_e4m3fn], ids=str)
def test_every_width_becomes_float32(dtype: torch.dtype, tmp_path: Path) -> None:
  flat = read_weights(saved(tmp_path / 'w.pth', {name: tensor.to(dtype) for name, tensor in STATE.items()})).flat
  for name, tensor in STATE.items():
    assert flat[name].dtype == np.float32
    np.testing.assert_array_equal(flat[name], tensor)


def test_strided_tied_and_gradient_tensors_are_what_they_show(tmp_path: Path) -> None:
  weight = torch.nn.Parameter(torch.arange(12.0).reshape(3, 4))
  state = {'whole': weight, 'tied': weight, 'transposed': weight.detach().T, 'part': weight.detach()[1:, ::2]}
  flat = read_weights(saved(tmp_path / 'w.pth', state)).flat
  for name, tensor in state.items():
    np.testing.assert_array_equal(flat[name], tensor.detach())


def test_known_integer_and_infinite_buffers_pass(tmp_path: Path) -> None:
  state = STATE | {
      'text.position_ids': torch.arange(3)[None], 'vocab_size': torch.tensor(7), 'attn_mask':
          torch.full((2, 2), -torch.inf)}
  flat = read_weights(saved(tmp_path / 'w.pth', state)).flat
  assert flat['text.position_ids'].dtype == np.int64
  assert flat['attn_mask'].dtype == np.float32


WRAPPED = {f'module.{name}': tensor for name, tensor in STATE.items()}
B = {'f': torch.ones(3)}
CHECKPOINTS = {
    'bare': (STATE, [*STATE], []), 'bare and distributed': (WRAPPED, [*STATE], []),
    'fine-tuned': ({'model': STATE}, [*STATE], ['model']),
    'pretrained': ({'model': WRAPPED,
                    'att_fusion': {'module.f': torch.ones(3)}}, [*STATE, 'att_fusion.f'], ['model', 'att_fusion']),
    'attention alone': ({'attn': B}, ['attn.f'], ['attn']), 'open_clip':
        ({'epoch': 3, 'state_dict': WRAPPED}, [*STATE], ['state_dict']), 'with averages':
            ({'model': STATE, 'model_ema': STATE}, [*STATE], ['model', 'model_ema'])}


@pytest.mark.parametrize('kind', CHECKPOINTS)
def test_names_in_a_checkpoint_follow_the_rule(kind: str, tmp_path: Path) -> None:
  contents, names, keys = CHECKPOINTS[kind]
  weights = read_weights(saved(tmp_path / 'w.pth', contents))
  assert sorted(weights.flat) == sorted(names)
  assert weights.metadata['keys'] == keys
  np.testing.assert_array_equal(weights.flat[names[0]], next(iter(STATE.values())) if names != ['attn.f'] else B['f'])


def test_what_lies_beside_the_tensors_is_kept_as_plain_data_or_named(tmp_path: Path) -> None:
  model = torch.nn.Linear(3, 2)
  optimizer = torch.optim.AdamW(model.parameters())
  model(torch.ones(3)).sum().backward()
  optimizer.step()
  args = argparse.Namespace(model='mae_vit_large_patch16', mask_ratio=0.9, resume=None, use_component=['fusion'])
  weights = read_weights(
      saved(
          tmp_path / 'checkpoint.pth', {
              'model': model.state_dict(), 'optimizer': optimizer.state_dict(), 'epoch': 100, 'args': args, 'scaler':
                  torch.amp.GradScaler('cpu').state_dict(), 'history': [1, 2]}))
  assert weights.flat.keys() == {'weight', 'bias'}
  assert weights.metadata['epoch'] == 100
  assert weights.metadata['args'] == {'model': 'mae_vit_large_patch16', 'mask_ratio': 0.9, 'resume': None}
  assert set(weights.metadata['left_out']) == {
      'args.use_component', 'optimizer.state', 'optimizer.param_groups', 'history'}
  assert json.loads(json.dumps(weights.metadata)) == weights.metadata
  assert argparse.Namespace not in torch.serialization.get_safe_globals()


def test_metadata_of_safetensors_is_its_header(tmp_path: Path) -> None:
  save_file(STATE, tmp_path / 'w.safetensors', metadata={'format': 'pt'})
  weights = read_weights(tmp_path / 'w.safetensors')
  assert (weights.metadata, weights.form, weights.path) == ({'format': 'pt'}, 'safetensors', tmp_path / 'w.safetensors')


@pytest.mark.filterwarnings('ignore:.*torch.jit:DeprecationWarning')
@pytest.mark.parametrize('trace', [False, True], ids=['script', 'trace'])
@pytest.mark.parametrize('dtype', [torch.float32, torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_torchscript_archive_equals_what_torch_loads(
    dtype: torch.dtype, trace: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
  path = scripted(tmp_path / 'ViT-B-16.pt', dtype, trace)
  expected = torch.jit.load(path).state_dict()
  monkeypatch.setitem(sys.modules, 'torch', None)  # not even torch is needed
  weights = read_weights(path)
  assert weights.form == 'torchscript'
  assert weights.flat.keys() == expected.keys()
  for name, tensor in expected.items():
    np.testing.assert_array_equal(weights.flat[name], tensor.to(torch.float32))
    assert weights.flat[name].dtype == (np.int64 if name == 'input_resolution' else np.float32)


@pytest.mark.slow
@pytest.mark.parametrize('form', ['safetensors', 'torch', 'torch before 1.6'])
def test_vit_l_is_read_in_seconds_and_in_little_more_memory_than_its_size(form: str, tmp_path: Path) -> None:
  layers = {
      f'blocks.{i}.{name}': torch.rand(shape) for i in range(24) for name, shape in {
          'attn.qkv.weight': (3072, 1024), 'attn.proj.weight': (1024, 1024), 'mlp.fc1.weight': (4096, 1024),
          'mlp.fc2.weight': (1024, 4096)}.items()}
  path = tmp_path / 'w'
  if form == 'safetensors':
    safe(path, layers)
  else:
    saved(path, {'model': layers}, _use_new_zipfile_serialization=form == 'torch')
  program = textwrap.dedent(
      """
      from pathlib import Path; from resource import RUSAGE_SELF, getrusage; import sys, time
      import torch
      from uniemox_jax.convert.formats.weight_files import read_weights
      before, started = getrusage(RUSAGE_SELF).ru_maxrss, time.monotonic()
      weights = read_weights(Path(sys.argv[1]))
      print(len(weights.flat), getrusage(RUSAGE_SELF).ru_maxrss - before, time.monotonic() - started)
  """)
  done = subprocess.run([sys.executable, '-c', program, path], capture_output=True, text=True, check=True)
  count, kibibytes, seconds = map(float, done.stdout.split())
  size = path.stat().st_size
  path.unlink()
  assert count == len(layers)
  assert size > 1.2e9
  assert kibibytes * 1024 < 1.2 * size
  assert seconds < 30
