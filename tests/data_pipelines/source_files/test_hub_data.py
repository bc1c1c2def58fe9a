"""Data sets of the hub, from a stand-in of it: fetched, pinned, resumed, and one line for what cannot be had."""

import os
from pathlib import Path
import subprocess
import sys

import pytest

from data_pipelines.build import build
from data_pipelines.errors import UserError
from data_pipelines.source_files import hub_data
from tests.support import tables
from tests.support.raw_folders import draw_classes
from tests.support.servers import hub_server


@pytest.fixture(scope='module')
def hub(tmp_path_factory):
  folder = tmp_path_factory.mktemp('repositories')
  tables.FORMS['Parquet of datasets'](folder / 'parquet')
  (folder / 'parquet' / 'evil.py').write_text('raise SystemExit("code of a data set ran")')
  tables.FORMS['save_to_disk'](folder / 'arrow')
  for split in ('train', 'test'):
    draw_classes(folder / 'images' / split, ('fear', 'joy'), 3)
  (folder / 'zipped').mkdir()
  (folder / 'zipped' / 'images.zip').write_bytes(b'PK')
  with hub_server.serving({f'anyone/{name}': folder / name for name in ('parquet', 'arrow', 'images', 'zipped')
                          }) as hub:
    yield hub


@pytest.fixture
def reachable(hub, tmp_path, monkeypatch):
  """The hub as huggingface_hub's environment variables would name it, with an empty cache."""
  from huggingface_hub import constants
  values = {
      'ENDPOINT': hub.address, 'HF_HUB_CACHE': str(tmp_path / 'cache'), 'HF_HUB_DISABLE_XET': True,
      'HUGGINGFACE_CO_URL_TEMPLATE': hub.address + '/{repo_id}/resolve/{revision}/{filename}'}  # fmt: skip
  for name, value in values.items():
    monkeypatch.setattr(constants, name, value)
  hub.gated, hub.cut = set(), 0
  return hub


def test_parquet_of_the_hub_is_built_and_its_revision_pinned(reachable, tmp_path, capsys):
  manifest = build('table', 'hf://datasets/anyone/parquet', tmp_path / 'records')
  said = capsys.readouterr().out
  assert "image      from 'image' (bytes or paths)" in said and "'label' (classes awe, fear, joy)" in said
  assert manifest['read'] == tables.COUNT and set(manifest['splits']) == {'train', 'val', 'test'}
  source = manifest['source']
  assert (source['hub'], source['revision']) == ('anyone/parquet', hub_server.COMMIT)
  assert source['path'] == f'hf://datasets/anyone/parquet@{hub_server.COMMIT}'
  assert not list((tmp_path / 'cache').rglob('evil.py'))
  build('table', source['path'], tmp_path / 'records')
  assert 'is already built' in capsys.readouterr().out


@pytest.mark.parametrize('repository, dataset', [('arrow', 'table'), ('images', 'folder')])
def test_other_forms_of_the_hub(repository, dataset, reachable, tmp_path):
  assert not build(dataset, f'hf://datasets/anyone/{repository}@main', tmp_path / 'records')['rejected']


def test_nobody_is_told_to_move_images_into_a_cache(reachable, tmp_path, capsys):
  build('folder', 'hf://datasets/anyone/images', tmp_path / 'records')
  assert 'no val: to fine-tune, copy the folder, and move some images into val/' in capsys.readouterr().out


def test_a_download_that_was_cut_goes_on(reachable):
  reachable.cut = 2
  folder = hub_data.download('hf://datasets/anyone/parquet').folder
  assert reachable.cut == 0
  for file in reachable.folders['anyone/parquet'].rglob('*.parquet'):
    assert (folder / 'data' / file.name).read_bytes() == file.read_bytes()


WRONG = {
    'hf://datasets/anyone/nothing': 'check the name', 'hf://datasets/anyone/parquet@v9': 'choose a branch',
    'hf://datasets/anyone/zipped': 'download and unpack those', 'hf://models/x/y': 'write hf://datasets/OWNER/NAME',
    'hf://datasets/anyone/gated': 'accept its terms'}


@pytest.mark.parametrize('address', WRONG)
def test_what_cannot_be_had_is_one_line(address, reachable):
  reachable.folders['anyone/gated'], reachable.gated = Path('.'), {'anyone/gated'}
  with pytest.raises(UserError, match=WRONG[address]) as error:
    hub_data.download(address)
  assert '\n' not in str(error.value)


def test_without_a_connection_the_command_says_so_in_one_line(hub, tmp_path):
  command = [
      sys.executable, '-m', 'data_pipelines.build', '--dataset=table', '--source=hf://datasets/anyone/arrow',
      f'--data_dir={tmp_path}/records']  # fmt: skip
  done = subprocess.run(command, capture_output=True, text=True, timeout=100, env={**os.environ, 'HF_HUB_OFFLINE': '1'})
  assert done.returncode == 2 and 'cannot be fetched' in done.stderr and 'Traceback' not in done.stderr
