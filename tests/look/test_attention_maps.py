"""Maps of where a ViT looks: the model's own forward laid open; formulas as transformers and torch give them."""

from typing import Any

from flax import nnx
import jax
import numpy as np
import pytest

from uniemox_jax.import_torch import import_torch
from uniemox_jax.look import attention_maps
from uniemox_jax.models.classifier import Classifier
from uniemox_jax.models.uniemox import UniEmoX
from uniemox_jax.train.initial_weights import initial_weights, read_source
from uniemox_jax.train.state import abstract_params, builder, graphdef_of, initial_params

torch = pytest.importorskip('torch')
transformers = pytest.importorskip('transformers')

SHAPE = {'image_size': 32, 'patch_size': 8, 'width': 32, 'depth': 3, 'heads': 4, 'norm_eps': 1e-5}
CLASSES = 5


@pytest.fixture(scope='module')
def images() -> np.ndarray:
  return np.random.default_rng(0).standard_normal((4, 32, 32, 3)).astype(np.float32)


def random_params(build: Any) -> dict[str, Any]:
  """Nothing zero, attention far from uniform."""
  rng = np.random.default_rng(1)
  return jax.tree.map(
      lambda x: np.asarray(x + 0.2 * rng.standard_normal(x.shape), np.float32), initial_params(build, 0))


@pytest.fixture(scope='module')
def theirs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, str]:
  """A ViT of transformers, none of its parameters zero, and our import of it."""
  folder = tmp_path_factory.mktemp('vit')
  config = transformers.ViTConfig(
      hidden_size=32, num_hidden_layers=3, num_attention_heads=4, intermediate_size=128, image_size=32, patch_size=8,
      layer_norm_eps=1e-5, attn_implementation='eager')
  torch.manual_seed(0)
  model = transformers.ViTModel(config, add_pooling_layer=False).eval()
  with torch.no_grad():
    for parameter in model.parameters():
      parameter.add_(torch.randn_like(parameter) * 0.2)
  model.save_pretrained(folder / 'theirs')
  import_torch(str(folder / 'theirs'), str(folder / 'ours'))
  return model, str(folder / 'ours')


@pytest.fixture(scope='module')
def ours(theirs: tuple[Any, str]) -> tuple[nnx.GraphDef, dict[str, Any]]:
  """A classifier on the same encoder."""
  build = builder(Classifier, **SHAPE, classes=CLASSES)
  source = read_source(theirs[1], SHAPE, decoder=False)
  loaded = initial_weights(source, abstract_params(build), classifier=True)
  return graphdef_of(build), random_params(build) | loaded


def attentions_of(model: Any, images: np.ndarray) -> Any:
  return model(torch.tensor(images).permute(0, 3, 1, 2), output_attentions=True, output_hidden_states=True)


def grid(row: np.ndarray) -> np.ndarray:
  return row[1:].reshape(4, 4)


@pytest.mark.parametrize('scan', [False, True])
def test_open_forward_gives_the_models_own_outputs(scan, images, assert_parity):
  build = builder(Classifier, **SHAPE, classes=CLASSES, scan=scan)
  graphdef, params = graphdef_of(build), random_params(build)
  with jax.default_matmul_precision('highest'):
    outputs, attention = attention_maps.run_openly(graphdef, params, lambda model: model(images))
    assert_parity(outputs, nnx.merge(graphdef, params)(images))
  np.testing.assert_allclose(attention.sum(-1), 1, atol=1e-5)


def test_rollout_of_a_pretrained_encoder_is_that_of_transformers_attentions(theirs, ours, images):
  with torch.no_grad():
    found = attentions_of(theirs[0], images).attentions
  graphdef, params = ours
  maps = attention_maps.encoder_maps(graphdef, params, images.reshape(2, 2, 32, 32, 3), 'cls')
  assert maps.shape == (2, 2, 4, 4)
  for index in range(4):
    rolled = np.eye(17)
    for attention in found:
      layer = attention[index].double().numpy().mean(0) + np.eye(17)
      rolled = layer / layer.sum(-1, keepdims=True) @ rolled
    np.testing.assert_allclose(maps[index // 2, index % 2], grid(rolled[0]), rtol=1e-4, atol=1e-7)


def test_relevance_to_a_class_is_that_of_torchs_gradients(theirs, ours, images):
  graphdef, params = ours
  columns = np.array([0, 4, 2, 2])
  maps = attention_maps.classifier_maps(graphdef, params, images[:, None], columns)
  norm, head = params['fc_norm'], params['head']
  for index, column in enumerate(columns):
    found = attentions_of(theirs[0], images[index:index + 1])
    # The last block's tokens, before the model's final norm.
    pooled = torch.nn.functional.layer_norm(
        found.hidden_states[-1][0, 1:].mean(0), (32,), torch.tensor(norm['scale']), torch.tensor(norm['bias']), 1e-5)
    logit = pooled @ torch.tensor(head['kernel'][:, column]) + torch.tensor(head['bias'][column])
    np.testing.assert_allclose(nnx.merge(graphdef, params)(images[index:index + 1])[0, column], logit.item(), rtol=1e-4)
    relevance = np.eye(17)
    for attention, gradient in zip(found.attentions, torch.autograd.grad(logit, found.attentions), strict=True):
      layer = (attention * gradient)[0].clamp(min=0).mean(0).detach().double().numpy()
      relevance = relevance + layer @ relevance
    expected = grid((relevance - np.eye(17))[1:].mean(0))
    assert expected.std() > 0.2 * expected.mean()
    np.testing.assert_allclose(maps.relevance[index, 0], expected, atol=1e-4 * expected.max())


def test_relevance_depends_on_the_class_and_rollout_does_not(ours, images):
  first, second = (attention_maps.classifier_maps(*ours, images[:, None], np.full(4, column)) for column in (0, 1))
  np.testing.assert_array_equal(first.rollout, second.rollout)
  assert np.abs(first.relevance - second.relevance).max() > 0.1 * np.asarray(first.relevance).max()


def test_pretrained_uniemox_gives_each_view_the_map_it_has_alone(images):
  build = builder(UniEmoX, **SHAPE, decoder_width=16, decoder_depth=1, decoder_heads=2)
  graphdef, params = graphdef_of(build), random_params(build)
  assert attention_maps.reads_person(nnx.merge(graphdef, params))
  views = images.reshape(2, 2, 32, 32, 3)
  both = attention_maps.encoder_maps(graphdef, params, views, 'cls')
  for view in range(2):
    alone = attention_maps.encoder_maps(graphdef, params, views[:, view:view + 1], 'cls')
    np.testing.assert_allclose(both[:, view], alone[:, 0], rtol=1e-4)


def test_classifier_of_scene_and_person_is_explained_view_by_view(images):
  build = builder(Classifier, **SHAPE, classes=CLASSES, streams='scene+person')
  graphdef, params = graphdef_of(build), random_params(build)
  half = params['head']['kernel'][:32]
  params['head']['kernel'] = np.concatenate([half, half])  # so that it is all the same which view is the scene
  views = images.reshape(2, 2, 32, 32, 3)
  maps = attention_maps.classifier_maps(graphdef, params, views, np.array([1, 3]))
  assert maps.relevance.shape == maps.rollout.shape == (2, 2, 4, 4)
  exchanged = attention_maps.classifier_maps(graphdef, params, views[:, ::-1], np.array([1, 3]))
  for one, other in zip(maps, exchanged):
    np.testing.assert_allclose(one, other[:, ::-1], rtol=1e-3, atol=1e-6)
    assert np.abs(one[:, 0] - one[:, 1]).max() > 1e-3
