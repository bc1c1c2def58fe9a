"""Processes that never come, or die: the others say so, and end."""

import os
import signal
import subprocess
import sys
import time

import pytest

from tests.support import small_runs
from uniemox_jax.runtime.distributed import DEAD_SECONDS


def test_a_process_whose_peer_never_comes_says_where_it_waited_and_asks_to_be_run_again(tmp_path):
  command = [
      '-m', 'uniemox_jax.pretrain', f'--config={small_runs.ROOT}/configs/demo.py:pretrain', f'--workdir={tmp_path}',
      '--connect_timeout=2']
  ports: set[int] = set()
  while len(ports) < 2:  # at one port they would find each other
    ports.add(small_runs.free_port())
  alone = [
      small_runs.start(
          command, JAX_COORDINATOR_ADDRESS=f'127.0.0.1:{port}', JAX_NUM_PROCESSES='2', JAX_PROCESS_ID=str(rank))
      for rank, port in enumerate(ports)]
  for rank, told in enumerate(small_runs.finish(*alone, code=75)):
    errors = [line for line in told.splitlines() if line.startswith('error: ')]
    assert len(errors) == 1, told
    assert f'process {rank} of 2 waited 2 s at 127.0.0.1:' in errors[0] and 'Check failure' not in told


JOIN_AND_WAIT = '''from uniemox_jax.runtime import distributed
import sys, time
distributed.DEAD_SECONDS = int(sys.argv[1])
distributed.join(False, 60)
print('joined', flush=True)
time.sleep(100)'''


@pytest.mark.parametrize(('dies', 'silent', 'within'), [
    (0, DEAD_SECONDS, 10),
    (2, 5, 20), pytest.param(2, DEAD_SECONDS, 30, marks=pytest.mark.slow)])
def test_when_a_process_dies_the_others_end_with_one_line_and_ask_to_be_run_again(dies, silent, within):
  group = small_runs.start_group(['-c', JOIN_AND_WAIT, silent], 3)
  for process in group:
    assert any(line == 'joined\n' for line in process.stdout)
  group[dies].kill()
  began = time.monotonic()
  for told in small_runs.finish(*group[:dies], *group[dies + 1:], code=75):
    errors = [line for line in told.splitlines() if line.startswith('error: ')]
    assert len(errors) == 1 and 'another process' in errors[0], told
    assert 'Check failure' not in told and 'Traceback' not in told, told
  assert time.monotonic() - began < within


@pytest.mark.slow
def test_a_run_whose_process_was_killed_is_started_again_and_ends_with_the_bits_of_an_uninterrupted_one(tmp_path):
  config = small_runs.pretrain_config(
      small_runs.write_records(tmp_path), small_runs.write_teacher(tmp_path / 'clip'), epochs=4)
  launch = [str(small_runs.ROOT / 'tpu_scripts/launch_local.sh'), '--processes=2', '--restarts=2', '--', sys.executable]
  whole, killed = tmp_path / 'whole', tmp_path / 'killed'
  assert small_runs.start(launch + small_runs.command('uniemox_jax.pretrain', config, whole)).wait(600) == 0
  run = small_runs.start(launch + small_runs.command('uniemox_jax.pretrain', config, killed))
  while not (killed / 'checkpoints' / '12').exists():
    time.sleep(0.1)
  children = subprocess.run(['pgrep', '-f', f'workdir={killed}'], capture_output=True, text=True, check=True)
  os.kill(max(map(int, children.stdout.split())), signal.SIGKILL)
  assert run.wait(600) == 0
  assert 'resumes at step' in run.stdout.read() and small_runs.same_weights(whole, killed)
