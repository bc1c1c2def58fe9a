"""A run that reads its teacher's embeddings loses as one that computes them, through kills and in several processes."""

from pathlib import Path
import shutil
import signal
import time

from ml_collections import ConfigDict
import pytest

from data_pipelines.errors import UserError
from tests.support import small_runs
from uniemox_jax import ablate, embed
from uniemox_jax import pretrain as pretraining
from uniemox_jax.pretrain import pretrain
from uniemox_jax.runtime.run_log import read_metrics
from uniemox_jax.teacher import view_embeddings
from uniemox_jax.teacher.step_teacher import Teacher
from uniemox_jax.train import teacher_views
from uniemox_jax.train.config import PretrainConfig
from uniemox_jax.train.schema import parse

LOSSES = ('loss', 'contrastive', 'similarity', 'reconstruction', 'gradient_norm')


@pytest.fixture
def config(data_dir: str, clip_folder: Path, tmp_path: Path) -> ConfigDict:
  """Two epochs of two views, on eight devices, with records that no other test embeds."""
  config = small_runs.shared_pretrain_config(data_dir, clip_folder)
  shutil.copytree(data_dir, tmp_path / 'data', ignore=shutil.ignore_patterns('view_cache'))
  config.data_dir, config.teacher_views = str(tmp_path / 'data'), 2
  return config


@pytest.fixture(scope='module')
def whole(data_dir: str, clip_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
  """Workdir of an uninterrupted run with such a config, beside its records; read only."""
  folder = tmp_path_factory.mktemp('whole')
  config = small_runs.shared_pretrain_config(data_dir, clip_folder)
  shutil.copytree(data_dir, folder / 'data', ignore=shutil.ignore_patterns('view_cache'))
  config.data_dir, config.teacher_views = str(folder / 'data'), 2
  pretrain(config, str(folder / 'run'))
  return folder / 'run'


def assert_same_losses(one: Path, other: Path, rel: float, steps: int = 14) -> None:
  ours, theirs = (read_metrics(str(run))[:steps] for run in (one, other))
  assert [line['step'] for line in ours] == [line['step'] for line in theirs] == list(range(1, steps + 1))
  for name in LOSSES:
    assert [line[name] for line in ours] == pytest.approx([line[name] for line in theirs], rel=rel), name


def test_as_many_views_as_epochs_lose_as_the_teacher_in_the_step_does(whole, pretrained_run):
  assert_same_losses(whole, pretrained_run, rel=1e-5)
  assert any('embed_seconds' in line for line in read_metrics(str(whole)))


@pytest.mark.slow
@pytest.mark.parametrize(('dtype', 'form', 'rel'), [('float32', 'cosine', 1e-5), ('float32', 'kl', 1e-5),
                                                    ('bfloat16', 'cosine', 1e-2)])
def test_one_view_loses_as_the_teacher_in_the_step_does_with_this_view(config, tmp_path, monkeypatch, dtype, form, rel):
  config.teacher_views, config.dtype, config.loss.form, config.images_every = 1, dtype, form, 0
  pretrain(config, str(tmp_path / 'read'))
  monkeypatch.setattr(pretraining, 'view_embeddings', lambda *_: (None, 0))
  monkeypatch.setattr(pretraining, 'without_tower', lambda frozen: frozen)
  pretrain(config, str(tmp_path / 'computed'))
  # Adam lets what bfloat16 rounds grow from step to step.
  assert_same_losses(tmp_path / 'read', tmp_path / 'computed', rel, steps=3 if dtype == 'bfloat16' else 14)


def kill_when(command: list[object], there: Path, pattern: str) -> None:
  """Runs a command until a file of this pattern is in the folder."""
  process = small_runs.start(command, devices=8)
  deadline = time.monotonic() + 300
  while not (there.is_dir() and any(there.glob(pattern))):
    assert process.poll() is None, process.stdout.read()
    assert time.monotonic() < deadline
    time.sleep(0.01)
  process.send_signal(signal.SIGKILL)
  process.communicate()


@pytest.mark.slow
def test_killed_while_it_embeds_and_while_it_trains_a_run_ends_bit_equal(config, tmp_path, whole):
  workdir = tmp_path / 'run'
  command = small_runs.command('uniemox_jax.pretrain', config, workdir)
  kill_when(command, tmp_path / 'data' / teacher_views.CACHE, '*/view0000-00000.float32')
  assert not list(workdir.glob('checkpoints/*/record'))
  kill_when(command, workdir / 'checkpoints', '[0-9]')
  [said] = small_runs.finish(small_runs.start(command, devices=8))
  assert 'resumes at step' in said and 'are computed once' not in said
  assert small_runs.same_weights(whole, workdir)
  assert_same_losses(workdir, whole, rel=0)


def test_embedded_before_a_run_computes_no_view_and_ends_bit_equal(config, tmp_path, whole, capsys, monkeypatch):
  for count in (112, 0):
    embed.embed(config)
    assert f'{count} views embedded; all that the run reads are in {config.data_dir}' in capsys.readouterr().out
  monkeypatch.setattr(view_embeddings, '_embedded', None)  # it would be called to compute any
  pretrain(config, str(tmp_path / 'run'))
  assert small_runs.same_weights(whole, tmp_path / 'run')


def test_where_no_view_would_be_read_there_is_nothing_to_embed(config, tmp_path, command, capsys, assert_one_line):
  config.teacher_views = 0
  given = small_runs.command('uniemox_jax.embed', config, tmp_path / 'run')[1:-1]
  assert_one_line(command(*given), capsys.readouterr().err, 'nothing to embed', '--config.teacher_views=K')


def test_a_run_with_another_number_of_views_is_not_resumed(config, whole):
  config.teacher_views = 3
  with pytest.raises(UserError, match='other values of teacher_views'):
    pretrain(config, str(whole))
  assert not (Path(config.data_dir) / teacher_views.CACHE).exists()


def test_a_finished_run_needs_no_embeddings(config, whole):
  pretrain(config, str(whole))
  assert not (Path(config.data_dir) / teacher_views.CACHE).exists()


def test_a_damaged_file_stops_a_run_in_one_line_and_is_made_again(config, tmp_path, whole):
  shutil.copytree(whole.parent / 'data' / teacher_views.CACHE, Path(config.data_dir) / teacher_views.CACHE)
  path = next(Path(config.data_dir).rglob('view0000-00000.float32'))
  path.write_bytes(path.read_bytes()[:-1])
  with pytest.raises(UserError, match='view0000-00000.float32 is damaged') as error:
    pretrain(config, str(tmp_path / 'run'))
  assert '\n' not in str(error.value)
  path.unlink()
  pretrain(config, str(tmp_path / 'run'))
  assert small_runs.same_weights(whole, tmp_path / 'run')


@pytest.mark.slow
def test_two_processes_that_share_no_disk_both_keep_all_and_lose_as_one(config, tmp_path, whole):
  config.data_dir, config.mesh.data, config.mesh.fsdp, config.teacher_sharded = 'data', 4, 2, True
  command = small_runs.command('uniemox_jax.pretrain', config, tmp_path / 'run')
  address, group = f'127.0.0.1:{small_runs.free_port()}', []
  for index in range(2):
    shutil.copytree(tmp_path / 'data', tmp_path / f'host{index}' / 'data')
    group.append(
        small_runs.start(
            command, 4, tmp_path / f'host{index}', JAX_COORDINATOR_ADDRESS=address, JAX_NUM_PROCESSES='2',
            JAX_PROCESS_ID=str(index), PYTHONPATH=str(small_runs.ROOT)))
  small_runs.finish(*group)
  kept = [
      sorted((tmp_path / f'host{index}' / 'data' / teacher_views.CACHE).rglob('view*.float32')) for index in range(2)]
  assert [path.read_bytes() for path in kept[0]] == [path.read_bytes() for path in kept[1]] and len(kept[0]) == 2
  alone = [line['loss'] for line in read_metrics(str(whole))]
  assert [line['loss'] for line in read_metrics(str(tmp_path / 'run'))] == pytest.approx(alone, rel=1e-3)


def test_rows_of_the_ablation_read_the_same_embeddings_and_another_seed_or_teacher_has_its_own(data_dir, monkeypatch):
  folders = {}
  monkeypatch.setattr(teacher_views, 'embed_views', lambda kept, *_, **__: 0)
  split = pretraining.reader.open_split(data_dir, 'emoset', 'train+val')
  teacher = Teacher(lambda *_: None, lambda *_: (None, None), lambda _: [], (12,))

  def folder(row: str, seed: int, views_seed: int = -1) -> str:
    sections = small_runs.demo.get_config()
    sections.pretrain.teacher_views, sections.pretrain.teacher_views_seed = 2, views_seed
    job = ablate.sections_of(ablate.AblationJob(row, seed), sections, {}, 'runs')['pretrain']
    return teacher_views.view_embeddings(parse(PretrainConfig, job), split, 'digest', teacher, {}, None)[0].folder

  rows = ('full', 'no_fusion', 'mask_50', 'no_emotion_word', 'whole_image', 'contrastive_kl')
  folders = [folder(row, 0) for row in rows]
  assert len(set(folders)) == 1
  assert folder('teacher_imagenet_statistics', 0) != folders[0] != folder('full', 1)
  assert len({folder('full', seed, views_seed=0) for seed in range(3)} | {folders[0]}) == 1


def test_reconstruction_alone_embeds_nothing(config):
  config.loss.contrastive = config.loss.similarity = 0.0
  with pytest.raises(UserError, match='nothing to embed'):
    embed.embed(config)
