"""The student's parts: masking counts, fusions by their formulas, drop-path, one parameter layout for all programs."""

import math

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from uniemox_jax.models import fusion, layers, masking
from uniemox_jax.models.vit import ViT


def test_mask_ratio_of_the_recipe_keeps_19_of_196_patches():
  assert masking.visible_patches(196, 0.9) == 19
  assert masking.visible_patches(196, 0.75) == 49


def test_masking_keeps_the_lowest_noise_and_restores_the_order():
  noise = jax.random.uniform(jax.random.key(0), (3, 16))
  chosen = masking.random_masking(noise, 4)
  np.testing.assert_array_equal(chosen.ids_keep_BxK, np.argsort(noise, axis=1)[:, :4])
  np.testing.assert_array_equal(chosen.mask_BxL.sum(1), 12)
  shuffled = masking.take_tokens(noise[..., None], jnp.argsort(noise, axis=1))
  np.testing.assert_array_equal(masking.take_tokens(shuffled, chosen.ids_restore_BxL)[..., 0], noise)


def test_unpatchify_inverts_patchify():
  images = np.random.default_rng(0).standard_normal((2, 32, 32, 3)).astype(np.float32)
  np.testing.assert_array_equal(masking.unpatchify(masking.patchify(images, 8), 8), images)


@pytest.fixture
def streams() -> tuple[jax.Array, jax.Array]:
  return tuple(jax.random.normal(jax.random.key(seed), (5, 12)) for seed in (1, 2))


def make(name: str, heads: int = 2) -> nnx.Module:
  module = fusion.make_fusion(name, 12, heads, dtype=jnp.float32, rngs=nnx.Rngs(0))
  params = nnx.to_pure_dict(nnx.state(module))
  keys = iter(jax.random.split(jax.random.key(3), 99))
  random = jax.tree.map(lambda x: x + 0.3 * jax.random.normal(next(keys), x.shape), params)
  return nnx.merge(nnx.graphdef(module), random)


def norm(x: jax.Array, module: nnx.LayerNorm) -> jax.Array:
  centred = x - x.mean(-1, keepdims=True)
  return centred / jnp.sqrt(x.var(-1, keepdims=True) + 1e-5) * module.scale[...] + module.bias[...]


def dense(x: jax.Array, module: nnx.Linear) -> jax.Array:
  return x @ module.kernel[...] + module.bias[...]


def test_additive_fusion_is_its_formula(streams):
  scene, person = streams
  module = make('additive')
  inside = dense(norm(scene, module.norm) + norm(person, module.norm), module.linear)
  np.testing.assert_allclose(module(scene, person), jnp.where(inside > 0, inside, jnp.expm1(inside)), atol=1e-5)


def test_prior_fusion_is_its_formula(streams):
  scene, person = streams
  module = make('prior')
  expected = dense(module.weight[...] * scene + person, module.linear)
  np.testing.assert_allclose(module(scene, person), expected, atol=1e-5)


def test_weighted_sum_fusion_is_its_formula(streams):
  scene, person = streams
  module = make('weighted_sum')
  total = sum(module.scene_weight[...][h] * scene + module.person_weight[...][h] * person for h in range(2))
  np.testing.assert_allclose(module(scene, person), norm(total, module.norm) + module.bias[...], atol=1e-5)


def test_attention_fusion_weighs_the_two_streams(streams):
  scene, person = streams
  module = make('attention')
  total = 0
  for head in range(2):
    scores = jnp.stack([dense(scene, module.scene_score)[:, head], dense(person, module.person_score)[:, head]])
    weights = jnp.exp(scores) / jnp.exp(scores).sum(0)
    total += weights[0][:, None] * scene + weights[1][:, None] * person
  np.testing.assert_allclose(module(scene, person), total * jax.nn.sigmoid(total) + module.bias[...], atol=1e-5)


def test_glu_fusion_is_its_formula(streams):
  scene, person = streams
  module = make('glu')
  gates = [dense(x, gate).reshape(5, 2, 12) for x, gate in ((scene, module.scene_gate), (person, module.person_gate))]
  parts = [
      jnp.exp(g[:, h]) / jnp.exp(g[:, h]).sum(-1, keepdims=True) * x
      for h in range(2)
      for g, x in ((gates[0], scene), (gates[1], person))]
  joined = jnp.concatenate([parts[0] + parts[1], parts[2] + parts[3]], axis=-1)
  mixed = dense(jax.nn.relu(dense(joined, module.up)), module.down)
  expected = jax.nn.relu(mixed * jax.nn.sigmoid(dense(mixed, module.gate))) + module.bias[...]
  np.testing.assert_allclose(module(scene, person), expected, atol=1e-5)


@pytest.mark.parametrize('name', fusion.FUSIONS)
def test_fusion_bias_starts_at_1e_5(name):
  module = fusion.make_fusion(name, 12, 1, dtype=jnp.float32, rngs=nnx.Rngs(0))
  bias = module.linear.bias if hasattr(module, 'linear') else module.bias
  np.testing.assert_allclose(bias[...], 1e-5)


def test_fusion_works_on_one_example(streams):
  assert all(make(name)(streams[0][:1], streams[1][:1]).shape == (1, 12) for name in fusion.FUSIONS)


def test_unknown_fusion_is_named():
  with pytest.raises(ValueError, match="'adition' is not one of none, additive"):
    fusion.make_fusion('adition', 12, 1, dtype=jnp.float32, rngs=nnx.Rngs(0))


@pytest.mark.parametrize('options', [{'scan': True}, {'remat': 'full'}, {'remat': 'dots', 'scan': True}])
def test_scan_and_remat_keep_parameters_and_results(options):

  def build(**options) -> ViT:
    return ViT(image_size=32, patch_size=8, width=24, depth=3, heads=2, rngs=nnx.Rngs(0), **options)

  plain, other = build(), build(**options)
  images = jax.random.normal(jax.random.key(0), (2, 32, 32, 3))
  for mine, theirs in zip(jax.tree.leaves(nnx.state(plain)), jax.tree.leaves(nnx.state(other)), strict=True):
    np.testing.assert_array_equal(mine, theirs)
  np.testing.assert_allclose(plain(images), other(images), rtol=1e-5, atol=1e-5)


def test_a_dropped_branch_is_skipped_for_its_example_alone():
  blocks = layers.Blocks(16, 2, 2, 32, eps=1e-6, rngs=nnx.Rngs(0))
  tokens = jax.random.normal(jax.random.key(0), (3, 5, 16))
  scale_NxBx2 = jnp.ones((2, 3, 2)).at[:, 1].set(0.0)
  dropped, whole = blocks(tokens, scale_NxBx2), blocks(tokens)
  np.testing.assert_array_equal(dropped[1], tokens[1])
  np.testing.assert_allclose(dropped[0], whole[0], rtol=1e-6)


def test_bfloat16_computes_in_bfloat16_with_float32_parameters():
  model = ViT(image_size=32, patch_size=8, width=24, depth=2, heads=2, dtype=jnp.bfloat16, rngs=nnx.Rngs(0))
  assert {leaf.dtype for leaf in jax.tree.leaves(nnx.state(model))} == {jnp.dtype('float32')}
  assert model(jnp.ones((1, 32, 32, 3))).dtype == jnp.bfloat16


@pytest.mark.parametrize(('dtype', 'tolerance'), [(jnp.float32, 2e-6), (jnp.bfloat16, 2e-2)])
def test_layer_norm_and_its_written_out_gradient_are_the_librarys(dtype, tolerance):
  rng = np.random.default_rng(0)
  x, weight = (jnp.asarray(rng.standard_normal((5, 3, 24)) + 2.0, dtype) for _ in range(2))
  scale, bias = (jnp.asarray(rng.standard_normal(24), jnp.float32) for _ in range(2))
  results = []
  for norm in (layers.LayerNorm(24, epsilon=1e-6, dtype=dtype,
                                rngs=nnx.Rngs(0)), nnx.LayerNorm(24, epsilon=1e-6, dtype=dtype, use_fast_variance=False,
                                                                 rngs=nnx.Rngs(0))):
    graphdef = nnx.graphdef(norm)
    value, pull = jax.vjp(
        lambda x, params, graphdef=graphdef: nnx.merge(graphdef, params)(x), x, {'scale': scale, 'bias': bias})
    results.append(jax.tree.leaves((value, pull(weight))))
  for ours, theirs in zip(*results, strict=True):
    assert ours.dtype == theirs.dtype
    ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    assert np.linalg.norm(ours - theirs) <= tolerance * np.linalg.norm(theirs)


@pytest.mark.parametrize('mean', [0.0, 1.0, 10.0, 100.0])
@pytest.mark.parametrize('width', [96, 768, 1280])
def test_fast_statistics_of_bfloat16_lose_less_than_its_rounding(width, mean):
  x = jnp.asarray(np.random.default_rng(0).standard_normal((50, width)) + mean, jnp.bfloat16)
  norm = layers.LayerNorm(width, epsilon=1e-6, dtype=jnp.float32, rngs=nnx.Rngs(0))
  exact = norm(x.astype(jnp.float32))
  assert jnp.linalg.norm(norm(x) - exact) < 2**-9 * jnp.linalg.norm(exact)


def test_gelu_is_exact_in_float32_and_keeps_small_values_in_bfloat16():
  x = np.linspace(-5, 5, 1001)
  exact = x * np.vectorize(math.erfc)(-x / math.sqrt(2)) / 2
  np.testing.assert_allclose(layers.gelu(jnp.asarray(x, jnp.float32)), exact, atol=1e-6)
  assert layers.gelu(jnp.bfloat16(-4.0)) < 0
