"""A folder is one process's at a time, on a disk and in a bucket; a dead process keeps none."""

import os
from pathlib import Path
import subprocess
import sys

import pytest

from data_pipelines.errors import UserError
from data_pipelines.ownership import disown, owned
from tests.support.servers import bucket as buckets

ROOT = Path(__file__).parents[2]
HOLD = '''import sys
from data_pipelines import ownership
ownership.SIGN_SECONDS, ownership.SILENT_SECONDS = 0.2, 2
with ownership.owned(sys.argv[1], *sys.argv[2:]):
  print(1, flush=True)
  sys.stdin.read()'''


def begin(folder, *name, environment=None):
  """A process that takes the folder, or says why it cannot."""
  return subprocess.Popen([sys.executable, '-c', HOLD, folder, *name], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, cwd=ROOT, env=os.environ | (environment or {}))


def hold(folder, *name, environment=None):
  """A process that has the folder."""
  other = begin(folder, *name, environment=environment)
  assert other.stdout.readline() == b'1\n', other.stderr.read()
  return other


def test_a_folder_that_another_process_has_is_refused_by_name_and_free_when_it_is_killed(tmp_path):
  with hold(tmp_path) as other:
    with pytest.raises(UserError, match=f'in use by process {other.pid} on .*, since 2.*--steal'), owned(tmp_path):
      pass
    with owned(tmp_path, 'another purpose'):
      pass
    other.kill()
  with owned(tmp_path):
    pass
  assert not list(tmp_path.iterdir())


def test_a_file_in_use_is_refused_without_the_flag_that_its_commands_lack(tmp_path):
  with hold(tmp_path, 'out.csv') as other:
    refusal = r'out\.csv is in use by process .*or choose another place$'
    with pytest.raises(UserError, match=refusal), owned(tmp_path, 'out.csv'):
      pass
    other.kill()


@pytest.mark.skipif(not os.path.isdir('/proc/self'), reason='Linux alone has such a folder')
def test_a_folder_that_takes_no_files_is_not_called_in_use():
  with pytest.raises(UserError, match=r'^/proc takes no files \(.*\): choose another place'), owned('/proc', 'x.csv'):
    pass


def test_a_disowned_folder_can_be_taken_though_its_owner_lives(tmp_path):
  with hold(tmp_path) as other:
    disown(tmp_path)
    with owned(tmp_path):
      pass
    other.kill()


@pytest.fixture(scope='module')
def bucket(tmp_path_factory):
  with buckets.running(tmp_path_factory.mktemp('bucket')) as running:
    yield running


def ends(process, code):
  """Waits for a process that ends by itself; its errors."""
  process.stdin.close()
  process.stdin = None
  errors = process.communicate(timeout=60)[1].decode()
  assert process.returncode == code, errors
  return errors


def test_a_folder_of_a_bucket_is_taken_from_an_owner_of_another_machine_once_it_is_silent(bucket):
  bucket.write('far/.owner', b'process 1 on another machine, since 2026-01-01')
  with hold(f'{bucket.url}/far', environment=bucket.environment) as heir:
    errors = ends(heir, 0)
  assert 'was in use by process 1 on another machine' in errors and bucket.names('far/') == []


def test_a_folder_of_a_bucket_is_refused_while_its_owner_lives_and_free_once_it_is_killed(bucket):
  folder = f'{bucket.url}/run'
  with hold(folder, environment=bucket.environment) as owner:
    second = begin(folder, environment=bucket.environment)
    assert f'in use by process {owner.pid} on ' in ends(second, 1)
    owner.kill()
  with hold(folder, environment=bucket.environment) as heir:
    assert f'process {heir.pid} '.encode() in bucket.read('run/.owner')
    ends(heir, 0)
  assert bucket.names('run/') == []


def test_of_two_that_have_a_folder_of_a_bucket_the_first_ends(bucket):
  folder = f'{bucket.url}/stolen'
  with hold(folder, environment=bucket.environment) as first:
    bucket.write('stolen/.owner', b'another')
    assert 'error: another process has taken gs://bucket/stolen/.owner' in first.stderr.read().decode()
    assert first.wait(timeout=60) == 2
