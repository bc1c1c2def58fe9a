"""launch_local.sh: real processes in one group, their codes, signals, output and environment."""

from pathlib import Path
import shlex
import signal
import subprocess
import sys
import time

import pytest

LAUNCHER = Path(__file__).parents[2] / 'tpu_scripts/launch_local.sh'
PREFIX = 'import os, sys, time; rank = int(os.environ["JAX_PROCESS_ID"]); '


def launch(program: str, *flags: str, processes: int = 2) -> subprocess.CompletedProcess:
  return subprocess.run([LAUNCHER, f'--processes={processes}', *flags, '--', sys.executable, '-c', PREFIX + program],
                        capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize(('codes', 'expected'), [((0, 0, 0), 0), ((75, 75, 75), 75), ((0, 75, 143), 75),
                                                 ((0, 143, 0), 143), ((75, 1, 75), 1), ((0, 0, 2), 2)])
def test_code_of_the_group(codes: tuple[int, ...], expected: int) -> None:
  assert launch(f'sys.exit({codes}[rank])', processes=3).returncode == expected


def test_first_failure_ends_the_others() -> None:
  began = time.monotonic()
  done = launch('time.sleep(60 * (1 - rank)); sys.exit(3)')
  assert done.returncode == 3 and 'process 1 ended with code 3' in done.stderr
  assert time.monotonic() - began < 30


def test_other_that_ignores_sigterm_is_killed() -> None:
  began = time.monotonic()
  ignores = 'import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(60 * (1 - rank)); time.sleep(1)'
  assert launch(f'{ignores}; sys.exit(3)', '--grace_seconds=1').returncode == 3
  assert time.monotonic() - began < 30


def test_each_process_learns_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
  monkeypatch.setenv('XLA_FLAGS', '--xla_dump_to=x --xla_force_host_platform_device_count=8')
  names = ['JAX_COORDINATOR_ADDRESS', 'JAX_NUM_PROCESSES', 'JAX_PLATFORMS', 'XLA_FLAGS']
  done = launch(f'print(*[os.environ[name] for name in {names}])', '--devices_per_process=3')
  seen = dict(line.split(' ', 1) for line in done.stdout.splitlines())
  assert seen.keys() == {'[0]', '[1]'} and seen['[0]'] == seen['[1]']
  address, count, platform, *xla = seen['[0]'].split(' ')
  assert address.startswith('127.0.0.1:') and (count, platform) == ('2', 'cpu')
  assert xla[:1] == ['--xla_dump_to=x'] and xla[-1] == '--xla_force_host_platform_device_count=3'


def test_processes_form_one_jax_group() -> None:
  done = launch(
      '''import jax
jax.distributed.initialize(os.environ['JAX_COORDINATOR_ADDRESS'], int(os.environ['JAX_NUM_PROCESSES']), rank)
print('place', jax.process_index(), jax.process_count(), jax.local_device_count(), jax.device_count())''',
      '--devices_per_process=2')
  places = sorted(line for line in done.stdout.splitlines() if 'place' in line)
  assert places == ['[0] place 0 2 2 4', '[1] place 1 2 2 4'], done.stderr


def test_every_line_bears_its_rank_in_its_own_stream() -> None:
  done = launch('print("one"); print("two", file=sys.stderr); sys.stdout.write("no line end")')
  assert sorted(done.stdout.splitlines()) == ['[0] no line end', '[0] one', '[1] no line end', '[1] one']
  assert sorted(done.stderr.splitlines()) == ['[0] two', '[1] two']


def test_dry_run_prints_each_process(monkeypatch: pytest.MonkeyPatch) -> None:
  monkeypatch.delenv('XLA_FLAGS', raising=False)
  done = launch("it's", '--dry_run', '--devices_per_process=3')
  commands = [shlex.split(line) for line in done.stdout.splitlines()]
  address = commands[0][1].removeprefix('JAX_COORDINATOR_ADDRESS=')
  assert commands == [[
      'env', f'JAX_COORDINATOR_ADDRESS={address}', 'JAX_NUM_PROCESSES=2', f'JAX_PROCESS_ID={rank}', 'JAX_PLATFORMS=cpu',
      'XLA_FLAGS=--xla_force_host_platform_device_count=3', 'PYTHONUNBUFFERED=1', sys.executable, '-c', f"{PREFIX}it's"]
                      for rank in (0, 1)]


def test_arguments_survive() -> None:
  done = subprocess.run([
      LAUNCHER, '--processes=1', '--', sys.executable, '-c', 'import sys; print(sys.argv[1:])', 'a b', "it's", '',
      '$HOME *'], capture_output=True, text=True, timeout=60)
  assert done.stdout == f'[0] {["a b", "it" + chr(39) + "s", "", "$HOME *"]}\n'


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT])
def test_signal_reaches_every_process_and_the_group_is_not_run_again(number: signal.Signals) -> None:
  program = PREFIX + '''import signal
signal.signal(signal.SIGTERM, lambda *_: (print('saved'), sys.exit(75)))
print('ready')
time.sleep(60)'''
  process = subprocess.Popen([LAUNCHER, '--processes=2', '--restarts=5', '--', sys.executable, '-c', program],
                             stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
  assert sorted(process.stdout.readline() for _ in range(2)) == ['[0] ready\n', '[1] ready\n']
  process.send_signal(number)
  stdout, _ = process.communicate(timeout=60)
  assert sorted(stdout.splitlines()) == ['[0] saved', '[1] saved']
  assert process.returncode == 75


def test_group_runs_again_on_75_and_at_most_so_often(tmp_path: Path) -> None:
  program = f'''name = {str(tmp_path)!r} + '/' + str(rank)
open(name, 'a').write(os.environ['JAX_COORDINATOR_ADDRESS'] + '\\n')
sys.exit(75 if len(open(name).readlines()) < 3 else 0)'''
  assert launch(program, '--restarts=1').returncode == 75
  assert launch(program, '--restarts=1').returncode == 0
  runs = [(tmp_path / str(rank)).read_text().splitlines() for rank in (0, 1)]
  assert len(runs[0]) == 3 and runs[0] == runs[1]
