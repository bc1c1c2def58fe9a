"""A run is measured on other datasets too: beside its result, at any time, and without training again."""

from pathlib import Path
import shutil

import numpy as np
import pytest

from data_pipelines.build import build
from data_pipelines.errors import UserError
from data_pipelines.records.reader import open_split
from data_pipelines.synthetic import datasets
from tests.support import small_runs
from uniemox_jax.eval.kept_outputs import KeptOutputs, example_keys, read_outputs
from uniemox_jax.eval.result_file import read_result
from uniemox_jax.eval.run_evaluation import evaluate_on
from uniemox_jax.eval.transfer import Transfer, read_transfers
from uniemox_jax.finetune import finetune
from uniemox_jax.probe import probe
from uniemox_jax.zero_shot import zero_shot_by_config

pytestmark = pytest.mark.usefixtures('one_device')
BOTH = 'emoset+emotion6:mikels_to_emotion6'
PARTS = ('emoset', 'emotion6_mikels_to_emotion6')


@pytest.fixture(scope='module')
def three(data_dir: str, tmp_path_factory: pytest.TempPathFactory) -> str:
  """Records of emo8 and emoset, of one label table, and of emotion6, of another."""
  root = tmp_path_factory.mktemp('three')
  shutil.copytree(data_dir, root / 'data')
  datasets.write_dataset(root / 'raw', 'emotion6', datasets.plan_images('emotion6', {'train': 60}, seed=0), {})
  build('emotion6', root / 'raw', root / 'data')
  return str(root / 'data')


def kept(folder: Path, tested_on: str) -> KeptOutputs:
  found = read_outputs(str(folder), read_result(str(folder), tested_on)['config_hash'], 'label', tested_on)
  assert found is not None
  return found


def check_outputs(folder: Path, data_dir: str) -> None:
  """Results are those of the kept outputs, of all images and the compared classes; left-out images count nowhere."""
  for part in PARTS:
    result, outputs = read_result(str(folder), part), kept(folder, part)
    split = open_split(data_dir, result['dataset'], 'test')
    np.testing.assert_array_equal(outputs.example_N, example_keys(split))
    counted_N = outputs.target >= 0
    assert result['examples'] == counted_N.sum()
    assert len(split.label_array()) - counted_N.sum() == sum(result['left_out'].values())
    right_N = outputs.outputs_NxC.argmax(1) == outputs.target
    assert result['top1'] == pytest.approx(right_N[counted_N].mean())
    assert result['trained_on'] == 'emo8'
  assert read_result(str(folder), PARTS[0])['left_out'] == {} and kept(folder, PARTS[0]).outputs_NxC.shape[1] == 8
  assert list(read_result(str(folder), PARTS[1])['left_out']) == ['surprise']
  assert kept(folder, PARTS[1]).outputs_NxC.shape[1] == 5


def test_a_run_is_measured_on_other_datasets_without_being_trained_again(three, tmp_path, capsys):
  config = small_runs.finetune_config(three, epochs=1)
  result = finetune(config, str(tmp_path))
  capsys.readouterr()
  config.transfers = BOTH
  assert finetune(config, str(tmp_path)) == result == read_result(str(tmp_path))  # of the same config.json
  said = capsys.readouterr().out
  assert 'finetune 5/5' not in said and 'emotion6 by mikels_to_emotion6: left out: ' in said
  check_outputs(tmp_path, three)
  theirs = read_result(str(tmp_path), PARTS[1])
  assert evaluate_on(str(tmp_path), 'emotion6', 'mikels_to_emotion6', data_dir=three) == theirs


def test_probes_and_zero_shot_are_measured_on_other_datasets(three, clip_folder, tmp_path):
  for name, verb, init in (('knn', probe, 'none'), ('words', zero_shot_by_config, str(clip_folder))):
    folder = tmp_path / name
    result = verb(small_runs.probe_config(three, init=init, transfers=BOTH), str(folder))
    assert result == read_result(str(folder)) and result['dataset'] == 'emo8'
    check_outputs(folder, three)
  assert len(list((tmp_path / 'knn' / 'features').glob('*.npz'))) == 5  # of three splits and of two other datasets


def test_what_is_asked_for_is_read():
  assert read_transfers('') == ()
  found = read_transfers('fi+emotion6:maps/own.json')
  assert found == (Transfer('fi'), Transfer('emotion6', 'maps/own.json'))
  assert [transfer.file_part for transfer in found] == ['fi', 'emotion6_own']
  assert '+'.join(transfer.text for transfer in found) == 'fi+emotion6:maps/own.json'


@pytest.mark.parametrize(('transfers', 'said'), [('emotion6', 'the dataset has .*surprise.*DATASET:NAME'),
                                                 ('nothing', "'nothing'"),
                                                 ('emoset:nothing', "'nothing' does not exist"),
                                                 ('emoset+emoset', "'emoset' of the transfers is there twice"),
                                                 ('emoset:', "'emoset:' of the transfers is no name of its own"),
                                                 ('+', 'is no name of its own'),
                                                 ('emotion6:a/own.json+emotion6:b/own.json', 'is no name of its own')])
def test_a_transfer_that_cannot_be_is_one_line_before_anything_is_trained(three, tmp_path, transfers, said):
  config = small_runs.finetune_config(three)
  config.transfers = transfers
  for verb, asked in ((finetune, config), (probe, small_runs.probe_config(three, init='none', transfers=transfers))):
    with pytest.raises(UserError, match=said) as error:
      verb(asked, str(tmp_path / 'run'))
    assert '\n' not in str(error.value) and not (tmp_path / 'run').exists()


def test_without_a_single_label_there_is_no_transfer(three, tmp_path):
  config = small_runs.finetune_config(three)
  config.dataset, config.tasks, config.transfers = 'emotion6', 'vad', 'emoset'
  with pytest.raises(UserError, match='the model predicts vad and no single label'):
    finetune(config, str(tmp_path))
