"""Google's ViTs as .npz: in every way that they are published, the numbers of the same model in timm's names."""

from collections.abc import Callable
import os
from pathlib import Path
import re
from typing import Any

import jax
import ml_dtypes
import numpy as np
import pytest

from data_pipelines.errors import UserError
import uniemox_jax
from uniemox_jax.convert.formats.weight_files import read_weights, write_safetensors
from uniemox_jax.convert.import_students import AttentionHeads, ImportedStudent, import_student
from uniemox_jax.import_torch import import_torch

Arrays = dict[str, np.ndarray]
WIDTH, HEADS, DEPTH, PATCH, SIDE = 32, 4, 2, 8, 4


def google(
    subs: tuple[int, int, int] = (1, 3, 2), position: str = 'Transformer/posembed_input/pos_embedding') -> Arrays:
  """Random weights under Google's names; `subs` number attention, MLP and the second norm of a block."""
  rng = np.random.default_rng(0)

  def dense(name: str, *shape: int, bias: tuple[int, ...] | None = None) -> Arrays:
    made = {f'{name}/kernel': shape, f'{name}/bias': bias or shape[-1:]}
    return {key: rng.standard_normal(size).astype(np.float32) for key, size in made.items()}

  def norm(name: str) -> Arrays:
    return {f'{name}/{part}': rng.standard_normal(WIDTH).astype(np.float32) for part in ('scale', 'bias')}

  arrays = dense('embedding', PATCH, PATCH, 3, WIDTH) | norm('Transformer/encoder_norm') | dense('head', WIDTH, 10)
  arrays |= {
      'cls': rng.standard_normal((1, 1, WIDTH)).astype(np.float32),
      position: rng.standard_normal((1, SIDE**2 + 1, WIDTH)).astype(np.float32)}
  for block in (f'Transformer/encoderblock_{i}' for i in range(DEPTH)):
    attention = f'{block}/MultiHeadDotProductAttention_{subs[0]}'
    split = HEADS, WIDTH // HEADS
    for part in ('query', 'key', 'value'):
      arrays |= dense(f'{attention}/{part}', WIDTH, *split, bias=split)
    arrays |= dense(f'{attention}/out', *split, WIDTH) | norm(f'{block}/LayerNorm_0')
    arrays |= norm(f'{block}/LayerNorm_{subs[2]}') | dense(f'{block}/MlpBlock_{subs[1]}/Dense_0', WIDTH, 4 * WIDTH)
    arrays |= dense(f'{block}/MlpBlock_{subs[1]}/Dense_1', 4 * WIDTH, WIDTH)
  return arrays


def by_hand(arrays: Arrays) -> Arrays:
  """The same in timm's names, one tensor after the other."""

  def matrix(name: str) -> np.ndarray:
    return arrays[f'{name}/kernel'].reshape(-1, WIDTH).T if name.endswith('/out') else arrays[f'{name}/kernel'].reshape(
        len(arrays[f'{name}/kernel']), -1).T

  made = {
      'cls_token': arrays['cls'], 'pos_embed': arrays['Transformer/posembed_input/pos_embedding'],
      'patch_embed.proj.weight': np.einsum('hwio->oihw', arrays['embedding/kernel']),
      'patch_embed.proj.bias': arrays['embedding/bias'], 'norm.weight': arrays['Transformer/encoder_norm/scale'],
      'norm.bias': arrays['Transformer/encoder_norm/bias']}
  for i in range(DEPTH):
    block, attention = f'Transformer/encoderblock_{i}', f'Transformer/encoderblock_{i}/MultiHeadDotProductAttention_1'
    parts = [f'{attention}/{part}' for part in ('query', 'key', 'value')]
    theirs = {
        'norm1.weight': arrays[f'{block}/LayerNorm_0/scale'], 'norm1.bias': arrays[f'{block}/LayerNorm_0/bias'],
        'norm2.weight': arrays[f'{block}/LayerNorm_2/scale'], 'norm2.bias': arrays[f'{block}/LayerNorm_2/bias'],
        'attn.qkv.weight': np.concatenate([matrix(part) for part in parts]),
        'attn.qkv.bias': np.concatenate([arrays[f'{part}/bias'].ravel() for part in parts]),
        'attn.proj.weight': matrix(f'{attention}/out'), 'attn.proj.bias': arrays[f'{attention}/out/bias']}
    for number in (1, 2):
      layer = f'{block}/MlpBlock_3/Dense_{number - 1}'
      theirs |= {f'mlp.fc{number}.weight': matrix(layer), f'mlp.fc{number}.bias': arrays[f'{layer}/bias']}
    made |= {f'blocks.{i}.{name}': array for name, array in theirs.items()}
  return made


def under(prefix: str, arrays: Arrays) -> Arrays:
  return {prefix + name: array for name, array in arrays.items()}


def stacked(arrays: Arrays) -> Arrays:
  """As big_vision saves blocks that were scanned."""
  blocks = {name for name in arrays if 'encoderblock_0' in name}
  return {name: array for name, array in arrays.items() if 'encoderblock' not in name} | {
      name.replace('_0/', '/', 1): np.stack([arrays[name.replace('block_0', f'block_{i}')] for i in range(DEPTH)])
      for name in blocks}


BIG_VISION = dict(subs=(0, 0, 1), position='pos_embedding')
KINDS: dict[str, Callable[[], Arrays]] = {
    'augreg': google, 'with pre_logits':
        lambda: google() | {
            'pre_logits/kernel': np.ones((WIDTH, WIDTH), np.float32), 'pre_logits/bias': np.ones(WIDTH, np.float32)},
    'without a head': lambda: {name: array for name, array in google().items() if not name.startswith('head')},
    'with its optimizer':
        lambda: under('opt/target/', google()) | {
            'opt/state/step': np.array(3), 'opt/state/param_states/cls/grad_ema': np.ones((1, 1, WIDTH), np.float32)},
    'big_vision': lambda: under('params/', google(**BIG_VISION)) | {'step': np.array(7)},
    'big_vision, scanned': lambda: under('params/', stacked(google(**BIG_VISION))),
    'big_vision without a prefix': lambda: google(**BIG_VISION), 'big_vision, pooled by attention':
        lambda: under('params/',
                      google(**BIG_VISION) | {'MAPHead_0/probe': np.ones(
                          (1, 1, WIDTH), np.float32)}), 'tower of images':
                              lambda: under('params/img/', google(**BIG_VISION)) | {
                                  'params/txt/Embed_0/embedding': np.ones((9, 3), np.float32)}}


def student(path: Path) -> ImportedStudent:
  return import_student(read_weights(path), path, AttentionHeads(), head=False)


def same(imported: ImportedStudent, expected: ImportedStudent) -> bool:
  return imported.kind == expected.kind == 'encoder' and jax.tree.all(
      jax.tree.map(np.array_equal, imported.params, expected.params))


@pytest.fixture
def expected(tmp_path: Path) -> ImportedStudent:
  write_safetensors(tmp_path / 'timm.safetensors', by_hand(google()))
  return import_student(
      read_weights(tmp_path / 'timm.safetensors'), tmp_path / 'timm.safetensors', AttentionHeads(HEADS), head=False)


@pytest.mark.parametrize('save', [np.savez, np.savez_compressed])
@pytest.mark.parametrize('kind', KINDS)
def test_npz_gives_the_parameters_of_the_same_model_in_timms_names(
    kind: str, save: Any, expected: ImportedStudent, tmp_path: Path) -> None:
  save(tmp_path / 'w.npz', **KINDS[kind]())
  imported = student(tmp_path / 'w.npz')
  assert same(imported, expected)
  assert (imported.model['heads'], imported.statistics) == (HEADS, {'mean': [0.5] * 3, 'std': [0.5] * 3})
  assert ('head.bias' in '\n'.join(imported.messages)) == (kind != 'without a head')


def test_name_of_an_npz_does_not_matter_and_bfloat16_is_read(tmp_path: Path) -> None:
  arrays = {name: array.astype(ml_dtypes.bfloat16) for name, array in google().items()}
  with open(tmp_path / 'model.bin', 'wb') as file:
    np.savez(file, **arrays)
  flat = read_weights(tmp_path / 'model.bin').flat
  np.testing.assert_array_equal(flat['cls_token'], arrays['cls'].astype(np.float32))


def test_npz_becomes_an_encoder_that_normalises_as_google_does(tmp_path: Path) -> None:
  np.savez(tmp_path / 'w.npz', **google())
  import_torch(str(tmp_path / 'w.npz'), str(tmp_path / 'out'))
  encoder = uniemox_jax.load_encoder(str(tmp_path / 'out'))
  white = np.full((1, 32, 32, 3), 255, np.uint8)
  np.testing.assert_allclose(encoder.tokens(white), encoder.tokens(np.ones((1, 32, 32, 3), np.float32)), rtol=1e-4)


class Evil:

  def __reduce__(self) -> tuple:
    return os.system, ('touch executed',)


def without(pattern: str) -> Arrays:
  return {name: array for name, array in google().items() if not re.search(pattern, name)}


BAD: dict[str, tuple[Callable[[], Arrays], str]] = {
    'Python objects': (lambda: google() | {'cls': np.array([Evil()], object)}, 'Object arrays cannot be loaded'),
    'no class token': (lambda: without('^cls'), 'missing: cls_token'), 'no positions':
        (lambda: without('pos_embedding'), 'pos_embed is missing'), 'a key is missing':
            (lambda: without('_0/.*/key/kernel'), 'it lacks '),
    'no blocks': (lambda: without('encoderblock'), 'has no blocks'), 'a hybrid with convolutions':
        (lambda: google() | {'conv_root/kernel': np.ones((7, 7, 3, 8), np.float32)}, 'unexpected: conv_root.kernel'),
    'a mixture of experts': (
        lambda: google() | {'Transformer/encoderblock_1/Moe/Mlp/Dense_0/kernel': np.ones(
            (2, 3, 4), np.float32)}, 'unexpected'), 'no weights':
                (lambda: {'a': np.ones(3, np.float32), 'b': np.ones(3, np.float32)}, 'of no family known here'),
    'not finite': (lambda: google() | {'head/bias': np.full(10, np.nan, np.float32)}, 'NaN or infinity'), 'integers':
        (lambda: google() | {'head/bias': np.ones(10, np.int32)}, 'int32 instead of floating point'), 'text':
            (lambda: google() | {'head/bias': np.array(['a'] * 10)}, 'instead of floating point'),
    'heads of different shapes': (
        lambda: google() | {
            'Transformer/encoderblock_0/MultiHeadDotProductAttention_1/query/bias': np.ones(3, np.float32)}, 'w.npz'
    ), 'layers of different numbers': (
        lambda: stacked(google()) | {'Transformer/encoderblock/LayerNorm_0/scale': np.ones(
            (1, WIDTH), np.float32)}, 'missing')}


@pytest.mark.parametrize('kind', BAD)
def test_bad_npz_ends_in_one_line_and_runs_nothing(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
  make, cause = BAD[kind]
  np.savez(tmp_path / 'w.npz', **make())
  monkeypatch.chdir(tmp_path)
  with pytest.raises(UserError, match=cause) as error:
    import_torch(str(tmp_path / 'w.npz'), str(tmp_path / 'out'), heads=AttentionHeads(HEADS))
  assert 'w.npz' in str(error.value) and len(str(error.value).splitlines()) == 1
  assert [path.name for path in tmp_path.iterdir()] == ['w.npz']


@pytest.mark.parametrize('damage', ['half', 'flipped', 'bomb'])
def test_damaged_npz_is_one_line(damage: str, tmp_path: Path) -> None:
  path = tmp_path / 'w.npz'
  if damage == 'bomb':
    np.savez_compressed(path, a=np.zeros(30 << 20, np.float32))
  else:
    np.savez(path, **google())
    content = bytearray(path.read_bytes())
    content[content.index(b'cls.npy') + 200] ^= 1
    path.write_bytes(content[:len(content) // 2] if damage == 'half' else content)
  with pytest.raises(UserError, match=r'w\.npz') as error:
    read_weights(path)
  assert len(str(error.value).splitlines()) == 1
