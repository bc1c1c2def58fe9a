"""Every task of the growth benchmark runs."""

from pathlib import Path
import shutil

import pytest

from benchmarks import growth
from uniemox_jax.eval import linear_probe

RECORDS = 320  # more than a batch


@pytest.fixture(scope='module')
def folder(data_dir, clip_folder, finetuned_run, tmp_path_factory):
  """Two shards of repeated records, a teacher and a run beside them, and images to list."""
  root = tmp_path_factory.mktemp('growth')
  shutil.copytree(finetuned_run, root / 'few' / 'run')
  (root / 'few' / 'clip').symlink_to(clip_folder)
  (root / 'few' / 'emo8').symlink_to(Path(data_dir) / 'emo8')
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(growth, 'SHARD_RECORDS', RECORDS // 2)
    growth.repeat(next(Path(data_dir, 'emo8').glob('*')), root, RECORDS)
  (root / 'images').mkdir()
  (root / 'images' / 'one.jpg').touch()
  return str(root)


@pytest.mark.parametrize(
    'task', [pytest.param(name, marks=pytest.mark.slow if 'features' in name else ()) for name in growth.TASKS])
def test_a_task_runs(folder, task, monkeypatch):
  monkeypatch.setattr(linear_probe, 'MAX_ITERATIONS', linear_probe.MAX_ITERATIONS)  # which a task sets
  growth.TASKS[task][0](folder)
