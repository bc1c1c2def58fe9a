"""UniEmoX without fusion computes what transformers' PyTorch ViTMAEForPreTraining computes, from the file it saves."""

import json

from flax import nnx
import jax
import numpy as np
import pytest

from uniemox_jax.convert import name_table, vit_mae_weights
from uniemox_jax.convert.formats import weight_files
from uniemox_jax.models.masking import patchify, random_masking
from uniemox_jax.models.uniemox import UniEmoX
from uniemox_jax.objectives import losses

torch = pytest.importorskip('torch')
transformers = pytest.importorskip('transformers')

TINY = dict(
    hidden_size=32, num_hidden_layers=3, num_attention_heads=4, intermediate_size=128, image_size=32, patch_size=8,
    decoder_hidden_size=16, decoder_num_hidden_layers=2, decoder_num_attention_heads=2, decoder_intermediate_size=64)

VIT_L = dict(hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, intermediate_size=4096)


def load(folder):
  """Our model with the folder's weights."""
  arguments = vit_mae_weights.vit_mae_arguments(json.loads((folder / 'config.json').read_text()))
  graphdef, state = nnx.split(nnx.eval_shape(lambda: UniEmoX(**arguments, rngs=nnx.Rngs(0))))
  weights = weight_files.read_weights(folder)
  template = nnx.to_pure_dict(state)
  return nnx.merge(
      graphdef, name_table.import_params(vit_mae_weights.RULES, weights.flat, template, source=str(weights.path)))


def check(shape, folder, random_torch, assert_parity, noise):
  config = transformers.ViTMAEConfig(**shape)
  theirs = random_torch(transformers.ViTMAEForPreTraining, config, noise)
  theirs.save_pretrained(folder)
  ours = load(folder)
  rng = np.random.default_rng(0)
  images = rng.standard_normal((2, config.image_size, config.image_size, 3)).astype(np.float32)
  mask_noise = rng.random((2, (config.image_size // config.patch_size)**2)).astype(np.float32)
  pixels, torch_noise = torch.tensor(images).permute(0, 3, 1, 2), torch.tensor(mask_noise)
  with jax.default_matmul_precision('highest'), torch.no_grad():
    outputs = ours(images[:, None], mask_noise[:, None])
    tokens = ours.encoder(images, random_masking(mask_noise, ours.visible).ids_keep_BxK)
    target = patchify(images, config.patch_size)[:, None]
    assert_parity(tokens, theirs.vit(pixels, noise=torch_noise).last_hidden_state)
    for norm_pix in (False, True):
      theirs.config.norm_pix_loss = norm_pix
      expected = theirs(pixels, noise=torch_noise)
      loss = losses.reconstruction(outputs.prediction_BxUxLxP, target, outputs.mask_BxUxL, norm_pix).mean()
      assert_parity(loss, expected.loss)
    assert_parity(outputs.prediction_BxUxLxP[:, 0], expected.logits)
    np.testing.assert_array_equal(outputs.mask_BxUxL[:, 0], expected.mask)


@pytest.mark.parametrize('extra', [{}, {'layer_norm_eps': 1e-3}, {'mask_ratio': 0.5}])
def test_mae_equals_pytorch(extra, tmp_path, random_torch, assert_parity):
  check(TINY | extra, tmp_path, random_torch, assert_parity, 0.1)


@pytest.mark.slow
@pytest.mark.parametrize('shape', [{}, VIT_L], ids=['B', 'L'])
def test_mae_at_published_size_equals_pytorch(shape, tmp_path, random_torch, assert_parity):
  check(shape, tmp_path, random_torch, assert_parity, 0.01)


def test_positions_come_from_the_file(tmp_path, random_torch):
  model = random_torch(transformers.ViTMAEForPreTraining, transformers.ViTMAEConfig(**TINY))
  model.save_pretrained(tmp_path)
  np.testing.assert_array_equal(
      load(tmp_path).encoder.positions[...], model.vit.embeddings.position_embeddings[0].detach())


def test_exported_mae_loads_in_pytorch_without_a_change(tmp_path, random_torch):
  model = random_torch(transformers.ViTMAEForPreTraining, transformers.ViTMAEConfig(**TINY, layer_norm_eps=1e-5))
  model.save_pretrained(tmp_path / 'theirs')
  params = nnx.to_pure_dict(nnx.state(load(tmp_path / 'theirs')))
  arguments = vit_mae_weights.vit_mae_arguments(json.loads((tmp_path / 'theirs' / 'config.json').read_text()))
  (tmp_path / 'ours').mkdir()
  flat = name_table.export_params(vit_mae_weights.RULES, params)
  weight_files.write_safetensors(tmp_path / 'ours' / weight_files.SAFETENSORS, flat)
  (tmp_path / 'ours' / 'config.json').write_text(json.dumps(vit_mae_weights.hub_config(arguments)))
  again = transformers.ViTMAEForPreTraining.from_pretrained(tmp_path / 'ours')
  assert again.config.layer_norm_eps == 1e-5
  assert again.config.decoder_intermediate_size == 64
  for (name, before), after in zip(model.state_dict().items(), again.state_dict().values(), strict=True):
    assert torch.equal(before, after), name
