"""Label maps: what is shipped covers its label tables, probabilities are summed, nothing is left out in silence."""

from collections.abc import Callable
import importlib
import json
from pathlib import Path

import jax
import numpy as np
import pytest

from data_pipelines import build
from data_pipelines.errors import UserError
from data_pipelines.records import reader
from data_pipelines.storage import read_json, write_json
from data_pipelines.synthetic import datasets
from tests.support import small_runs
from uniemox_jax.eval import label_maps
from uniemox_jax.eval.label_maps import load_label_map, mapped_labels, mapped_logits, resolve
from uniemox_jax.eval.run_evaluation import evaluate, evaluate_on
from uniemox_jax.eval.trained_classifier import load_trained, predict_split
from uniemox_jax.models.classifier import Classifier
from uniemox_jax.runtime.sharding import make_mesh, replicate
from uniemox_jax.train.checkpoint import save_weights
from uniemox_jax.train.state import builder, initial_params

POLAR = ('mikels', 'emotion6', 'unbiasedemo', 'caers', 'heco')
TABLES = {
    name: importlib.import_module(f'data_pipelines.{folder}.{folder}_dataset_builder').Builder.LABELS
    for name, folder in [(name, 'emoset' if name == 'mikels' else name) for name in POLAR]}
FITS = [(f'{source}_to_{target}', source, target)
        for source, target in (('mikels', 'emotion6'), ('emotion6', 'mikels'), ('mikels', 'unbiasedemo'),
                               ('mikels', 'caers'), ('mikels', 'heco'), ('emotion6', 'caers'), ('caers', 'emotion6'),
                               ('emotion6', 'unbiasedemo'), ('unbiasedemo', 'emotion6'))]
FITS += [('polarity', source, target) for source in POLAR for target in POLAR]


@pytest.fixture(scope='module')
def emotion6(tmp_path_factory: pytest.TempPathFactory) -> str:
  folder = tmp_path_factory.mktemp('emotion6')
  datasets.write_dataset(folder / 'raw', 'emotion6', datasets.plan_images('emotion6', {'train': 60}, seed=0), {})
  build.build('emotion6', folder / 'raw', folder / 'data')
  return str(folder / 'data')


@pytest.fixture
def run(data_dir: str, tmp_path: Path) -> str:
  """What a run fine-tuned on emo8 would leave, its weights random, its predictions of every class."""
  model = small_runs.ENCODER | {'classes': 8}
  params = jax.device_get(initial_params(builder(Classifier, **model), 0))
  params['head']['kernel'] = np.random.default_rng(0).normal(size=(16, 8)).astype(np.float32)
  workdir = str(tmp_path / 'run')
  save_weights(workdir, params, {'kind': 'classifier', 'model': model, 'labels': list(TABLES['mikels'])})
  write_json(
      f'{workdir}/config.json', {
          'init': 'none', 'dataset': 'emo8', 'data_dir': data_dir, 'batch_size': 16, 'mesh': {'data': -1, 'fsdp': 1},
          'model': small_runs.ENCODER})
  return workdir


@pytest.mark.parametrize('name, source, target', FITS)
def test_shipped_map_covers_its_label_tables(name, source, target):
  resolved = resolve(load_label_map(name), TABLES[source], TABLES[target])
  assert len(resolved.classes) >= 2 and set(resolved.of_target_K.tolist()) - {-1} == set(range(len(resolved.classes)))


def test_every_shipped_map_is_tested_and_says_why():
  assert set(label_maps.shipped_names()) == {name for name, _, _ in FITS}
  for name in label_maps.shipped_names():
    assert len(json.loads((label_maps.FOLDER / f'{name}.json').read_text())['why']) > 50


def test_all_mikels_datasets_share_a_table():
  for name in ('emo8', 'fi', 'emoset'):
    table = importlib.import_module(f'data_pipelines.{name}.{name}_dataset_builder').Builder.LABELS
    assert resolve(None, TABLES['mikels'], table).of_target_K.tolist() == list(range(8))


def test_probabilities_of_a_target_are_summed_and_those_left_out_do_not_count():
  resolved = resolve(
      label_maps.LabelMap('', {'a': 'x', 'b': 'y', 'c': 'x', 'd': None}, {'p': 'y', 'q': 'x', 'r': None}), 'abcd',
      'pqr')
  assert resolved.classes == ('y', 'x')
  probability_NxC = np.array([[0.1, 0.2, 0.3, 0.4], [0.25, 0.25, 0.25, 0.25]])
  np.testing.assert_allclose(
      np.exp(mapped_logits(np.log(probability_NxC) + 3, resolved)), [[0.2 / 0.6, 0.4 / 0.6], [1 / 3, 2 / 3]],
      rtol=1e-12)
  label_N, left_out = mapped_labels(np.array([0, 1, 2, 2, -1]), resolved, 'pqr')
  assert label_N.tolist() == [0, 1, -1, -1, -1] and left_out == {'': 1, 'r': 2}


def test_the_sum_may_overtake_the_likeliest_class():
  resolved = resolve(label_maps.LabelMap('', {'a': 'x', 'b': 'y', 'c': 'y'}, {}), 'abc', 'xy')
  assert mapped_logits(np.log([[0.4, 0.3, 0.3]]), resolved).argmax() == resolved.classes.index('y')


def test_same_classes_in_another_order_need_no_map():
  resolved = resolve(None, ('a', 'b', 'c'), ('c', 'a', 'b'))
  assert [resolved.classes[index] for index in resolved.of_source_C] == ['a', 'b', 'c']
  assert [resolved.classes[index] for index in resolved.of_target_K] == ['c', 'a', 'b']


def test_another_dataset_is_measured_by_the_map(run, emotion6, capsys):
  result = evaluate_on(run, 'emotion6', 'mikels_to_emotion6', data_dir=emotion6)
  assert read_json(Path(run, 'result_emotion6_mikels_to_emotion6.json')) == result
  split, labels = reader.open_split(emotion6, 'emotion6', 'test'), list(TABLES['emotion6'])
  checkpoint, classifier = load_trained(run)
  mesh = make_mesh()
  found = predict_split(
      classifier, replicate(checkpoint.params, mesh), split, ['label'], image_size=32, batch_size=16, mesh=mesh)
  probability_NxC = np.exp(found['outputs'] - found['outputs'].max(1, keepdims=True))
  probability_NxC /= probability_NxC.sum(1, keepdims=True)
  by_name = dict(zip(TABLES['mikels'], probability_NxC.T))
  joy_N = sum(by_name[name] for name in ('amusement', 'awe', 'contentment', 'excitement'))
  names = ['anger', 'disgust', 'fear', 'joy', 'sadness']
  mapped_NxT = np.stack([joy_N if name == 'joy' else by_name[name] for name in names], axis=1)
  kept_N = found['label'] != labels.index('surprise')
  truth_N = np.array([names.index(labels[label]) for label in found['label'][kept_N]])
  assert result['left_out'] == {'surprise': int((~kept_N).sum())} and result['examples'] == kept_N.sum()
  said = f'left out: {(~kept_N).sum()} of {len(kept_N)} images (surprise {(~kept_N).sum()})'
  assert said in capsys.readouterr().out
  assert result['top1'] == pytest.approx(np.mean(mapped_NxT[kept_N].argmax(1) == truth_N))
  assert result['loss'] == pytest.approx(-np.log(mapped_NxT[kept_N][np.arange(len(truth_N)), truth_N]).mean(), rel=1e-5)
  assert [row['label'] for row in result['per_class']] == names


def test_own_dataset_without_a_map_is_measured_as_evaluate_does(run):
  ours, theirs = evaluate_on(run, 'emo8', split_name='val'), evaluate(run, 'val')
  assert Path(run, 'result_emo8_val.json').is_file()
  rounded = ('loss', 'ece', 'adaptive_ece')
  assert {name: ours[name] for name in theirs if name not in rounded
         } == {name: theirs[name] for name in theirs if name not in rounded}
  assert [ours[name] for name in rounded] == pytest.approx([theirs[name] for name in rounded], rel=1e-6)


@pytest.mark.parametrize(
    'source, target, said', [
        ({'a': 'x'}, {}, 'misses source b: add each'),
        ({'a': 'x', 'b': 'y'}, {'x': 'x'}, 'misses target y, z: add each'),
        ({'a': 'x', 'b': 'y'}, {}, 'no class of the model leads to what z stands for: .*null in "target"'),
        ({'a': 'x', 'b': None}, {'x': None, 'y': None, 'z': None}, 'leaves every class of the dataset out'),])
def test_map_that_does_not_fit_is_one_line(source, target, said):
  with pytest.raises(UserError, match=said) as error:
    resolve(label_maps.LabelMap('own', source, target), 'ab', 'xyz')
  assert '\n' not in str(error.value)


@pytest.mark.filterwarnings("ignore:'uniemox_jax:RuntimeWarning")  # runpy, of a module that another test imported
@pytest.mark.parametrize(
    'content, arguments, thing, remedy', [
        (None, ['--dataset=emotion6'], 'surprise', 'give --label_map=NAME or FILE.json'),
        (None, ['--dataset=emotion6', '--label_map=mikels'], "'mikels' does not exist", 'mikels_to_emotion6'),
        (None, ['--dataset=emotion6', '--label_map=MAP'], 'map.json', 'give a .json file'),
        ('{', ['--dataset=emotion6', '--label_map=MAP'], 'map.json', 'restore it'),
        ('{"source": {}}', ['--dataset=emotion6', '--label_map=MAP'], 'map.json', 'correct it'),
        ('{"source": {"awe": 3}, "target": {}}', ['--dataset=emotion6', '--label_map=MAP'], "'awe' leads to 3", 'null'),
        ('{"source": {}, "target": {}}', ['--dataset=emotion6', '--label_map=MAP'], 'amusement, awe', 'add each'),
        (None, ['--label_map=polarity'], '--label_map', 'add --dataset=NAME'),
        (None, ['--dataset=fi', '--label_map=polarity'], "'fi'", 'build them'),], ids=[
            'no map', 'unknown map', 'no file', 'no JSON', 'no target', 'no class', 'nothing in it', 'no dataset',
            'no records'])
def test_mistake_is_one_line(
    command: Callable[..., int], assert_one_line: Callable[..., None], capsys, run, emotion6, tmp_path, content,
    arguments, thing, remedy):
  if content is not None:
    (tmp_path / 'map.json').write_text(content)
  before = sorted(path.name for path in Path(run).iterdir())
  code = command(
      'uniemox_jax.evaluate', f'--workdir={run}', f'--data_dir={emotion6}',
      *(one.replace('MAP', str(tmp_path / 'map.json')) for one in arguments))
  assert_one_line(code, capsys.readouterr().err, thing, remedy)
  assert sorted(path.name for path in Path(run).iterdir()) == before
