"""Checkpoints as other people's code saves them: an encoder that is whole is read, and what was done is told."""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_pipelines.errors import UserError
from tests.support.weight_files import safe, save_file, saved, torch
import uniemox_jax
from uniemox_jax.convert.formats.weight_files import read_weights
from uniemox_jax.convert.import_students import AttentionHeads, ImportedStudent, import_student
from uniemox_jax.import_torch import import_torch
from uniemox_jax.train.initial_weights import read_source

from tests.support import torch_reference as reference  # isort: skip  # after torch is known to be there

TINY = dict(image_size=32, patch=8, width=32, depth=2, heads=4)
HEADS = AttentionHeads(4, 2)
State = dict[str, torch.Tensor]


def random_state(module: torch.nn.Module) -> State:
  generator = torch.Generator().manual_seed(0)
  return {
      name: torch.rand(tensor.shape, generator=generator) - 0.5 for name, tensor in sorted(module.state_dict().items())}


STATE = random_state(reference.Encoder(**TINY))
OTHER = {name: tensor + 1 for name, tensor in STATE.items()}
HEAD = {'head.weight': torch.ones(8, 32), 'head.bias': torch.ones(8)}
PROBE = {
    'head.0.running_mean': torch.arange(32.0) / 32, 'head.0.running_var': torch.arange(1.0, 33.0),
    'head.0.num_batches_tracked': torch.tensor(7), 'head.1.weight': torch.arange(256.0).reshape(8, 32) / 256,
    'head.1.bias': torch.arange(8.0)}


def under(prefix: str, state: State) -> State:
  return {prefix + name: tensor for name, tensor in state.items()}


def student(path: Path, key: str = '') -> ImportedStudent:
  return import_student(read_weights(path, key), path, HEADS, head=False)


def is_the_encoder(imported: ImportedStudent, state: State = STATE) -> bool:
  """Whether these are the parameters that the plain file has."""
  encoder = imported.params['encoder']
  found = encoder['cls_token'], encoder['blocks']['layers']['mlp']['down']['bias']
  wanted = state['cls_token'][0], torch.stack([state[f'blocks.{i}.mlp.fc2.bias'] for i in range(2)])
  return imported.kind == 'encoder' and all(map(np.array_equal, found, wanted))


def fully_sharded(name: str) -> str:
  name = name.replace('blocks.0.', 'blocks.0._fsdp_wrapped_module._checkpoint_wrapped_module.')
  return f'_fsdp_wrapped_module.{name}'


CHECKPOINTS: dict[str, tuple[Any, str]] = {
    'distributed': (under('module.',
                          STATE), 'without module'), 'compiled': ({'model': under('_orig_mod.',
                                                                                  STATE)}, 'without _orig_mod'),
    'compiled and distributed': (under('_orig_mod.module.', STATE), 'without _orig_mod, module'),
    'distributed twice': (under('module.module.', STATE), 'without module'), 'blocks compiled':
        ({name.replace('.0.', '.0._orig_mod.'): tensor for name, tensor in STATE.items()}, '_orig_mod'),
    'fully sharded': ({fully_sharded(name): tensor for name, tensor in STATE.items()}, '_fsdp_wrapped_module'),
    'Fabric': (under('_forward_module.', STATE), '_forward_module'), 'averaged':
        ({'n_averaged': torch.tensor(9)} | under('module.', STATE), 'left behind: n_averaged'), 'model.':
            (under('model.', STATE), "30 tensors under 'model' are taken"), 'encoder.':
                (under('encoder.', STATE), "under 'encoder' are taken"), 'backbone.':
                    ({'state_dict': under('backbone.', STATE)}, "under 'backbone' are taken"), 'vit.':
                        (under('vit.', STATE), "under 'vit' are taken"), 'net.':
                            (under('net.', STATE), "under 'net' are taken"), 'visual.':
                                (under('visual.', STATE), "under 'visual' are taken"),
    'unheard of': (under('abc.def.ghi.', STATE), "under 'abc.def.ghi' are taken"), 'Lightning':
        ({'state_dict': under('model.backbone.', STATE) | {'criterion.weight': torch.ones(3)},
          'global_step': 3}, "under 'model.backbone' are taken, left behind: criterion.weight"
        ), 'backbone and head': (under('backbone.', STATE) | HEAD, 'left behind: head.bias, head.weight'), 'MoCo':
            ({'state_dict': under('module.base_encoder.', STATE) | under('module.predictor.', HEAD)},
             'left behind: predic'), 'two towers': (
                 under('visual_encoder.', STATE) | under('text_encoder.', {f't{i}': torch.ones(2) for i in range(30)}),
                 "under 'visual_encoder' are taken, left behind: text_encoder.t0"),
    'DINO': ({'student': under('backbone.', STATE), 'teacher': under('module.backbone.', STATE) | under('head.', HEAD)},
             "30 under 'student' are not: import_torch --key=student"), 'moving average':
                 ({'model': STATE, 'model_ema': OTHER}, "30 under 'model_ema' are not: import_torch --key=model_ema"
                 ), 'average of timm':
                     ({'state_dict': STATE, 'state_dict_ema': OTHER,
                       'arch': 'vit'}, 'import_torch --key=state_dict_ema'), 'average of a wrapped model':
                           ({'model': STATE, 'ema': under('module.', OTHER)}, 'import_torch --key=ema'),
    'average alone': ({'model_ema': STATE}, "under 'model_ema' are taken"), 'network':
        ({'network': STATE, 'epoch': 3}, "under 'network' are taken"), 'two levels':
            ({'state': {'model': STATE},
              'optimizer': {'state': {0: {'step': torch.ones(1)}}}}, "under 'state.model'"), 'a queue beside':
                  ({'model': STATE, 'queue': torch.ones(3)}, 'a ViT in the form of MAE'), 'bare, with a dict beside':
                      (STATE | {'extra': {'x': torch.ones(3)}}, 'left behind: extra.x'), 'half precision':
                          ({'model': {name: tensor.bfloat16().float() for name, tensor in STATE.items()}}, 'a ViT'),
    'supervised': (STATE | HEAD, 'left behind: head.bias, head.weight'), 'linear probe':
        (STATE | PROBE, 'batch norm before the head is folded'), 'projector':
            (STATE | under('projector.0.', HEAD), 'left behind: projector'), 'mask token alone':
                (STATE | {'mask_token': torch.ones(1, 1, 16)}, 'left behind: mask_token'), 'fine-tuned without head': (
                    STATE | {'fc_norm.weight': torch.ones(32), 'fc_norm.bias': torch.ones(32)},
                    'left behind: fc_norm.bias, fc_norm.weight')}


@pytest.mark.parametrize('kind', CHECKPOINTS)
def test_an_encoder_that_is_whole_is_read_and_the_rest_is_told(kind: str, tmp_path: Path) -> None:
  contents, told = CHECKPOINTS[kind]
  imported = student(saved(tmp_path / 'w.pth', contents))
  assert told in '\n'.join(imported.messages)
  assert all(len(line.splitlines()) == 1 and len(line) < 500 for line in imported.messages)
  assert kind == 'half precision' or is_the_encoder(imported)


def test_prefix_of_a_safetensors_file_is_taken_off_too(tmp_path: Path) -> None:
  assert is_the_encoder(student(safe(tmp_path / 'w.safetensors', under('model.', STATE))))


@pytest.mark.parametrize(('contents', 'key'), [({'model': STATE, 'model_ema': OTHER}, 'model_ema'),
                                               ({'a': {'state_dict': STATE}, 'b': OTHER}, 'b'),
                                               (under('student.', STATE) | under('teacher.', OTHER), 'teacher')])
def test_key_chooses_among_models(contents: Any, key: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
  path = saved(tmp_path / 'w.pth', contents)
  import_torch(str(path), str(tmp_path / 'out'), heads=HEADS, key=key)
  loaded = uniemox_jax.load_encoder(str(tmp_path / 'out'))
  np.testing.assert_array_equal(loaded._params['encoder']['cls_token'], OTHER['cls_token'][0])
  with pytest.raises(UserError, match=r"no tensors under 'x': --key chooses among \w+"):
    import_torch(str(path), str(tmp_path / 'again'), heads=HEADS, key='x')


def test_a_run_starts_from_a_checkpoint_with_averages(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
  path = saved(tmp_path / 'w.pth', {'model': under('_orig_mod.', STATE), 'model_ema': OTHER})
  source = read_source(str(path), {'heads': 4}, decoder=False)
  np.testing.assert_array_equal(source.params['encoder']['cls_token'], STATE['cls_token'][0])
  said = capsys.readouterr().out
  assert "30 under 'model_ema' are not" in said and 'without _orig_mod' in said


def test_batch_norm_of_a_pooled_linear_probe_is_folded_into_its_head(tmp_path: Path) -> None:
  state = {
      name: tensor
      for name, tensor in random_state(reference.FineTuned(**TINY, classes=8)).items()
      if not name.startswith(('norm.', 'head.'))}
  imported = student(saved(tmp_path / 'w.pth', {'model': state | PROBE}))
  assert imported.kind == 'classifier' and 'batch norm before the head is folded' in imported.messages[0]
  features = torch.rand(3, 32)
  norm = torch.nn.BatchNorm1d(32, eps=1e-6, affine=False).eval()
  norm.running_mean, norm.running_var = PROBE['head.0.running_mean'], PROBE['head.0.running_var']
  expected = torch.nn.functional.linear(norm(features), PROBE['head.1.weight'], PROBE['head.1.bias'])
  head = imported.params['head']
  np.testing.assert_allclose(features.numpy() @ head['kernel'] + head['bias'], expected, rtol=1e-5, atol=1e-6)


def test_pooled_encoder_without_head_and_norm_is_imported_with_a_plain_norm(tmp_path: Path) -> None:
  state = {
      name: tensor
      for name, tensor in random_state(reference.FineTuned(**TINY, classes=8)).items()
      if not name.startswith(('norm.', 'head.'))}
  imported = student(saved(tmp_path / 'w.pth', {'model': state}))
  assert 'that LayerNorm gets scale 1 and bias 0' in imported.messages[0]
  assert is_the_encoder(imported, state)
  assert (imported.params['encoder']['norm']['scale'] == 1).all()


def with_scale(state: State) -> State:
  return state | {f'blocks.{i}.ls{part}.gamma': torch.ones(32) for i in range(2) for part in (1, 2)}


OTHERS: dict[str, tuple[State, str]] = {
    'LayerScale': (with_scale(STATE), '4 unexpected: blocks.0.ls1.gamma'),
    'registers': (STATE | {'reg_token': torch.ones(1, 4, 32)}, 'unexpected: reg_token'), 'distilled': (
        STATE | {'dist_token': torch.ones(1, 1, 32), 'pos_embed': torch.ones(1, 18, 32)},
        'DeiT with a token for distillation'), 'relative positions':
            (STATE | {'rel_pos_bias.relative_position_bias_table': torch.ones(9, 4)}, 'unexpected: rel_pos'),
    'normalised queries': (STATE | {'blocks.0.attn.q_norm.weight': torch.ones(8)}, 'unexpected: blocks.0.attn.q_norm'),
    'no bias of queries':
        ({name: tensor for name, tensor in STATE.items() if 'qkv.bias' not in name}, 'missing: blocks.0'), 'gated MLP':
            (STATE | {'blocks.0.mlp.fc1_g.weight': torch.ones(128, 32)}, 'unexpected: blocks.0.mlp.fc1_g.weight'
            ), 'half an encoder':
                ({name: tensor for name, tensor in STATE.items() if 'blocks.0' not in name}, '12 missing: blocks.0'),
    'no class token': ({name: tensor for name, tensor in STATE.items() if name != 'cls_token'}, 'missing: cls_token'
                      ), 'ResNet': ({f'layer{i}.{j}.conv1.weight': torch.ones(3, 3) for i in range(4)
                                     for j in range(3)}, 'of no family known'),
    'Swin': ({f'layers.{i}.blocks.0.attn.qkv.weight': torch.ones(3, 3) for i in range(4)}, 'of no family'), 'OpenMMLab':
        ({f'backbone.layers.{i}.ln1.weight': torch.ones(3) for i in range(9)}, 'of no family known'), 'a head alone':
            (HEAD, "does not fit|missing"), 'a decoder alone': ({'decoder_embed.weight': torch.ones(4, 4)}, 'missing'),
    'grey images': (STATE | {'patch_embed.proj.weight': torch.ones(32, 1, 8, 8)}, r'of another shape|patch_embed')}


@pytest.mark.parametrize('kind', OTHERS)
def test_model_that_computes_otherwise_is_refused_in_one_line(kind: str, tmp_path: Path) -> None:
  state, cause = OTHERS[kind]
  with pytest.raises(UserError, match=cause) as error:
    student(saved(tmp_path / 'w.pth', {'model': under('module.backbone.', state)}))
  assert 'w.pth' in str(error.value) and len(str(error.value).splitlines()) == 1


HOSTILE = {'others': 'x', 'keys': 'y', 'chosen': 'z', 'args': 'w', 'model_args': 'v'}


def test_metadata_that_looks_like_ours_means_nothing(tmp_path: Path) -> None:
  save_file(STATE, tmp_path / 'w.safetensors', metadata=HOSTILE)
  assert is_the_encoder(student(tmp_path / 'w.safetensors'))
  save_file(STATE, tmp_path / 'shard', metadata=HOSTILE)
  index = {
      'metadata': HOSTILE | {'others': {'a': 1}, 'keys': [1, 'encoder']}, 'weight_map': dict.fromkeys(STATE, 'shard')}
  for name in ('model.safetensors.index.json', 'pytorch_model.bin.index.json'):
    (tmp_path / name).write_text(json.dumps(index))
    assert is_the_encoder(student(tmp_path / name))


def test_text_of_a_file_is_told_on_one_line(tmp_path: Path) -> None:
  args = argparse.Namespace(use_fusion='a\n\x1b[31mb' * 100, mask_ratio=0.5, model_args='x')
  contents = {'model': under('a\nb.', STATE) | {'c\nd': torch.ones(1)}, 'args': args}
  lines = student(saved(tmp_path / 'w.pth', contents)).messages
  assert all(line.isprintable() and len(line) < 500 for line in lines)
  assert 'mask_ratio 0.5' in lines[-1]


@pytest.mark.parametrize(
    'change', [{'head.0.running_var': torch.ones(31)}, {'head.1.weight': torch.ones(8)}, {
        'head.1.bias': torch.ones(8, 2)}, {'head.0.running_mean': torch.ones(2, 32)}])
def test_probe_of_other_shapes_is_one_line(change: State, tmp_path: Path) -> None:
  state = {
      name: tensor
      for name, tensor in random_state(reference.FineTuned(**TINY, classes=8)).items()
      if not name.startswith(('norm.', 'head.'))}
  with pytest.raises(UserError, match=r'w\.pth') as error:
    student(saved(tmp_path / 'w.pth', {'model': state | PROBE | change}))
  assert len(str(error.value).splitlines()) == 1
