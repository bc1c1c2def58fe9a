"""The processes of a host fetch a file of a bucket once, and leave no copy behind."""

import functools
import os
from pathlib import Path
import resource
import subprocess
import sys

import pytest

from tests.support.servers import bucket as buckets

ROOT = Path(__file__).parents[3]
SIZE = 300_000
USE = '''import sys
from data_pipelines.records.host_copies import host_copy
for line in sys.stdin:
  print(host_copy(line.strip()).read_bytes()[:1].decode(), flush=True)'''
"""Copies each file that it is sent the name of; says its first letter."""


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


def ask(bucket, process, name):
  process.stdin.write(f'{bucket.url}/data/{name}\n')
  process.stdin.flush()


def answer(process):
  return process.stdout.readline().strip()


def copies(tmp_path):
  return sorted(path.name for path in tmp_path.glob('uniemox_jax-*/*/[!.]*'))


def end(process):
  errors = process.communicate(timeout=60)[1]
  assert process.returncode == 0, errors


def test_processes_that_come_together_fetch_a_file_once_and_the_last_removes_it(bucket, begin, tmp_path):
  bucket.set(latency=0.3)
  first, second = begin(), begin()
  for process in (first, second):
    ask(bucket, process, 'a')
  assert [answer(first), answer(second)] == ['a', 'a']
  end(first)
  late = begin()
  ask(bucket, late, 'a')
  assert answer(late) == 'a'
  assert SIZE <= bucket.counts()['bytes'] < 1.1 * SIZE
  for process in (second, late):
    assert copies(tmp_path) == ['a']
    end(process)
  assert not list(tmp_path.glob('uniemox_jax-*/*'))


def test_a_new_version_is_fetched_and_what_a_killed_process_left_is_removed_but_not_what_is_in_use(
    bucket, begin, tmp_path):
  killed, other = begin(), begin()
  ask(bucket, killed, 'a')
  ask(bucket, other, 'b')
  assert [answer(killed), answer(other), *copies(tmp_path)] == ['a', 'b', 'a', 'b']
  killed.kill()
  killed.wait()
  bucket.write('data/b', b'c' * SIZE)
  ask(bucket, other, 'b')
  assert [answer(other), *copies(tmp_path)] == ['c', 'b', 'b']


def test_nothing_is_left_of_a_fetch_that_finds_no_room(bucket, begin, tmp_path):
  process = begin(most_bytes=SIZE // 2)
  ask(bucket, process, 'a')
  assert 'File too large' in process.communicate(timeout=60)[1]
  assert not list(tmp_path.glob('uniemox_jax-*/*'))
