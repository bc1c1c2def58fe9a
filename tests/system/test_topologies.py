"""The same losses and predictions on any number of devices and processes, by the real verbs."""

import json
from pathlib import Path
import sys

import jax
import numpy as np
import pytest

from data_pipelines.records import reader
from tests.support import small_runs
from uniemox_jax.eval.trained_classifier import load_trained, predict_split
from uniemox_jax.finetune import finetune
from uniemox_jax.runtime import sharding
from uniemox_jax.runtime.run_log import read_metrics

STEPS = 20
# Processes, devices of each, fsdp.
MESHES = [(1, devices, fsdp) for devices in (2, 4, 8) for fsdp in sorted({1, 2, devices})]


def losses(data_dir: str, clip_folder: Path, workdir: Path, processes: int, devices: int, fsdp: int) -> list[float]:
  """Of the first steps of a pretraining run."""
  config = small_runs.pretrain_config(data_dir, clip_folder, epochs=3)
  config.mesh.fsdp, config.teacher_sharded = fsdp, fsdp > 1
  config.images_every = 0
  command = small_runs.command('uniemox_jax.pretrain', config, workdir)
  group = small_runs.start_group(command, processes, devices)
  said = [process.communicate(timeout=300)[0] for process in group]
  assert [process.returncode for process in group] == [0] * processes, said
  return [line['loss'] for line in read_metrics(str(workdir)) if 'loss' in line][:STEPS]


@pytest.fixture(scope='module')
def on_one_device(data_dir: str, clip_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> list[float]:
  found = losses(data_dir, clip_folder, tmp_path_factory.mktemp('one') / 'run', 1, 1, 1)
  assert len(found) == STEPS
  return found


def test_two_processes_of_four_devices_lose_as_one_device(data_dir, clip_folder, tmp_path, on_one_device):
  assert losses(data_dir, clip_folder, tmp_path / 'run', 2, 4, 2) == pytest.approx(on_one_device, rel=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize('mesh', [*MESHES, (2, 4, 1), (2, 4, 8)], ids=str)
def test_every_mesh_loses_as_one_device(data_dir, clip_folder, tmp_path, on_one_device, mesh):
  assert losses(data_dir, clip_folder, tmp_path / 'run', *mesh) == pytest.approx(on_one_device, rel=1e-3)


def test_resuming_on_other_devices_goes_on_and_says_so(data_dir, clip_folder, tmp_path):
  config = small_runs.pretrain_config(data_dir, clip_folder)
  command = small_runs.command('uniemox_jax.pretrain', config, tmp_path / 'run')
  process = small_runs.start(command)
  while not any(path.name.isdigit() for path in (tmp_path / 'run').glob('checkpoints/*')):
    assert process.stdout.readline(), 'it ended by itself'
  process.kill()
  process.communicate()
  said = small_runs.start(command, devices=2).communicate(timeout=300)[0]
  assert 'saved on 1 x cpu' in said and 'resumed on 2 x cpu' in said and 'last bits may differ' in said
  assert [line['step'] for line in read_metrics(str(tmp_path / 'run'))] == list(range(1, 15))


def test_a_fine_tuned_model_predicts_the_same_on_one_device_and_eight(data_dir, tmp_path):
  workdir = str(tmp_path / 'run')
  finetune(small_runs.finetune_config(data_dir), workdir)
  checkpoint, classifier = load_trained(workdir)
  split = reader.open_split(data_dir, 'emo8', 'test')
  predicted = []
  for devices in (1, 8):
    mesh = sharding.make_mesh(devices=jax.devices()[:devices])
    predicted.append(
        predict_split(
            classifier, sharding.replicate(checkpoint.params, mesh), split, ['label'], image_size=32, batch_size=8,
            mesh=mesh))
  one, eight = predicted
  assert (one['label'] == eight['label']).all()
  assert (one['outputs'].argmax(axis=1) == eight['outputs'].argmax(axis=1)).all()
  np.testing.assert_allclose(one['outputs'], eight['outputs'], rtol=1e-5, atol=1e-6)


def test_evaluation_in_a_new_process_is_the_same_to_the_bit_and_on_eight_devices_but_for_rounding(data_dir, tmp_path):
  workdir = tmp_path / 'run'
  command = small_runs.command('uniemox_jax.finetune', small_runs.finetune_config(data_dir), workdir)
  ended = small_runs.start(command)
  said = ended.communicate(timeout=300)[0]
  assert ended.returncode == 0, said
  first = (workdir / 'result.json').read_bytes()
  for devices in (1, 8):
    small_runs.start([sys.executable, '-m', 'uniemox_jax.evaluate', f'--workdir={workdir}'], devices).communicate()
    again = json.loads((workdir / 'result.json').read_text())
    if devices == 1:
      assert (workdir / 'result.json').read_bytes() == first
    assert again['confusion'] == json.loads(first)['confusion']
    assert again['loss'] == pytest.approx(json.loads(first)['loss'], rel=1e-5)
