"""The processes of a host fetch files of a bucket once, and leave no copy behind."""

import functools
import os
from pathlib import Path
import resource
import subprocess
import sys

import pytest

from tests.support.servers import bucket as buckets

ROOT = Path(__file__).parents[2]
SIZE = 300_000
USE = '''import contextlib, sys
from data_pipelines.errors import UserError
from data_pipelines.host_copies import copied, host_copy
with contextlib.ExitStack() as held:
  for line in sys.stdin:
    url, *names = line.split()
    held.close()
    try:
      copy = held.enter_context(copied(url, names)) if names else host_copy(url)
    except UserError as error:
      print(error, flush=True)
      continue
    files = [copy / name for name in names] or (sorted(copy.rglob('*')) if copy.is_dir() else [copy])
    print(''.join(path.read_text()[:1] for path in files if path.is_file()), flush=True)'''
"""Copies the file or folder of each line; of a line with names, these files of a folder, until the next line comes.
Says the first letters of all, or what is wrong."""


@pytest.fixture(scope='module')
def bucket(tmp_path_factory):
  with buckets.running(tmp_path_factory.mktemp('bucket')) as running:
    yield running


@pytest.fixture
def begin(bucket, tmp_path):
  """Starts such a process; its copies lie below tmp_path. Each file in the bucket is full of its name's letter."""
  bucket.set()
  for letter in 'ab':
    bucket.write(f'data/{letter}', letter.encode() * SIZE)
  bucket.write('data/below/c', b'c')
  bucket.write('data/below/empty', b'')
  started = []

  def start(*, most_bytes=resource.RLIM_INFINITY):
    limit = functools.partial(resource.setrlimit, resource.RLIMIT_FSIZE, (most_bytes, resource.RLIM_INFINITY))
    started.append(
        subprocess.Popen([sys.executable, '-c', USE], text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                         stderr=subprocess.PIPE, cwd=ROOT,
                         env=os.environ | bucket.environment | {'TMPDIR': str(tmp_path)}, preexec_fn=limit))
    return started[-1]

  yield start
  for process in started:
    process.kill()
    process.communicate()


def ask(bucket, process, line):
  process.stdin.write(f'{bucket.url}/data{line}\n')
  process.stdin.flush()


def answer(process):
  return process.stdout.readline().strip()


def copies(tmp_path):
  return sorted(path.name for path in tmp_path.glob('uniemox_jax-*/*/[!.]*/**/*') if path.is_file())


def end(process):
  errors = process.communicate(timeout=240)[1]
  assert process.returncode == 0, errors


@pytest.mark.parametrize(
    'line, letters, size', [
        pytest.param('/a', 'a', SIZE, id='a file', marks=pytest.mark.slow),
        pytest.param('/', 'abc', 2 * SIZE, id='a folder')])
def test_processes_that_come_together_fetch_once_and_the_last_removes_it(bucket, begin, tmp_path, line, letters, size):
  bucket.set(latency=0.3)
  first, second = begin(), begin()
  for process in (first, second):
    ask(bucket, process, line)
  assert [answer(first), answer(second)] == [letters, letters]
  end(first)
  late = begin()
  ask(bucket, late, line)
  assert answer(late) == letters
  assert size <= bucket.counts()['bytes'] < 1.1 * size
  for process in (second, late):
    assert set(letters) <= set(copies(tmp_path))
    end(process)
  assert not list(tmp_path.glob('uniemox_jax-*/*'))


def test_what_is_needed_for_a_time_is_removed_after_it(bucket, begin, tmp_path):
  process, other = begin(), begin()
  for one in (process, other):
    ask(bucket, one, ' a below/c')
    assert answer(one) == 'ac'
  for one, left in ((process, ['a', 'b', 'c']), (other, ['b'])):
    ask(bucket, one, '/b')
    assert [answer(one), *copies(tmp_path)] == ['b', *left]


def test_a_new_version_is_fetched_and_what_a_killed_process_left_is_removed_but_not_what_is_in_use(
    bucket, begin, tmp_path):
  killed, other = begin(), begin()
  ask(bucket, killed, '/a')
  ask(bucket, other, '/b')
  assert [answer(killed), answer(other), *copies(tmp_path)] == ['a', 'b', 'a', 'b']
  killed.kill()
  killed.wait()
  bucket.write('data/b', b'c' * SIZE)
  ask(bucket, other, '/b')
  assert [answer(other), *copies(tmp_path)] == ['c', 'b', 'b']
  ask(bucket, other, '')
  assert answer(other) == 'acc'


def test_nothing_is_left_of_a_fetch_that_finds_no_room(bucket, begin, tmp_path):
  process = begin(most_bytes=SIZE // 2)
  ask(bucket, process, '')
  assert 'File too large' in process.communicate(timeout=240)[1]
  assert not list(tmp_path.glob('uniemox_jax-*/*'))


def test_a_name_that_leads_out_of_the_copy_is_refused(bucket, begin, tmp_path):
  process = begin()
  for folder, name in (('x', '../../out'), ('y', '/out'), ('z', 'below/./out')):
    bucket.write(f'data{folder}/{name}', b'out')
    ask(bucket, process, folder)
    assert answer(process).startswith(f'{bucket.url}/data{folder}/{name} has a name that no file on a disk has')
  assert not list(tmp_path.rglob('out'))
