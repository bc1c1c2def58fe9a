"""A run whose devices resize the views loses as one whose host does, on any devices and through a kill."""

from pathlib import Path
import shutil

from ml_collections import ConfigDict
import pytest

from tests.support import small_runs
from uniemox_jax.finetune import finetune
from uniemox_jax.pretrain import pretrain
from uniemox_jax.runtime.run_log import read_metrics

CANVAS = 128


def losses(run: Path) -> list[float]:
  return [line['loss'] for line in read_metrics(str(run)) if 'loss' in line]


@pytest.fixture
def config(data_dir: str, clip_folder: Path) -> ConfigDict:
  config = small_runs.shared_pretrain_config(data_dir, clip_folder)
  config.crop_canvas = CANVAS
  return config


@pytest.fixture(scope='module')
def whole(data_dir: str, clip_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
  """An uninterrupted run with such a config; read only."""
  config = small_runs.shared_pretrain_config(data_dir, clip_folder)
  config.crop_canvas = CANVAS
  folder = tmp_path_factory.mktemp('whole') / 'run'
  pretrain(config, str(folder))
  return folder


def test_pretraining_loses_as_with_views_of_the_host(whole, pretrained_run):
  assert losses(whole) == pytest.approx(losses(pretrained_run), rel=2e-3)
  assert losses(whole) != losses(pretrained_run)  # as some pixels differ by 1 of 255


def test_a_run_that_is_resumed_ends_bit_equal(config, whole, tmp_path):
  shutil.copytree(whole, tmp_path / 'run')
  for step in (tmp_path / 'run' / 'checkpoints').glob('[0-9]*'):
    if int(step.name) > 9:
      shutil.rmtree(step)
  pretrain(config, str(tmp_path / 'run'))
  assert small_runs.same_weights(whole, tmp_path / 'run')
  assert losses(tmp_path / 'run') == losses(whole)


@pytest.mark.slow
def test_two_processes_lose_as_one(config, whole, tmp_path):
  config.mesh.data, config.mesh.fsdp = 4, 2
  small_runs.finish(*small_runs.start_group(small_runs.command('uniemox_jax.pretrain', config, tmp_path / 'run'), 2, 4))
  assert losses(tmp_path / 'run') == pytest.approx(losses(whole), rel=1e-3)


def test_the_teacher_of_views_that_come_again_sees_them_resized_alike(config, whole, tmp_path):
  shutil.copytree(config.data_dir, tmp_path / 'data', ignore=shutil.ignore_patterns('view_cache'))
  config.data_dir, config.teacher_views = str(tmp_path / 'data'), 2
  pretrain(config, str(tmp_path / 'run'))
  assert losses(tmp_path / 'run') == pytest.approx(losses(whole), rel=1e-5)


@pytest.mark.slow
def test_parts_of_a_batch_that_shows_the_scene_twice_lose_as_with_views_of_the_host(config, tmp_path):
  config.person_view, config.epochs, config.batch_size = 'scene', 1, 16
  config.accum_steps = 2
  pretrain(config, str(tmp_path / 'devices'))
  config.crop_canvas, config.accum_steps = 0, 1
  pretrain(config, str(tmp_path / 'host'))
  assert losses(tmp_path / 'devices') == pytest.approx(losses(tmp_path / 'host'), rel=2e-3)


@pytest.mark.slow
@pytest.mark.parametrize('magnitude, apart', [(0.0, 2e-3), (9.0, 2e-2)])
def test_finetuning_on_scene_and_person_loses_as_with_views_of_the_host(data_dir, tmp_path, magnitude, apart):
  config = small_runs.finetune_config(data_dir, epochs=1)
  # The noise of erased boxes is another on the devices.
  config.augment.randaugment, config.augment.erase, config.streams = magnitude, 0.0, 'scene+person'
  for canvas in (0, CANVAS):
    config.crop_canvas = canvas
    finetune(config, str(tmp_path / str(canvas)))
  assert losses(tmp_path / str(CANVAS)) == pytest.approx(losses(tmp_path / '0'), rel=apart)


@pytest.mark.slow
def test_finetuning_that_devices_augment_is_resumed_bit_equal(data_dir, tmp_path):
  config = small_runs.finetune_config(data_dir, epochs=2)
  config.augment.randaugment, config.augment.erase, config.crop_canvas = 9.0, 0.5, CANVAS
  finetune(config, str(tmp_path / 'whole'))
  shutil.copytree(tmp_path / 'whole', tmp_path / 'resumed')
  (tmp_path / 'resumed' / 'result.json').unlink()
  steps = sorted((tmp_path / 'whole' / 'checkpoints').glob('[0-9]*'), key=lambda step: int(step.name))
  shutil.rmtree(tmp_path / 'resumed' / 'checkpoints' / steps[-1].name)
  finetune(config, str(tmp_path / 'resumed'))
  assert small_runs.same_weights(tmp_path / 'whole', tmp_path / 'resumed')
  assert losses(tmp_path / 'resumed') == losses(tmp_path / 'whole')
