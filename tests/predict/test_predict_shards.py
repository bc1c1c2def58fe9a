"""`--shard`: the tables of the parts, one after the other, are the bytes of one run."""

from pathlib import Path

import pytest

from data_pipelines.storage import read_json_object
from tests.support.predictions import assert_refused, draw
from uniemox_jax.predict.prediction import predict_images
from uniemox_jax.predict.shards import FileShard
from uniemox_jax.predict.table_writer import DESCRIPTION


@pytest.fixture(scope='module')
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
  folder = tmp_path_factory.mktemp('images')
  draw(folder, 60)
  (folder / '0017x.png').write_bytes(b'')
  return str(folder)


def joined(checkpoint: str, folder: str, out: Path, count: int, ending: str = 'csv') -> bytes:
  tables = [out / f'{index}.{ending}' for index in range(1, count + 1)]
  for index, table in enumerate(tables, 1):
    predict_images(checkpoint, [folder], str(table), batch_size=8, shard=FileShard(index, count))
  return b''.join(table.read_bytes() for table in tables)


@pytest.mark.parametrize('ending', ['csv', 'jsonl'])
def test_tables_of_three_shards_are_that_of_one_run(checkpoint, folder, tmp_path, ending):
  predict_images(checkpoint, [folder], str(tmp_path / f'whole.{ending}'), batch_size=8)
  assert joined(checkpoint, folder, tmp_path, 3, ending) == (tmp_path / f'whole.{ending}').read_bytes()
  rows = [len((tmp_path / f'{index}.{ending}').read_bytes().splitlines()) for index in (1, 2, 3)]
  assert sum(rows) == 61 + (ending == 'csv') and min(rows) >= 16


def test_shards_without_files_are_empty_tables(checkpoint, folder, tmp_path):
  predict_images(checkpoint, [folder], str(tmp_path / 'whole.csv'), batch_size=8)
  assert joined(checkpoint, folder, tmp_path, 11) == (tmp_path / 'whole.csv').read_bytes()
  assert b'' in [(tmp_path / f'{index}.csv').read_bytes() for index in range(2, 12)]


def test_cut_shard_is_completed_to_the_same_bytes_and_is_no_other_shard(checkpoint, folder, tmp_path):
  whole = joined(checkpoint, folder, tmp_path, 3)
  second = tmp_path / '2.csv'
  second.write_bytes(second.read_bytes()[:700])
  predict_images(checkpoint, [folder], str(second), append=True, shard=FileShard(2, 3))
  assert b''.join((tmp_path / f'{index}.csv').read_bytes() for index in (1, 2, 3)) == whole
  assert read_json_object(f'{second}{DESCRIPTION}')['shard'] == '2/3'
  for other in (FileShard(3, 3), FileShard(2, 4), None):
    assert_refused(
        lambda other=other: predict_images(checkpoint, [folder], str(second), append=True, shard=other),
        'another shard .2/3, now')


@pytest.mark.parametrize('text', ['0/3', '4/3', '3', '1/0', 'a/b', '-1/3', '1/3/5', ''])
def test_no_such_part_is_a_line(text):
  assert_refused(lambda: FileShard.parse(text), 'give I/N, such as 3/16')


@pytest.mark.parametrize('files', [0, 1, 8, 9, 100])
@pytest.mark.parametrize('count', [1, 2, 7, 30])
def test_parts_are_ranges_cut_between_batches(files, count):
  paths = list(map(str, range(files)))
  parts = [FileShard(index, count).part(paths, 8) for index in range(1, count + 1)]
  assert [path for part in parts for path in part] == paths
  assert all(int(part[0]) % 8 == 0 for part in parts if part)
  assert max(map(len, parts)) - min(map(len, parts)) <= 15
