"""Runs on folds: each image is tested once over all folds, and features are extracted once for all of them."""

from pathlib import Path

from ml_collections import ConfigDict
import numpy as np
import pytest

from data_pipelines.errors import UserError
from data_pipelines.records.reader import open_split
from data_pipelines.storage import read_json
from tests.support import small_runs
from uniemox_jax.eval.kept_outputs import example_keys, read_outputs
from uniemox_jax.eval.run_evaluation import evaluate
from uniemox_jax.finetune import finetune
from uniemox_jax.probe import probe
from uniemox_jax.train.config import FinetuneConfig, ProbeConfig
from uniemox_jax.train.data_splits import count_train, open_splits
from uniemox_jax.train.schema import parse
from uniemox_jax.zero_shot import zero_shot_by_config

pytestmark = pytest.mark.usefixtures('one_device')


def test_probes_of_all_folds_test_every_image_once_on_features_extracted_once(data_dir, tmp_path):
  tested, hits = [], 0.0
  for fold in range(3):
    config = small_runs.probe_config(data_dir, folds=3, fold=fold, fold_seed=1, features_dir=str(tmp_path / 'features'))
    folder = tmp_path / f'{fold}'
    result = probe(config, str(folder))
    assert result['fold'] == {'tested': fold, 'of': 3, 'seed': 1} and result['split'] == 'test'
    kept = read_outputs(str(folder), result['config_hash'], 'label')
    assert len(kept.example_N) == len(kept.target) == result['examples'] and kept.outputs_NxC.shape[1] == 8
    right_N = kept.outputs_NxC.argmax(axis=1) == kept.target
    assert right_N.mean() == pytest.approx(result['top1'])
    tested += kept.example_N.tolist()
    hits += right_N.sum()
  every = example_keys(open_split(data_dir, 'emo8', 'train+val+test'))
  assert sorted(tested) == sorted(every.tolist()) and len(tested) == 80
  assert len(list((tmp_path / 'features').glob('*.npz'))) == 1


def test_a_fold_is_fine_tuned_and_evaluated_again(data_dir, tmp_path):
  config = small_runs.finetune_config(data_dir, epochs=1)
  config.folds, config.fold = 5, 2
  result = finetune(config, str(tmp_path))
  train, val, test = open_splits(parse(FinetuneConfig, config))
  assert result['fold'] == {'tested': 2, 'of': 5, 'seed': 0}
  assert result['examples'] == test.num_examples == 80 - train.num_examples - val.num_examples
  before = (tmp_path / 'outputs.npz').read_bytes()
  (tmp_path / 'outputs.npz').unlink()
  (tmp_path / 'result.json').unlink()
  assert evaluate(str(tmp_path)) == result == read_json(tmp_path / 'result.json')
  assert (tmp_path / 'outputs.npz').read_bytes() == before
  assert evaluate(str(tmp_path), 'val')['examples'] == val.num_examples
  kept = read_outputs(str(tmp_path), result['config_hash'], 'label')
  np.testing.assert_array_equal(kept.example_N, example_keys(test))
  np.testing.assert_array_equal(kept.target, test.label_array())


def test_a_fraction_of_a_fold_is_counted_as_it_is_trained_on(data_dir):
  config = parse(ProbeConfig, small_runs.probe_config(data_dir, folds=5, fold=1, fraction=0.3))
  assert count_train(config) == open_splits(config)[0].num_examples < 80 * 0.3


def test_zero_shot_tests_the_same_images(data_dir, clip_folder, tmp_path):
  result = zero_shot_by_config(small_runs.probe_config(data_dir, init=str(clip_folder), folds=5, fold=3), str(tmp_path))
  test = open_splits(parse(ProbeConfig, small_runs.probe_config(data_dir, folds=5, fold=3)))[2]
  assert result['examples'] == test.num_examples and result['fold']['tested'] == 3
  kept = read_outputs(str(tmp_path), result['config_hash'], 'label')
  np.testing.assert_array_equal(kept.example_N, example_keys(test))
  assert (kept.outputs_NxC.argmax(axis=1) == kept.target).mean() == result['top1']


@pytest.mark.parametrize(('values', 'said'), [
    ({'folds': 5, 'fold': 5}, 'folds is 5 and fold 5: choose 2 folds or more'), ({'folds': 1}, 'folds is 1 and fold 0'),
    ({'fold_seed': 1}, "'fold_seed' is 1 and would do nothing, since folds is 0"),
    ({'folds': 5, 'test_split': 'val'}, "'test_split' is val and would do nothing, since a fold is tested")], ids=str)
def test_folds_that_cannot_be_are_one_line(data_dir, values, said):
  with pytest.raises(UserError, match=said):
    parse(ProbeConfig, small_runs.probe_config(data_dir, **values))
  with pytest.raises(UserError, match=said):
    parse(FinetuneConfig, ConfigDict(values))


def test_keys_that_both_verbs_share_leave_their_defaults_alone():
  kinds = FinetuneConfig(), ProbeConfig()
  assert [(kind.dataset, kind.folds, kind.batch_size) for kind in kinds] == [('emo8', 0, 128), ('emo8', 0, 256)]


def test_outputs_of_another_run_are_not_read(data_dir, tmp_path: Path):
  result = probe(small_runs.probe_config(data_dir, folds=5), str(tmp_path))
  with pytest.raises(UserError, match='outputs.npz.*something else'):
    read_outputs(str(tmp_path), f"not {result['config_hash']}", 'label')
  content = bytearray((tmp_path / 'outputs.npz').read_bytes())
  content[len(content) // 2] ^= 1
  (tmp_path / 'outputs.npz').write_bytes(content)
  with pytest.raises(UserError, match='outputs.npz is damaged.*restore it, or delete it'):
    read_outputs(str(tmp_path), result['config_hash'], 'label')
  (tmp_path / 'outputs.npz').unlink()
  assert read_outputs(str(tmp_path), result['config_hash'], 'label') is None
