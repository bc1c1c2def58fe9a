"""The Apache Beam path on the local runner."""

import json
import os
import shutil
import sys

from PIL import Image
import pytest
import tensorflow_datasets as tfds

from data_pipelines.build import build
from data_pipelines.errors import UserError
from data_pipelines.light_tensorflow import tf
from data_pipelines.storage import read_json
from data_pipelines.synthetic import datasets
from tests.support import tables

SIZES = {'train': 16, 'val': 8, 'test': 8}
TABLES = ('manifest.json', 'rejects.csv', 'duplicates.csv')


@pytest.fixture(scope='module')
def emoset(tmp_path_factory):
  """EmoSet's layout with something to reject, to pass over and to find twice."""
  source = tmp_path_factory.mktemp('raw') / 'emoset'
  datasets.write_dataset(source, 'emoset', datasets.plan_images('emoset', SIZES, seed=1), {'seed': 1})
  (source / 'person_boxes.csv').unlink(missing_ok=True)
  train, test = (json.loads((source / f'{split}.json').read_text()) for split in ('train', 'test'))
  Image.new('RGB', (400, 300), 'red').save(source / train[0][-2], 'JPEG')
  (source / train[1][-2]).write_bytes(b'')
  shutil.copy(source / train[2][-2], source / test[0][-2])
  annotation = source / train[3][-1]
  annotation.write_text(json.dumps(json.loads(annotation.read_text()) | {'scene': 'moon_base'}))
  rows = ['image,xmin,ymin,xmax,ymax,score', f'{train[0][-2]},10,10,99,99,0.9', f'{train[2][-2]},500,0,600,9,1']
  (source / 'person_boxes.csv').write_text('\n'.join(rows))
  return source


@pytest.fixture(scope='module')
def plain(emoset, tmp_path_factory):
  """The folder of a build without Beam."""
  return _built(emoset, tmp_path_factory.mktemp('plain'))


def _built(source, data_dir, **options):
  build('emoset', source, data_dir, max_rejects=0.1, **options)
  return data_dir / 'emoset' / '1.0.0'


def _examples(folder) -> dict[str, list[bytes]]:
  """The serialized examples of each split, in order; the order of an example's fields means nothing."""
  examples = {}
  for split, info in tfds.builder_from_directory(folder).info.splits.items():
    records = tf.data.TFRecordDataset([os.fspath(path) for path in info.filepaths]).as_numpy_iterator()
    examples[split] = [tf.train.Example.FromString(record).SerializeToString(deterministic=True) for record in records]
  return examples


def _assert_same(folder, plain):
  assert _examples(folder) == _examples(plain)
  for table in TABLES:
    assert (folder / table).read_bytes() == (plain / table).read_bytes()
  assert {path.name for path in folder.iterdir()} == {path.name for path in plain.iterdir()}


def test_the_corpus_has_something_to_tell(plain):
  manifest = read_json(plain / 'manifest.json')
  assert (manifest['found'], manifest['read'], manifest['rejected']) == (32, 31, 1)
  assert manifest['ignored'] == {'person boxes outside the image': 1, 'scene: moon_base': 1}
  assert manifest['duplicates_across_splits'] == 1


def test_beam_builds_the_same_records_and_tables(emoset, plain, tmp_path):
  pytest.importorskip('apache_beam')
  _assert_same(_built(emoset, tmp_path, beam_runner='DirectRunner'), plain)


def test_beam_builds_the_same_of_a_table_and_without_excluded_images(tmp_path):
  pytest.importorskip('apache_beam')
  source = tables.FORMS['CSV'](tmp_path / 'raw')
  (tmp_path / 'exclude.csv').write_text(f'image\n{tables.rows()[0]["file_name"]}\n')
  folders = []
  for runner in (None, 'DirectRunner'):
    data_dir = tmp_path / str(runner)
    manifest = build('table', source, data_dir, beam_runner=runner, exclude_file=tmp_path / 'exclude.csv')
    assert manifest['ignored'] == {'images that --exclude names': 1}
    folders.append(data_dir / 'table' / '1.0.0')
  _assert_same(folders[1], folders[0])


@pytest.mark.slow
def test_beam_builds_the_same_in_other_processes(emoset, plain, tmp_path):
  pytest.importorskip('apache_beam')
  options = ['runner=DirectRunner', 'direct_running_mode=multi_processing', 'direct_num_workers=2']
  _assert_same(_built(emoset, tmp_path, beam_options=options), plain)


def test_workers_that_see_no_images_end_in_one_line_and_leave_nothing(emoset, tmp_path):
  pytest.importorskip('apache_beam')
  source = shutil.copytree(emoset, tmp_path / 'raw')
  for _, image, _ in json.loads((source / 'val.json').read_text()):
    (source / image).write_bytes(b'')
  with pytest.raises(UserError, match='workers could read no image.*on every worker'):
    _built(source, tmp_path / 'out', beam_runner='DirectRunner')
  assert not list((tmp_path / 'out' / 'emoset').iterdir())


def test_without_beam_installed_one_line_says_how_to_get_it(emoset, tmp_path, monkeypatch):
  monkeypatch.setitem(sys.modules, 'apache_beam.options.pipeline_options', None)
  with pytest.raises(UserError, match=r"pip install 'uniemox_jax\[beam\]'"):
    _built(emoset, tmp_path, beam_runner='DirectRunner')
