"""Exports: what the other library computes from them, the same bits after the way back, one line for a mistake."""

from pathlib import Path
import sys

import huggingface_hub
import jax
import numpy as np
import pytest

from data_pipelines.errors import UserError
from tests.support import exported
from uniemox_jax.convert.import_students import UNKNOWN_HEADS, AttentionHeads
from uniemox_jax.export_torch import export_torch, push
from uniemox_jax.import_torch import import_torch
from uniemox_jax.teacher.frozen_clip import load_clip, save_clip
from uniemox_jax.train.checkpoint import load_checkpoint, save_weights
from uniemox_jax.train.settings import WITH_HEADS

SLOW = pytest.mark.slow
SIZES = [
    pytest.param(exported.TINY, exported.TINY_DECODER, id='tiny'),
    pytest.param(exported.VIT_B, exported.PUBLISHED_DECODER, id='B/16', marks=SLOW),
    pytest.param(exported.VIT_L, exported.PUBLISHED_DECODER, id='L/16', marks=SLOW)]

CLIP_LIKE = {'pre_norm': True, 'activation': 'quick_gelu', 'norm_eps': 1e-5}


def equal(ours, theirs):
  return jax.tree.structure(ours) == jax.tree.structure(theirs) and jax.tree.all(
      jax.tree.map(np.array_equal, ours, theirs))


def reimported(source, out, heads=UNKNOWN_HEADS, **options):
  import_torch(str(source), str(out), heads=heads, **options)
  return load_checkpoint(str(out))


def torch_pixels(images):
  import torch
  return torch.tensor(images).permute(0, 3, 1, 2)


def masking_noise(module):
  return np.random.default_rng(0).random((2, module.encoder.patches)).astype(np.float32)


@pytest.mark.parametrize(('shape', 'decoder'), SIZES)
def test_vit_mae_reconstructs_what_we_reconstruct(shape, decoder, tmp_path, assert_parity, capsys):
  torch, transformers = pytest.importorskip('torch'), pytest.importorskip('transformers')
  model = shape | decoder | {'mask_ratio': 0.75, 'norm_eps': 1e-5}
  params = exported.saved(
      tmp_path / 'run', 'uniemox', {'epochs': 1, 'loss': {'norm_pix': True}, 'dataset': 'x', 'init': 'none'}, **model)
  export_torch(str(tmp_path / 'run'), 'vit-mae', str(tmp_path / 'out'))
  assert 'left behind: fusion\n' in capsys.readouterr().out
  theirs, loading = transformers.ViTMAEForPreTraining.from_pretrained(tmp_path / 'out', output_loading_info=True)
  assert not any(loading.values()) and theirs.config.norm_pix_loss and theirs.config.layer_norm_eps == 1e-5
  ours = exported.module_of('uniemox', params, **model)
  images, noise = exported.random_images(shape['image_size']), masking_noise(ours)
  with torch.no_grad(), jax.default_matmul_precision('highest'):
    prediction = ours(np.stack([images, images], 1), np.stack([noise, noise], 1)).prediction_BxUxLxP[:, 0]
    assert_parity(prediction, theirs.eval()(torch_pixels(images), noise=torch.tensor(noise)).logits)
  if shape is exported.TINY:
    again = reimported(tmp_path / 'out', tmp_path / 'again')
    assert equal(again.params, {name: part for name, part in params.items() if name != 'fusion'})


@pytest.mark.parametrize(('kind', 'extra'), [('uniemox', exported.TINY_DECODER), ('encoder', {}),
                                             ('classifier', {'classes': 8}), ('encoder', CLIP_LIKE),
                                             ('classifier', {'classes': 8, **CLIP_LIKE, 'activation': 'gelu'})])
def test_timm_folder_comes_back_bit_equal(kind, extra, tmp_path, capsys):
  params = exported.saved(tmp_path / 'run', kind, **exported.TINY, **extra)
  export_torch(str(tmp_path / 'run'), 'timm', str(tmp_path / 'out'))
  assert ('left behind: decoder, fusion, project\n' in capsys.readouterr().out) == (kind == 'uniemox')
  again = reimported(tmp_path / 'out', tmp_path / 'again')
  assert again.description.get('labels') == (exported.LABELS if kind == 'classifier' else None)
  assert equal(again.params, params if kind == 'classifier' else {'encoder': params['encoder']})
  assert {name: again.description['model'].get(name) for name in extra if name in CLIP_LIKE
         } == {name: value for name, value in extra.items() if name in CLIP_LIKE}


@pytest.mark.parametrize(('shape', 'decoder'), SIZES)
def test_mae_file_predicts_in_its_code_what_we_predict(shape, decoder, tmp_path, assert_parity):
  torch = pytest.importorskip('torch')
  from tests.support import torch_reference as reference
  params = exported.saved(tmp_path / 'run', 'uniemox', **shape, **decoder, fusion='none')
  export_torch(str(tmp_path / 'run'), 'mae', str(tmp_path / 'out'))
  theirs = reference.Mae(
      patch=shape['patch_size'], **decoder, **{name: shape[name] for name in ('image_size', 'width', 'depth', 'heads')})
  theirs.load_state_dict(torch.load(tmp_path / 'out' / 'checkpoint.pth', weights_only=True)['model'], strict=True)
  ours = exported.module_of('uniemox', params, **shape, **decoder, fusion='none')
  images, noise = exported.random_images(shape['image_size']), masking_noise(ours)
  with torch.no_grad(), jax.default_matmul_precision('highest'):
    prediction = ours(images[:, None], noise[:, None]).prediction_BxUxLxP[:, 0]
    assert_parity(prediction, theirs(torch_pixels(images), torch.tensor(noise), ours.visible))


@pytest.mark.parametrize('fusion', ['additive', 'weighted_sum', 'attention', 'glu', 'prior', 'none'])
def test_mae_file_is_read_by_the_code_of_the_original(fusion, tmp_path, capsys):
  torch = pytest.importorskip('torch')
  from tests.support import torch_reference as reference
  heads = 3 if fusion in WITH_HEADS else 1
  params = exported.saved(
      tmp_path / 'run', 'uniemox', **exported.TINY, **exported.TINY_DECODER, fusion=fusion, fusion_heads=heads)
  export_torch(str(tmp_path / 'run'), 'mae', str(tmp_path / 'out'))
  said = capsys.readouterr().out
  assert ('left behind: fusion' in said, 'axis of size 1' in said) == (fusion == 'prior', fusion == 'attention')
  state = torch.load(tmp_path / 'out' / 'checkpoint.pth', weights_only=True)
  theirs = reference.Mae(image_size=32, patch=8, width=32, depth=2, heads=4, **exported.TINY_DECODER)
  theirs.load_state_dict(state['model'], strict=True)
  if fusion in reference.FUSIONS:
    reference.FUSIONS[fusion](16, heads).load_state_dict(state['att_fusion'], strict=True)
  again = reimported(tmp_path / 'out' / 'checkpoint.pth', tmp_path / 'again', AttentionHeads(4, 2))
  assert equal(again.params, {name: part for name, part in params.items() if fusion != 'prior' or name != 'fusion'})


@pytest.mark.parametrize(
    'shape',
    [exported.TINY, pytest.param(exported.VIT_B, marks=SLOW),
     pytest.param(exported.VIT_L, marks=SLOW)], ids=['tiny', 'B/16', 'L/16'])
def test_mae_file_of_a_classifier_numbers_sorted_folder_names(shape, tmp_path, assert_parity):
  torch = pytest.importorskip('torch')
  from tests.support import torch_reference as reference
  params = exported.saved(tmp_path / 'run', 'classifier', **shape, classes=8)
  export_torch(str(tmp_path / 'run'), 'mae', str(tmp_path / 'out'))
  theirs = reference.FineTuned(
      patch=shape['patch_size'], classes=8, **{name: shape[name] for name in ('image_size', 'width', 'depth', 'heads')})
  state = torch.load(tmp_path / 'out' / 'checkpoint.pth', weights_only=True)['model']
  assert theirs.load_state_dict(state, strict=False).missing_keys == ['norm.weight', 'norm.bias']
  images = exported.random_images(shape['image_size'])
  with torch.no_grad(), jax.default_matmul_precision('highest'):
    logits = exported.module_of('classifier', params, **shape, classes=8)(images)
    assert_parity(logits[:, np.argsort(exported.LABELS)], theirs(torch_pixels(images)))
  if shape is exported.TINY:
    again = reimported(tmp_path / 'out' / 'checkpoint.pth', tmp_path / 'again', AttentionHeads(4), dataset='emo8')
    assert equal(again.params, params) and again.description['labels'] == exported.LABELS


@pytest.mark.parametrize(('kind', 'extra'), [('uniemox', exported.TINY_DECODER),
                                             ('classifier', {'classes': 8, 'norm_eps': 1e-3})])
def test_saved_model_gives_the_same_numbers_for_any_batch(kind, extra, tmp_path, assert_parity):
  tf = pytest.importorskip('tensorflow')
  ours = exported.module_of(
      kind, exported.saved(tmp_path / 'run', kind, **exported.TINY, **extra), **exported.TINY, **extra)
  export_torch(str(tmp_path / 'run'), 'saved_model', str(tmp_path / 'out'))
  run = tf.saved_model.load(str(tmp_path / 'out')).signatures['serving_default']
  for count in (1, 3):
    images = exported.random_images(32, count)
    outputs = run(images=tf.constant(images))
    with jax.default_matmul_precision('highest'):
      if kind == 'classifier':
        assert_parity(ours(images), outputs['logits'])
      else:
        assert_parity(ours.encoder(images), outputs['tokens'])


@pytest.mark.parametrize('given', ['folder', 'run'])
def test_clip_comes_back_to_transformers(given, clip_config, clip_params, tmp_path, assert_parity):
  torch, transformers = pytest.importorskip('torch'), pytest.importorskip('transformers')
  save_clip(tmp_path / 'run' / 'teacher', clip_config, clip_params)
  export_torch(str(tmp_path / 'run' / ('' if given == 'run' else 'teacher')), 'clip', str(tmp_path / 'out'))
  assert (tmp_path / 'out' / 'README.md').read_text().startswith('---\nlicense: unknown\n')
  theirs, loading = transformers.CLIPModel.from_pretrained(tmp_path / 'out', output_loading_info=True)
  assert not any(loading.values())
  tokenizer = transformers.CLIPTokenizer.from_pretrained(tmp_path / 'out')
  clip, images, texts = load_clip(tmp_path / 'run' / 'teacher'), exported.random_images(32), ['a scene of awe', 'fear']
  with torch.no_grad(), jax.default_matmul_precision('highest'):
    outputs = theirs.eval()(pixel_values=torch_pixels(images), **tokenizer(texts, padding=True, return_tensors='pt'))
    assert_parity(clip.encode_image(images), outputs.image_embeds)
    assert_parity(clip.encode_text(texts), outputs.text_embeds)
  assert equal(load_clip(tmp_path / 'out').params, clip_params)


@pytest.fixture(scope='module')
def folder(tmp_path_factory, clip_folder) -> Path:
  """A checkpoint of each kind, a CLIP, and a folder with something in it."""
  folder = tmp_path_factory.mktemp('runs')
  exported.saved(folder / 'classifier', 'classifier', **exported.TINY, classes=8)
  exported.saved(folder / 'encoder', 'encoder', **exported.TINY, norm_eps=1e-12)
  exported.saved(folder / 'from_clip', 'uniemox', **exported.TINY, **exported.TINY_DECODER, **CLIP_LIKE)
  (folder / 'clip').symlink_to(clip_folder)
  save_weights(str(folder / 'train_clip'), {'logit_scale': np.ones(1, np.float32)}, {'kind': 'clip'})
  return folder


@pytest.mark.filterwarnings("ignore:'uniemox_jax:RuntimeWarning")  # runpy, of a module that another test imported
@pytest.mark.parametrize(('arguments', 'thing', 'remedy'), [
    (['--checkpoint={}/classifier', '--to=timm'], '--out', 'add --out='),
    (['--to=timm', '--out={}/new'], '--checkpoint', 'add --checkpoint='),
    (['--checkpoint={}/classifier', '--to=keras', '--out={}/new'], 'keras', 'timm'),
    (['--checkpoint={}/classifier', '--to=onnx', '--out={}/new', '--quantize=int8'], '--calibration', 'images'),
    (['--checkpoint={}/classifier', '--to=onnx', '--out={}/new', '--labels=ekman'], 'holds no CLIP', 'leave them out'),
    (['--checkpoint={}/classifier', '--to=timm', '--out={}/new', '--labels=ekman'], '--to=timm', 'are for --to=onnx'),
    (['--checkpoint={}/encoder', '--to=onnx', '--out={}/new', '--quantize=int8', '--calibration={}/encoder'
     ], 'names no emotions', 'leave --quantize out'),
    (['--checkpoint={}/clip', '--to=onnx', '--out={}/new'], 'needs words', 'add --labels'),
    (['--checkpoint={}/classifier', '--to=timm', '--out={}/clip'], 'not an empty folder', 'choose another --out'),
    (['--checkpoint={}/nowhere', '--to=timm', '--out={}/new'], 'nowhere', 'give the --workdir'),
    (['--checkpoint={}/clip', '--to=timm', '--out={}/new'], 'clip', 'choose --to=clip'),
    (['--checkpoint={}/train_clip', '--to=timm', '--out={}/new'], 'holds a CLIP', '--to=clip'),
    (['--checkpoint={}/classifier', '--to=clip', '--out={}/new'], 'no CLIP', '--to=timm'),
    (['--checkpoint={}/nowhere', '--to=clip', '--out={}/new'], 'nowhere', 'give a weight file'),
    (['--checkpoint={}/classifier', '--to=vit-mae', '--out={}/new'], 'decoder', '--to=timm'),
    (['--checkpoint={}/encoder', '--to=timm', '--out={}/new'], '1e-12', '--to=saved_model'),
    (['--checkpoint={}/encoder', '--to=mae', '--out={}/new'], '1e-12', '--to=saved_model'),
    (['--checkpoint={}/from_clip', '--to=mae', '--out={}/new'
     ], 'quick_gelu and a LayerNorm before', '--to=saved_model'),
    (['--checkpoint={}/from_clip', '--to=vit-mae', '--out={}/new'], 'quick_gelu and a LayerNorm', '--to=saved_model'),
    (['--checkpoint={}/classifier', '--to=timm', '--out={}/new', '--push_to_hub=me/x'], 'token', 'HF_TOKEN'),])
def test_mistake_at_the_command_is_one_line(
    arguments, thing, remedy, folder, monkeypatch, capsys, command, assert_one_line):
  monkeypatch.setattr(huggingface_hub, 'get_token', lambda: None)
  code = command('uniemox_jax.export_torch', *(argument.format(folder) for argument in arguments))
  assert_one_line(code, capsys.readouterr().err, thing, remedy)
  assert sorted(path.name for path in folder.iterdir()) == ['classifier', 'clip', 'encoder', 'from_clip', 'train_clip']


def test_missing_torch_is_explained_and_nothing_is_written(folder, tmp_path, monkeypatch):
  monkeypatch.setitem(sys.modules, 'torch', None)
  with pytest.raises(UserError, match=r"pip install 'uniemox_jax\[torch\]'"):
    export_torch(str(folder / 'classifier'), 'mae', str(tmp_path / 'out'))
  assert not list(tmp_path.iterdir())


def test_push_makes_a_private_repository_and_explains_a_refusal(monkeypatch, tmp_path, capsys):
  calls = []

  class Hub:

    def create_repo(self, repo_id, **options):
      calls.append((repo_id, options))

    def upload_folder(self, repo_id, folder_path):
      if repo_id == 'me/refused':
        raise ValueError('no\nreally')
      calls.append((repo_id, folder_path))

  monkeypatch.setattr(huggingface_hub, 'HfApi', Hub)
  push(str(tmp_path), 'me/x')
  assert calls == [('me/x', {'private': True, 'exist_ok': True}), ('me/x', str(tmp_path))]
  assert 'https://huggingface.co/me/x' in capsys.readouterr().out
  with pytest.raises(UserError, match=r'not pushed to me/refused \(ValueError: no\)'):
    push(str(tmp_path), 'me/refused')
