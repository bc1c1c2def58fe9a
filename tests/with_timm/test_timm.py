"""timm itself, in its own environment: it reads what we export, and we read what it saves (`make test-timm`)."""

import jax
import numpy as np
from PIL import Image
import pytest

from tests.support.exported import LABELS, TINY, TINY_DECODER, VIT_B, VIT_L, module_of, random_images, saved
from tests.support.predictions import student_view
import uniemox_jax
from uniemox_jax.export_torch import export_torch
from uniemox_jax.import_torch import import_torch

timm = pytest.importorskip('timm', reason='make test-timm runs this')
torch = pytest.importorskip('torch')
transformers = pytest.importorskip('transformers')

SHAPES = [
    pytest.param(TINY, id='tiny'),
    pytest.param(VIT_B, id='B/16', marks=pytest.mark.slow),
    pytest.param(VIT_L, id='L/16', marks=pytest.mark.slow)]

CLIP_LIKE = [
    pytest.param({'pre_norm': True, 'activation': activation, 'norm_eps': 1e-5}, id=activation)
    for activation in ('gelu', 'quick_gelu')]


def torch_pixels(images):
  return torch.tensor(images).permute(0, 3, 1, 2)


def exported(tmp_path, kind, **model):
  """Our module, and timm's model of its export."""
  ours = module_of(kind, saved(tmp_path / 'run', kind, **model), **model)
  export_torch(str(tmp_path / 'run'), 'timm', str(tmp_path / 'out'))
  return ours, timm.create_model(f'local-dir:{tmp_path}/out', pretrained=True).eval()


@pytest.mark.parametrize('shape', SHAPES)
def test_timm_gives_the_logits_of_our_classifier(shape, tmp_path, assert_parity):
  ours, theirs = exported(tmp_path, 'classifier', **shape, classes=8)
  images = random_images(shape['image_size'])
  with torch.no_grad(), jax.default_matmul_precision('highest'):
    assert_parity(ours(images), theirs(torch_pixels(images)))
    wrapped = transformers.AutoModelForImageClassification.from_pretrained(tmp_path / 'out').eval()
    assert_parity(ours(images), wrapped(torch_pixels(images)).logits)


@pytest.mark.parametrize('kind', ['uniemox', 'encoder'])
@pytest.mark.parametrize('shape', SHAPES)
def test_timm_gives_the_tokens_of_our_encoder(kind, shape, tmp_path, assert_parity):
  ours, theirs = exported(tmp_path, kind, **shape, **(TINY_DECODER if kind == 'uniemox' else {}))
  images = random_images(shape['image_size'])
  with torch.no_grad(), jax.default_matmul_precision('highest'):
    tokens = ours.encoder(images)
    assert_parity(tokens, theirs.forward_features(torch_pixels(images)))
    assert_parity(tokens[:, 1:].mean(axis=1), theirs(torch_pixels(images)))


@pytest.mark.parametrize('variant', CLIP_LIKE)
def test_timm_gives_the_numbers_of_a_student_that_started_from_a_clip(variant, tmp_path, assert_parity):
  images = random_images(32)
  with torch.no_grad(), jax.default_matmul_precision('highest'):
    ours, theirs = exported(tmp_path / 'encoder', 'encoder', **TINY, **variant)
    assert_parity(ours.encoder(images), theirs.forward_features(torch_pixels(images)))
    ours, theirs = exported(tmp_path / 'classifier', 'classifier', **TINY, **variant, classes=8)
    assert_parity(ours(images), theirs(torch_pixels(images)))


@pytest.mark.parametrize('name', ['vit_base_patch16_clip_224', 'vit_base_patch16_clip_quickgelu_224'])
def test_image_tower_saved_by_timm_gives_its_tokens_here(name, tmp_path, assert_parity):
  torch.manual_seed(0)
  theirs = timm.create_model(name, img_size=64, depth=2, num_classes=0).eval()
  with torch.no_grad():
    for parameter in theirs.parameters():
      parameter.add_(torch.randn_like(parameter) * 0.1)
  timm.models.save_for_hf(theirs, tmp_path / 'timm', safe_serialization=True)
  import_torch(str(tmp_path / 'timm'), str(tmp_path / 'run'))
  images = random_images(64)
  with torch.no_grad(), jax.default_matmul_precision('highest'):
    assert_parity(
        uniemox_jax.load_encoder(str(tmp_path / 'run')).tokens(images), theirs.forward_features(torch_pixels(images)))


def test_pipeline_of_transformers_ranks_images_as_we_do(tmp_path):
  exported(tmp_path, 'classifier', **TINY | {'image_size': 224, 'patch_size': 16}, classes=8)
  pixels = np.random.default_rng(0).integers(0, 256, (256, 256, 3), np.uint8)
  answers = transformers.pipeline('image-classification', model=str(tmp_path / 'out'), top_k=8)(Image.fromarray(pixels))
  ours = dict(zip(LABELS, uniemox_jax.load_classifier(str(tmp_path / 'run')).predict_proba(pixels[None])[0]))
  assert {answer['label'] for answer in answers} == set(LABELS)
  for answer in answers:
    assert answer['score'] == pytest.approx(ours[answer['label']], rel=1e-4)


@pytest.mark.parametrize('shape', [(256, 256), (640, 427), (427, 640), (1000, 301), (97, 96), (60, 400)], ids=str)
@pytest.mark.parametrize('size', [96, 224, 384, 443])  # 443 / (443 / 506) is 505.99..., which timm rounds off
def test_timm_prepares_images_as_we_do_to_2_of_255(size, shape, tmp_path):
  _, theirs = exported(tmp_path, 'encoder', **TINY | {'image_size': size, 'patch_size': size})
  transform = timm.data.create_transform(**timm.data.resolve_model_data_config(theirs))
  pixels = np.random.default_rng(0).integers(0, 256, (*shape[::-1], 3), np.uint8)
  theirs = transform(Image.fromarray(pixels)).permute(1, 2, 0)
  np.testing.assert_allclose(theirs, student_view(pixels[None], size)[0], atol=2 / 255 / 0.224)


MEAN = {'num_classes': 5, 'global_pool': 'avg'}
SMALL = 'vit_tiny_patch16_224', {'img_size': 64, 'depth': 2}, 0.1


@pytest.mark.parametrize(('name', 'sizes', 'noise', 'options'), [
    pytest.param(*SMALL, MEAN, id='mean'),
    pytest.param(*SMALL, MEAN | {'global_pool': 'token'}, id='CLS'),
    pytest.param(*SMALL, MEAN | {'fc_norm': False}, id='mean of normed'),
    pytest.param('deit_tiny_patch16_224', *SMALL[1:], {'num_classes': 5}, id='DeiT'),
    pytest.param(*SMALL, {'num_classes': 0}, id='encoder'), *(
        pytest.param(f'vit_{size}_patch16_224', {}, 0.01, MEAN, id=size, marks=pytest.mark.slow)
        for size in ('base', 'large'))])
def test_model_saved_by_timm_gives_its_output_here(name, sizes, noise, options, tmp_path, assert_parity):
  torch.manual_seed(0)
  theirs = timm.create_model(name, **sizes, **options).eval()
  with torch.no_grad():
    for parameter in theirs.parameters():
      parameter.add_(torch.randn_like(parameter) * noise)
  timm.models.save_for_hf(theirs, tmp_path / 'timm', safe_serialization=True)
  import_torch(str(tmp_path / 'timm'), str(tmp_path / 'run'))
  images = random_images(sizes.get('img_size', 224))
  with torch.no_grad(), jax.default_matmul_precision('highest'):
    tokens = uniemox_jax.load_encoder(str(tmp_path / 'run')).tokens(images)
    assert_parity(tokens, theirs.forward_features(torch_pixels(images)))
    for path in ('run', 'timm') if options['num_classes'] else ():
      classifier = uniemox_jax.load_classifier(str(tmp_path / path))
      assert_parity(classifier.predict_proba(images), theirs(torch_pixels(images)).softmax(-1))
    if options['num_classes']:
      export_torch(str(tmp_path / 'run'), 'timm', str(tmp_path / 'back'))
      back = timm.create_model(f'local-dir:{tmp_path}/back', pretrained=True).eval()
      assert_parity(back(torch_pixels(images)), theirs(torch_pixels(images)))


@pytest.mark.parametrize(
    'preparation', [{'crop_pct': 0.9, 'interpolation': 'bicubic'}, {'crop_pct': 0.875, 'interpolation': 'bilinear'}, {
        'crop_pct': 1.0, 'crop_mode': 'squash', 'interpolation': 'bicubic'}], ids=str)  # fmt: skip
def test_images_are_prepared_as_timms_config_says_to_2_of_255(preparation, tmp_path):
  theirs = timm.create_model('vit_tiny_patch16_224', img_size=64, depth=1, num_classes=5).eval()
  theirs.pretrained_cfg.update(preparation | {'input_size': (3, 64, 64), 'fixed_input_size': True})
  timm.models.save_for_hf(theirs, tmp_path / 'timm', safe_serialization=True)
  transform = timm.data.create_transform(**timm.data.resolve_model_data_config(theirs))
  view = uniemox_jax.load_classifier(str(tmp_path / 'timm'))._predictor.recogniser.view
  image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (97, 151, 3), np.uint8))
  np.testing.assert_allclose(view([image])[0], transform(image).permute(1, 2, 0), atol=2.01 / 255 / min(view.std))


def test_onnx_of_the_timm_export_gives_the_same_logits(tmp_path, assert_parity):
  onnxruntime = pytest.importorskip('onnxruntime')
  pytest.importorskip('onnxscript')
  _, theirs = exported(tmp_path, 'classifier', **TINY, classes=8)
  images = random_images(32, 3)
  torch.onnx.export(
      theirs, (torch_pixels(images[:2]),), tmp_path / 'model.onnx', input_names=['images'], output_names=['logits'],
      dynamic_shapes=({0: torch.export.Dim('batch')},), dynamo=True)
  session = onnxruntime.InferenceSession(tmp_path / 'model.onnx')
  with torch.no_grad():
    assert_parity(session.run(None, {'images': torch_pixels(images).numpy()})[0], theirs(torch_pixels(images)))
