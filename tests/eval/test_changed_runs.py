"""Runs are measured on changed test images too: beside their result, at any time, and without training again."""

from pathlib import Path

import numpy as np
import pytest

from data_pipelines.batches.image_changes import COLOUR
from data_pipelines.batches.pipeline import eval_batches
from data_pipelines.errors import UserError
from data_pipelines.records.reader import open_split
from data_pipelines.storage import read_json
from tests.support import small_runs
from uniemox_jax.eval.changed_images import changes_of
from uniemox_jax.eval.kept_outputs import KeptOutputs, read_outputs
from uniemox_jax.eval.result_file import read_result
from uniemox_jax.finetune import finetune
from uniemox_jax.probe import probe
from uniemox_jax.zero_shot import zero_shot_by_config

pytestmark = pytest.mark.usefixtures('one_device')


def shows_person(data_dir: str) -> np.ndarray:
  """Whether each test image does."""
  [batch] = eval_batches(open_split(data_dir, 'emo8', 'test'), batch_size=24, image_size=32, person=True)
  return (batch['person'] != batch['image']).any((1, 2, 3))


def test_without_the_scene_the_person_view_lacks_its_margin(data_dir):
  """A person in the middle of its crop takes 1 / 1.4 of each side; one at the border takes more."""
  has, split, filled = shows_person(data_dir), open_split(data_dir, 'emo8', 'test'), {}
  for change in ('', 'scene_removed'):
    [batch] = eval_batches(split, batch_size=24, image_size=32, person=True, change=change)
    filled[change] = (np.abs(batch['person'].astype(int) - COLOUR) <= 2).all(-1).mean((1, 2))
  assert (filled['scene_removed'][has] > 0.15).all() and (filled['scene_removed'][has] < 0.6).all()
  assert (filled[''] < 0.1).all() and (filled['scene_removed'][~has] == 1).all()


def kept(folder: Path, change: str = '') -> KeptOutputs:
  return read_outputs(str(folder), read_result(str(folder), change)['config_hash'], 'label', change)


def test_a_run_is_measured_on_more_changes_without_being_trained_again(data_dir, tmp_path, capsys):
  config = small_runs.finetune_config(data_dir, epochs=1)
  config.streams, config.test_changes = 'scene+person', 'blur_5+scene_removed'
  result = finetune(config, str(tmp_path))
  assert 'test_change' not in result and result == read_result(str(tmp_path))
  has = shows_person(data_dir)
  assert 0 < has.sum() < 24
  assert f'scene_removed: {has.sum()} of the 24 images of test show a person' in capsys.readouterr().out
  changed = read_result(str(tmp_path), 'scene_removed')
  assert (changed['test_change'], changed['with_person'], changed['whole_split']) == ('scene_removed', has.sum(), 24)
  config.test_changes = 'person_removed'
  assert finetune(config, str(tmp_path)) == result == read_result(str(tmp_path))  # of the same config.json
  assert 'finetune 5/5' not in capsys.readouterr().out
  plain, blurred, alone, without = (
      kept(tmp_path, change) for change in ('', 'blur_5', 'scene_removed', 'person_removed'))
  for other in (blurred, alone, without):
    np.testing.assert_array_equal(other.example_N, plain.example_N)
    np.testing.assert_array_equal(other.target, plain.target)
    assert (other.outputs_NxC != plain.outputs_NxC).any(1)[has].all()
  np.testing.assert_array_equal(without.outputs_NxC[~has], plain.outputs_NxC[~has])
  assert (alone.outputs_NxC[~has] == alone.outputs_NxC[~has][0]).all()  # of images that have nothing left


def test_probes_and_zero_shot_are_measured_on_changes(data_dir, clip_folder, tmp_path):
  has = shows_person(data_dir)
  for name, verb, init in (('knn', probe, 'none'), ('words', zero_shot_by_config, str(clip_folder))):
    folder = tmp_path / name
    config = small_runs.probe_config(data_dir, init=init, test_changes='person_removed+noise_5')
    result = verb(config, str(folder))
    assert result == read_json(folder / 'result.json')
    plain, without, noisy = (kept(folder, change) for change in ('', 'person_removed', 'noise_5'))
    assert ((without.outputs_NxC != plain.outputs_NxC).any(1) <= has).all()
    assert (without.outputs_NxC != plain.outputs_NxC).any() and (noisy.outputs_NxC != plain.outputs_NxC).any()
    right = (noisy.outputs_NxC.argmax(1) == noisy.target).mean()
    assert right == read_result(str(folder), 'noise_5')['top1']
  assert len(list((tmp_path / 'knn' / 'features').glob('*.npz'))) == 5  # train, val, and test three times


def test_a_change_is_refused_before_anything_is_trained(data_dir, tmp_path, monkeypatch):
  config = small_runs.finetune_config(data_dir)
  config.test_changes = 'sepia'
  with pytest.raises(UserError, match="'sepia' of the test changes is unknown: choose"):
    finetune(config, str(tmp_path))
  monkeypatch.setattr('uniemox_jax.eval.changed_images.count_persons', lambda split: (0, 24))
  for change in ('person_removed', 'blur_1+scene_removed'):
    config.test_changes = change
    with pytest.raises(UserError, match='_removed of the test changes needs persons, and no image of test shows one'):
      finetune(config, str(tmp_path))
  assert not list(tmp_path.iterdir())
  assert changes_of('blur_1', open_split(data_dir, 'emo8', 'test')) == ('blur_1',)
