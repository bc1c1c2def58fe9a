"""The teacher's embeddings of views: computed once in shards, found again by what decides them, and checked."""

from pathlib import Path
import shutil
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from data_pipelines.batches.pipeline import RecurringCrops, recurring_batches
from data_pipelines.errors import UserError
from data_pipelines.ownership import owned
from data_pipelines.records import reader
from uniemox_jax.runtime import sharding
from uniemox_jax.teacher import view_embeddings
from uniemox_jax.teacher.frozen_clip import load_clip
from uniemox_jax.teacher.step_teacher import make_teacher
from uniemox_jax.teacher.view_embeddings import Scenes, ViewEmbeddings, embed_views

WIDTH = 12
AREA = (0.4, 1.0)


@pytest.fixture(scope='module')
def teacher(clip_folder):
  return make_teacher(load_clip(clip_folder), jnp.float32)


@pytest.fixture(scope='module')
def scenes(data_dir):
  """56 examples, two views of each."""
  return Scenes(reader.open_split(data_dir, 'emoset', 'train+val'), RecurringCrops(2, seed=3), 32, AREA)


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
  """Four shards a view, of 16 examples but the last."""
  monkeypatch.setattr(view_embeddings, 'SHARD', 16)


def kept_in(folder, scenes, dtype='float32'):
  return ViewEmbeddings(str(folder), scenes, 'teacher', WIDTH, dtype)


def fill(folder, scenes, teacher, dtype='float32', batch_size=8):
  """The embeddings, and how many were computed."""
  kept = kept_in(folder, scenes, dtype)
  count = embed_views(
      kept, scenes, *teacher, mesh=sharding.make_mesh(devices=jax.devices()[:2]), batch_size=batch_size, sharded=False)
  return kept, count


def everything(kept):
  return np.stack([kept.at(view, np.arange(56)) for view in (0, 1)])


@pytest.fixture(scope='module')
def filled(scenes, teacher, tmp_path_factory):
  """A cache; read only. The autouse fixture is of each test, so the size is set here too."""
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(view_embeddings, 'SHARD', 16)
    kept, count = fill(tmp_path_factory.mktemp('views'), scenes, teacher)
  assert count == 2 * 56
  return kept


@pytest.fixture
def cache(filled, tmp_path):
  """A copy of it, by its own folder."""
  shutil.copytree(Path(filled.folder).parent, tmp_path / 'cache')
  return tmp_path / 'cache'


def test_embeddings_are_those_that_the_teacher_gives_for_the_scenes_of_training(filled, scenes, teacher):
  embed, frozen = teacher
  positions = np.random.default_rng(0).permutation(56)
  for view in (1, 0):
    batch, = recurring_batches(scenes.split, 3, [(view, 0)], batch_size=56, image_size=32, crop_area=AREA)
    expected = np.asarray(embed.embed_image(frozen, batch['scene']))
    found = filled.at(view, positions)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected[positions], atol=1e-6)


def test_a_second_run_computes_nothing_and_more_views_only_those_that_are_new(cache, scenes, teacher):
  assert fill(cache, scenes, teacher)[1] == 0
  kept, count = fill(cache, scenes._replace(crops=RecurringCrops(3, seed=3)), teacher)
  assert count == 56 and kept.at(2, np.arange(4)).shape == (4, WIDTH)
  assert len(list(cache.iterdir())) == 1


def test_a_kill_loses_one_shard_at_most_and_no_bit(filled, scenes, teacher, tmp_path, monkeypatch):
  written = []

  def killed(kept, view, shard, rows):
    if len(written) == 3:
      raise KeyboardInterrupt
    written.append((view, shard))
    write(kept, view, shard, rows)

  write = ViewEmbeddings.write
  with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
    patch.setattr(ViewEmbeddings, 'write', killed)
    fill(tmp_path, scenes, teacher)
  kept, count = fill(tmp_path, scenes, teacher)
  assert written == [(0, 0), (0, 1), (0, 2)] and count == 2 * 56 - 48
  np.testing.assert_array_equal(everything(kept), everything(filled))


def test_embeddings_in_bfloat16_take_half_the_room_and_lose_what_bfloat16_loses(cache, filled, scenes, teacher):
  kept, count = fill(cache, scenes, teacher, jnp.bfloat16)
  assert count == 2 * 56 and kept.folder != kept_in(cache, scenes).folder
  sizes = [Path(one.path(0, 0)).stat().st_size - Path(one.path(0, 0)).stat().st_size % 64 for one in (kept, filled)]
  assert 2 * sizes[0] == sizes[1] == 16 * WIDTH * 4
  np.testing.assert_allclose(everything(kept), everything(filled), atol=2**-9)


@pytest.mark.parametrize('damage', ['a flipped bit', 'cut short', 'emptied', 'of another view', 'gone'])
def test_a_damaged_file_is_named_and_made_again_once_it_is_deleted(cache, filled, scenes, teacher, damage):
  kept = kept_in(cache, scenes)
  path = Path(kept.path(1, 2))
  content = bytearray(path.read_bytes())
  if damage == 'a flipped bit':
    content[100] ^= 4
    path.write_bytes(content)
  elif damage == 'gone':
    path.unlink()
  elif damage == 'of another view':
    shutil.copy(kept.path(0, 2), path)
  else:
    path.write_bytes(content[:len(content) - 7] if damage == 'cut short' else b'')
  kept.at(0, np.arange(56))
  with pytest.raises(UserError, match='delete it and run the same command again') as error:
    kept.at(1, np.arange(3))
  assert str(path) in str(error.value) and '\n' not in str(error.value)
  path.unlink(missing_ok=True)
  kept, count = fill(cache, scenes, teacher)
  assert count == 16
  np.testing.assert_array_equal(everything(kept), everything(filled))


def test_whatever_changes_the_embeddings_has_a_folder_of_its_own(scenes, data_dir):

  def folder(scenes=scenes, teacher='teacher', dtype='float32', width=WIDTH):
    return ViewEmbeddings('cache', scenes, teacher, width, dtype).folder

  others = [
      folder(teacher='another'),
      folder(dtype=jnp.bfloat16),
      folder(width=16),
      folder(scenes._replace(crops=RecurringCrops(2, seed=4))),
      folder(scenes._replace(split=reader.open_split(data_dir, 'emoset', 'train'))),
      folder(scenes._replace(image_size=48)),
      folder(scenes._replace(crop_area=(0.2, 1.0)))]
  assert len({folder(), *others}) == 1 + len(others)
  assert folder(scenes._replace(crops=RecurringCrops(9, seed=3))) == folder()


def test_two_that_need_the_same_embeddings_compute_them_once(cache, filled, scenes, teacher, tmp_path, capsys):
  kept, found = kept_in(tmp_path / 'late', scenes), []
  with owned(kept.folder, 'views'):
    waiting = threading.Thread(target=lambda: found.append(fill(tmp_path / 'late', scenes, teacher)[1]))
    waiting.start()
    while 'waiting for its end' not in capsys.readouterr().out:
      assert waiting.is_alive()
    for path in Path(filled.folder).glob('view*'):
      shutil.copy(path, kept.folder)
  waiting.join()
  assert found == [0]


def test_a_batch_larger_than_a_shard_is_cut_to_it(filled, scenes, teacher, tmp_path):
  kept, count = fill(tmp_path, scenes, teacher, batch_size=64)
  assert count == 2 * 56
  np.testing.assert_allclose(everything(kept), everything(filled), atol=1e-6)
