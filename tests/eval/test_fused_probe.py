"""The embedding of scene and person that pretraining compares with the teacher's can be probed."""

from ml_collections import ConfigDict
import numpy as np
import pytest

from data_pipelines.batches.pipeline import eval_batches
from data_pipelines.errors import UserError
from data_pipelines.records.reader import open_split
from tests.support import small_runs
import uniemox_jax
from uniemox_jax.eval.kept_outputs import read_outputs
from uniemox_jax.models.fusion import NORM_EPS
from uniemox_jax.models.preprocess import IMAGENET_MEAN, IMAGENET_STD
from uniemox_jax.probe import probe
from uniemox_jax.train.checkpoint import load_checkpoint


def config_of(data_dir: str, init: str, **values) -> ConfigDict:
  return small_runs.probe_config(data_dir, **{'init': init, 'features': 'fused'} | values)


def test_the_fused_embedding_of_scene_and_person_is_probed(data_dir, pretrained_run, tmp_path, assert_parity, capsys):
  config = config_of(data_dir, str(pretrained_run), test_changes='person_removed')
  result = probe(config, str(tmp_path))
  [batch] = eval_batches(open_split(data_dir, 'emo8', 'test'), batch_size=24, image_size=32, person=True)
  has = (batch['person'] != batch['image']).any((1, 2, 3))
  assert f'persons: {has.sum()} of the 24 images of test show one' in capsys.readouterr().out
  params = load_checkpoint(str(pretrained_run)).params
  encoder, project, fusion = uniemox_jax.load_encoder(str(pretrained_run)), params['project'], params['fusion']
  summed = 0.0
  for name in ('image', 'person'):
    pixels = (batch[name].astype(np.float32) / 255 - IMAGENET_MEAN) / IMAGENET_STD
    stream_BxE = encoder.tokens(pixels.astype(np.float32))[:, 0] @ project['kernel'] + project['bias']
    centred = stream_BxE - stream_BxE.mean(1, keepdims=True)
    scaled = centred / np.sqrt((centred**2).mean(1, keepdims=True) + NORM_EPS)
    summed += scaled * fusion['norm']['scale'] + fusion['norm']['bias']
  linear = summed @ fusion['linear']['kernel'] + fusion['linear']['bias']
  gamma = np.where(linear > 0, linear, np.expm1(linear))
  [found] = [
      arrays['features']
      for arrays in map(np.load, (tmp_path / 'features').glob('*.npz'))
      if arrays['features'].shape == gamma.shape and np.allclose(arrays['features'], gamma, atol=1e-3)]
  assert_parity(found, gamma)
  plain, without = (
      read_outputs(str(tmp_path), result['config_hash'], 'label', change) for change in ('', 'person_removed'))
  assert result['top1'] == (plain.outputs_NxC.argmax(1) == plain.target).mean()
  np.testing.assert_array_equal(without.outputs_NxC[~has], plain.outputs_NxC[~has])


def test_what_has_no_fused_embedding_is_one_line(data_dir, finetuned_run, tmp_path):
  for init in ('none', str(finetuned_run)):
    with pytest.raises(UserError, match='has no fused embedding.*choose such a run, or --config.features=patches'):
      probe(config_of(data_dir, init), str(tmp_path))
