"""A file appears whole or not at all, and what the storage refuses is one line."""

import errno
import json
import os
import stat

import pytest

from data_pipelines import storage
from data_pipelines.errors import UserError


def test_a_new_file_replaces_the_old_one_only_when_it_is_whole(tmp_path):
  path = tmp_path / 'a' / 'file'
  storage.write_bytes(path, b'old')
  with pytest.raises(RuntimeError), storage.new_file(path) as file:
    file.write(b'half')
    raise RuntimeError
  assert [entry.name for entry in path.parent.iterdir()] == ['file'] and path.read_bytes() == b'old'
  storage.write_bytes(path, b'new')
  assert path.read_bytes() == b'new'


def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
  path = tmp_path / 'file'
  storage.write_bytes(path, b'old')

  def fill_up(descriptor):
    raise OSError(errno.ENOSPC, 'No space left on device')

  monkeypatch.setattr(os, 'fsync', fill_up)
  with pytest.raises(OSError, match='No space left'):
    storage.write_bytes(path, b'new')
  assert [entry.read_bytes() for entry in tmp_path.iterdir()] == [b'old']


def test_new_files_have_the_permissions_that_the_user_wants(tmp_path):
  before = os.umask(0o027)
  try:
    storage._umask.cache_clear()
    storage.write_text(tmp_path / 'file', 'text')
    assert stat.S_IMODE((tmp_path / 'file').stat().st_mode) == 0o640
  finally:
    os.umask(before)
    storage._umask.cache_clear()


@pytest.mark.parametrize('content', [b'', b'{', b'\xff\xfe{}', b'[' * 100_000, b'[]'])
def test_what_is_no_json_object_is_one_line_with_the_files_name(tmp_path, content):
  path = tmp_path / 'config.json'
  path.write_bytes(content)
  with pytest.raises(UserError) as error:
    storage.read_json_object(path)
  assert str(path) in str(error.value) and '\n' not in str(error.value)


def test_a_byte_order_mark_is_no_damage(tmp_path):
  (tmp_path / 'file').write_bytes(b'\xef\xbb\xbf' + json.dumps({'a': 1}).encode())
  assert storage.read_json_object(tmp_path / 'file') == {'a': 1}


def test_home_is_expanded_and_other_schemes_are_refused(monkeypatch):
  monkeypatch.setenv('HOME', '/home/someone')
  assert storage.checked_path('~/records', '--data_dir') == '/home/someone/records'
  assert storage.checked_path('openai/clip', '--config.teacher') == 'openai/clip'
  with pytest.raises(UserError, match='--data_dir=s3://b: only a local path or gs://'):
    storage.checked_path('s3://b', '--data_dir')
  with pytest.raises(UserError, match='--out=gs://b must be a local path'):
    storage.checked_path('gs://b', '--out', remote=False)
  monkeypatch.setattr(storage, '_has_bucket_library', lambda: False)
  with pytest.raises(UserError, match=r'pip install .uniemox_jax\[gcs\]'):
    storage.checked_path('gs://b', '--workdir')
