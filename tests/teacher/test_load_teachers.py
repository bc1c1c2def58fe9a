"""Several teachers: a run learns from all of them, resumes with them, and refuses others."""

import shutil

import jax
import numpy as np
import pytest

from data_pipelines.errors import UserError
from tests.support import small_runs
from uniemox_jax.pretrain import pretrain
from uniemox_jax.runtime.run_log import read_metrics
from uniemox_jax.teacher.frozen_clip import save_clip
from uniemox_jax.teacher.load_teachers import load_teachers
from uniemox_jax.train.checkpoint import load_checkpoint
from uniemox_jax.train.settings import LossSettings
from uniemox_jax.train.steps import PRETRAIN_LOSSES, Compared, Part

pytestmark = pytest.mark.usefixtures('one_device')


@pytest.fixture(scope='module')
def other_clip(tmp_path_factory):
  """Another teacher of the same shape."""
  folder = tmp_path_factory.mktemp('other') / 'teacher'
  config, params = small_runs.random_clip()
  save_clip(folder, config, jax.tree.map(lambda leaf: -leaf, params))
  return folder


@pytest.mark.slow
@pytest.mark.parametrize('views', [1, 0])
def test_a_run_learns_from_two_teachers_and_resumes_to_the_same_bits(
    data_dir, clip_folder, other_clip, tmp_path, capsys, views):
  config = small_runs.pretrain_config(data_dir, clip_folder, epochs=1)
  config.teacher, config.teacher_views, config.images_every = f'{clip_folder},{other_clip}', views, 0
  run = tmp_path / 'run'
  pretrain(config, str(run))
  assert 'the teachers are 12 and 12 wide, the decoder' in capsys.readouterr().out
  assert load_checkpoint(str(run)).description['model']['teacher_width'] == 24
  assert np.isfinite([[row[name] for name in ('contrastive', 'similarity')] for row in read_metrics(str(run))]).all()
  again = shutil.copytree(run, tmp_path / 'again')
  shutil.rmtree(again / 'checkpoints' / '7')
  pretrain(config, str(again))
  assert small_runs.same_weights(run, again)
  config.teacher = f'{other_clip},{clip_folder}'
  with pytest.raises(UserError, match=r'other values of teacher|other files than --config.teacher'):
    pretrain(config, str(again))


@pytest.mark.parametrize('names', ['a,', 'a,b,a', ','])
def test_a_teacher_without_a_name_or_named_twice_is_one_line(names):
  with pytest.raises(UserError, match='give one name or several'):
    load_teachers(names, 'float32')


@pytest.mark.parametrize(
    'settings',
    [LossSettings(), LossSettings(form='kl'), LossSettings(equal_texts='once')],
    ids=['cosine', 'kl', 'equal captions once'])
@pytest.mark.parametrize('name', ['contrastive', 'similarity'])
def test_a_loss_is_the_mean_over_the_teachers(name, settings):
  rng = np.random.default_rng(0)

  def drawn(width: int) -> jax.Array:
    rows = rng.normal(size=(6, width)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)

  parts = [
      Part(drawn(width), drawn(width), drawn(width), np.float32(scale), None, None)
      for width, scale in ((12, 5.0), (20, 9.0))]
  loss, _ = PRETRAIN_LOSSES[name]
  alone = [loss(Compared(None, None, None, [part]), settings) for part in parts]
  assert not np.allclose(*alone)
  np.testing.assert_allclose(loss(Compared(None, None, None, parts), settings), np.mean(alone, axis=0), rtol=1e-6)


def test_two_teachers_stand_side_by_side(clip_folder, other_clip):
  both = load_teachers(f'{clip_folder},{other_clip}', 'float32')
  assert [clip.config.projection_dim for clip in both.clips] == [12, 12]
  rows = np.arange(48, dtype=np.float32).reshape(2, 24)
  left, right = both.teacher.split(rows)
  np.testing.assert_array_equal(left, rows[:, :12])
  np.testing.assert_array_equal(right, rows[:, 12:])
