"""One pretraining step: golden values, and that devices, micro-batches and dead terms change nothing."""

from collections.abc import Callable
from typing import Any, NamedTuple

from flax import nnx
import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
import numpy as np
import pytest

from tests.support.steps import pretrain_step
from uniemox_jax.models.clip import CLIPConfig, ImageTower
from uniemox_jax.models.layers import unit
from uniemox_jax.models.preprocess import CLIP_MEAN, CLIP_STD, normalise, resize_and_normalise
from uniemox_jax.models.uniemox import UniEmoX
from uniemox_jax.models.view import View
from uniemox_jax.objectives import losses
from uniemox_jax.runtime import sharding
from uniemox_jax.teacher.frozen_clip import Clip
from uniemox_jax.teacher.step_teacher import Teacher, embed_views_as_one, join_teachers, make_teacher
from uniemox_jax.train import optimizer
from uniemox_jax.train.settings import LossSettings
from uniemox_jax.train.state import TrainState, builder, create_state, graphdef_of, initial_params, state_template
from uniemox_jax.train.steps import pretrain_losses

BATCH, SIZE, WIDTH = 16, 32, 12
GOLDEN = ({'contrastive': 1.163356, 'similarity': 0.794965, 'reconstruction': 1.831985, 'gradient_norm': 29.27809},
          {'contrastive': 0.503365, 'similarity': 0.418613, 'reconstruction': 1.811928, 'gradient_norm': 10.85755})
"""Metrics of the first and third step."""
WEIGHTS = {'contrastive': 1.0, 'similarity': 1.0, 'reconstruction': 1.0}
MODEL = dict(
    image_size=SIZE, patch_size=8, width=24, depth=2, heads=2, decoder_width=WIDTH, decoder_depth=1, decoder_heads=2,
    mask_ratio=0.75)


@pytest.fixture(scope='module')
def batch() -> dict[str, np.ndarray]:
  rng = np.random.default_rng(0)
  text = rng.standard_normal((BATCH, WIDTH)).astype(np.float32)
  images = rng.integers(0, 256, (2, BATCH, SIZE, SIZE, 3), dtype=np.uint8)
  return {'scene': images[0], 'person': images[1], 'text': text / np.linalg.norm(text, axis=1, keepdims=True)}


@pytest.fixture(scope='module')
def teacher(clip_config: CLIPConfig, clip_params: dict[str, Any]) -> tuple[Teacher, dict[str, Any]]:
  tower = graphdef_of(lambda rngs: ImageTower(clip_config, remat='none', scan=False, dtype=jnp.float32, rngs=rngs))

  def embed(frozen, images):
    return unit(nnx.merge(tower, frozen)(resize_and_normalise(images, clip_config.image_size, CLIP_MEAN, CLIP_STD)))

  return Teacher(embed, lambda *_: (None, None), lambda frozen: [jnp.float32(10.0)], (WIDTH,)), clip_params['vision']


class Program(NamedTuple):
  """What repeats of a step share: the mesh, the state that it starts from, and the step, compiled once a layout."""

  mesh: Mesh
  first: TrainState
  step: Callable[..., tuple[TrainState, dict[str, jax.Array]]]


_programs: dict[str, Program] = {}


def make_program(
    embedder: Teacher | None, devices: int, fsdp: int, weights: dict[str, float], model: dict[str, Any],
    **options: Any) -> Program:
  mesh = sharding.make_mesh(-1, fsdp, jax.devices()[:devices])
  semantic = bool(weights['contrastive'] or weights['similarity'])
  build = builder(UniEmoX, **MODEL | model, semantic=semantic, reconstruct=bool(weights['reconstruction']))
  schedule = optimizer.warmup_cosine(0.016, BATCH, 10, 0)
  tx = optimizer.adamw(schedule)
  first = create_state(state_template(build, tx, mesh), build, tx, seed=0)
  return Program(mesh, first, jax.jit(pretrain_step(graphdef_of(build), embedder, tx, schedule, **weights, **options)))


def run_steps(
    batch: dict[str, np.ndarray], teacher: tuple[Teacher, Any] | None, *, steps: int = 1, devices: int = 1,
    fsdp: int = 1, weights: dict[str, float] = WEIGHTS, model: dict[str, Any] | None = None,
    shard_teacher: bool = False, **options: Any) -> tuple[dict[str, float], TrainState]:
  """Metrics of the last step, and the state on the host."""
  embedder, frozen = teacher or (None, ())
  arguments = (embedder, devices, fsdp, weights, model or {})
  # The module's teacher is the only one.
  key = repr((teacher is None, *arguments[1:], options))
  if key not in _programs:
    _programs[key] = make_program(*arguments, **options)
  mesh, state, step = _programs[key]
  place = sharding.tree_shardings(frozen, mesh) if shard_teacher else NamedSharding(mesh, P())
  frozen, metrics = jax.device_put(frozen, place), {}
  with jax.set_mesh(mesh):
    for _ in range(steps):
      state, metrics = step(state, frozen, sharding.global_batch(batch, mesh), jax.random.key(1))
  return {name: float(value) for name, value in metrics.items()}, jax.device_get(state)


@pytest.fixture(scope='module')
def plain_step(batch, teacher) -> tuple[dict[str, float], TrainState]:
  """One step on one device in one micro-batch."""
  return run_steps(batch, teacher)


@pytest.fixture(scope='module')
def third_step(batch, teacher) -> dict[str, float]:
  """Metrics of the third step on one device."""
  return run_steps(batch, teacher, steps=3)[0]


def assert_same(one: tuple[dict[str, float], TrainState], other: tuple[dict[str, float], TrainState]) -> None:
  """Losses and every parameter agree to 1e-4 relative, but for the keys' biases.

  Softmax ignores them: their true gradient is zero, and Adam turns its rounding error into a step of full length.
  """
  for name, value in one[0].items():
    assert other[0][name] == pytest.approx(value, rel=1e-4), name
  theirs = dict(jax.tree_util.tree_leaves_with_path(other[1].params))
  for path, mine in jax.tree_util.tree_leaves_with_path(one[1].params):
    kept = np.ones(mine.shape[-1], bool)
    if [key.key for key in path[-2:]] == ['qkv', 'bias']:
      kept[mine.shape[-1] // 3:2 * mine.shape[-1] // 3] = False
    difference = np.linalg.norm((mine - theirs[path])[..., kept])
    assert difference <= 1e-4 * np.linalg.norm(mine[..., kept]), jax.tree_util.keystr(path)


def test_first_steps_have_their_golden_losses(plain_step, third_step):
  for metrics, values in zip((plain_step[0], third_step), GOLDEN, strict=True):
    for name, value in values.items():
      assert metrics[name] == pytest.approx(value, rel=2e-4), name


@pytest.mark.slow
@pytest.mark.parametrize('fsdp', [1, 4])
def test_eight_devices_compute_what_one_computes(batch, teacher, plain_step, fsdp):
  assert_same(plain_step, run_steps(batch, teacher, devices=8, fsdp=fsdp))


def test_accumulation_changes_nothing(batch, teacher, plain_step):
  assert_same(plain_step, run_steps(batch, teacher, accum_steps=4))


def test_accumulation_on_devices_with_local_negatives_changes_nothing(batch, teacher):
  options = dict(negatives='local', local_batch=4)
  assert_same(run_steps(batch, teacher, **options), run_steps(batch, teacher, devices=4, accum_steps=2, **options))


@pytest.mark.parametrize(
    'model', [
        dict(remat='dots', scan=True), *(
            pytest.param(other, marks=pytest.mark.slow)
            for other in (dict(scan=True), dict(remat='dots'), dict(remat='full'), dict(remat='full', scan=True)))],
    ids=str)
def test_remat_and_scan_change_losses_by_less_than_1e_5(batch, teacher, third_step, model):
  for name, value in run_steps(batch, teacher, model=model, steps=3)[0].items():
    assert third_step[name] == pytest.approx(value, rel=1e-5), name


@pytest.mark.parametrize('spoilt', ['text that is not a number', 'gradient that is too long'])
def test_skipped_step_leaves_every_bit_but_the_count(batch, teacher, spoilt):
  if spoilt == 'text that is not a number':
    metrics, after = run_steps(batch | {'text': np.full_like(batch['text'], np.nan)}, teacher)
  else:
    metrics, after = run_steps(batch, teacher, max_gradient_norm=1e-3)
  before = run_steps(batch, teacher, steps=0)[1]
  assert metrics['skipped'] == 1.0
  assert int(after.step) == int(before.step) + 1
  assert all(a.tobytes() == b.tobytes() for a, b in zip(jax.tree.leaves(after[1:]), jax.tree.leaves(before[1:])))


def test_eight_devices_that_share_the_teacher_compute_what_one_computes(batch, teacher, plain_step):
  assert_same(plain_step, run_steps(batch, teacher, devices=8, fsdp=4, shard_teacher=True))


@pytest.mark.parametrize(
    'options', [{}, {'form': 'kl'}, {'negatives': 'local', 'local_batch': 4, 'accum_steps': 2}], ids=str)
def test_a_step_that_is_given_the_teachers_embeddings_computes_the_same_without_its_tower(batch, teacher, options):
  embedder, frozen = teacher
  image = np.asarray(embedder.embed_image(frozen, jnp.asarray(batch['scene'])))
  given = run_steps(batch | {'image': image}, (embedder, ()), steps=3, **options)[0]
  for name, value in run_steps(batch, teacher, steps=3, **options)[0].items():
    assert given[name] == pytest.approx(value, rel=1e-5), name


def test_teacher_in_bfloat16_halves_and_computes_the_same(clip_config, clip_params):
  clip = Clip(clip_config, clip_params, View(32, 32), None)
  images = jnp.asarray(np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8))
  teacher, frozen = make_teacher(clip, jnp.bfloat16)
  kernels = [leaf for path, leaf in jax.tree_util.tree_leaves_with_path(frozen['vision']) if path[-1].key == 'kernel']
  assert kernels and all(leaf.dtype == jnp.bfloat16 for leaf in kernels)
  whole = {'vision': clip_params['vision'], 'logit_scale': clip_params['logit_scale']}
  np.testing.assert_array_equal(teacher.embed_image(frozen, images), teacher.embed_image(whole, images))


def test_fsdp_splits_the_large_parameters():
  mesh = sharding.make_mesh(1, 8)
  build, tx = builder(UniEmoX, **MODEL), optimizer.adamw(lambda step: 1e-3)
  state = create_state(state_template(build, tx, mesh), build, tx, seed=0)
  kernels = [
      leaf for path, leaf in jax.tree_util.tree_leaves_with_path((state.params, state.opt_state))
      if path[-1] == jax.tree_util.DictKey('kernel') and leaf.shape[-2] % 8 == 0]
  assert kernels
  assert all(leaf.addressable_shards[0].data.size * 8 == leaf.size for leaf in kernels)


@pytest.mark.parametrize('alone', ['contrastive', 'similarity', 'reconstruction'])
def test_a_single_loss_trains_alone(batch, teacher, alone):
  weights = {name: float(name == alone) for name in WEIGHTS}
  metrics, _ = run_steps(batch, teacher, weights=weights)
  assert metrics['loss'] == pytest.approx(metrics[alone])
  assert not {name for name in WEIGHTS if name != alone} & metrics.keys()


def test_reconstruction_alone_needs_neither_teacher_nor_person_nor_texts(batch):
  metrics, state = run_steps({'scene': batch['scene']}, None, weights=WEIGHTS | {'contrastive': 0.0, 'similarity': 0.0})
  assert 'fusion' not in state.params
  assert np.isfinite(metrics['reconstruction'])


def test_glu_fusion_trains(batch, teacher, plain_step):
  model = {'fusion': 'glu', 'fusion_heads': 2}
  assert run_steps(batch, teacher, model=model, steps=4)[0]['loss'] < run_steps(batch, teacher, model=model)[0]['loss']


def test_decoding_both_streams_averages_both_reconstructions(batch, teacher):
  weights = WEIGHTS | {'contrastive': 0.0, 'similarity': 0.0}
  same = batch | {'person': batch['scene']}
  both, scene = (
      run_steps(same, None, weights=weights, model={'decode': decode})[0]['reconstruction']
      for decode in ('both', 'scene'))
  other = run_steps(batch, None, weights=weights, model={'decode': 'both'})[0]['reconstruction']
  assert both == pytest.approx(scene, rel=0.02)
  assert other != both


@pytest.mark.slow
def test_adapters_gradient_is_that_of_a_plain_linear_layer_before_both_losses(batch, teacher):
  builds = [builder(UniEmoX, **MODEL | {'decoder_width': 16, 'teacher_width': width}) for width in (0, WIDTH)]
  plain, adapted = (initial_params(build, seed=0) for build in builds)
  adapter = adapted.pop('adapter')
  assert {name: leaf.shape for name, leaf in adapter.items()} == {'kernel': (16, WIDTH), 'bias': (WIDTH,)}
  jax.tree.map(np.testing.assert_array_equal, plain, adapted)
  views = jnp.stack([batch['scene'], batch['person']], axis=1)
  noise = jax.random.uniform(jax.random.key(0), (BATCH, 2, 16))
  image, text = teacher[0].embed_image(teacher[1], views[:, 0]), jnp.asarray(batch['text'])

  def ours(adapter):
    rows = {'views': views, 'noise': noise, 'image': image}
    settings = LossSettings(reconstruction=0.0)
    values = pretrain_losses(
        graphdef_of(builds[1]), teacher[0], {}, text, settings, adapted | {'adapter': adapter}, rows)
    return sum(jnp.mean(value) for value in values.values())

  def cosine(one, other):
    return jnp.sum(one * other, 1) / jnp.linalg.norm(one, axis=1) / jnp.linalg.norm(other, axis=1)

  fused = nnx.merge(graphdef_of(builds[0]), plain)(normalise(views), noise).fused_BxE

  def by_hand(adapter):
    mapped = fused @ adapter['kernel'] + adapter['bias']
    return jnp.mean(1 - cosine(mapped, image)) + jnp.mean(1 - cosine(mapped @ text.T, image @ text.T))

  with jax.default_matmul_precision('highest'):
    jax.tree.map(
        lambda mine, theirs: np.testing.assert_allclose(mine, theirs, atol=1e-6),
        jax.grad(ours)(adapter),
        jax.grad(by_hand)(adapter))


@pytest.mark.slow
def test_teacher_of_both_views_gives_the_unit_mean_of_its_two_unit_embeddings(batch, teacher):
  embedder, frozen = teacher
  person = np.concatenate([batch['scene'][:4], batch['person'][4:]])  # four examples without a person
  scene_BxE, person_BxE = (
      np.asarray(embedder.embed_image(frozen, jnp.asarray(view))) for view in (batch['scene'], person))
  mean_BxE = (scene_BxE + person_BxE) / 2
  image_BxE = mean_BxE / np.linalg.norm(mean_BxE, axis=1, keepdims=True)
  both_BxE, _ = embed_views_as_one(embedder, frozen, jnp.stack([batch['scene'], person], axis=1))
  np.testing.assert_allclose(both_BxE, image_BxE, atol=1e-6)
  np.testing.assert_allclose(both_BxE[:4], scene_BxE[:4], atol=1e-6)
  given = run_steps(batch | {'person': person, 'image': image_BxE}, (embedder, ()), steps=3)[0]
  computed = run_steps(batch | {'person': person}, teacher, steps=3, teacher_sees='both')[0]
  for name, value in given.items():
    assert computed[name] == pytest.approx(value, rel=1e-5), name
  assert computed['similarity'] != pytest.approx(
      run_steps(batch | {'person': person}, teacher, steps=3)[0]['similarity'])


def test_each_loss_is_the_mean_over_several_teachers_each_with_its_part_of_the_fused_embedding(batch, teacher):
  embedder, frozen = teacher
  other = jax.tree.map(lambda leaf: leaf[::-1], frozen)
  assert join_teachers([teacher]) is teacher
  together, frozen_together = join_teachers([teacher, (embedder, other)])
  arguments = MODEL | {'decoder_width': 16, 'teacher_width': together.width}
  build = builder(UniEmoX, **arguments)
  params = initial_params(build, seed=0)
  rows = {
      'views': jnp.stack([batch['scene'], batch['person']], axis=1),
      'noise': jax.random.uniform(jax.random.key(0), (BATCH, 2, 16))}
  text = jnp.asarray(batch['text'])
  texts = jnp.concatenate([text, text[::-1]], axis=1)
  for form in ('cosine', 'kl'):
    settings = LossSettings(reconstruction=0.0, form=form)
    found = pretrain_losses(graphdef_of(build), together, frozen_together, texts, settings, params, rows)
    alone = []
    for own, own_text, part in ((frozen, text, slice(0, WIDTH)), (other, text[::-1], slice(WIDTH, None))):
      adapter = jax.tree.map(lambda leaf, part=part: leaf[..., part], params['adapter'])
      one = builder(UniEmoX, **arguments | {'teacher_width': WIDTH})
      alone.append(
          pretrain_losses(graphdef_of(one), embedder, own, own_text, settings, params | {'adapter': adapter}, rows))
    for name, values in found.items():
      np.testing.assert_allclose(values, (alone[0][name] + alone[1][name]) / 2, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_accumulation_on_split_devices_with_an_adapter_and_a_teacher_of_both_views_changes_nothing(batch, teacher):
  options: dict[str, Any] = dict(teacher_sees='both', model={'decoder_width': 16, 'teacher_width': WIDTH})
  assert_same(
      run_steps(batch, teacher, **options), run_steps(batch, teacher, devices=4, fsdp=2, accum_steps=2, **options))


def test_local_negatives_are_the_texts_of_the_own_group(batch):
  rng = np.random.default_rng(1)
  fused, image = (losses.unit(jnp.asarray(rng.standard_normal((BATCH, WIDTH)), jnp.float32)) for _ in range(2))
  local = losses.contrastive_cosine(fused, image, losses.group_texts(jnp.asarray(batch['text']), 4))
  for start in range(0, BATCH, 4):
    rows = slice(start, start + 4)
    alone = losses.contrastive_cosine(fused[rows], image[rows], jnp.asarray(batch['text'])[rows])
    np.testing.assert_allclose(local[rows], alone, rtol=1e-5)


def test_losses_multiply_in_float32_on_a_tpu_too(batch):
  text = jnp.asarray(batch['text'])
  for loss in (losses.contrastive_cosine, lambda *them: losses.contrastive_kl(*them, 100.0),
               lambda one, other, _: losses.clip_contrastive(one, other, 100.0)):
    lowered = jax.jit(loss).lower(text, text, text).as_text()
    assert 'dot_general' in lowered
    assert lowered.count('precision = [HIGHEST, HIGHEST]') == lowered.count('dot_general')


def test_contrastive_losses_vanish_for_a_perfect_student(batch):
  text = jnp.asarray(batch['text'])
  image = losses.unit(text[::-1] + 0.3)
  assert float(jnp.max(losses.contrastive_cosine(7 * image, image, text))) == pytest.approx(0, abs=1e-6)
  assert float(jnp.max(losses.contrastive_kl(7 * image, image, text, jnp.float32(20)))) == pytest.approx(0, abs=1e-5)
