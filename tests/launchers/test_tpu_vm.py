"""A pod's life under tpu_vm.sh: made, set up, run, interrupted, taken away, failed, stopped.

`gcloud` is a stand-in (fake_gcloud.py); what it is told to run on the workers runs for real, on this machine.
"""

from collections.abc import Iterator
import json
import os
from pathlib import Path
import shlex
import shutil
import subprocess
import sys
import time

import pytest

ROOT = Path(__file__).parents[2]
POD = ["--name=the pod's name", '--zone=my "zone"', '--type=v5litepod-8', '--poll_seconds=0', '--grace_seconds=20']

# The nth time that a worker runs it, it does what $FAKE_CLOUD/plan.json says: ends with a code, once it has slept so
# long; or goes with the pod, which is taken away; or is deaf to SIGTERM.
PROGRAM = '''
import json, os, pathlib, signal, sys, time
cloud, host = pathlib.Path(os.environ['FAKE_CLOUD']), os.popen('hostname').read().strip()
signal.signal(signal.SIGTERM, lambda *_: (note('saved'), os._exit(75)))
def note(what):
  with open(cloud / f'{host}.log', 'a') as log:
    log.write(json.dumps([what, time.time(), sys.argv[1:], os.getcwd()]) + chr(10))
note('start')
print('line of', host)
starts = [line for line in open(cloud / f'{host}.log') if line.startswith('["start"')]
code, seconds = json.loads((cloud / 'plan.json').read_text())[host][len(starts) - 1]
if code == 'deaf':
  signal.signal(signal.SIGTERM, signal.SIG_IGN)
time.sleep(seconds)
if code == 'taken away':
  (cloud / 'states.json').write_text('["SUSPENDING", "SUSPENDING", "SUSPENDING", "SUSPENDED"]')
  code = 143
note('end')
sys.exit(code)
'''


class Cloud:
  """Where the stand-in keeps its pod, a clone of the scripts, and how to call them."""

  def __init__(self, folder: Path):
    self.folder = folder / 'the cloud'
    self.scripts = folder / 'my clone' / 'tpu_scripts'
    self.folder.mkdir()
    (folder / 'bin').mkdir()
    gcloud = folder / 'bin/gcloud'
    gcloud.write_text(
        f'#!/bin/sh\nexec {sys.executable} {shlex.quote(str(ROOT / "tests/support/servers/fake_gcloud.py"))} "$@"\n')
    gcloud.chmod(0o755)
    shutil.copytree(ROOT / 'tpu_scripts', self.scripts)
    git = ['git', '-C', self.scripts.parent, '-c', 'user.name=a', '-c', 'user.email=a@b']
    for arguments in (['init', '--quiet'], ['add', '.'], ['commit', '--quiet', '--message=all']):
      subprocess.run([*git, *arguments], check=True)
    (folder / 'my program.py').write_text(PROGRAM)
    self.program = [
        'python', str(folder / 'my program.py'), "--config.name=it's a \"name\"", '$HOME', '--workdir=gs://b']
    self.environment = os.environ | {'FAKE_CLOUD': str(self.folder), 'PATH': f'{folder}/bin:{os.environ["PATH"]}'}
    self.set_states('NOT_FOUND')

  def set_states(self, *states: str) -> None:
    (self.folder / 'states.json').write_text(json.dumps(states))

  def plan(self, **steps: list) -> None:
    """What w0 and w1 do: (code, seconds) for each time that they are started."""
    (self.folder / 'plan.json').write_text(json.dumps({f't1v-w-{host[1]}': todo for host, todo in steps.items()}))

  def start(self, subcommand: str, *arguments: str) -> subprocess.Popen:
    return subprocess.Popen([self.scripts / 'tpu_vm.sh', subcommand, *POD, *arguments], env=self.environment, text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE)

  def call(self, subcommand: str, *arguments: str) -> subprocess.CompletedProcess:
    process = self.start(subcommand, *arguments)
    stdout, stderr = process.communicate(timeout=60)
    return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)

  def ready(self) -> None:
    for subcommand in ('create', 'setup'):
      done = self.call(subcommand)
      assert done.returncode == 0, done.stderr

  def notes(self, host: int, what: str) -> list:
    path = self.folder / f't1v-w-{host}.log'
    return [note for note in map(json.loads, path.read_text().splitlines() if path.exists() else []) if note[0] == what]

  def wait_for(self, what: str) -> None:
    deadline = time.monotonic() + 20
    while not all(self.notes(host, what) for host in (0, 1)):
      assert time.monotonic() < deadline
      time.sleep(0.05)

  def verbs(self) -> list[str]:
    """What was asked of gcloud, or of worker.sh through it, looks left out."""
    verbs = []
    for call in map(json.loads, (self.folder / 'calls.jsonl').read_text().splitlines()):
      words = shlex.split(next((word[10:] for word in call if word.startswith('--command=')), ''))
      verbs.append(words[2] if words[:1] == ['bash'] else 'unpack' if words else call[3])
    return [verb for verb in verbs if verb not in ('describe', 'status')]


@pytest.fixture
def cloud(tmp_path: Path) -> Iterator[Cloud]:
  cloud = Cloud(tmp_path)
  yield cloud
  for pid in cloud.folder.glob('workers/*/uniemox/run/pid'):
    if not (pid.parent / 'code').exists():
      subprocess.run(['kill', '-KILL', pid.read_text()], check=False)


def test_setup_puts_code_environment_and_records_on_every_worker(cloud: Cloud) -> None:
  assert cloud.call('create').returncode == 0
  done = cloud.call('setup', '--data=gs://b/my records')
  assert done.returncode == 0, done.stderr
  for home in sorted((cloud.folder / 'workers').iterdir()):
    assert (home / 'uniemox/code/tpu_scripts/worker.sh').exists()
    installed = (home / 'installed').read_text().splitlines()
    lock = f'{home}/uniemox/code/tpu_scripts/requirements-tpu.lock'
    assert f'-m pip install --quiet --user --constraint {lock} uv' in installed
    assert any(line.startswith('-m uv pip sync') and line.endswith(lock) for line in installed)
    assert f'gcloud storage rsync --recursive gs://b/my records {home}/uniemox/data' in installed
  assert cloud.call('status').stdout.splitlines()[0] == "the pod's name: ACTIVE"


def test_run_goes_on_after_code_75_and_after_the_pod_was_taken_away(cloud: Cloud) -> None:
  cloud.ready()
  cloud.plan(w0=[(75, 0), ('taken away', 0.5), (0, 0)], w1=[(143, 0), (143, 3), (0, 0)])
  done = cloud.call('launch', '--keep', '--', *cloud.program)
  assert done.returncode == 0, done.stderr
  assert 'did not become ACTIVE' not in done.stderr
  made = ['create', 'scp', 'unpack', 'install']
  assert cloud.verbs() == [*made, 'start', 'again', 'delete', *made, 'again']
  for host in (0, 1):
    starts = cloud.notes(host, 'start')
    assert len(starts) == 3
    assert all(arguments == cloud.program[2:] for _, _, arguments, _ in starts)


def test_workers_start_again_only_when_all_have_ended(cloud: Cloud) -> None:
  cloud.ready()
  cloud.plan(w0=[(75, 0), (0, 0)], w1=[(75, 2), (0, 0)])
  assert cloud.call('launch', '--keep', '--', *cloud.program).returncode == 0
  assert cloud.notes(0, 'start')[1][1] > cloud.notes(1, 'end')[0][1]


def test_worker_that_fails_is_named_and_the_others_are_ended(cloud: Cloud) -> None:
  cloud.ready()
  cloud.plan(w0=[(0, 60)], w1=[(3, 0.5)])
  done = cloud.call('launch', '--keep', '--', *cloud.program)
  assert done.returncode == 3
  assert 't1v-w-1 ended with code 3' in done.stderr
  assert '[t1v-w-1] line of t1v-w-1' in done.stdout
  assert cloud.notes(0, 'saved') and len(cloud.notes(0, 'start')) == len(cloud.notes(1, 'start')) == 1


def test_restarts_are_bounded(cloud: Cloud) -> None:
  cloud.ready()
  cloud.plan(w0=[(75, 0)] * 3, w1=[(75, 0)] * 3)
  done = cloud.call('launch', '--keep', '--restarts=1', '--', *cloud.program)
  assert done.returncode == 75 and '--restarts' in done.stderr
  assert len(cloud.notes(0, 'start')) == 2


def test_killed_worker_is_run_again_with_the_others(cloud: Cloud) -> None:
  cloud.ready()
  cloud.plan(w0=[(0, 60), (0, 0)], w1=[(75, 2), (0, 0)])
  process = cloud.start('launch', '--keep', '--', *cloud.program)
  cloud.wait_for('start')
  home = cloud.folder / "workers/the pod's name-w-0/uniemox/run"
  group = os.getpgid(int((home / 'pid').read_text()))
  assert group != os.getpgid(0)
  subprocess.run(['kill', '-KILL', '--', f'-{group}'], check=True)  # as a reboot would: nothing is written
  _, stderr = process.communicate(timeout=60)
  assert process.returncode == 0, stderr
  assert len(cloud.notes(0, 'start')) == len(cloud.notes(1, 'start')) == 2


def test_worker_that_neither_follows_nor_hears_is_killed_and_all_run_again(cloud: Cloud) -> None:
  cloud.ready()
  cloud.plan(w0=[(75, 0), (0, 0)], w1=[('deaf', 60), (0, 0)])
  done = cloud.call('launch', '--keep', '--grace_seconds=1', '--', *cloud.program)
  assert done.returncode == 0, done.stderr
  assert len(cloud.notes(0, 'start')) == len(cloud.notes(1, 'start')) == 2


def test_stop_lets_the_run_save_and_ends_the_watching(cloud: Cloud) -> None:
  cloud.ready()
  cloud.plan(w0=[(0, 60)], w1=[(0, 60)])
  watching = cloud.start('launch', '--keep', '--', *cloud.program)
  cloud.wait_for('start')
  stopped = cloud.call('stop')
  assert stopped.returncode == 0, stopped.stderr
  assert sorted(stopped.stdout.splitlines()) == [f'worker: t1v-w-{host} stopped 75' for host in (0, 1)]
  assert cloud.notes(0, 'saved') and cloud.notes(1, 'saved')
  watching.communicate(timeout=60)
  assert watching.returncode == 75
  # One that was about to start it again, when stop came, does not.
  for home in (cloud.folder / 'workers').iterdir():
    subprocess.run(['bash', home / 'uniemox/code/tpu_scripts/worker.sh', 'again', *cloud.program], check=True,
                   env=cloud.environment | {'PATH': f'{home}/bin:{os.environ["PATH"]}'})
  assert sorted(cloud.call('status').stdout.splitlines()[1:]) == sorted(stopped.stdout.splitlines())
  assert len(cloud.notes(0, 'start')) == 1


def test_launch_returns_while_the_run_goes_on_and_starts_no_second(cloud: Cloud) -> None:
  cloud.ready()
  cloud.plan(w0=[(0, 60)], w1=[(0, 60)])
  for _ in range(2):
    assert cloud.call('launch', '--', *cloud.program).returncode == 0
  cloud.wait_for('start')
  assert sorted(cloud.call('status').stdout.splitlines()[1:]) == [f'worker: t1v-w-{host} running' for host in (0, 1)]
  assert cloud.call('logs', '--worker=1', '--lines=1').stdout == 'line of t1v-w-1\n'
  for subcommand in (['launch', '--', 'python', 'another.py', '--workdir=gs://b'], ['setup']):
    other = cloud.call(*subcommand)
    assert other.returncode == 2 and 'tpu_vm.sh stop ends it' in other.stderr
  assert len(cloud.notes(0, 'start')) == 1
  assert cloud.call('stop').returncode == 0


def test_deleted_pod_ends_the_watching(cloud: Cloud) -> None:
  cloud.ready()
  cloud.plan(w0=[(0, 60)], w1=[(0, 60)])
  watching = cloud.start('launch', '--keep', '--', *cloud.program)
  cloud.wait_for('start')
  assert cloud.call('delete').returncode == 0
  _, stderr = watching.communicate(timeout=60)
  assert watching.returncode == 1 and 'has been deleted' in stderr


def test_pod_that_failed_is_removed_before_it_is_made_anew(cloud: Cloud) -> None:
  cloud.set_states('FAILED')
  assert cloud.call('create').returncode == 0
  assert cloud.verbs() == ['delete', 'create']


def test_pod_that_gcloud_cannot_ask_about_is_not_made(cloud: Cloud) -> None:
  (cloud.folder / 'states.json').write_text('no JSON')
  done = cloud.call('create')
  assert done.returncode == 1 and 'JSONDecodeError' in done.stderr
  assert cloud.verbs() == []
