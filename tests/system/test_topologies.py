"""The same losses on any number of devices and processes, by the real verbs.

The fast test of two processes is in tests/system/test_runs.py, beside the run that it is compared with.
"""

from pathlib import Path

import pytest

from tests.support import small_runs
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
  small_runs.finish(*small_runs.start_group(command, processes, devices))
  return [line['loss'] for line in read_metrics(str(workdir)) if 'loss' in line][:STEPS]


@pytest.fixture(scope='module')
def on_one_device(data_dir: str, clip_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> list[float]:
  found = losses(data_dir, clip_folder, tmp_path_factory.mktemp('one') / 'run', 1, 1, 1)
  assert len(found) == STEPS
  return found


@pytest.mark.slow
@pytest.mark.parametrize('mesh', [*MESHES, (2, 4, 1), (2, 4, 2), (2, 4, 8)], ids=str)
def test_every_mesh_loses_as_one_device(data_dir, clip_folder, tmp_path, on_one_device, mesh):
  assert losses(data_dir, clip_folder, tmp_path / 'run', *mesh) == pytest.approx(on_one_device, rel=1e-3)
