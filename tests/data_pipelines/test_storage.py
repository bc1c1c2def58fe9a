"""A file appears whole or not at all, and what the storage refuses is one line."""

import ast
import errno
import json
import os
from pathlib import Path
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


@pytest.mark.parametrize('encoding', ['utf-8', 'utf-8-sig', 'utf-16', 'utf-16-le', 'utf-16-be', 'utf-32'])
def test_no_unicode_encoding_is_damage(encoding, tmp_path):
  (tmp_path / 'file').write_text(json.dumps({'a': 'ä'}, ensure_ascii=False), encoding=encoding)
  assert storage.read_json_object(tmp_path / 'file') == {'a': 'ä'}


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


@pytest.mark.parametrize(('number', 'remedy'), [(errno.ENOSPC, 'make room'), (errno.EROFS, 'choose another place'),
                                                (errno.EMFILE, 'ulimit -n'), (errno.EIO, 'check the disk'),
                                                (errno.ENOTDIR, 'correct the path')])
def test_an_error_of_the_system_names_the_file_and_the_remedy(number, remedy):
  message = storage.explain(OSError(number, os.strerror(number), 'some/file'))
  assert message.startswith(f'some/file: {os.strerror(number)}') and remedy in message


def test_an_error_of_the_system_is_found_inside_that_of_a_library():
  wrapped = RuntimeError('a library failed')
  wrapped.__cause__ = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), 'some/file')
  assert storage.explain(wrapped) == 'some/file: No space left on device: make room and run the same command again'
  assert 'make room' in storage.explain(ValueError('RESOURCE_EXHAUSTED: No space left on device'))
  assert storage.explain(ValueError('a mistake of ours')) is None


PLACES = {
    'data_pipelines/storage.py', 'data_pipelines/ownership.py', 'data_pipelines/byte_ranges.py',
    'data_pipelines/host_copies.py'}
FORBIDDEN_MODULES = {'filelock', 'shutil', 'tempfile'}
OF_NAMES_ALONE = {'join', 'basename', 'dirname', 'split', 'abspath', 'realpath', 'commonpath', 'splitext'}
"""Functions of os.path that open no file, and are right for a bucket too, or made for local names."""


def ways_around_storage(path):
  """Lines of a module that open, look for, move or lock files in another way than `storage` does."""
  for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
    names = [alias.name for alias in node.names] if isinstance(
        node, ast.Import) else [node.module] if isinstance(node, ast.ImportFrom) else []
    if FORBIDDEN_MODULES & set(names):
      yield node.lineno
    if isinstance(node, ast.Call):
      called = ast.unparse(node.func)
      owner, _, name = called.rpartition('.')
      if called == 'open' or owner == 'os.path' and name not in OF_NAMES_ALONE or owner == 'os' and name in (
          'replace', 'rename', 'remove', 'unlink', 'makedirs', 'mkdir', 'listdir', 'walk', 'scandir', 'stat'):
        yield node.lineno
      if name == 'open' and owner not in ('os', 'av', 'Image', 'webbrowser', 'tarfile', 'archive', ''):
        yield node.lineno


def test_every_file_is_opened_moved_and_locked_by_storage():
  root = Path(__file__).parents[2]
  modules = [path for package in ('data_pipelines', 'uniemox_jax') for path in (root / package).rglob('*.py')]
  found = {
      str(path.relative_to(root)): lines
      for path in modules
      if str(path.relative_to(root)) not in PLACES and (lines := list(ways_around_storage(path)))}
  assert found == {}


def test_ways_around_storage_are_found(tmp_path):
  (tmp_path / 'module.py').write_text(
      'import tempfile\nopen("a")\nos.path.exists("a")\nos.replace("a", "b")\npath.open()\nos.path.join("a")\n')
  assert list(ways_around_storage(tmp_path / 'module.py')) == [1, 2, 3, 4, 5]
