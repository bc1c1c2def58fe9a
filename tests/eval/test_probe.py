"""Probes of frozen features: equal to scikit-learn and to plain numpy, on any mesh, and going on where they ended."""

from collections.abc import Callable
import functools
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict
import numpy as np
import pytest
from sklearn import metrics as reference
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from data_pipelines.batches import pipeline
from data_pipelines.errors import UserError
from data_pipelines.records import reader
from data_pipelines.storage import read_json
from tests.support import small_runs
import uniemox_jax
from uniemox_jax.eval import features, knn, linear_probe, split_outputs
from uniemox_jax.finetune import finetune
from uniemox_jax.models.registry import MODULES
from uniemox_jax.probe import probe
from uniemox_jax.runtime.preemption import Preempted
from uniemox_jax.runtime.sharding import make_mesh
from uniemox_jax.train.checkpoint import save_weights
from uniemox_jax.train.initial_weights import read_source
from uniemox_jax.train.state import builder, initial_params

STATISTICS = {'mean': [0.5, 0.5, 0.5], 'std': [0.5, 0.5, 0.5]}


def config_of(data_dir: str, **values: Any) -> ConfigDict:
  return small_runs.probe_config(data_dir, **{'protocol': 'linear'} | values)


def save_random(folder: Path, kind: str, **extra: Any) -> str:
  model = small_runs.ENCODER | {'scan': True} | ({'classes': 3} if kind == 'classifier' else {})
  params = jax.device_get(initial_params(builder(MODULES[kind], **model), 0))
  rng = np.random.default_rng(0)
  params = jax.tree.map(lambda x: (x + 0.1 * rng.standard_normal(x.shape)).astype(np.float32), params)
  save_weights(str(folder), params, {'kind': kind, 'model': model, 'labels': ['a', 'b', 'c'], **extra})
  return str(folder)


def cached(workdir: Path) -> dict[int, tuple[np.ndarray, np.ndarray]]:
  """Features and labels by number of images, which differs between the splits."""
  found = [np.load(path) for path in (workdir / 'features').glob('*.npz')]
  return {len(arrays['label']): (arrays['features'], arrays['label']) for arrays in found}


@pytest.fixture(scope='module')
def linear_run(data_dir: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
  folder = tmp_path_factory.mktemp('linear')
  return folder, probe(config_of(data_dir), str(folder))


@pytest.mark.parametrize(
    'kind, extra', [('encoder', {}), ('classifier', {}), ('classifier', {'streams': 'scene+person'}),
                    ('encoder', {'statistics': STATISTICS})],
    ids=['pretrained', 'fine-tuned', 'of two streams', 'other statistics'])
def test_features_are_those_of_load_encoder(data_dir, tmp_path, assert_parity, kind, extra):
  init = save_random(tmp_path / 'init', kind, **extra)
  config = config_of(data_dir, init=init)
  frozen = features.load_frozen(read_source(init, {}, decoder=False), config.model.to_dict(), dtype='float32', seed=0)
  split = reader.open_split(data_dir, 'emo8', 'val')
  found = features.split_features(frozen, split, str(tmp_path), image_size=32, batch_size=8, mesh=make_mesh())
  batch = next(pipeline.eval_batches(split, batch_size=16, image_size=32))
  encoder = uniemox_jax.load_encoder(init)
  # Float images are taken as normalised already: the view is the records', not made again.
  mean, std = (
      np.array(extra.get('statistics', {}).get(name, default), np.float32)
      for name, default in (('mean', [0.485, 0.456, 0.406]), ('std', [0.229, 0.224, 0.225])))
  assert_parity(found.features_NxD, encoder.features((batch['image'].astype(np.float32) / 255 - mean) / std))
  np.testing.assert_array_equal(found.label_N, batch['label'])


def test_linear_probe_is_scikit_learns(linear_run):
  folder, result = linear_run
  splits = cached(folder)
  (train, label_N), (test, truth_N) = splits[40], splits[24]
  model = make_pipeline(StandardScaler(), LogisticRegression(C=1 / result['chosen']['l2'], max_iter=1000))
  model.fit(train.astype(np.float64), label_N)
  probability_NxC, predicted_N = model.predict_proba(test.astype(np.float64)), model.predict(test.astype(np.float64))
  assert result['top1'] == pytest.approx(reference.accuracy_score(truth_N, predicted_N), abs=1e-6)
  assert result['macro_f1'] == pytest.approx(reference.f1_score(truth_N, predicted_N, average='macro'), abs=1e-6)
  assert result['loss'] == pytest.approx(reference.log_loss(truth_N, probability_NxC, labels=range(8)), abs=1e-6)
  assert result['confusion'] == reference.confusion_matrix(truth_N, predicted_N, labels=range(8)).tolist()


def test_result_has_the_keys_of_evaluate(linear_run, finetuned_run):
  folder, result = linear_run
  ours, theirs = (read_json(run / 'result.json') for run in (folder, finetuned_run))
  assert ours == result
  assert theirs.keys() <= ours.keys()
  assert ours.keys() - theirs.keys() == {'protocol', 'train_examples', 'chosen'}
  assert ours['checkpoint_step'] is None and ours['train_examples'] == 40


def test_two_classes_have_scikit_learns_probabilities():
  rng = np.random.default_rng(0)
  features_NxD, label_N = rng.standard_normal((30, 4)), rng.integers(0, 2, 30)
  fitted = linear_probe.fit_probe(features_NxD, label_N, ['a', 'b'], strength=2.0)
  theirs = make_pipeline(StandardScaler(), LogisticRegression(C=0.5)).fit(features_NxD, label_N)
  ours = fitted(features_NxD)
  np.testing.assert_allclose(
      1 / (1 + np.exp(ours[:, 0] - ours[:, 1])),
      theirs.predict_proba(features_NxD)[:, 1], rtol=1e-6)


@pytest.mark.parametrize('peak', [-48, -13, 0, 29, 48])
def test_sweep_finds_a_single_peak_to_an_eighth_of_a_decade(peak):
  best, tried = linear_probe.sweep(lambda strength: -abs(8 * np.log10(strength) - peak))
  assert best == pytest.approx(10**(peak / 8)) and len(tried) <= 15
  assert [strength for strength, _ in tried] == sorted(strength for strength, _ in tried)


def test_of_equal_scores_the_stronger_wins():
  assert linear_probe.sweep(lambda strength: 0.5)[0] == pytest.approx(1e6)


def plain_knn(train: np.ndarray, label_N: np.ndarray, query: np.ndarray, count: int, classes: int) -> np.ndarray:
  """Shares of votes, by the definition, a query at a time."""
  shares = []
  for row in query.astype(np.float64):
    cosine_N = train.astype(np.float64) @ row / np.linalg.norm(train.astype(np.float64), axis=1) / np.linalg.norm(row)
    nearest = np.argsort(-cosine_N, kind='stable')[:count]
    votes = np.bincount(label_N[nearest], np.exp(cosine_N[nearest] / 0.07), minlength=classes)
    shares.append(votes / votes.sum())
  return np.array(shares)


@pytest.mark.parametrize('count', [1, 5, 20])
def test_knn_is_that_of_plain_numpy(count):
  rng = np.random.default_rng(0)
  train, query = (rng.standard_normal((n, 6)).astype(np.float32) for n in (50, 33))
  label_N = rng.integers(0, 4, 50)
  cosine_QxK, position_QxK = knn.neighbours(query, train, count, make_mesh())
  shares = plain_knn(train, label_N, query, count, 4)
  np.testing.assert_allclose(
      knn.log_shares(cosine_QxK, label_N[position_QxK], 4), np.log(np.maximum(shares, 1e-6)), rtol=1e-4, atol=1e-4)


def test_knn_chooses_k_on_val_and_measures_test(data_dir, tmp_path):
  result = probe(config_of(data_dir, protocol='knn'), str(tmp_path))
  splits = cached(tmp_path)
  scores = {
      count: float(np.mean(plain_knn(*splits[40], splits[16][0], count, 8).argmax(1) == splits[16][1]))
      for count in (5, 10, 20)}
  assert {row['k']: row['val_top1'] for row in result['chosen']['tried']} == pytest.approx(scores)
  best = max(scores, key=lambda count: (scores[count], -count))
  assert result['chosen']['k'] == best
  shares = np.maximum(plain_knn(*splits[40], splits[24][0], best, 8), 1e-6)
  shares /= shares.sum(1, keepdims=True)
  truth_N = splits[24][1]
  assert result['top1'] == pytest.approx(np.mean(shares.argmax(1) == truth_N))
  assert result['loss'] == pytest.approx(-np.log(shares[np.arange(24), truth_N]).mean(), abs=1e-4)


def test_one_device_and_eight_predict_the_same(data_dir, tmp_path):
  config = config_of(data_dir)
  frozen = features.load_frozen(None, config.model.to_dict(), dtype='float32', seed=0)
  train, test = (reader.open_split(data_dir, 'emo8', name) for name in ('train', 'test'))
  predicted = []
  for devices in (1, 8):
    mesh = make_mesh(devices=jax.devices()[:devices])
    extract = functools.partial(
        features.split_features, frozen, cache_dir=str(tmp_path / str(devices)), image_size=32, batch_size=5, mesh=mesh)
    (bank, label_N), (query, _) = extract(train), extract(test)
    cosine_QxK, position_QxK = knn.neighbours(query, bank, 5, mesh)
    fitted = linear_probe.fit_probe(bank, label_N, range(8), strength=1.0)
    predicted.append([query, knn.log_shares(cosine_QxK, label_N[position_QxK], 8), fitted(query)])
  for one, eight in zip(*predicted):
    np.testing.assert_allclose(one, eight, rtol=1e-4, atol=1e-4)
    assert (one.argmax(1) == eight.argmax(1)).all()


def test_killed_run_goes_on_from_the_features_that_it_has(data_dir, tmp_path, monkeypatch, linear_run):
  asked, real = [], features.split_outputs

  def until_val(apply: Any, split: reader.Split, *rest: Any, **options: Any) -> Any:
    asked.append(split.name)
    if asked == ['train', 'val']:
      raise Preempted('nothing is unsaved')
    return real(apply, split, *rest, **options)

  monkeypatch.setattr(features, 'split_outputs', until_val)
  with pytest.raises(Preempted):
    probe(config_of(data_dir), str(tmp_path))
  assert not (tmp_path / 'result.json').exists()
  assert probe(config_of(data_dir), str(tmp_path)) == linear_run[1]
  assert asked == ['train', 'val', 'val', 'test']
  written = (tmp_path / 'result.json').read_bytes()
  probe(config_of(data_dir), str(tmp_path))
  assert asked == ['train', 'val', 'val', 'test'] and (tmp_path / 'result.json').read_bytes() == written


def test_other_weights_and_other_records_find_no_cached_features(data_dir, tmp_path):
  config = config_of(data_dir)
  mesh, model = make_mesh(), config.model.to_dict()
  for seed, share, heads in ((0, 1.0, 2), (1, 1.0, 2), (0, 0.5, 2), (0, 1.0, 4)):
    split = reader.open_split(data_dir, 'emo8', 'train').fraction(share, 0)
    frozen = features.load_frozen(None, model | {'heads': heads}, dtype='float32', seed=seed)
    features.split_features(frozen, split, str(tmp_path), image_size=32, batch_size=16, mesh=mesh)
  assert len(list(tmp_path.iterdir())) == 4


def test_one_percent_keeps_an_image_of_every_class(data_dir, tmp_path):
  result = probe(config_of(data_dir, fraction=0.01, protocol='knn'), str(tmp_path))
  assert result['train_examples'] == 8
  assert sorted(cached(tmp_path)[8][1].tolist()) == list(range(8))
  assert [row['k'] for row in result['chosen']['tried']] == [5]


def test_damaged_cache_is_one_line(data_dir, tmp_path):
  config = config_of(data_dir)
  frozen = features.load_frozen(None, config.model.to_dict(), dtype='float32', seed=0)
  extract = functools.partial(
      features.split_features, frozen, reader.open_split(data_dir, 'emo8', 'val'), str(tmp_path), image_size=32,
      batch_size=16, mesh=make_mesh())
  extract()
  path, = tmp_path.iterdir()
  path.write_bytes(path.read_bytes()[:-100])
  with pytest.raises(UserError, match='damaged.*delete the file') as error:
    extract()
  assert '\n' not in str(error.value)


def test_outputs_without_room_are_one_line_after_one_batch(data_dir, tmp_path, monkeypatch):
  monkeypatch.setattr(split_outputs.os, 'sysconf', lambda name: 16)  # 16 pages of 16 bytes
  frozen = features.load_frozen(None, config_of(data_dir).model.to_dict(), dtype='float32', seed=0)
  split = reader.open_split(data_dir, 'emo8', 'val')
  with pytest.raises(UserError, match=f'outputs of {split.num_examples} examples of val take .* GiB.*fewer records'):
    features.split_features(frozen, split, str(tmp_path), image_size=32, batch_size=16, mesh=make_mesh())
  assert not list(tmp_path.iterdir())


@pytest.mark.filterwarnings("ignore:'uniemox_jax:RuntimeWarning")  # runpy, of a module that another test imported
@pytest.mark.parametrize(
    'arguments, thing, remedy', [
        (['--config.protocol=svm'], "'svm'", 'choose linear or knn'),
        (['--config.fraction=0.0'], "'fraction' is 0.0", 'above 0'),
        (['--config.batch_size=0'], 'batch_size', 'at least 1'),
        (['--config.init=nowhere'], 'nowhere', 'give'),
        (['--config.dataset=nothing'], "'nothing'", 'build them'),
        (['--config.dtype=float8'], 'float8', 'bfloat16'),
        (['--config.init=SAVED', '--config.model.width=24'], 'width 16', 'set --config.model.width=16'),
        (['--config.init=SAVED', '--config.model.heads=4'], 'heads 2', 'set --config.model.heads=2'),])
def test_mistake_is_one_line(
    command: Callable[..., int], assert_one_line: Callable[..., None], capsys, data_dir, tmp_path, arguments, thing,
    remedy):
  saved = save_random(tmp_path / 'saved', 'encoder') if 'SAVED' in arguments[0] else ''
  model = [f'--config.model.{name}={value}' for name, value in small_runs.ENCODER.items()]
  code = command(
      'uniemox_jax.probe', '--config=configs/probe.py:emo8', f'--workdir={tmp_path / "run"}',
      f'--config.data_dir={data_dir}', *model, *(one.replace('SAVED', saved) for one in arguments))
  assert_one_line(code, capsys.readouterr().err, thing, remedy)
  assert not (tmp_path / 'run').exists()


def test_too_few_images_are_one_line():
  with pytest.raises(UserError, match=r'none of b, d: raise --config.fraction'):
    linear_probe.fit_probe(np.zeros((4, 2)), np.array([0, 0, 2, 2]), 'abcd', 1.0)
  few = np.zeros((4, 2), np.float32), np.zeros(4, int)
  with pytest.raises(UserError, match='needs 5 or more training images, and there are 4'):
    knn.probe_knn(few, 2, make_mesh(), few[0], lambda logits: 0.0)


def test_dataset_without_a_single_label_is_sent_to_fine_tuning(data_dir, tmp_path, monkeypatch):
  monkeypatch.setattr(reader.Split, 'label_array', lambda split: np.array([-1]))
  with pytest.raises(UserError, match='no train image of emo8 has a single label.*uniemox_jax.finetune'):
    probe(config_of(data_dir), str(tmp_path / 'run'))
  assert not (tmp_path / 'run').exists()


def test_fine_tuning_on_too_few_images_for_a_batch_is_one_line(data_dir, tmp_path):
  config = small_runs.finetune_config(data_dir)
  config.fraction, config.batch_size = 0.01, 16
  with pytest.raises(UserError, match='batch_size 16 is more than the 8 examples') as error:
    finetune(config, str(tmp_path / 'run'))
  assert '\n' not in str(error.value) and not (tmp_path / 'run').exists()
