"""Flipped bits, lost files, full disks: what was not saved is never restored, and nothing fails in silence."""

from collections import Counter
import os
from pathlib import Path
import random
import shutil
import subprocess
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from data_pipelines.errors import UserError
from uniemox_jax.runtime import integrity, run_log, sharding
from uniemox_jax.runtime.run_log import RunLog
from uniemox_jax.train.checkpoint import FOLDER, SET_ASIDE, Checkpoints, load_checkpoint, save_weights
from uniemox_jax.train.state import TrainState

SHAPES = {'encoder': {'kernel': (24, 16), 'bias': (16,)}, 'head': {'kernel': (16, 8)}}
DESCRIPTION = {'kind': 'a kind of its own', 'model': {'width': 16, 'heads': 2}, 'labels': ['awe', 'fear']}


def state_at(step: int) -> TrainState:
  rng = np.random.default_rng(step)
  params = jax.tree.map(
      lambda shape: jnp.asarray(rng.standard_normal(shape), jnp.float32), SHAPES,
      is_leaf=lambda value: isinstance(value, tuple))
  return TrainState(jnp.int32(step), params, optax.adam(1e-3).init(params))


def template() -> TrainState:
  return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), state_at(0))


def open_checkpoints(workdir: Path) -> Checkpoints:
  return Checkpoints(str(workdir), DESCRIPTION, 'a device')


@pytest.fixture(scope='module')
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
  """A run with two steps, of which the newer is the better."""
  workdir = tmp_path_factory.mktemp('saved')
  checkpoints = open_checkpoints(workdir)
  for step, score in ((3, 0.25), (5, 0.5)):
    checkpoints.save(state_at(step), score)
  checkpoints.close()
  return workdir


def same(one: Any, other: Any) -> bool:
  return all(
      np.asarray(a).tobytes() == np.asarray(b).tobytes()
      for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True))


def flip_a_bit(folder: Path, draws: random.Random) -> Path:
  """In one of its files, each as likely as any other, so that the small ones have their turn."""
  path = draws.choice(sorted(path for path in folder.rglob('*') if path.is_file() and path.stat().st_size))
  content = bytearray(path.read_bytes())
  content[draws.randrange(len(content))] ^= 1 << draws.randrange(8)
  path.write_bytes(content)
  return path


def outcome_of_flip(saved: Path, workdir: Path, draws: random.Random, capsys: pytest.CaptureFixture) -> str:
  """Flips a bit of the newer step, resumes and loads: 'harmless' or 'named'; fails on anything else."""
  shutil.copytree(saved, workdir)
  path = flip_a_bit(workdir / FOLDER / '5', draws)
  loaded = load_checkpoint(str(workdir))
  told_reader = 'is damaged' in capsys.readouterr().err
  assert (loaded.step, loaded.description) in ((5, DESCRIPTION), (3, DESCRIPTION)), path
  assert same(loaded.params, state_at(loaded.step).params), path
  assert told_reader == (loaded.step == 3), path
  checkpoints = open_checkpoints(workdir)
  restored = checkpoints.restore_latest(template())
  checkpoints.close()
  told = capsys.readouterr().err
  step = int(restored.state.step)
  assert step in (5, 3) and same(restored.state, state_at(step)), path
  assert ('is damaged' in told and f'5{SET_ASIDE}' in told) == (step == 3), path
  shutil.rmtree(workdir)
  return 'named' if step == 3 else 'harmless'


def flips(count: int, saved: Path, workdir: Path, capsys: pytest.CaptureFixture) -> Counter:
  draws = random.Random(0)
  return Counter(outcome_of_flip(saved, workdir / 'run', draws, capsys) for _ in range(count))


def test_no_flipped_bit_restores_other_values_without_being_named(saved, tmp_path, capsys):
  found = flips(40, saved, tmp_path, capsys)
  assert found['named'] > 3


@pytest.mark.slow
def test_no_flipped_bit_of_a_thousand_restores_other_values_without_being_named(saved, tmp_path, capsys):
  found = flips(1000, saved, tmp_path, capsys)
  with capsys.disabled():
    print(f'\n1,000 flipped bits: {dict(found)}')
  assert found['named'] > 250


def flip_in_array(folder: Path, name: str) -> None:
  """Flips the highest bit of the first value of an array that `save_weights` wrote, where its bytes lie as they are."""
  path = next(path for path in (folder / 'params' / name).iterdir() if path.name[0].isdigit())
  content = bytearray(path.read_bytes())
  content[3] ^= 1 << 7
  path.write_bytes(content)


def test_damaged_leaf_is_named(tmp_path):
  params = jax.tree.map(np.asarray, state_at(1).params)
  save_weights(str(tmp_path), params, DESCRIPTION)
  assert same(load_checkpoint(str(tmp_path)).params, params)
  flip_in_array(tmp_path / FOLDER / '0', 'encoder.kernel')
  with pytest.raises(UserError, match=r'cannot be read \(the bits of params/encoder/kernel are not the saved ones\)'):
    load_checkpoint(str(tmp_path))


def test_only_damaged_checkpoints_stop_the_run_and_the_next_one(saved, tmp_path):
  workdir = tmp_path / 'run'
  shutil.copytree(saved, workdir)
  for step in ('3', '5'):
    shutil.rmtree(workdir / FOLDER / step / 'optimizer')
  for _ in range(2):
    checkpoints = open_checkpoints(workdir)
    with pytest.raises(UserError, match='holds damaged checkpoints only'):
      checkpoints.restore_latest(template())
    checkpoints.close()


def test_checkpoint_of_another_model_is_no_damage(saved, tmp_path):
  workdir = tmp_path / 'run'
  shutil.copytree(saved, workdir)
  other = state_at(0)
  other.params['head']['kernel'] = jnp.zeros((16, 9))
  checkpoints = open_checkpoints(workdir)
  with pytest.raises(UserError, match='does not fit this model .different: params/head/kernel'):
    checkpoints.restore_latest(other)
  checkpoints.close()
  assert not list((workdir / FOLDER).glob(f'*{SET_ASIDE}'))


def test_evaluation_that_was_cut_short_is_saved_over(tmp_path):
  checkpoints = open_checkpoints(tmp_path)
  checkpoints.save(state_at(4), unevaluated=True)
  checkpoints.wait()
  assert checkpoints.restore_latest(template()).unevaluated
  checkpoints.save(state_at(4), 0.5)
  checkpoints.wait()
  restored = checkpoints.restore_latest(template())
  checkpoints.close()
  assert not restored.unevaluated and same(restored.state, state_at(4))


@pytest.mark.parametrize('fsdp', [1, 2, 8])
def test_checksums_are_the_same_on_any_mesh(fsdp):
  tree = {
      'kernel': np.random.default_rng(0).standard_normal((3, 16, 8)).astype(np.float32),
      'half': np.arange(64).reshape(8, 8).astype(jnp.bfloat16), 'step': np.array(7, np.int32)}
  mesh = sharding.make_mesh(-1, fsdp)
  placed = jax.device_put(tree, sharding.tree_shardings(tree, mesh))
  assert integrity.describe_leaves(placed) == integrity.describe_leaves(tree)


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16', 'int32'])
def test_every_single_bit_counts(dtype):
  array = np.random.default_rng(0).integers(0, 100, (5, 7)).astype(dtype)
  recorded = integrity.describe_leaves({'x': array})
  words = array.view(f'u{array.dtype.itemsize}')
  for index in np.ndindex(array.shape):
    for bit in range(8 * array.dtype.itemsize):
      words[index] ^= words.dtype.type(1 << bit)
      assert integrity.changed_leaves({'x': array}, recorded) == ['x']
      words[index] ^= words.dtype.type(1 << bit)


def test_swapped_values_and_rows_change_the_checksum():
  array = np.random.default_rng(0).standard_normal((50, 40)).astype(np.float32)
  recorded = integrity.describe_leaves({'x': array})
  for changed in (array[::-1], array[:, ::-1], np.roll(array, 1), array[np.r_[1, 0, 2:50]]):
    assert integrity.changed_leaves({'x': np.ascontiguousarray(changed)}, recorded) == ['x']


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Path:
  """A real file system with little room, where this user may make one."""
  folder = tmp_path / 'disk'
  folder.mkdir()
  made = subprocess.run(['mount', '-t', 'tmpfs', '-o', 'size=400k', 'tmpfs', folder], check=False, capture_output=True)
  if made.returncode:
    pytest.skip('a small file system needs the right to mount')
  yield folder
  subprocess.run(['umount', '-l', folder], check=True)


def test_a_log_on_a_full_disk_says_so_and_does_not_wait(tiny_disk, monkeypatch):
  monkeypatch.setattr(run_log, 'FLUSH_SECONDS', 0.0)
  log = RunLog(str(tiny_disk), name='run', total_steps=10**6, batch_size=1, start_step=0)
  with open(tiny_disk / 'filler', 'wb', buffering=0) as filler, pytest.raises(OSError, match='No space left'):
    while os.statvfs(tiny_disk).f_bavail > 1:
      filler.write(bytes(4096))
    for step in range(10**4):
      log.write(step, {'loss': 1.0})


def test_full_disk_is_one_line_and_leaves_earlier_steps(tiny_disk):
  checkpoints = open_checkpoints(tiny_disk)
  checkpoints.save(state_at(1))
  checkpoints.wait()
  with open(tiny_disk / 'filler', 'wb', buffering=0) as filler:
    while os.statvfs(tiny_disk).f_bavail > 4:
      filler.write(bytes(4096))
  with pytest.raises(UserError, match='no space left .* intact are the steps 1'):
    checkpoints.save(state_at(2))
    checkpoints.wait()
  (tiny_disk / 'filler').unlink()
  assert int(open_checkpoints(tiny_disk).restore_latest(template()).state.step) == 1
