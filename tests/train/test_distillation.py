"""UniEmoX+: the decoder predicts the teacher's tokens of hidden patches, and a view may be embedded by its patches."""

import functools
import shutil

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from data_pipelines.errors import UserError
from tests.support import small_runs
import uniemox_jax
from uniemox_jax.export_torch import export_torch
from uniemox_jax.models.preprocess import resize_and_normalise
from uniemox_jax.models.uniemox import UniEmoX
from uniemox_jax.objectives import losses
from uniemox_jax.pretrain import pretrain
from uniemox_jax.runtime.run_log import read_metrics
from uniemox_jax.teacher.frozen_clip import load_clip
from uniemox_jax.teacher.step_teacher import embed_views_as_one, make_teacher
from uniemox_jax.train.checkpoint import load_checkpoint
from uniemox_jax.train.config import PretrainConfig
from uniemox_jax.train.schema import parse
from uniemox_jax.train.state import builder, graphdef_of, initial_params

pytestmark = pytest.mark.usefixtures('one_device')
MODEL = small_runs.ENCODER | dict(decoder_width=12, decoder_depth=1, decoder_heads=2, mask_ratio=0.5)


def plus_config(data_dir, teacher):
  config = small_runs.pretrain_config(data_dir, teacher, epochs=1)
  config.model.embedding, config.loss.distillation, config.images_every = 'mean', 1.0, 0
  return config


def test_loss_is_one_minus_the_mean_cosine_over_hidden_patches():
  rng = np.random.default_rng(0)
  predicted, teacher = rng.normal(size=(2, 3, 4, 5))
  mask = np.array([[1, 0, 1, 0], [0, 1, 0, 0], [1, 1, 1, 1]], np.float32)
  cosine = (predicted * teacher).sum(-1) / np.linalg.norm(predicted, axis=-1) / np.linalg.norm(teacher, axis=-1)
  expected = [1 - cosine[row][mask[row] == 1].mean() for row in range(3)]
  np.testing.assert_allclose(losses.distillation(predicted, teacher, mask), expected, atol=1e-6)
  np.testing.assert_allclose(losses.distillation(3 * teacher, teacher, mask), 0, atol=1e-6)


def test_teacher_gives_the_centred_tokens_of_its_last_block_on_the_students_grid(clip_folder):
  clip = load_clip(clip_folder)
  teacher, frozen = make_teacher(clip, jnp.float32)
  views = np.random.default_rng(0).integers(0, 256, (2, 2, 32, 32, 3), np.uint8)
  pixels = resize_and_normalise(jnp.asarray(views[:, 0]), clip.config.image_size, clip.view.mean, clip.view.std)
  tower = nnx.merge(clip.graphdef, clip.params).vision
  tokens = np.array(tower.tokens(pixels))[:, 1:]
  tokens -= tokens.mean(-1, keepdims=True)
  tokens /= np.linalg.norm(tokens, axis=-1, keepdims=True)
  side = round(tokens.shape[1]**0.5)
  image, same = embed_views_as_one(teacher, frozen, jnp.asarray(views), side)
  np.testing.assert_allclose(same, tokens, atol=1e-5)
  np.testing.assert_allclose(image, embed_views_as_one(teacher, frozen, jnp.asarray(views))[0], atol=1e-6)
  finer = np.asarray(embed_views_as_one(teacher, frozen, jnp.asarray(views), 2 * side)[1])
  assert finer.shape == (2, 4 * side * side, tokens.shape[2])
  np.testing.assert_allclose(np.linalg.norm(finer, axis=-1), 1, atol=1e-5)
  # The corner of the finer grid lies in the corner patch.
  np.testing.assert_allclose(finer[:, 0], tokens[:, 0], atol=1e-5)


def test_mean_embedding_is_the_mean_of_the_visible_patches_and_not_the_class_token():
  build = functools.partial(UniEmoX, **MODEL, fusion='none')
  views = jax.random.normal(jax.random.key(0), (2, 1, 32, 32, 3))
  noise = jax.random.uniform(jax.random.key(1), (2, 1, 16))
  by_class, by_mean = (build(embedding=embedding, rngs=nnx.Rngs(0)) for embedding in ('class_token', 'mean'))
  keep = jnp.argsort(noise[:, 0], axis=1)[:, :by_mean.visible]
  tokens = by_mean.project(by_mean.encoder(views[:, 0], keep))
  np.testing.assert_allclose(by_mean(views, noise).fused_BxE, tokens[:, 1:].mean(axis=1), atol=1e-6)
  np.testing.assert_allclose(by_class(views, noise).fused_BxE, tokens[:, 0], atol=1e-6)
  with pytest.raises(ValueError, match="embedding 'max'"):
    build(embedding='max', rngs=nnx.Rngs(0))


def test_without_pixels_the_decoder_predicts_tokens_alone():
  build = builder(UniEmoX, **MODEL, reconstruct=False, teacher_token_width=10)
  params = initial_params(build, seed=0)
  assert 'predict' not in params['decoder'] and params['decoder']['predict_tokens']['kernel'].shape == (12, 10)
  outputs = nnx.merge(graphdef_of(build), params)(jnp.zeros((2, 2, 32, 32, 3)), jnp.zeros((2, 2, 16)))
  assert outputs.prediction_BxUxLxP is None and outputs.teacher_tokens_BxLxD.shape == (2, 16, 10)


@pytest.mark.slow
@pytest.mark.parametrize('pixels', [1.0, 0.0])
def test_a_run_distils_resumes_to_the_same_bits_and_hands_on_its_encoder(data_dir, clip_folder, tmp_path, pixels):
  config = plus_config(data_dir, clip_folder)
  config.loss.reconstruction = pixels
  run = tmp_path / 'run'
  pretrain(config, str(run))
  losses_by_step = [row['distillation'] for row in read_metrics(str(run)) if 'distillation' in row]
  assert losses_by_step and 0 < losses_by_step[-1] < 2
  assert load_checkpoint(str(run)).description['model']['embedding'] == 'mean'
  again = shutil.copytree(run, tmp_path / 'again')
  shutil.rmtree(again / 'checkpoints' / '7')
  pretrain(config, str(again))
  assert small_runs.same_weights(run, again)
  assert uniemox_jax.load_encoder(str(run)).features(np.zeros((1, 32, 32, 3), np.uint8)).shape == (1, 16)
  export_torch(str(run), 'uniemox', str(tmp_path / 'shared'))
  shared, ours = (load_checkpoint(str(run)), uniemox_jax.train.open_model.open_student(str(tmp_path / 'shared')))
  jax.tree.map(np.testing.assert_array_equal, shared.params, ours.params)
  export_torch(str(run), 'timm', str(tmp_path / 'timm'))


@pytest.mark.parametrize(('changes', 'said'), [
    ({'teacher_views': 2}, 'needs those of their patches'),
    ({'loss.contrastive': 0.0, 'loss.similarity': 0.0, 'model.embedding': 'class_token'}, 'needs the teacher')])
def test_what_distillation_cannot_go_with_is_one_line(data_dir, clip_folder, changes, said):
  config = plus_config(data_dir, clip_folder)
  config.update_from_flattened_dict(changes)
  with pytest.raises(UserError, match=said):
    parse(PretrainConfig, config)
