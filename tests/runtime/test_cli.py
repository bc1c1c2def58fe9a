"""A user's mistake at any command: exit code 2, and one line on standard error that names the thing and the remedy."""

from collections.abc import Callable, Iterator
import os
from pathlib import Path
import subprocess
import sys

import pytest

from tests.support import small_runs

ROOT = Path(__file__).parents[2]
PRETRAIN = '--config=configs/demo.py:pretrain'
FINETUNE = '--config=configs/demo.py:finetune'

# verb, arguments after --workdir, what the line must name, what it must say to do
MISTAKES = {
    'config file that does not exist': ('pretrain', ['--config=configs/nope.py'], 'configs/nope.py', 'give a path'),
    'config missing': ('pretrain', [], '--config', 'add --config='), 'config argument that the file does not know':
        ('pretrain', ['--config=configs/demo.py:nope'], 'nope', 'correct the name'),
    'config that takes no argument':
        ('pretrain', ['--config=configs/pretrain_emoset_vitl16.py:nope'], 'pretrain_emoset_vitl16.py:nope', 'argument'
        ), 'config that is no Python': ('pretrain', ['--config=Makefile'], 'Makefile', 'invalid syntax'),
    'config of another verb': ('finetune', [PRETRAIN], 'caption_style', 'remove it'), 'section missing':
        ('pretrain', ['--config=configs/demo.py'], 'clip', 'remove it'),
    'section where none belongs': ('demo', [PRETRAIN], 'configs/demo.py', 'without a section'), 'unknown key':
        ('pretrain', [PRETRAIN, '--config.nonsense=1'], '--config.nonsense', 'correct the name'), 'misspelt key':
            ('pretrain', [PRETRAIN, '--config.model.widht=9'], '--config.model.widht', 'Did you mean "width"'
            ), 'key below one that has none':
                ('pretrain', [PRETRAIN,
                              '--config.init.x=1'], '--config.init.x', 'correct the name'), 'override of another type':
                                  ('pretrain', [PRETRAIN, '--config.batch_size=big'], '--config.batch_size', 'int'
                                  ), 'unknown flag': ('pretrain', [PRETRAIN, '--nonsense=1'], 'nonsense', '--help'),
    'stray argument': ('pretrain', [PRETRAIN, 'stray'], 'stray', '--name=value'), 'no records':
        ('pretrain', [PRETRAIN,
                      '--config.data_dir=nowhere'], 'nowhere', 'data_pipelines.build'), 'no records to fine-tune on':
                          ('finetune', [FINETUNE, '--config.data_dir=nowhere'], 'nowhere', 'data_pipelines.build'),
    'no records for the teacher': (
        'train_clip', ['--config=configs/demo.py:clip', '--config.data_dir=nowhere'], 'nowhere', 'data_pipelines.build'
    ), 'mesh that does not fit':
        ('pretrain', [PRETRAIN, '--config.mesh.fsdp=7'], 'fsdp=7', '--config.mesh.data=-1'
        ), 'micro-batches that do not fit':
            ('pretrain', [PRETRAIN, '--config.accum_steps=3'], 'accum_steps 3', 'multiple of'), 'batch of none':
                ('finetune', [FINETUNE, '--config.batch_size=0'], 'batch_size', 'at least 1'), 'profile of no steps':
                    ('pretrain', [PRETRAIN, '--profile=9:3'], '9:3', 'FIRST:LAST'), 'no step may be skipped':
                        ('finetune', [FINETUNE, '--config.max_skipped_steps=0'], 'max_skipped_steps', 'at least 1'
                        ), 'unknown dtype': ('pretrain', [PRETRAIN, '--config.dtype=float8'], 'float8', 'bfloat16'),
    'unknown fusion': ('pretrain', [PRETRAIN, '--config.model.fusion=glue'], 'glue', 'glu'), 'unknown loss form':
        ('pretrain', [PRETRAIN, '--config.loss.form=l3'], 'l3', 'cosine or kl'), 'unknown negatives':
            ('pretrain', [PRETRAIN, '--config.loss.negatives=all'], 'all', 'global or local'), 'nothing to train': (
                'pretrain',
                [PRETRAIN, *(f'--config.loss.{name}=0.0' for name in ('contrastive', 'similarity', 'reconstruction'))
                ], 'loss weight', 'nothing to train'), 'heads that do not divide the width':
                    ('pretrain', [PRETRAIN, '--config.model.heads=5'], 'width 96', '5'), 'heads of none':
                        ('pretrain', [PRETRAIN, '--config.model.heads=0'], 'model.heads', 'at least 1'),
    'patches of nothing':
        ('pretrain', [PRETRAIN, '--config.model.patch_size=0'], 'model.patch_size', 'at least 1'), 'groups of none': (
            'pretrain', [PRETRAIN, '--config.loss.negatives=local', '--config.loss.local_batch=0'], 'loss.local_batch',
            'at least 1'), 'batch searched for another verb': (
                'plan', ['--config=configs/demo.py:clip', '--topology=v5e:1x1',
                         '--search_batch'], 'pretrain or finetune', 'wants'), 'batch searched in parts of none': (
                             'plan', [PRETRAIN, '--config.accum_steps=0', '--topology=v5e:1x1',
                                      '--search_batch'], 'accum_steps', 'at least 1'), 'unknown split':
                                          ('evaluate', ['--split=tset'], 'tset', 'test'), 'run that does not exist':
                                              ('evaluate', [], 'run', 'give the --workdir')}


@pytest.mark.filterwarnings("ignore:'uniemox_jax:RuntimeWarning")  # runpy, of a module that another test imported
@pytest.mark.parametrize(('verb', 'arguments', 'thing', 'remedy'), MISTAKES.values(), ids=MISTAKES)
def test_mistake_ends_in_one_line_and_leaves_nothing(
    command: Callable[..., int], assert_one_line: Callable[..., None], capsys: pytest.CaptureFixture,
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, verb: str, arguments: list[str], thing: str, remedy: str) -> None:
  monkeypatch.chdir(ROOT)
  code = command(f'uniemox_jax.{verb}', f'--workdir={tmp_path}/run', *arguments)
  assert_one_line(code, capsys.readouterr().err, thing, remedy)
  assert not list(tmp_path.iterdir())


@pytest.mark.filterwarnings("ignore:'uniemox_jax:RuntimeWarning")
@pytest.mark.parametrize(('verb', 'arguments', 'below', 'remedy'), [
    ('pretrain', [PRETRAIN], '', 'name a folder'), ('finetune', [FINETUNE], '', 'name a folder'),
    ('compare', ['--config=configs/compare.py:demo'], '', 'name a folder'),
    ('compare', ['--config=configs/compare.py:demo'], '/run', 'choose another --workdir'),
    ('finetune', [FINETUNE], '/a/b', 'choose another --workdir'),
    ('zero_shot', ['--teacher=x', '--data_dir=x', '--dataset=emo8'], '', 'name a folder')], ids=str)
def test_workdir_that_is_a_file_or_below_one_is_one_line(
    command: Callable[..., int], assert_one_line: Callable[..., None], capsys: pytest.CaptureFixture,
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, verb: str, arguments: list[str], below: str, remedy: str) -> None:
  monkeypatch.chdir(ROOT)
  (tmp_path / 'taken').write_text('mine')
  code = command(f'uniemox_jax.{verb}', f'--workdir={tmp_path}/taken{below}', *arguments)
  assert_one_line(code, capsys.readouterr().err, 'taken is a file', remedy)
  assert (tmp_path / 'taken').read_text() == 'mine'


@pytest.mark.filterwarnings("ignore:'uniemox_jax:RuntimeWarning")
def test_missing_workdir_is_asked_for(
    command: Callable[..., int], assert_one_line: Callable[..., None], capsys: pytest.CaptureFixture,
    monkeypatch: pytest.MonkeyPatch) -> None:
  monkeypatch.chdir(ROOT)
  assert_one_line(command('uniemox_jax.pretrain', PRETRAIN), capsys.readouterr().err, '--workdir', 'add --workdir=')


@pytest.fixture(scope='module')
def processes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, subprocess.Popen]]:
  """A command of either package as users start them, side by side: importing tensorflow is what takes the time."""
  folder = tmp_path_factory.mktemp('commands')
  emulated = os.environ | {
      'JAX_PLATFORMS': 'cpu', 'XLA_FLAGS': '--xla_force_host_platform_device_count=8', 'PYTHONPATH': str(ROOT)}
  commands = {
      'devices': ['uniemox_jax.finetune', FINETUNE, f'--workdir={folder}/run', '--config.batch_size=12'],
      'build': ['data_pipelines.build', '--dataset=emo8', f'--source={folder}/nowhere', f'--data_dir={folder}/data']}
  # From another folder than the clone: --config=configs/... falls back to the installed files.
  started = {
      name:
          subprocess.Popen([sys.executable, '-m', *arguments], env=emulated, cwd=folder, text=True,
                           stdout=subprocess.PIPE, stderr=subprocess.PIPE) for name, arguments in commands.items()}
  yield started
  for process in started.values():
    process.kill()


@pytest.mark.parametrize(('name', 'thing', 'remedy'), [
    ('devices', 'batch_size 12', 'multiple of 8'),
    ('build', 'nowhere', 'ask its authors'),])
def test_real_process_says_nothing_else(
    processes: dict[str, subprocess.Popen], assert_one_line: Callable[..., None], name: str, thing: str,
    remedy: str) -> None:
  stderr = processes[name].communicate(timeout=120)[1]
  assert_one_line(processes[name].returncode, stderr, thing, remedy)


def test_multihost_on_a_single_machine_is_one_line(assert_one_line: Callable[..., None], tmp_path: Path) -> None:
  process = small_runs.start(['-m', 'uniemox_jax.pretrain', PRETRAIN, f'--workdir={tmp_path}/run', '--multihost'])
  [said] = small_runs.finish(process, code=2)
  assert_one_line(process.returncode, said, '--multihost', 'leave it out on a single machine')
