"""Our SigLIP computes what transformers' PyTorch SiglipModel computes, from the files that it saves."""

import copy

import jax
import numpy as np
import pytest

from tests.support.siglip_folders import SHAPE
from uniemox_jax.teacher.frozen_clip import load_clip

torch = pytest.importorskip('torch')
transformers = pytest.importorskip('transformers')

BASE = dict(text_config={}, vision_config={})
SIGLIP_2_BASE = dict(text_config=dict(vocab_size=256000), vision_config=dict(image_size=256))


def changed(text, vision):
  """`SHAPE` with other values."""
  return {name: SHAPE[name] | values for name, values in (('text_config', text), ('vision_config', vision))}


def check(shape, folder, random_torch, assert_parity, noise=0.1):
  config = transformers.SiglipConfig(**copy.deepcopy(shape))
  model = random_torch(transformers.SiglipModel, config, noise)
  model.save_pretrained(folder)
  clip, size, rng = load_clip(folder), config.vision_config.image_size, np.random.default_rng(1)
  images = rng.standard_normal((3, size, size, 3)).astype(np.float32)
  ids = rng.integers(0, config.text_config.vocab_size, (2, config.text_config.max_position_embeddings), np.int32)
  pixels, tokens = torch.tensor(images).permute(0, 3, 1, 2), torch.tensor(ids).long()
  with torch.no_grad():
    image, text = model.get_image_features(pixels).pooler_output, model.get_text_features(tokens).pooler_output
    logits = model(input_ids=tokens, pixel_values=pixels).logits_per_image
  with jax.default_matmul_precision('highest'):
    image_BxE, text_BxE = clip.encode_image(images), clip.encode_text(ids)
  assert_parity(image_BxE, torch.nn.functional.normalize(image))
  assert_parity(text_BxE, torch.nn.functional.normalize(text))
  assert_parity(clip.scale * image_BxE @ text_BxE.T + clip.params['logit_bias'], logits)
  assert clip.config.context_length == ids.shape[1] and clip.config.projection_dim == image.shape[1]


@pytest.mark.parametrize(
    'shape', [
        pytest.param(SHAPE, id='texts projected to the width of images'),
        pytest.param(
            changed({'hidden_size': 18, 'projection_size': None}, {'hidden_size': 18, 'num_attention_heads': 2}),
            id='equally wide'),
        pytest.param(changed({}, {'image_size': 35}), id='pixels left over, as in so400m-patch14-384'),
        pytest.param(
            changed({'hidden_act': 'gelu'}, {'hidden_act': 'gelu', 'layer_norm_eps': 1e-3}), id='another GELU')])
def test_siglip_equals_pytorch(shape, tmp_path, random_torch, assert_parity):
  check(shape, tmp_path, random_torch, assert_parity)


@pytest.mark.slow
@pytest.mark.parametrize('shape', [pytest.param(BASE, id='base'), pytest.param(SIGLIP_2_BASE, id='siglip2 base')])
def test_siglip_at_published_size_equals_pytorch(shape, tmp_path, random_torch, assert_parity):
  check(shape, tmp_path, random_torch, assert_parity, noise=0.01)
