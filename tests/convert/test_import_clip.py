"""CLIP in OpenAI's names: the embeddings of its own code, and an activation that is never guessed."""

import json

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

from data_pipelines.errors import UserError
from uniemox_jax.convert import clip_weights, name_table
from uniemox_jax.convert.formats import weight_files
from uniemox_jax.import_torch import import_torch
from uniemox_jax.models.preprocess import CLIP_MEAN
from uniemox_jax.teacher.frozen_clip import abstract_clip, load_clip

torch = pytest.importorskip('torch')
from tests.support import torch_reference as reference  # noqa: E402

# Towers: width, depth, heads (64 wide each, as in OpenAI's code), hidden.
TINY = dict(
    image_size=32, patch=8, vision=(128, 2, 2, 512), text=(64, 2, 1, 256), projection=24, context=12, vocabulary=100)
VIT_B_16 = dict(
    image_size=224, patch=16, vision=(768, 12, 12, 3072), text=(512, 12, 8, 2048), projection=512, context=77,
    vocabulary=49408)
VIT_L_14 = VIT_B_16 | dict(patch=14, vision=(1024, 24, 16, 4096), text=(768, 12, 12, 3072), projection=768)
SHALLOW = TINY | dict(vision=(64, 1, 1, 128), text=(64, 1, 1, 128), vocabulary=49408, context=77)
SHAPES = [
    pytest.param(TINY, 0.1, id='tiny'),
    pytest.param(VIT_B_16, 0.01, marks=pytest.mark.slow, id='B/16'),
    pytest.param(VIT_L_14, 0.01, marks=pytest.mark.slow, id='L/14')]


def model_of(shape, noise=0.1, **options):
  torch.manual_seed(0)
  model = reference.OpenAiClip(**shape, **options).eval()
  with torch.no_grad():
    for parameter in model.parameters():
      parameter.add_(torch.randn_like(parameter) * noise)
  return model


def inputs(shape):
  rng = np.random.default_rng(0)
  images = rng.standard_normal((2, shape['image_size'], shape['image_size'], 3)).astype(np.float32)
  end = shape['vocabulary'] - 1
  ids = rng.integers(1, end, (2, shape['context'])).astype(np.int32)
  ids[0, -1], ids[1, 4], ids[1, 5:] = end, end, 0  # as OpenAI pads
  return images, ids


def check(loaded, theirs, shape, assert_parity):
  images, ids = inputs(shape)
  with torch.no_grad(), jax.default_matmul_precision('highest'):
    image, text = theirs(torch.tensor(images).permute(0, 3, 1, 2), torch.tensor(ids).long())
    assert_parity(loaded.encode_image(images), torch.nn.functional.normalize(image))
    assert_parity(loaded.encode_text(ids), torch.nn.functional.normalize(text))
  assert loaded.params['logit_scale'] == theirs.logit_scale.item()


def archive(model, shape, path):
  """A TorchScript archive, as OpenAI publishes its CLIPs."""
  images, ids = inputs(shape)
  with torch.no_grad():
    example = torch.tensor(images).permute(0, 3, 1, 2), torch.tensor(ids).long()
    torch.jit.save(torch.jit.trace(model, example, check_trace=False), path)


@pytest.mark.filterwarnings('ignore')  # torch.jit is deprecated
@pytest.mark.parametrize(('shape', 'noise'), SHAPES)
def test_archive_of_openai_gives_the_embeddings_of_its_code(shape, noise, tmp_path, assert_parity):
  theirs = model_of(shape, noise, archive=True)
  archive(theirs, shape, tmp_path / 'ViT-B-16.pt')
  loaded = load_clip(tmp_path / 'ViT-B-16.pt')
  assert loaded.config.text.activation == loaded.config.vision.activation == 'quick_gelu'
  check(loaded, theirs, shape, assert_parity)


def open_clip_config(shape, **extra):
  """What open_clip's push_to_hf_hub writes."""
  vision, text = shape['vision'], shape['text']
  return {
      'model_cfg': {
          'embed_dim': shape['projection'], **extra, 'vision_cfg': {
              'image_size': shape['image_size'], 'layers': vision[1], 'width': vision[0],
              'head_width': vision[0] // vision[2], 'patch_size': shape['patch'], 'mlp_ratio': vision[3] / vision[0]},
          'text_cfg': {
              'context_length': shape['context'], 'vocab_size': shape['vocabulary'], 'width': text[0], 'heads': text[2],
              'layers': text[1], 'mlp_ratio': text[3] / text[0]}}, 'preprocess_cfg': {
                  'mean': [0.5, 0.4, 0.3], 'std': [0.2, 0.3, 0.4], 'interpolation': 'bicubic', 'resize_mode': 'squash'}}


def flat_of(model):
  return {name: tensor.numpy() for name, tensor in model.state_dict().items()}


def open_clip_folder(folder, model, config):
  folder.mkdir(exist_ok=True)
  save_file(flat_of(model), folder / 'open_clip_model.safetensors')
  (folder / 'open_clip_config.json').write_text(json.dumps(config))
  return folder


@pytest.mark.parametrize('quick', [False, True])
@pytest.mark.parametrize(('shape', 'noise'), SHAPES)
def test_open_clip_folder_decides_activation_heads_and_view(shape, noise, quick, tmp_path, assert_parity):
  if shape is TINY:
    shape = shape | dict(vision=(48, 1, 3, 100), text=(32, 1, 4, 64))
  theirs = model_of(shape, noise, activation=reference.QuickGelu if quick else torch.nn.GELU)
  folder = open_clip_folder(
      tmp_path / 'folder', theirs, open_clip_config(shape, **({'quick_gelu': True} if quick else {})))
  for source in (folder, folder / 'open_clip_model.safetensors'):
    loaded = load_clip(source)
    assert loaded.config.text.activation == ('quick_gelu' if quick else 'gelu')
    assert (loaded.view.squash, loaded.view.mean) == (True, (0.5, 0.4, 0.3))
  check(loaded, theirs, shape, assert_parity)


@pytest.mark.parametrize(
    'change', [
        lambda flat: flat | {'logit_bias': np.float32(-10)}, lambda flat: {
            name if name.startswith(('visual.', 'logit')) else f'text.{name}': array for name, array in flat.items()},
        lambda flat: {f'module.{name}': array for name, array in flat.items()},
        lambda flat: {f'model.clip.{name}': array
                      for name, array in flat.items()} | {'model.head.weight': np.ones(3, np.float32)}],
    ids=['bias of a sigmoid loss', 'text tower of its own', 'distributed', 'inside of a model'])
def test_other_names_of_open_clip_are_read_and_told(change, tmp_path, assert_parity, capsys):
  theirs = model_of(SHALLOW)
  folder = open_clip_folder(tmp_path / 'folder', theirs, open_clip_config(SHALLOW, quick_gelu=True))
  flat = {name: np.asarray(array, order='C') for name, array in change(flat_of(theirs)).items()}
  save_file(flat, folder / 'open_clip_model.safetensors')
  loaded = load_clip(folder)
  check(loaded, theirs, SHALLOW, assert_parity)
  said = capsys.readouterr().out
  told = {
      'logit_bias': 'left behind: logit_bias', 'module.visual.proj': 'without module',
      'model.clip.visual.proj': "under 'model.clip' are taken, left behind: model.head.weight"}
  assert all(line in said for name, line in told.items() if name in flat)


def test_activation_is_asked_for_where_nothing_says_it(tmp_path, assert_parity):
  theirs = model_of(SHALLOW, activation=torch.nn.GELU)
  torch.save({'state_dict': {f'module.{name}': tensor for name, tensor in theirs.state_dict().items()}, 'epoch': 3},
             tmp_path / 'epoch_3.pt')
  with pytest.raises(UserError, match='does not say its activation'):
    load_clip(tmp_path / 'epoch_3.pt')
  check(load_clip(tmp_path / 'epoch_3.pt', activation='gelu'), theirs, SHALLOW, assert_parity)
  assert load_clip(tmp_path / 'epoch_3.pt', activation='quick_gelu').config.text.activation == 'quick_gelu'


def test_flag_cannot_contradict_what_the_file_says(tmp_path, clip_folder):
  save_file(flat_of(model_of(TINY, archive=True)), tmp_path / 'openai.safetensors')
  folder = open_clip_folder(tmp_path / 'folder', model_of(TINY), open_clip_config(TINY, quick_gelu=True))
  for source in (tmp_path / 'openai.safetensors', folder, clip_folder):
    with pytest.raises(UserError, match='was trained with quick_gelu, not gelu'):
      load_clip(source, activation='gelu')


@pytest.mark.parametrize(('change', 'match'), [
    ({'vision_cfg': {'layers': 3}}, '12 missing: visual.transformer.resblocks.2'),
    ({'vision_cfg': {'width': 64}}, r'visual\.class_embedding \(128,\) instead of \(64,\)'),
    ({'vision_cfg': {'attentional_pool': True}}, 'attentional_pool is True, which the CLIP here does not have'),
    ({'vision_cfg': {'layers': [3, 4, 6, 3]}}, 'vision_cfg.layers is .* not an integer'),
    ({'text_cfg': {'pool_type': 'last'}}, "pool_type is 'last'"),])
def test_open_clip_config_that_contradicts_is_refused(change, match, tmp_path):
  config = open_clip_config(TINY)
  for tower, settings in change.items():
    config['model_cfg'][tower] |= settings
  folder = open_clip_folder(tmp_path / 'folder', model_of(TINY), config)
  with pytest.raises(UserError, match=match) as error:
    load_clip(folder)
  assert '\n' not in str(error.value)


@pytest.mark.parametrize('damage', ['visual.proj', 'visual.positional_embedding', 'transformer.resblocks.1.ln_2.bias'])
def test_incomplete_file_names_what_it_lacks(damage, tmp_path):
  flat = flat_of(model_of(TINY, archive=True))
  del flat[damage]
  save_file(flat, tmp_path / 'clip.safetensors')
  with pytest.raises(UserError, match=damage) as error:
    load_clip(tmp_path / 'clip.safetensors')
  assert '\n' not in str(error.value)


def test_half_precision_comes_in_as_float32(tmp_path):
  model = model_of(TINY, archive=True).half()
  torch.save(model.state_dict(), tmp_path / 'ViT.pt')
  loaded = load_clip(tmp_path / 'ViT.pt')
  assert {leaf.dtype for leaf in jax.tree.leaves(loaded.params)} == {np.dtype(np.float32)}
  np.testing.assert_array_equal(loaded.params['vision']['project']['kernel'], model.visual.proj.detach().float())


def test_export_of_import_is_bit_equal(tmp_path):
  flat = flat_of(model_of(TINY))
  config = clip_weights.openai_config({name: array.shape for name, array in flat.items()}, source='x',
                                      activation='gelu')
  params = name_table.import_params(clip_weights.OPENAI_RULES, dict(flat), abstract_clip(config)[1], source='x')
  again = name_table.export_params(clip_weights.OPENAI_RULES, params)
  assert again.keys() == flat.keys()
  assert all(np.array_equal(again[name], flat[name]) for name in flat)


def test_openai_weights_read_texts_with_openais_vocabulary(tmp_path):
  save_file(flat_of(model_of(SHALLOW, archive=True)), tmp_path / 'clip.safetensors')
  assert load_clip(tmp_path / 'clip.safetensors').tokenize(['a photo of a cat'])[0, :7].tolist() == [
      49406, 320, 1125, 539, 320, 2368, 49407]


def test_import_writes_a_folder_that_transformers_and_load_clip_read(tmp_path, assert_parity):
  transformers = pytest.importorskip('transformers')
  shape = SHALLOW
  theirs = model_of(shape)
  folder = open_clip_folder(tmp_path / 'folder', theirs, open_clip_config(shape, quick_gelu=True))
  import_torch(str(folder), str(tmp_path / 'out'))
  again = load_clip(tmp_path / 'out')
  check(again, theirs, shape, assert_parity)
  assert again.view == load_clip(folder).view
  assert again.view.mean != CLIP_MEAN
  model, report = transformers.CLIPModel.from_pretrained(tmp_path / 'out', output_loading_info=True)
  assert not report['missing_keys'] and not report['unexpected_keys']
  images, ids = inputs(shape)
  with torch.no_grad():
    outputs = model(input_ids=torch.tensor(ids).long(), pixel_values=torch.tensor(images).permute(0, 3, 1, 2))
    assert_parity(
        torch.nn.functional.normalize(theirs(torch.tensor(images).permute(0, 3, 1, 2),
                                             torch.tensor(ids).long())[1]), outputs.text_embeds)


@pytest.mark.parametrize('suffix', ['.bin', '.safetensors'])
def test_weights_of_transformers_load_from_bin_as_from_safetensors(suffix, clip_folder, clip_params, tmp_path):
  (tmp_path / 'config.json').write_text((clip_folder / 'config.json').read_text())
  flat = weight_files.read_weights(clip_folder).flat
  if suffix == '.bin':
    torch.save({name: torch.tensor(array) for name, array in flat.items()}, tmp_path / 'pytorch_model.bin')
  else:
    save_file(flat, tmp_path / 'model.safetensors')
  params = load_clip(tmp_path).params
  assert jax.tree.all(jax.tree.map(np.array_equal, params, clip_params))


def test_student_is_no_clip_and_clip_is_no_student(tmp_path):
  encoder = reference.Encoder(image_size=32, patch=8, width=32, depth=1, heads=2)
  save_file(flat_of(encoder), tmp_path / 'mae.safetensors')
  with pytest.raises(UserError, match='not a CLIP: it can be a student'):
    load_clip(tmp_path / 'mae.safetensors')
