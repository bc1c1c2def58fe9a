"""The targets of tasks as batches and as whole columns, from records that the builders wrote."""

import itertools
import shutil

import numpy as np
import pytest

from data_pipelines.batches.pipeline import eval_batches, train_batches
from data_pipelines.build import build
from data_pipelines.emotion6.emotion6_dataset_builder import Builder as Emotion6
from data_pipelines.errors import UserError
from data_pipelines.records import targets
from data_pipelines.records.reader import open_split
from tests.data_pipelines.datasets import test_emotic, test_emotion6


@pytest.fixture(scope='module')
def built(tmp_path_factory):
  """Folder of records of emotic and emotion6; read only."""
  folder = tmp_path_factory.mktemp('built')
  for dataset, module in (('emotic', test_emotic), ('emotion6', test_emotion6)):
    module.draw(folder / 'raw' / dataset)
    build(dataset, folder / 'raw' / dataset, folder / 'data')
  return folder / 'data'


def test_multi_hot_labels_and_vad_are_those_of_the_annotations(built):
  split = open_split(built, 'emotic', 'test')
  found = targets.read(split)
  rows = {tuple(np.array(split.labels)[row > 0]): tuple(vad) for row, vad in zip(found['labels'], found['vad'])}
  assert rows == {('Anger', 'Fear', 'Pain'): (2, 9, 1), ('Happiness',): (9, 6, 7)}
  assert found['labels'].shape == (2, 26) and set(np.unique(found['labels'])) == {0, 1}
  assert found['label'].tolist() == [-1, -1]
  assert found['distribution'].shape == (2, 0)


def test_distribution_has_the_columns_of_the_manifest_and_missing_dominance_is_nan(built):
  split = open_split(built, 'emotion6', 'val')
  found = targets.read(split)
  assert targets.columns(split, 'distribution') == Emotion6.DISTRIBUTION
  np.testing.assert_allclose(found['distribution'], [[0.133333, 0.7, 0, 0.0666667, 0.1, 0, 0]] * 6, rtol=1e-5)
  assert np.isfinite(found['vad'][:, :2]).all() and np.isnan(found['vad'][:, 2]).all()
  assert not found['labels'].any()


@pytest.mark.parametrize('dataset', ['emotic', 'emotion6'])
def test_batches_carry_the_targets_of_their_positions(built, dataset):
  split = open_split(built, dataset, 'train')
  whole = targets.read(split)
  names = tuple(targets.FIELDS)
  training = train_batches(split, batch_size=2, seed=0, image_size=16, mode='finetune', targets=names)
  for batch in itertools.islice(training, 4):
    for name in names:
      np.testing.assert_array_equal(batch[name], whole[name][batch['position']])
  evaluation = list(eval_batches(split, batch_size=3, image_size=16, targets=names))
  mask = np.concatenate([batch['mask'] for batch in evaluation]) > 0
  for name in names:
    rows = np.concatenate([batch[name] for batch in evaluation])
    np.testing.assert_array_equal(rows[mask], whole[name])
    assert rows.dtype == np.float32 and not rows[~mask].any()


def test_unknown_target_is_named(built):
  split = open_split(built, 'emotic', 'train')
  with pytest.raises(UserError, match="target 'mood' is unknown: choose from labels, distribution, vad"):
    next(train_batches(split, batch_size=2, seed=0, image_size=16, mode='finetune', targets=('mood',)))


def test_damaged_annotations_are_named(built, tmp_path):
  shutil.copytree(built / 'emotic', tmp_path / 'emotic')
  path = next((tmp_path / 'emotic').rglob('*test.annotations.jsonl'))
  content = bytearray(path.read_bytes())
  content[100] ^= 1
  path.write_bytes(content)
  with pytest.raises(UserError, match='damaged index .*annotations.jsonl: it does not match its checksum'):
    targets.read(open_split(tmp_path, 'emotic', 'test'))
