"""JSON beside a ViT of transformers, timm or open_clip: followed, or refused in one line that names its file."""

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import save_file

from data_pipelines.errors import UserError
from uniemox_jax.convert.formats.weight_files import read_weights
from uniemox_jax.convert.import_students import AttentionHeads, ImportedStudent, import_student
from uniemox_jax.convert.published_views import view_of_open_clip
from uniemox_jax.models.view import View

transformers = pytest.importorskip('transformers')

CONFIG, PROCESSOR = 'config.json', 'preprocessor_config.json'
HALF = {'mean': [0.5] * 3, 'std': [0.5] * 3}


@pytest.fixture
def folder(tmp_path: Path, random_torch: Any) -> Path:
  config = transformers.ViTConfig(
      hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=128, image_size=32, patch_size=8)
  random_torch(transformers.ViTModel, config).save_pretrained(tmp_path / 'vit')
  return tmp_path / 'vit'


def student(folder: Path) -> ImportedStudent:
  return import_student(read_weights(folder), folder, AttentionHeads())


def change(folder: Path, name: str, values: Any) -> None:
  path = folder / name
  old = json.loads(path.read_text()) if path.exists() else {}
  path.write_text(json.dumps(old | values if isinstance(values, dict) else values))


@pytest.mark.parametrize(('name', 'values', 'statistics'), [
    (CONFIG, {}, {}), (CONFIG, {'image_size': [32, 32], 'patch_size': [8, 8]}, {}), (PROCESSOR, {'size': 224}, HALF),
    (PROCESSOR, {'image_mean': 0.5, 'image_std': [0.5] * 3}, HALF),
    (PROCESSOR, {'do_normalize': False}, {'mean': [0.0] * 3, 'std': [1.0] * 3}),
    (PROCESSOR, {'image_mean': [0.1, 0.2, 0.3], 'do_resize': False}, {'mean': [0.1, 0.2, 0.3], 'std': [0.5] * 3})])
def test_setting_of_a_vit_is_followed(name: str, values: Any, statistics: Any, folder: Path) -> None:
  change(folder, name, values)
  imported = student(folder)
  assert (imported.model['image_size'], imported.model['patch_size']) == (32, 8)
  assert imported.statistics == statistics


@pytest.mark.parametrize(('name', 'values', 'cause'), [
    (CONFIG, {'image_size': [32, 48]}, r'image_size is \[32, 48\], not a positive int'),
    (CONFIG, {'image_size': '32'}, 'not a positive int'), (CONFIG, {'image_size': None}, 'not a positive int'),
    (CONFIG, {'image_size': True}, 'not a positive int'), (CONFIG, {'image_size': 32.0}, 'not a positive int'),
    (CONFIG, {'num_attention_heads': 5}, 'config.json'), (CONFIG, {'num_attention_heads': []}, 'not a positive int'),
    (CONFIG, {'layer_norm_eps': '1e-6'}, 'not a positive float'), (CONFIG, {'layer_norm_eps': float('inf')}, 'below 1'),
    (CONFIG, {'hidden_act': 'relu'}, "'relu'"), (CONFIG, {'qkv_bias': False}, 'qkv_bias is False'),
    (CONFIG, {'num_channels': 1}, 'num_channels is 1'),
    (CONFIG, {'intermediate_size': 64}, 'intermediate_size is 64: only 128, four times the width, is read'),
    (CONFIG, {'model_type': 'beit'}, "model_type 'beit'"),
    (CONFIG, {'num_hidden_layers': 3}, 'missing: vit.encoder.layer.2'), (CONFIG, [1], 'no JSON object'),
    (CONFIG, {'hidden_size': 10**12}, 'config.json|model.safetensors'),
    (PROCESSOR, {'image_mean': 'a'}, 'not three numbers'), (PROCESSOR, {'image_std': [0, 0, 0]}, 'not three numbers'),
    (PROCESSOR, {'image_mean': [0.5]}, 'not three numbers'), (PROCESSOR, {'do_rescale': False}, 'do not scale pixels'),
    (PROCESSOR, {'rescale_factor': float('nan')}, 'do not scale pixels'),
    (PROCESSOR, {'do_normalize': 'no'}, 'not true or'), (PROCESSOR, [], 'no JSON object')])
def test_setting_of_a_vit_that_cannot_be_followed_is_one_line(name: str, values: Any, cause: str, folder: Path) -> None:
  change(folder, name, values)
  with pytest.raises(UserError, match=cause) as error:
    student(folder)
  assert name in str(error.value) or 'model.safetensors' in str(error.value)
  assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize(('values', 'cause'),
                         [({'architecture': 'resnet50'}, 'no timm ViT'), ({'architecture': None}, 'no timm ViT'),
                          ({'pretrained_cfg': None}, 'config.json'), ({'pretrained_cfg': []}, 'config.json'),
                          ({'model_args': [1]}, 'config.json'),
                          ({'pretrained_cfg': {'mean': [1, 2], 'std': [1, 1]}}, 'not three numbers'),
                          ({'pretrained_cfg': {'mean': [0.5] * 3}}, 'not three'),
                          ({'pretrained_cfg': {'mean': 0.5, 'std': 0.5}}, 'not three'),
                          ({'num_features': '32'}, 'num_features'),
                          ({'model_args': {'num_heads': 'four'}}, 'config.json'),
                          ({'model_args': {'num_heads': 0}}, 'config.json'), ({'global_pool': 'map'}, "'map'"),
                          ({'model_args': {'class_token': False, 'num_heads': 4, 'reg_tokens': 4}}, 'reg_tokens')])
def test_setting_of_timm_that_cannot_be_followed_is_one_line(values: Any, cause: str, tmp_path: Path) -> None:
  from tests.convert.test_forms_of_others import STATE
  save_file({name: tensor.numpy() for name, tensor in STATE.items()}, tmp_path / 'model.safetensors')
  config = {'architecture': 'vit_tiny_patch16_224', 'num_features': 32, 'model_args': {'num_heads': 4}}
  (tmp_path / CONFIG).write_text(json.dumps(config | values))
  with pytest.raises(UserError, match=cause) as error:
    student(tmp_path)
  assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize('size', [32, [32, 32]])
def test_size_of_open_clip_is_the_models(size: Any) -> None:
  assert view_of_open_clip({'size': size}, 32) == View(32, 32)
  for other in (224, [32, 48], '32', [32]):
    with pytest.raises(UserError, match='preprocess_cfg makes images of'):
      view_of_open_clip({'size': other}, 32)


@pytest.mark.parametrize(('values', 'cause'), [({'mask_ratio': 1.5}, 'mask_ratio is 1.5, not a positive float below 1'),
                                               ({'mask_ratio': 0.99}, 'leaves 0 of 16'),
                                               ({'mask_ratio': None}, 'mask_ratio is None'),
                                               ({'norm_pix_loss': 'yes'}, "norm_pix_loss is 'yes', not true or false"),
                                               ({'decoder_hidden_size': [16]}, 'not a positive int'),
                                               ({'decoder_num_attention_heads': 3}, 'not divisible by 3'),
                                               ({'decoder_num_hidden_layers': 3}, 'missing: decoder'),
                                               ({'decoder_intermediate_size': 60}, 'decoder_intermediate_size')])
def test_setting_of_a_mae_that_cannot_be_followed_is_one_line(
    values: Any, cause: str, tmp_path: Path, random_torch: Any) -> None:
  config = transformers.ViTMAEConfig(
      hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=128, image_size=32, patch_size=8,
      decoder_hidden_size=16, decoder_num_hidden_layers=2, decoder_num_attention_heads=2, decoder_intermediate_size=64)
  random_torch(transformers.ViTMAEForPreTraining, config).save_pretrained(tmp_path)
  change(tmp_path, CONFIG, values)
  with pytest.raises(UserError, match=cause) as error:
    student(tmp_path)
  assert len(str(error.value).splitlines()) == 1
