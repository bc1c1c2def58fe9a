"""A CLIP is probed on the embedding that it itself gives an image, as a practitioner would, and in its own view."""

import numpy as np
import pytest

from configs import compare as shipped
from data_pipelines.errors import UserError
from data_pipelines.records.reader import open_split
from tests.support import small_runs
from uniemox_jax.compare.study import check, job_config, jobs_of
from uniemox_jax.probe import probe
from uniemox_jax.teacher.frozen_clip import load_clip
from uniemox_jax.zero_shot import image_embeddings

pytestmark = pytest.mark.usefixtures('one_device')


def test_a_probe_takes_the_embedding_of_zero_shot(data_dir, clip_folder, tmp_path, assert_parity):
  config = small_runs.probe_config(data_dir, init=str(clip_folder), features='embedding', test_changes='noise_5')
  result = probe(config, str(tmp_path))
  clip = load_clip(clip_folder)
  expected, label_N = image_embeddings(clip, open_split(data_dir, 'emo8', 'test'), 16)
  kept = [dict(np.load(path)) for path in (tmp_path / 'features').glob('*.npz')]
  assert len(kept) == 4  # train, val, test, and test with noise
  [same] = [
      found for found in kept
      if found['features'].shape == expected.shape and np.allclose(found['features'], expected, atol=1e-3)]
  assert_parity(same['features'], expected)
  np.testing.assert_array_equal(same['label'], label_N)
  assert result['init'] == str(clip_folder) and result['examples'] == 24


def test_what_has_no_embedding_is_one_line(data_dir, tmp_path):
  for init, said in (('none', 'has no embedding of its own'), (str(tmp_path), 'is a folder without weights')):
    with pytest.raises(UserError, match=said) as error:
      probe(small_runs.probe_config(data_dir, init=init, features='embedding'), str(tmp_path / 'run'))
    assert '\n' not in str(error.value)


@pytest.mark.parametrize(('size', 'name'), [('published', 'clip'), ('vitb16', 'clip'), ('demo', 'teacher')])
def test_comparisons_probe_a_clip_so_and_fine_tune_its_tower(size, name):
  config = shipped.get_config(size)
  config.initialisations, config.datasets, config.protocols = (name,
                                                               'scratch'), ('emo8',), ('linear', 'knn', 'finetune')
  config.seeds = 1
  check(config)
  sections = {(job.initialisation, job.protocol): job_config(config, job) for job in jobs_of(config)}
  assert {of: sections[of].features for of in sections if of[1] != 'finetune'} == {(name, 'linear'): 'embedding',
                                                                                   (name, 'knn'): 'embedding',
                                                                                   ('scratch', 'linear'): 'patches',
                                                                                   ('scratch', 'knn'): 'patches'}
  assert 'features' not in sections[name, 'finetune']
