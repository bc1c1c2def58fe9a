"""The Slurm batch script, run by stand-ins of srun and scontrol: what it starts, and when the job is requeued."""

import os
from pathlib import Path
import subprocess

import pytest

SCRIPT = Path(__file__).parents[2] / 'tpu_scripts' / 'slurm.sh'
PROGRAM = ['python', '-m', 'uniemox_jax.pretrain', '--workdir=my runs/one']


@pytest.fixture
def slurm(tmp_path):
  """Runs the script as a job; gives its exit code, its errors, and the commands that it gave to Slurm."""
  for tool in ('srun', 'scontrol'):
    path = tmp_path / tool
    path.write_text(f'#!/bin/bash\nprintf "%s\\n" "{tool} $*" >> "$CALLS"\n[ {tool} = scontrol ] || exit "$CODE"\n')
    path.chmod(0o755)

  def run(code, *flags, program=PROGRAM, **variables):
    calls = tmp_path / 'calls'
    calls.write_text('')
    environment = os.environ | {
        'PATH': f'{tmp_path}:{os.environ["PATH"]}', 'CALLS': str(calls), 'CODE': str(code), 'SLURM_JOB_ID': '7'
    } | variables
    done = subprocess.run([SCRIPT, *flags, '--', *program], env=environment, capture_output=True, text=True,
                          cwd=SCRIPT.parents[1])
    return done.returncode, done.stderr, calls.read_text().splitlines()

  return run


@pytest.mark.parametrize('code', [0, 1, 2])
def test_a_job_that_is_done_or_failed_is_not_requeued(slurm, code):
  assert slurm(code) == (code, '', [f'srun --kill-on-bad-exit=0 {" ".join(PROGRAM)}'])


@pytest.mark.parametrize('code', [75, 137, 143])
def test_a_run_that_saved_and_asks_for_it_is_requeued(slurm, code):
  ended, errors, calls = slurm(code, SLURM_RESTART_COUNT='3')
  assert ended == code and calls[1:] == ['scontrol requeue 7'] and 'requeued' in errors


def test_restarts_are_limited(slurm):
  ended, errors, calls = slurm(75, '--restarts=4', SLURM_RESTART_COUNT='4')
  assert ended == 75 and len(calls) == 1 and '--restarts' in errors


def test_several_tasks_need_multihost(slurm):
  ended, errors, calls = slurm(0, SLURM_NTASKS='4')
  assert ended == 2 and not calls and errors.count('\n') == 1 and '--multihost' in errors
  assert slurm(0, program=[*PROGRAM, '--multihost'], SLURM_NTASKS='4')[0] == 0


def test_a_container_is_entered_with_the_gpus(slurm, tmp_path):
  image = tmp_path / 'image.sif'
  assert slurm(0, f'--container={image}')[0] == 2
  image.touch()
  assert slurm(
      0, f'--container={image}')[2][0].startswith(f'srun --kill-on-bad-exit=0 apptainer exec --nv {image} python')


def test_outside_of_slurm_it_says_how_it_is_started():
  environment = {name: value for name, value in os.environ.items() if not name.startswith('SLURM')}
  done = subprocess.run([SCRIPT, '--', 'true'], env=environment, capture_output=True, text=True)
  assert done.returncode == 2 and 'sbatch' in done.stderr and done.stderr.count('\n') == 1
