"""Ratings are probed by ridge regression: scikit-learn's, its strength chosen on val, measured as `evaluate` does."""

import json

import numpy as np
import pytest
from sklearn.linear_model import Ridge

from data_pipelines import build
from data_pipelines.errors import UserError
from data_pipelines.synthetic import datasets
from tests.support import small_runs
from uniemox_jax.compare.comparison_results import scores_of
from uniemox_jax.eval.kept_outputs import read_outputs
from uniemox_jax.eval.ridge_probe import fit_ridge, probe_ridge
from uniemox_jax.probe import probe

pytestmark = pytest.mark.usefixtures('one_device')


@pytest.fixture(scope='module')
def rated(tmp_path_factory):
  """Records in EMOTIC's layout, with ratings and no single label."""
  folder = tmp_path_factory.mktemp('rated')
  planned = datasets.plan_images('emotic', {'train': 48, 'val': 24, 'test': 32}, seed=0)
  datasets.write_dataset(folder / 'raw', 'emotic', planned, {})
  build.build('emotic', folder / 'raw', folder / 'data')
  return str(folder / 'data')


def config_of(data_dir, **values):
  return small_runs.probe_config(data_dir, **{'protocol': 'linear', 'dataset': 'emotic'} | values)


def test_each_dimension_is_scikit_learns_ridge_on_the_images_that_have_it():
  rng = np.random.default_rng(0)
  features, target = rng.normal(3, 2, (40, 6)), rng.normal(size=(40, 2))
  features[:, 5] = 7.0  # constant
  target[:10, 1] = np.nan
  ours = fit_ridge(features.astype(np.float32), target, 2.5)
  standard = (features - features.mean(0)) / np.where(features.std(0) > 1e-9, features.std(0), 1)
  for dimension, rows in ((0, slice(None)), (1, slice(10, None))):
    theirs = Ridge(2.5).fit(standard[rows], target[rows, dimension])
    np.testing.assert_allclose(ours(features)[:, dimension], theirs.predict(standard), atol=1e-5)


def test_of_equal_scores_the_strongest_is_taken():
  features = np.random.default_rng(0).normal(size=(30, 20))
  fitted, chosen = probe_ridge(features, features[:, :1], lambda probe: 0.0)
  assert chosen['l2'] == 1e6 and np.abs(fitted.kernel_DxC).max() < 1e-3


def test_a_run_on_ratings_leaves_what_compare_reads(rated, tmp_path, capsys):
  result = probe(config_of(rated), str(tmp_path / 'run'))
  assert json.loads((tmp_path / 'run' / 'result.json').read_text()).items() >= result.items()
  measured = result['tasks']['vad']
  assert result['protocol'] == 'linear' and result['examples'] == measured['examples']
  assert [row['dimension'] for row in measured['per_dimension']] == ['valence', 'arousal', 'dominance']
  assert [(score.name, score.value) for score in scores_of(result, 'pearson')] == [('pearson', measured['pearson'])]
  assert read_outputs(str(tmp_path / 'run'), result['config_hash'], 'vad').outputs_NxC.shape == (result['examples'], 3)
  assert 'ccc' in capsys.readouterr().out


@pytest.mark.parametrize(('values', 'said'), [({'protocol': 'knn'}, 'protocol knn needs images with a single label'),
                                              ({'tasks': 'label'}, 'no train image of emotic has a single label')])
def test_what_ratings_cannot_be_asked_is_one_line(rated, tmp_path, values, said):
  with pytest.raises(UserError, match=said):
    probe(config_of(rated, **values), str(tmp_path / 'run'))
