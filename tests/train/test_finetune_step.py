"""The classifier's step: regularisation by its definitions, layer-wise rates, accumulation that changes nothing."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.support.steps import finetune_step
from uniemox_jax.models.classifier import Classifier
from uniemox_jax.models.preprocess import resize_crops
from uniemox_jax.objectives import regularisation
from uniemox_jax.objectives.augmentation import augment_views
from uniemox_jax.runtime import sharding
from uniemox_jax.train import optimizer
from uniemox_jax.train.state import TrainState, abstract_params, builder, create_state, graphdef_of, state_template

MODEL = dict(image_size=32, patch_size=8, width=24, depth=3, heads=2, classes=5)
BATCH = 8
PLAIN = dict(layer_decay=0.5, smoothing=0.0, mixup=0.0, cutmix=0.0, drop_path=0.0)


@functools.cache
def one_step(layer_decay: float = 0.5, **options: float) -> tuple[dict[str, jax.Array], TrainState, TrainState]:
  mesh = sharding.make_mesh(devices=jax.devices()[:1])
  build = builder(Classifier, **MODEL)
  tx = optimizer.adamw(lambda step: 1e-3, layer_decay=layer_decay, weight_decay=0.0)
  state = create_state(state_template(build, tx, mesh), build, tx, seed=0)
  rng = np.random.default_rng(0)
  batch = {
      'image': jnp.asarray(rng.integers(0, 256, (BATCH, 32, 32, 3), dtype=np.uint8)),
      'label': jnp.asarray(rng.integers(0, 5, BATCH, dtype=np.int32))}
  step = jax.jit(finetune_step(graphdef_of(build), tx, **options))
  new, metrics = step(state, (), batch, jax.random.key(0))
  return metrics, jax.device_get(state), jax.device_get(new)


def test_first_loss_is_that_of_a_uniform_guess():
  metrics, _, _ = one_step(**PLAIN)
  assert float(metrics['cross_entropy']) == pytest.approx(np.log(5), rel=1e-3)


def test_accumulation_changes_nothing_with_all_regularisation_on():
  options = dict(mixup=0.8, cutmix=1.0, smoothing=0.1, drop_path=0.3)
  whole, _, after_whole = one_step(**options)
  parts, _, after_parts = one_step(accum_steps=4, **options)
  assert float(parts['loss']) == pytest.approx(float(whole['loss']), rel=1e-5)
  for name in ('fc_norm', 'head'):
    for mine, theirs in zip(jax.tree.leaves(after_whole.params[name]), jax.tree.leaves(after_parts.params[name]),
                            strict=True):
      np.testing.assert_allclose(theirs, mine, rtol=1e-4, atol=1e-6)


def test_crops_with_draws_are_learned_from_as_the_views_that_they_become():
  rng, size = np.random.default_rng(0), 48
  batch = {
      'image': rng.integers(0, 256, (BATCH, size, size, 3),
                            dtype=np.uint8), 'image_box': np.tile(np.float32([3, 2, 40, 44]),
                                                                  (BATCH, 1)), 'flip': np.arange(BATCH) % 2 == 0,
      'image_operation': rng.integers(-1, 15, (BATCH, 2), np.int32), 'image_amount': rng.random(
          (BATCH, 2), np.float32), 'image_erased': np.tile(np.int32([4, 4, 20, 10]), (BATCH, 1)),
      'image_noise': rng.integers(0, 2**32, (BATCH, 4), np.uint32), 'label': rng.integers(0, 5, BATCH, dtype=np.int32)}
  views = augment_views(resize_crops(batch, MODEL['image_size']))
  assert views.keys() == {'image', 'label'}
  mesh = sharding.make_mesh(devices=jax.devices()[:1])
  build, tx = builder(Classifier, **MODEL), optimizer.adamw(lambda step: 1e-3, layer_decay=1.0, weight_decay=0.0)
  state = create_state(state_template(build, tx, mesh), build, tx, seed=0)
  step = jax.jit(finetune_step(graphdef_of(build), tx, accum_steps=2, smoothing=0.1))
  norms = [float(step(state, (), each, jax.random.key(0))[1]['gradient_norm']) for each in (batch, views)]
  assert norms[0] == pytest.approx(norms[1], rel=1e-6)


def test_layer_decay_slows_early_layers():
  _, old, new = one_step(**PLAIN)
  # The rate falls by 0.5 a layer. Adam's first step has the size of the rate wherever there is a gradient.
  change = jax.tree.map(lambda a, b: np.abs(a - b), new.params, old.params)
  blocks = change['encoder']['blocks']['layers']['mlp']['down']['kernel']
  rates = [
      np.median(change['encoder']['patch_embed']['kernel']), *(np.median(block) for block in blocks),
      np.median(change['head']['kernel'])]
  np.testing.assert_allclose(rates, 1e-3 * 0.5**np.array([4, 3, 2, 1, 0]), rtol=0.05)


def test_positions_train():
  _, old, new = one_step(**PLAIN)
  assert np.abs(new.params['encoder']['positions'] - old.params['encoder']['positions']).max() > 0


def test_weight_decay_spares_biases_norms_tokens_and_positions():
  mask = optimizer.decay_mask(abstract_params(builder(Classifier, **MODEL)))
  assert mask['head'] == {'kernel': True, 'bias': False}
  assert mask['fc_norm'] == {'scale': False, 'bias': False}
  assert not mask['encoder']['positions']
  assert not mask['encoder']['cls_token']
  assert mask['encoder']['blocks']['layers']['attention']['qkv']['kernel']


def test_schedule_warms_up_and_ends_at_the_final_rate():
  schedule = optimizer.warmup_cosine(1e-3, 512, 100, 10, 1e-6)
  np.testing.assert_allclose([schedule(0), schedule(10), schedule(100)], [0.0, 2e-3, 1e-6], rtol=1e-4)


def test_cutmix_shares_labels_by_area():
  for seed in range(20):
    mix = regularisation.draw_mix(jax.random.key(seed), (40, 60), 0.0, 1.0)
    assert set(np.unique(mix.weight_HxW)) <= {0.0, 1.0}
    assert float(mix.share) == pytest.approx(float(mix.weight_HxW.mean()), abs=1e-6)


def test_mixup_shares_labels_by_its_weight():
  mix = regularisation.draw_mix(jax.random.key(0), (4, 4), 0.8, 0.0)
  np.testing.assert_allclose(mix.weight_HxW, mix.share)
  assert regularisation.draw_mix(jax.random.key(0), (4, 4), 0.0, 0.0) is None


def test_both_mixes_take_turns():
  kinds = {
      len(np.unique(regularisation.draw_mix(jax.random.key(seed), (32, 32), 0.8, 1.0).weight_HxW)) == 1
      for seed in range(12)}
  assert kinds == {True, False}


def test_smoothing_spreads_over_all_classes():
  np.testing.assert_allclose(
      regularisation.smooth_labels(jnp.array([1]), 4, 0.2), [[0.05, 0.85, 0.05, 0.05]], rtol=1e-6)


def test_drop_path_keeps_expectation_and_grows_with_depth():
  scales = np.asarray(regularisation.draw_branch_scales(jax.random.key(0), 4000, 3, 0.4))
  np.testing.assert_allclose(scales.mean((0, 2)), 1.0, atol=0.03)
  np.testing.assert_allclose((scales == 0).mean((0, 2)), [0.0, 0.2, 0.4], atol=0.02)
