"""A teacher of another width than the decoder: the run learns an adapter, keeps it, resumes with it and hands it on."""

from pathlib import Path
import shutil

from ml_collections import ConfigDict
import numpy as np
import pytest

from tests.support import small_runs
import uniemox_jax
from uniemox_jax.export_torch import export_torch
from uniemox_jax.models.registry import abstract_student
from uniemox_jax.models.uniemox import UniEmoX
from uniemox_jax.pretrain import pretrain
from uniemox_jax.runtime.run_log import read_metrics
from uniemox_jax.teacher.step_teacher import Teacher
from uniemox_jax.train.checkpoint import load_checkpoint
from uniemox_jax.train.config import PretrainConfig
from uniemox_jax.train.initial_weights import initial_weights, read_source
from uniemox_jax.train.open_model import open_student
from uniemox_jax.train.setup import model_arguments
from uniemox_jax.train.state import abstract_params, builder

pytestmark = pytest.mark.usefixtures('one_device')


def adapted_config(data_dir: str, teacher: Path) -> ConfigDict:
  """Its decoder is 16 wide, the teacher 12; 7 steps, of which 3, 6 and 7 are kept."""
  config = small_runs.pretrain_config(data_dir, teacher, epochs=1)
  config.model.decoder_width, config.images_every = 16, 0
  return config


def teacher_of_width(width: int) -> Teacher:
  return Teacher(lambda *_: None, lambda *_: (None, None), lambda _: [], (width,))


@pytest.mark.slow
def test_a_run_says_and_keeps_its_adapter_resumes_with_it_and_hands_on_what_fits(
    data_dir, clip_folder, tmp_path, capsys):
  run = tmp_path / 'run'
  pretrain(adapted_config(data_dir, clip_folder), str(run))
  assert 'the teacher is 12 wide, the decoder 16: a linear adapter is learned' in capsys.readouterr().out
  saved = load_checkpoint(str(run))
  assert saved.description['model']['teacher_width'] == 12 and saved.params['adapter']['kernel'].shape == (16, 12)
  assert np.isfinite([[row[name] for name in ('contrastive', 'similarity')] for row in read_metrics(str(run))]).all()

  again = shutil.copytree(run, tmp_path / 'again')
  shutil.rmtree(again / 'checkpoints' / '7')
  pretrain(adapted_config(data_dir, clip_folder), str(again))
  assert 'resumes at step' in capsys.readouterr().out
  assert small_runs.same_weights(run, again)

  encoder = uniemox_jax.load_encoder(str(run))
  assert encoder.features(np.zeros((1, 32, 32, 3), np.uint8)).shape == (1, 16)
  export_torch(str(run), 'uniemox', str(tmp_path / 'shared'))
  np.testing.assert_array_equal(
      load_checkpoint(str(run)).params['adapter']['kernel'],
      open_student(str(tmp_path / 'shared')).params['adapter']['kernel'])
  capsys.readouterr()
  export_torch(str(run), 'timm', str(tmp_path / 'timm'))
  assert 'left behind: adapter, ' in capsys.readouterr().out

  model = saved.description['model']
  source = read_source(str(run), model, decoder=True)
  for width, taken in ((12, True), (20, False), (16, False)):
    template = abstract_params(builder(UniEmoX, **model | {'teacher_width': width}))
    assert ('adapter' in initial_weights(source, template, classifier=False)) == taken


@pytest.mark.parametrize('width', [-1, 2**40, 1.5, True])
def test_a_described_width_that_is_none_is_refused_before_anything_is_allocated(width):
  with pytest.raises(ValueError, match='teacher_width is'):
    abstract_student(
        'uniemox', small_runs.ENCODER | dict(decoder_width=12, decoder_depth=1, decoder_heads=2, teacher_width=width))


def test_a_teacher_as_wide_as_the_decoder_leaves_model_and_description_as_they_were():
  config = PretrainConfig()
  arguments = model_arguments(config.model, config.loss, teacher_of_width(512))
  assert arguments == model_arguments(config.model, config.loss, None) and 'teacher_width' not in arguments
  assert model_arguments(config.model, config.loss, teacher_of_width(768)) == arguments | {'teacher_width': 768}
