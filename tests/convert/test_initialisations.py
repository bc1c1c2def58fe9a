"""Every initialisation under one recipe: ours, MAE, CLIP's image tower, supervised ViTs and scratch."""

from collections.abc import Callable
import json
from pathlib import Path
from typing import Any

from flax import nnx
import jax
import numpy as np
import optax
import pytest
from safetensors.numpy import save_file

from data_pipelines.errors import UserError
from tests.support import exported, small_runs
import uniemox_jax
from uniemox_jax.export_torch import export_torch
from uniemox_jax.finetune import finetune
from uniemox_jax.import_torch import import_torch
from uniemox_jax.models.classifier import Classifier
from uniemox_jax.models.uniemox import UniEmoX
from uniemox_jax.pretrain import pretrain
from uniemox_jax.runtime import sharding
from uniemox_jax.teacher.frozen_clip import load_clip
from uniemox_jax.train.checkpoint import load_checkpoint
from uniemox_jax.train.flops import finetune_work
from uniemox_jax.train.initial_weights import check_architecture, initial_weights, read_source
from uniemox_jax.train.state import (
    abstract_model,
    abstract_params,
    builder,
    create_state,
    graphdef_of,
    initial_params,
    state_template,
)

torch = pytest.importorskip('torch')
transformers = pytest.importorskip('transformers')
from tests.support import torch_reference as reference  # noqa: E402

pytestmark = pytest.mark.usefixtures('one_device')
MODEL = small_runs.ENCODER
HUB = dict(
    hidden_size=16, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, image_size=32, patch_size=8)
OPENAI = dict(
    image_size=32, patch=8, vision=(128, 2, 2, 512), text=(64, 1, 1, 128), projection=24, context=77, vocabulary=49408)

B_16 = dict(
    hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12, image_size=224,
    patch_size=16)


def clip_model(
    random_torch: Callable[..., Any], activation: str = 'quick_gelu', noise: float = 0.1, **vision: int) -> Any:
  text = {'hidden_size': 16, 'intermediate_size': 32, 'num_hidden_layers': 1, 'num_attention_heads': 2}
  return random_torch(
      transformers.CLIPModel,
      transformers.CLIPConfig(
          vision_config=HUB | {'hidden_act': activation} | vision, text_config=text, projection_dim=12), noise)


def like_clip(activation: str = 'quick_gelu') -> dict[str, Any]:
  return {'pre_norm': True, 'activation': activation, 'norm_eps': 1e-5}


def started(init: Path, **model: Any) -> Classifier:
  """A classifier that starts from there."""
  build = builder(Classifier, **model, classes=3)
  source = read_source(str(init), model, decoder=False)
  check_architecture(source, model)
  taken = initial_weights(source, abstract_params(build), classifier=True)
  mesh, tx = sharding.make_mesh(devices=jax.devices()[:1]), optax.identity()
  state = create_state(state_template(build, tx, mesh), build, tx, 0, taken)
  return nnx.merge(graphdef_of(build), state.params)


@pytest.mark.parametrize('activation', ['quick_gelu', 'gelu'])
@pytest.mark.parametrize(('model', 'shape', 'noise'), [
    pytest.param(MODEL, {}, 0.1, id='tiny'),
    pytest.param(exported.VIT_B, B_16, 0.01, id='B/16', marks=pytest.mark.slow)])
def test_classifier_started_from_a_clip_has_its_tokens(
    model, shape, noise, activation, tmp_path, random_torch, assert_parity, capsys):
  theirs = clip_model(random_torch, activation, noise, **shape)
  theirs.save_pretrained(tmp_path / 'clip')
  ours = started(tmp_path / 'clip', **model, **like_clip(activation))
  said = capsys.readouterr().out
  assert 'image tower of a CLIP: ViT' in said and f'{activation}, no decoder' in said
  assert 'left behind: text tower, projections, logit_scale' in said and 'left behind: encoder/norm' in said
  assert "saw pixels with mean [0.48145466" in said and "ImageNet's" in said
  images = exported.random_images(model['image_size'])
  with torch.no_grad(), jax.default_matmul_precision('highest'):
    pixels = torch.tensor(images).permute(0, 3, 1, 2)
    assert_parity(ours.encoder(images), theirs.vision_model(pixels).last_hidden_state)


def test_every_published_form_of_clip_is_taken(tmp_path):
  """OpenAI's archive, which says QuickGELU, and open_clip's folder: the very bits that `load_clip` reads."""
  torch.manual_seed(0)
  archive = reference.OpenAiClip(**OPENAI, archive=True)
  torch.save(archive.state_dict(), tmp_path / 'ViT-B-16.pt')
  (tmp_path / 'open_clip').mkdir()
  flat = {name: tensor.numpy() for name, tensor in reference.OpenAiClip(**OPENAI).state_dict().items()}
  save_file(flat, tmp_path / 'open_clip' / 'open_clip_model.safetensors')
  (tmp_path / 'open_clip' / 'open_clip_config.json').write_text(
      json.dumps({
          'model_cfg': {
              'embed_dim': 24, 'vision_cfg': {'image_size': 32, 'layers': 2, 'width': 128, 'patch_size': 8},
              'text_cfg': {'width': 64, 'layers': 1, 'heads': 1, 'mlp_ratio': 2}}}))
  model = MODEL | {'width': 128}
  for source, activation in (('ViT-B-16.pt', 'quick_gelu'), ('open_clip', 'gelu')):
    tower = load_clip(tmp_path / source).params['vision']
    encoder = nnx.to_pure_dict(nnx.state(started(tmp_path / source, **model, **like_clip(activation)).encoder))
    assert encoder.pop('cls_token').tolist() == [tower['class_embedding'].tolist()]
    assert encoder.keys() == {'patch_embed', 'positions', 'pre_norm', 'blocks'}
    assert jax.tree.all(jax.tree.map(np.array_equal, encoder, {name: tower[name] for name in encoder}))


def test_what_a_clip_needs_of_the_config_is_named_at_once(tmp_path, random_torch):
  clip_model(random_torch).save_pretrained(tmp_path / 'clip')
  with pytest.raises(UserError) as error:
    started(tmp_path / 'clip', **MODEL)
  assert '\n' not in str(error.value)
  assert str(error.value).endswith(
      ': set --config.model.norm_eps=1e-05 --config.model.pre_norm=True --config.model.activation=quick_gelu')
  with pytest.raises(UserError, match='with activation quick_gelu, config.model.activation is gelu: set --config'):
    started(tmp_path / 'clip', **MODEL, **like_clip('gelu'))
  with pytest.raises(UserError, match="activation 'relu' is not one of gelu, quick_gelu"):
    started(tmp_path / 'clip', **MODEL, **like_clip('relu'))


def test_clip_whose_mlp_a_student_cannot_have_is_refused(tmp_path, random_torch):
  clip_model(random_torch, intermediate_size=40).save_pretrained(tmp_path / 'clip')
  with pytest.raises(UserError, match='image tower is 40 wide, .* 64: this CLIP can only be a teacher'):
    started(tmp_path / 'clip', **MODEL, **like_clip())


def test_activation_that_a_file_does_not_say_is_asked_for(tmp_path):
  """However the config is set: it would be a guess."""
  torch.save(reference.OpenAiClip(**OPENAI).state_dict(), tmp_path / 'epoch_3.pt')
  with pytest.raises(UserError, match='does not say its activation: .* or --activation to import_torch'):
    started(tmp_path / 'epoch_3.pt', **MODEL | {'width': 128}, **like_clip())
  exported.saved(tmp_path / 'run', 'encoder', **MODEL, **like_clip())
  export_torch(str(tmp_path / 'run'), 'timm', str(tmp_path / 'timm'))
  started(tmp_path / 'timm', **MODEL, **like_clip())
  for name in ('config.json', 'checksums.sha256'):
    (tmp_path / 'timm' / name).unlink()
  with pytest.raises(UserError, match='their config.json says the activation'):
    started(tmp_path / 'timm', **MODEL, **like_clip())


def write_ours(folder: Path, make: Callable[..., Any]) -> dict[str, Any]:
  exported.saved(folder, 'uniemox', **MODEL, decoder_width=12, decoder_depth=1, decoder_heads=2)
  return {}


def write_mae(folder: Path, make: Callable[..., Any]) -> dict[str, Any]:
  torch.save({'model': reference.Encoder(image_size=32, patch=8, width=16, depth=2, heads=2).state_dict()}, folder)
  return {}


def write_timm(folder: Path, make: Callable[..., Any]) -> dict[str, Any]:
  folder.mkdir()
  flat = reference.Encoder(image_size=32, patch=8, width=16, depth=2, heads=2).state_dict()
  head = {'head.weight': np.ones((5, 16), np.float32), 'head.bias': np.ones(5, np.float32)}
  save_file({name: tensor.numpy() for name, tensor in flat.items()} | head, folder / 'model.safetensors')
  (folder / 'config.json').write_text(
      json.dumps({
          'architecture': 'vit_base_patch16_224', 'num_features': 16, 'num_classes': 5,
          'model_args': {'num_heads': 2}}))
  return {}


def write_supervised(folder: Path, make: Callable[..., Any]) -> dict[str, Any]:
  make(transformers.ViTForImageClassification, transformers.ViTConfig(**HUB, num_labels=5)).save_pretrained(folder)
  return {'norm_eps': 1e-12}


def write_clip(folder: Path, make: Callable[..., Any]) -> dict[str, Any]:
  clip_model(make).save_pretrained(folder)
  return like_clip()


INITIALISATIONS = {
    'ours': write_ours, 'mae': write_mae, 'clip': write_clip, 'scratch': None,
    'supervised by transformers': write_supervised, 'supervised by timm': write_timm}


@pytest.mark.parametrize('name', [name for name, write in INITIALISATIONS.items() if write])
def test_every_initialisation_starts_a_classifier(name, tmp_path, random_torch):
  settings = INITIALISATIONS[name](tmp_path / 'init', random_torch)
  ours, fresh = started(tmp_path / 'init', **MODEL,
                        **settings), initial_params(builder(Classifier, **MODEL, classes=3), 0)
  assert not np.array_equal(ours.encoder.patch_embed.kernel[...], fresh['encoder']['patch_embed']['kernel'])
  np.testing.assert_array_equal(ours.head.bias[...], fresh['head']['bias'])
  assert np.isfinite(ours(exported.random_images(32))).all()


@pytest.mark.parametrize(
    'name', [pytest.param(name, marks=() if name == 'clip' else pytest.mark.slow) for name in INITIALISATIONS])
def test_one_recipe_fine_tunes_every_initialisation(name, tmp_path, data_dir, random_torch):
  config = small_runs.finetune_config(data_dir, epochs=1)
  if write := INITIALISATIONS[name]:
    config.init = str(tmp_path / 'init')
    config.model.update(write(tmp_path / 'init', random_torch))
  result = finetune(config, str(tmp_path / 'run'))
  assert (result['examples'], result['init']) == (24, config.init)
  images = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
  assert uniemox_jax.load_classifier(str(tmp_path / 'run')).predict_proba(images).shape == (2, 8)


def test_a_student_starts_from_a_clip(tmp_path, random_torch, capsys):
  clip_model(random_torch).save_pretrained(tmp_path / 'clip')
  model = MODEL | like_clip()
  build = builder(UniEmoX, **model, decoder_width=12, decoder_depth=1, decoder_heads=2)
  source = read_source(str(tmp_path / 'clip'), model, decoder=True)
  taken = initial_weights(source, abstract_params(build), classifier=False)
  assert 'taken: encoder; resized: nothing; drawn anew: project, fusion, decoder' in capsys.readouterr().out
  assert 'pre_norm' in taken['encoder']


@pytest.mark.slow
def test_pretraining_starts_from_a_clip(tmp_path, data_dir, clip_folder, random_torch, capsys):
  clip_model(random_torch).save_pretrained(tmp_path / 'clip')
  config = small_runs.pretrain_config(data_dir, clip_folder, epochs=1)
  config.init, config.images_every = str(tmp_path / 'clip'), 0
  config.model.update(like_clip())
  pretrain(config, str(tmp_path / 'run'))
  assert 'taken: encoder; resized: nothing; drawn anew: project, fusion, decoder' in capsys.readouterr().out
  assert 'pre_norm' in load_checkpoint(str(tmp_path / 'run')).params['encoder']


def test_image_tower_becomes_an_encoder_by_import(tmp_path, random_torch, assert_parity, capsys):
  theirs = clip_model(random_torch)
  theirs.save_pretrained(tmp_path / 'clip')
  import_torch(str(tmp_path / 'clip'), str(tmp_path / 'tower'), image_tower=True)
  images = exported.random_images(32)
  with torch.no_grad(), jax.default_matmul_precision('highest'):
    tower = theirs.vision_model
    normed = tower.post_layernorm(tower(torch.tensor(images).permute(0, 3, 1, 2)).last_hidden_state)
    assert_parity(uniemox_jax.load_encoder(str(tmp_path / 'tower')).tokens(images), normed)
  started(tmp_path / 'tower', **MODEL, **like_clip())
  assert 'saw pixels with mean [0.48145466' in capsys.readouterr().out
  exported.saved(tmp_path / 'mae', 'encoder', **MODEL)
  with pytest.raises(UserError, match='--image_tower'):
    export_torch(str(tmp_path / 'mae'), 'timm', str(tmp_path / 'timm'))
    import_torch(str(tmp_path / 'timm'), str(tmp_path / 'out'), image_tower=True)


def test_off_the_tree_is_what_it_was_and_on_the_work_is_the_same():
  off, on = (abstract_model(builder(Classifier, **MODEL, **options, classes=3)) for options in ({}, like_clip()))
  encoder = nnx.to_pure_dict(nnx.state(off.encoder))
  assert encoder.keys() == {'cls_token', 'positions', 'patch_embed', 'blocks'}
  assert encoder['patch_embed'].keys() == {'kernel', 'bias'}
  assert finetune_work(on) == finetune_work(off)
