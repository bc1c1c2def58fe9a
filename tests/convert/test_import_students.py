"""Students of MAE, timm, transformers and the original: the numbers of their own code, the same bits there and back."""

import argparse
import json

from flax import nnx
import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

from data_pipelines.errors import UserError
import uniemox_jax
from uniemox_jax.convert import mae_weights, name_table, vit_mae_weights
from uniemox_jax.convert.formats import weight_files
from uniemox_jax.convert.import_students import AttentionHeads, import_student
from uniemox_jax.export_torch import export_torch
from uniemox_jax.import_torch import import_torch
from uniemox_jax.models.registry import abstract_student

torch = pytest.importorskip('torch')
transformers = pytest.importorskip('transformers')
from tests.support import torch_reference as reference  # noqa: E402

TINY = dict(image_size=32, patch=8, width=32, depth=2, heads=4)
TINY_DECODER = dict(decoder_width=16, decoder_depth=2, decoder_heads=2)
TINY_HEADS = AttentionHeads(4, 2)
VIT_B, VIT_L = (
    dict(image_size=224, patch=16, width=width, depth=depth, heads=heads)
    for width, depth, heads in ((768, 12, 12), (1024, 24, 16)))
PUBLISHED_DECODER = dict(decoder_width=512, decoder_depth=8, decoder_heads=16)
FULL = pytest.param(VIT_B, PUBLISHED_DECODER, 0.01,
                    marks=pytest.mark.slow), pytest.param(VIT_L, PUBLISHED_DECODER, 0.01, marks=pytest.mark.slow)


def randomised(module, noise=0.1):
  """The module with no zero left in it."""
  torch.manual_seed(0)
  with torch.no_grad():
    for parameter in module.parameters():
      parameter.add_(torch.randn_like(parameter) * noise)
  return module.eval()


def random_images(image_size, count=2):
  images = np.random.default_rng(1).standard_normal((count, image_size, image_size, 3)).astype(np.float32)
  return images, torch.tensor(images).permute(0, 3, 1, 2)


def student(path, heads=TINY_HEADS, **options):
  return import_student(weight_files.read_weights(path), path, heads, **options)


def module_of(imported):
  module = abstract_student(imported.kind, imported.model)
  return nnx.merge(nnx.graphdef(module), imported.params)


call = jax.jit(lambda module, *arguments: module(*arguments))


@pytest.mark.parametrize(('shape', 'decoder', 'noise'), [(TINY, TINY_DECODER, 0.1), *FULL])
def test_mae_with_decoder_predicts_what_its_code_predicts(shape, decoder, noise, tmp_path, assert_parity):
  theirs = randomised(reference.Mae(**shape, **decoder), noise)
  torch.save({'model': theirs.state_dict()}, tmp_path / 'mae_visualize.pth')
  ours = module_of(student(tmp_path / 'mae_visualize.pth', AttentionHeads() if shape is not TINY else TINY_HEADS))
  images, pixels = random_images(shape['image_size'])
  mask_noise = np.random.default_rng(0).random((2, ours.encoder.patches)).astype(np.float32)
  with torch.no_grad(), jax.default_matmul_precision('highest'):
    prediction = call(ours, images[:, None], mask_noise[:, None]).prediction_BxUxLxP[:, 0]
    assert_parity(prediction, theirs(pixels, torch.tensor(mask_noise), ours.visible))


@pytest.mark.parametrize(('shape', 'noise'), [(TINY, 0.1),
                                              pytest.param(VIT_B, 0.01, marks=pytest.mark.slow),
                                              pytest.param(VIT_L, 0.01, marks=pytest.mark.slow)])
def test_encoder_gives_the_tokens_of_its_code(shape, noise, tmp_path, assert_parity):
  theirs = randomised(reference.Encoder(**shape), noise)
  torch.save({'model': theirs.state_dict()}, tmp_path / 'mae_pretrain_vit.pth')
  import_torch(str(tmp_path / 'mae_pretrain_vit.pth'), str(tmp_path / 'out'), heads=AttentionHeads(shape['heads']))
  images, pixels = random_images(shape['image_size'])
  with torch.no_grad(), jax.default_matmul_precision('highest'):
    encoder = uniemox_jax.load_encoder(str(tmp_path / 'out'))
    assert_parity(encoder.tokens(images), theirs.tokens(pixels))
    assert_parity(encoder.features(images), theirs.tokens(pixels)[:, 1:].mean(1))


@pytest.mark.parametrize(('shape', 'noise'), [(TINY, 0.1),
                                              pytest.param(VIT_B, 0.01, marks=pytest.mark.slow),
                                              pytest.param(VIT_L, 0.01, marks=pytest.mark.slow)])
@pytest.mark.usefixtures('one_device')  # eight copies of ViT-L take most of 24 GiB
def test_fine_tuned_classifier_gives_the_probabilities_of_its_code(shape, noise, tmp_path, assert_parity, capsys):
  theirs = randomised(reference.FineTuned(**shape, classes=8), noise)
  torch.save({'model': theirs.state_dict(), 'epoch': 3, 'args': argparse.Namespace(lr=1.0)}, tmp_path / 'max.pth')
  import_torch(str(tmp_path / 'max.pth'), str(tmp_path / 'out'), heads=AttentionHeads(shape['heads']))
  assert 'left behind: norm.bias, norm.weight' in capsys.readouterr().out
  images, pixels = random_images(shape['image_size'])
  with torch.no_grad(), jax.default_matmul_precision('highest'):
    classifier = uniemox_jax.load_classifier(str(tmp_path / 'out'))
    assert_parity(classifier.predict_proba(images), theirs(pixels).softmax(-1))
    assert_parity(uniemox_jax.load_encoder(str(tmp_path / 'out')).features(images), theirs.features(pixels))
  assert classifier.labels == [str(number) for number in range(8)]


def check_pretraining_of_the_original(fusion, heads, wrapped, shape, decoder, noise, tmp_path, assert_parity):
  size, width = shape['image_size'], decoder['decoder_width']
  theirs = randomised(reference.Mae(**shape, **decoder), noise)
  fuse = randomised(reference.FUSIONS[fusion](width, heads))
  prefix = 'module.' if wrapped else ''
  states = {
      key: {prefix + name: tensor for name, tensor in module.state_dict().items()}
      for key, module in (('model', theirs), ('att_fusion', fuse))}
  optimizer = torch.optim.AdamW(theirs.parameters()).state_dict()
  torch.save(
      states | {'optimizer': optimizer, 'epoch': 1, 'args': argparse.Namespace(mask_ratio=0.9)},
      tmp_path / 'checkpoint.pth')
  imported = student(tmp_path / 'checkpoint.pth', AttentionHeads(shape['heads'], decoder['decoder_heads']))
  assert any('cannot be reproduced' in line for line in imported.messages) == (fusion == 'attention')
  ours = module_of(imported)
  (scene, scene_torch), (person, person_torch) = random_images(size), random_images(size)
  person, person_torch = person[::-1].copy(), person_torch.flip(0)
  mask_noise = np.random.default_rng(0).random((2, 2, ours.encoder.patches)).astype(np.float32)
  with torch.no_grad(), jax.default_matmul_precision('highest'):
    fused = call(ours, np.stack([scene, person], 1), mask_noise).fused_BxE
    cls = [
        theirs.projected(pixels, torch.tensor(mask_noise[:, view]), ours.visible)[:, 0]
        for view, pixels in enumerate((scene_torch, person_torch))]
    assert_parity(fused, fuse(*cls))


@pytest.mark.parametrize(('fusion', 'heads', 'wrapped'), [('additive', 1, False), ('weighted_sum', 3, True),
                                                          ('attention', 3, False), ('attention', 1, True),
                                                          ('glu', 3, True)])
def test_pretraining_of_the_original_fuses_as_its_code_does(fusion, heads, wrapped, tmp_path, assert_parity):
  check_pretraining_of_the_original(fusion, heads, wrapped, TINY, TINY_DECODER, 0.1, tmp_path, assert_parity)


@pytest.mark.parametrize(
    ('args', 'ratio', 'norm_pix'), [
        ({'mask_ratio': 0.9, 'norm_pix_loss': False, 'input_size': 32, 'use_fusion': 'easyfusion'}, 0.9, False),
        ({'mask_ratio': 0.6, 'norm_pix_loss': True}, 0.6, True), ({'mask_ratio': np.float64(0.5)}, 0.5, False),
        ({'mask_ratio': 'many', 'norm_pix_loss': 'yes'}, 0.75, False), ({'mask_ratio': 1.5}, 0.75, False),
        ({}, 0.75, False)])
def test_what_a_checkpoint_states_of_itself_is_taken_and_told(args, ratio, norm_pix, tmp_path):
  state = reference.Mae(**TINY, **TINY_DECODER).state_dict()
  torch.save({'model': state, 'epoch': 149, 'args': argparse.Namespace(**args)}, tmp_path / 'checkpoint-149.pth')
  imported = student(tmp_path / 'checkpoint-149.pth')
  assert (imported.kind, imported.model['mask_ratio'], imported.norm_pix) == ('uniemox', ratio, norm_pix)
  assert not args or 'the file states: mask_ratio' in imported.messages[-1]
  import_torch(str(tmp_path / 'checkpoint-149.pth'), str(tmp_path / 'out'), heads=TINY_HEADS)
  export_torch(str(tmp_path / 'out'), 'vit-mae', str(tmp_path / 'vit_mae'))
  exported = json.loads((tmp_path / 'vit_mae' / 'config.json').read_text())
  assert (exported['mask_ratio'], exported['norm_pix_loss']) == (ratio, norm_pix)
  again = student(tmp_path / 'vit_mae')
  assert (again.model['mask_ratio'], again.norm_pix) == (ratio, norm_pix)


@pytest.mark.slow
@pytest.mark.parametrize('shape', [VIT_B, VIT_L], ids=['B', 'L'])
def test_pretraining_of_the_original_at_published_size(shape, tmp_path, assert_parity):
  check_pretraining_of_the_original('additive', 1, True, shape, PUBLISHED_DECODER, 0.01, tmp_path, assert_parity)


def state_dicts():
  """Every family that shares MAE's names, as NumPy state dicts."""
  modules = {
      'encoder': reference.Encoder(**TINY), 'mae': reference.Mae(**TINY, **TINY_DECODER),
      'classifier': reference.FineTuned(**TINY, classes=8)}
  states = {name: randomised(module).state_dict() for name, module in modules.items()}
  for name, fusion in reference.FUSIONS.items():
    fused = randomised(fusion(16, 3)).state_dict()
    states[name] = states['mae'] | {f'att_fusion.{key}': value for key, value in fused.items()}
  return {name: {key: tensor.numpy() for key, tensor in state.items()} for name, state in states.items()}


@pytest.mark.parametrize('name', ['encoder', 'mae', 'classifier', *reference.FUSIONS])
def test_export_of_import_is_bit_equal(name, tmp_path):
  flat = state_dicts()[name]
  save_file(flat, tmp_path / 'weights.safetensors')
  imported = student(tmp_path / 'weights.safetensors')
  again = name_table.export_params(mae_weights.student_rules(imported.kind, imported.model), imported.params)
  left = {'norm.weight', 'norm.bias'} if name == 'classifier' else set()
  assert again.keys() == flat.keys() - left
  assert all(np.array_equal(again[key], flat[key]) for key in again)
  save_file({key: np.asarray(array, order='C') for key, array in again.items()}, tmp_path / 'again.safetensors')
  twice = student(tmp_path / 'again.safetensors')
  assert jax.tree.all(jax.tree.map(np.array_equal, twice.params, imported.params))
  assert (twice.kind, twice.model) == (imported.kind, imported.model)


def hub_config(model_class, **extra):
  shape = dict(
      hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=128, image_size=32, patch_size=8)
  decoder = dict(
      decoder_hidden_size=16, decoder_num_hidden_layers=2, decoder_num_attention_heads=2, decoder_intermediate_size=64)
  if model_class in (transformers.ViTMAEForPreTraining, transformers.ViTMAEModel):
    return transformers.ViTMAEConfig(**shape | decoder | {'mask_ratio': 0.0} | extra)
  return transformers.ViTConfig(**shape, num_labels=5, **extra)


VITS = transformers.ViTForImageClassification, transformers.ViTModel
FULL_VITS = [
    pytest.param(
        transformers.ViTForImageClassification,
        dict(
            hidden_size=width, num_hidden_layers=depth, num_attention_heads=heads, intermediate_size=4 * width,
            image_size=224, patch_size=16), 0.01, marks=pytest.mark.slow)
    for width, depth, heads in ((768, 12, 12), (1024, 24, 16))]


@pytest.mark.parametrize(
    ('model_class', 'extra', 'noise'),
    [*((model_class, {}, 0.1) for model_class in VITS), (VITS[0], {'layer_norm_eps': 1e-3}, 0.1), *FULL_VITS])
def test_vit_of_transformers_gives_its_last_hidden_state(
    model_class, extra, noise, tmp_path, random_torch, assert_parity, capsys):
  config = hub_config(model_class)
  config.update(extra)
  theirs = random_torch(model_class, config, noise)
  theirs.save_pretrained(tmp_path / 'vit')
  import_torch(str(tmp_path / 'vit'), str(tmp_path / 'out'))
  said = capsys.readouterr().out
  assert ('left behind: vit.pooler' if model_class is VITS[1] else '5 classes') in said
  assert f'LayerNorm epsilon {config.layer_norm_eps:g}' in said
  images, pixels = random_images(config.image_size)
  encoder = theirs.vit if model_class is VITS[0] else theirs
  with torch.no_grad(), jax.default_matmul_precision('highest'):
    assert_parity(uniemox_jax.load_encoder(str(tmp_path / 'out')).tokens(images), encoder(pixels).last_hidden_state)


def published_name(name):
  """As facebook/vit-mae-base has it: transformers 5 saves the decoder's blocks under another name."""
  return name.replace('decoder.decoder_encoder.layer.', 'decoder.decoder_layers.')


@pytest.mark.parametrize('rename', [str, published_name], ids=['saved by transformers 5', 'as published'])
def test_vit_mae_of_transformers_imports_whole(rename, tmp_path, random_torch):
  model_class = transformers.ViTMAEForPreTraining
  theirs = random_torch(model_class, hub_config(model_class, mask_ratio=0.5))
  theirs.save_pretrained(tmp_path)
  flat = weight_files.read_weights(tmp_path).flat
  save_file({rename(name): array for name, array in flat.items()}, tmp_path / 'model.safetensors')
  imported = student(tmp_path)
  again = name_table.export_params(vit_mae_weights.RULES, imported.params)
  assert (imported.kind, imported.model['mask_ratio'], imported.model['decoder_heads']) == ('uniemox', 0.5, 2)
  assert again.keys() == flat.keys()
  assert all(np.array_equal(again[name], flat[name]) for name in flat)
  encoder = student(tmp_path, decoder=False)
  assert encoder.kind == 'encoder'
  assert 'left behind: decoder.' in encoder.messages[1]


def mae_names(flat):
  """transformers' ViTMAE tensors under MAE's names, mapped here by hand."""
  named = {}
  for name, array in flat.items():
    for theirs, own in (('vit.', ''), ('embeddings.patch_embeddings.projection',
                                       'patch_embed.proj'), ('embeddings.position_embeddings', 'pos_embed'),
                        ('embeddings.', ''), ('decoder.decoder_encoder.layer.', 'decoder_blocks.'), ('decoder.', ''),
                        ('encoder.layer.', 'blocks.'), ('attention.output.dense', 'attn.proj'),
                        ('layernorm_before', 'norm1'), ('layernorm_after', 'norm2'), ('layernorm', 'norm'),
                        ('intermediate.dense', 'mlp.fc1'), ('output.dense', 'mlp.fc2')):
      name = name.replace(theirs, own)
    named[name] = array
  for query in [name for name in named if 'attention.attention.query' in name]:
    parts = [named.pop(query.replace('query', part)) for part in ('query', 'key', 'value')]
    named[query.replace('attention.attention.query', 'attn.qkv')] = np.concatenate(parts)
  return named


def test_mae_names_mean_what_transformers_computes(tmp_path, random_torch, assert_parity):
  theirs = random_torch(transformers.ViTMAEModel, hub_config(transformers.ViTMAEModel, layer_norm_eps=1e-6))
  theirs.save_pretrained(tmp_path)
  flat = weight_files.read_weights(tmp_path).flat
  save_file(mae_names(flat), tmp_path / 'mae.safetensors')
  imported = student(tmp_path / 'mae.safetensors')
  images, pixels = random_images(32)
  unmasked = torch.arange(16.0).expand(2, -1)
  with torch.no_grad(), jax.default_matmul_precision('highest'):
    assert_parity(call(module_of(imported).encoder, images), theirs(pixels, noise=unmasked).last_hidden_state)


def timm_folder(folder, flat, **config):
  folder.mkdir()
  save_file(flat, folder / 'model.safetensors')
  (folder / 'config.json').write_text(json.dumps({'architecture': 'vit_base_patch16_224', 'num_features': 32} | config))
  return folder


def test_timm_folder_says_heads_labels_and_statistics(tmp_path):
  flat = state_dicts()['classifier']
  flat = {name: array for name, array in flat.items() if not name.startswith('norm.')}
  labels = list('hgfedcba')
  folder = timm_folder(
      tmp_path / 'timm', flat, num_classes=8, global_pool='avg', label_names=labels,
      model_args={'num_heads': 4, 'img_size': 32}, pretrained_cfg={'mean': [0.5] * 3, 'std': [0.5] * 3})
  imported = student(folder, AttentionHeads())
  assert (imported.kind, imported.labels, imported.model['heads']) == ('classifier', labels, 4)
  import_torch(str(folder), str(tmp_path / 'out'))
  encoder = uniemox_jax.load_encoder(str(tmp_path / 'out'))
  assert uniemox_jax.load_classifier(str(tmp_path / 'out')).labels == labels
  white = np.full((1, 32, 32, 3), 255, np.uint8)
  np.testing.assert_allclose(encoder.tokens(white), encoder.tokens(np.ones((1, 32, 32, 3), np.float32)), rtol=1e-4)


@pytest.mark.parametrize(('config', 'match'), [
    ({'architecture': 'resnet50'}, "names no timm ViT .*'resnet50'"),
    ({'num_features': 64}, 'num_features 64, but cls_token is'),
    ({'num_classes': 5}, 'num_classes 5, but head.bias is'),
    ({'model_args': {'num_heads': 4, 'init_values': 1e-5}}, 'init_values'),
    ({'global_pool': 'map'}, "asks for 'map'"),])
def test_config_that_contradicts_the_tensors_is_refused(config, match, tmp_path):
  folder = timm_folder(tmp_path / 'timm', state_dicts()['classifier'], **config)
  with pytest.raises(UserError, match=match) as error:
    student(folder)
  assert '\n' not in str(error.value)


def renamed(flat):
  flat['blocks.0.attn.qkv.kernel'] = flat.pop('blocks.0.attn.qkv.weight')


def transposed(flat):
  flat['blocks.1.mlp.fc1.weight'] = np.ascontiguousarray(flat['blocks.1.mlp.fc1.weight'].T)


def hollow(flat):
  for name in [name for name in flat if name.startswith('blocks.0.')]:
    del flat[name]


def bert(flat):
  flat.clear()
  layers = (
      'attention.self.query', 'attention.self.key', 'attention.self.value', 'attention.output.dense',
      'attention.output.LayerNorm', 'intermediate.dense', 'output.dense', 'output.LayerNorm')
  flat |= {f'bert.encoder.layer.{i}.{name}.weight': np.ones((4, 4), np.float32) for i in range(3) for name in layers}


def oblong(flat):
  flat['pos_embed'] = np.ascontiguousarray(flat['pos_embed'][:, :13])


def bare_blocks(flat):
  del flat['patch_embed.proj.weight']


@pytest.mark.parametrize(('damage', 'match'), [
    (renamed, r'1 missing: blocks\.0\.attn\.qkv\.weight; 1 unexpected: blocks\.0\.attn\.qkv\.kernel'),
    (transposed, r'blocks\.1\.mlp\.fc1\.weight \(32, 128\) instead of \(128, 32\) \(transposed\)'),
    (hollow, r'12 missing: blocks\.0\.attn\.proj\.bias, .* and 4 more'),
    (bert, 'of no family known here: wanted a CLIP'),
    (oblong, '13 positions: wanted one for CLS and a square'),
    (bare_blocks, r'patch_embed\.proj\.weight is missing'),])
def test_wrong_file_is_one_line_and_nothing_is_written(damage, match, tmp_path):
  flat = state_dicts()['encoder']
  damage(flat)
  save_file(flat, tmp_path / 'bad.safetensors')
  with pytest.raises(UserError, match=match) as error:
    import_torch(str(tmp_path / 'bad.safetensors'), str(tmp_path / 'out'), heads=TINY_HEADS)
  assert '\n' not in str(error.value)
  assert [path.name for path in tmp_path.iterdir()] == ['bad.safetensors']


def test_transformers_config_of_another_depth_is_refused(tmp_path, random_torch):
  random_torch(transformers.ViTModel, hub_config(transformers.ViTModel)).save_pretrained(tmp_path)
  config = json.loads((tmp_path / 'config.json').read_text())
  (tmp_path / 'config.json').write_text(json.dumps(config | {'num_hidden_layers': 3}))
  with pytest.raises(UserError, match='16 missing: vit.encoder.layer.2'):
    student(tmp_path)
  (tmp_path / 'config.json').unlink()
  with pytest.raises(UserError, match=r'has no config\.json beside it'):
    student(tmp_path)


def test_heads_are_asked_for_and_never_contradict(tmp_path):
  save_file(state_dicts()['mae'], tmp_path / 'weights.safetensors')
  for heads, match in ((AttentionHeads(), 'give --heads=N'), (AttentionHeads(4), 'give --decoder_heads=N')):
    with pytest.raises(UserError, match=match):
      student(tmp_path / 'weights.safetensors', heads)
  folder = timm_folder(tmp_path / 'timm', state_dicts()['encoder'], model_args={'num_heads': 4})
  with pytest.raises(UserError, match='has 4 attention heads there, not 8: set heads=4'):
    student(folder, AttentionHeads(8))
