"""Our CLIP computes what transformers' PyTorch CLIPModel computes, from the files that it saves."""

import jax
import numpy as np
import pytest

from uniemox_jax.teacher.frozen_clip import load_clip

torch = pytest.importorskip('torch')
transformers = pytest.importorskip('transformers')

TINY = dict(
    text_config=dict(
        hidden_size=24, intermediate_size=40, num_hidden_layers=3, num_attention_heads=3, vocab_size=100,
        max_position_embeddings=12), vision_config=dict(
            hidden_size=32, intermediate_size=72, num_hidden_layers=2, num_attention_heads=4, image_size=32,
            patch_size=8), projection_dim=20)
VIT_B_16 = dict(text_config={}, vision_config=dict(patch_size=16), projection_dim=512)
VIT_L_14 = dict(
    text_config=dict(hidden_size=768, num_attention_heads=12, intermediate_size=3072, projection_dim=768),
    vision_config=dict(
        hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, intermediate_size=4096, patch_size=14,
        projection_dim=768), projection_dim=768)


def clip_config(shape, activation, eos_token_id):
  config = transformers.CLIPConfig(**shape)
  config.text_config.hidden_act = config.vision_config.hidden_act = activation
  config.text_config.eos_token_id = eos_token_id
  return config


def ids_with_ends(config, length):
  """Random ids; each row ends at another place, after which come repeated ends and, by the new rule, larger ids."""
  legacy = config.text_config.eos_token_id == 2
  end = config.text_config.vocab_size - 1 if legacy else config.text_config.eos_token_id
  rng = np.random.default_rng(0)
  ids = rng.integers(end + 1, config.text_config.vocab_size - 1,
                     (3, length)) if not legacy else rng.integers(3, end, (3, length))
  for row, place in enumerate((length - 1, 1, length // 2)):
    ids[row, place] = end
    ids[row, place + 2:place + 3] = end
  return ids.astype(np.int32)


def check(config, folder, random_torch, assert_parity, length, noise):
  model = random_torch(transformers.CLIPModel, config, noise)
  model.save_pretrained(folder)
  clip = load_clip(folder)
  size = config.vision_config.image_size
  images = np.random.default_rng(1).standard_normal((3, size, size, 3)).astype(np.float32)
  ids = ids_with_ends(config, length)
  with torch.no_grad():
    theirs = model(input_ids=torch.tensor(ids).long(), pixel_values=torch.tensor(images).permute(0, 3, 1, 2))
  with jax.default_matmul_precision('highest'):
    assert_parity(clip.encode_image(images), theirs.image_embeds)
    assert_parity(clip.encode_text(ids), theirs.text_embeds)
  assert float(clip.params['logit_scale']) == model.logit_scale.item()


@pytest.mark.parametrize('activation', ['quick_gelu', 'gelu'])
@pytest.mark.parametrize('eos_token_id', [2, 7])
@pytest.mark.parametrize('length', [12, 9])
def test_clip_equals_pytorch(activation, eos_token_id, length, tmp_path, random_torch, assert_parity):
  check(clip_config(TINY, activation, eos_token_id), tmp_path, random_torch, assert_parity, length, 0.1)


@pytest.mark.slow
@pytest.mark.parametrize(('shape', 'activation', 'eos_token_id'), [(VIT_B_16, 'quick_gelu', 2), (VIT_B_16, 'gelu', 400),
                                                                   (VIT_L_14, 'quick_gelu', 2)])
def test_clip_at_published_size_equals_pytorch(shape, activation, eos_token_id, tmp_path, random_torch, assert_parity):
  check(clip_config(shape, activation, eos_token_id), tmp_path, random_torch, assert_parity, 77, 0.01)


@pytest.mark.parametrize('activation', ['quick_gelu', 'gelu'])
def test_activation_is_told_apart(activation, tmp_path, random_torch):
  model = random_torch(transformers.CLIPModel, clip_config(TINY, activation, 7))
  model.save_pretrained(tmp_path)
  assert load_clip(tmp_path).config.text.activation == activation
