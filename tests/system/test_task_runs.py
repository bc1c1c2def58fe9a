"""Fine-tuning and evaluating tasks on drawn records in EMOTIC's and Emotion6's layouts, on one host and on two."""

from pathlib import Path
from typing import Any

from ml_collections import ConfigDict
import numpy as np
from PIL import Image
import pytest
from sklearn import metrics as reference

from configs import demo
from data_pipelines import build
from data_pipelines.errors import UserError
from data_pipelines.records import targets
from data_pipelines.records.reader import open_split
from data_pipelines.records.targets import read
from data_pipelines.storage import read_json, write_json
from data_pipelines.synthetic import datasets
from tests.support import small_runs
from tests.support.predictions import rows_of
import uniemox_jax
from uniemox_jax.eval.run_evaluation import evaluate
from uniemox_jax.eval.trained_classifier import load_trained, metrics_of, predict_split
from uniemox_jax.export_torch import export_torch
from uniemox_jax.finetune import finetune
from uniemox_jax.look.inspection import look
from uniemox_jax.objectives import tasks
from uniemox_jax.predict.prediction import predict_images
from uniemox_jax.runtime import sharding
from uniemox_jax.runtime.run_log import read_metrics
from uniemox_jax.train.checkpoint import load_checkpoint

pytestmark = pytest.mark.usefixtures('one_device')
SMALL = {'image_size': 32, 'patch_size': 8, 'width': 16, 'depth': 1, 'heads': 2}
LEARNER = {'image_size': 48, 'patch_size': 8, 'width': 64, 'depth': 2, 'heads': 4}
FEW = {'emotic': {'train': 48, 'val': 24, 'test': 32}, 'emotion6': {'train': 48}}


def records(folder: Path, sizes: dict[str, dict[str, int]]) -> str:
  for dataset, splits in sizes.items():
    datasets.write_dataset(folder / 'raw' / dataset, dataset, datasets.plan_images(dataset, splits, seed=0), {})
    build.build(dataset, folder / 'raw' / dataset, folder / 'data')
  return str(folder / 'data')


def _pictures_by_class(folder: Path, splits: tuple[str, ...]) -> Path:
  for split in splits:
    for index in range(16):
      path = folder / split / ('calm', 'tense')[index % 2] / f'{index}.png'
      path.parent.mkdir(parents=True, exist_ok=True)
      Image.fromarray(np.random.default_rng(index).integers(0, 256, (40, 40, 3), np.uint8)).save(path)
  return folder


def config_of(data_dir: str, dataset: str, **values: Any) -> ConfigDict:
  config = demo.get_config('finetune')
  config.data_dir, config.dataset, config.tasks, config.eval_every_epochs = data_dir, dataset, 'auto', 1
  config.update(values)
  return config


@pytest.fixture(scope='module')
def few(tmp_path_factory: pytest.TempPathFactory) -> str:
  return records(tmp_path_factory.mktemp('few'), FEW)


@pytest.fixture(scope='module')
def runs(few: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
  """Workdirs of a short run on every dataset; read only but for result files."""
  folder = tmp_path_factory.mktemp('runs')
  for dataset in FEW:
    config = config_of(few, dataset, batch_size=8, epochs=1)
    config.model.update(SMALL)
    finetune(config, str(folder / dataset))
  return {dataset: str(folder / dataset) for dataset in FEW}


@pytest.mark.parametrize(
    'dataset, names', [('emotic', ['labels', 'vad']), ('emotion6', ['label', 'distribution', 'vad'])])
def test_result_holds_every_task_that_the_records_have(runs, dataset, names):
  result = read_json(Path(runs[dataset], 'result.json'))
  assert list(result['tasks']) == names
  dimensions = [row['dimension'] for row in result['tasks']['vad']['per_dimension']]
  assert dimensions == ['valence', 'arousal', 'dominance'][:3 if dataset == 'emotic' else 2]
  line = next(line for line in read_metrics(runs[dataset]) if 'val_loss' in line)
  assert {f'val_{name}_loss' for name in names} <= line.keys()


@pytest.mark.slow
def test_evaluation_in_a_new_process_is_the_same_to_the_bit(runs):
  path = Path(runs['emotion6'], 'result.json')
  written = path.read_bytes()
  path.unlink()
  small_runs.finish(small_runs.start(['-m', 'uniemox_jax.evaluate', f'--workdir={runs["emotion6"]}']))
  assert path.read_bytes() == written


TWO_HOSTS = '''
import sys
import jax
jax.config.update('jax_cpu_collectives_implementation', 'gloo')
jax.distributed.initialize(sys.argv[1], 2, int(sys.argv[2]))
from uniemox_jax.eval.run_evaluation import evaluate
evaluate(sys.argv[3])
'''


def assert_close(ours: Any, theirs: Any, within: float = 1e-6) -> None:
  """The same structure and numbers: outputs of another topology differ in their last bits, correlations in more."""
  if isinstance(ours, dict):
    assert ours.keys() == theirs.keys()
    for name in ours:
      assert_close(ours[name], theirs[name], 1e-4 if {'ccc', 'pearson'} & set(name.split('_')) else within)
  elif isinstance(ours, list):
    for one, other in zip(ours, theirs, strict=True):
      assert_close(one, other, within)
  else:
    assert ours == (pytest.approx(theirs, abs=within) if isinstance(theirs, float) else theirs)


@pytest.mark.slow
@pytest.mark.parametrize('dataset', ['emotic', 'emotion6'])
def test_two_hosts_measure_what_one_measures(runs, dataset):
  path = Path(runs[dataset], 'result.json')
  alone = read_json(path)
  path.unlink()
  address = f'127.0.0.1:{small_runs.free_port()}'
  small_runs.finish(
      *(small_runs.start(['-c', TWO_HOSTS, address, rank, runs[dataset]], devices=4) for rank in range(2)))
  together = read_json(path)
  write_json(path, alone)
  assert_close(together, alone)


def test_metrics_of_a_run_are_scikit_learns_of_its_predictions(runs, few):
  checkpoint, classifier = load_trained(runs['emotic'])
  mesh = sharding.make_mesh()
  # 24 rows to a batch leave padding in the last.
  found = predict_split(
      classifier, sharding.replicate(checkpoint.params, mesh), open_split(few, 'emotic', 'test'), ['labels'],
      image_size=SMALL['image_size'], batch_size=24, mesh=mesh)
  present = read(open_split(few, 'emotic', 'test'))['labels']
  np.testing.assert_array_equal(found['labels'], present)
  result = read_json(Path(runs['emotic'], 'result.json'))['tasks']['labels']
  held = present.any(axis=0)
  scores = 1 / (1 + np.exp(-found['outputs'][:, :26].astype(np.float64)))
  assert result['map'] == pytest.approx(reference.average_precision_score(present[:, held], scores[:, held]), abs=1e-6)


def test_thresholds_of_test_are_those_of_val(runs):
  on_test = read_json(Path(runs['emotic'], 'result.json'))
  on_val = evaluate(runs['emotic'], 'val')
  rows = zip(on_test['tasks']['labels']['per_class'], on_val['tasks']['labels']['per_class'], strict=True)
  assert all(test['threshold'] == val['threshold'] for test, val in rows)


def test_predictions_are_on_the_scale_of_the_dataset(runs):
  images = np.random.default_rng(0).integers(0, 256, (3, 40, 50, 3), dtype=np.uint8)
  model = uniemox_jax.load_classifier(runs['emotion6'])
  predicted = model.predict(images)
  assert {name: values.shape for name, values in predicted.items()
         } == {'label': (3, 6), 'distribution': (3, 7), 'vad': (3, 2)}
  np.testing.assert_allclose(predicted['distribution'].sum(1), 1, rtol=1e-5)
  np.testing.assert_array_equal(model.predict_proba(images), predicted['label'])
  assert (predicted['vad'] > 1).all() and (predicted['vad'] < 9).all()


@pytest.mark.parametrize(
    'dataset, first', [('emotic', ['labels', 'p_Affection']), ('emotion6', ['label', 'probability'])])
def test_predict_writes_what_a_run_learnt(runs, few, tmp_path, dataset, first):
  images = Path(few).parent / 'raw' / dataset
  predict_images(runs[dataset], [str(images)], str(tmp_path / 'out.csv'))
  rows = rows_of(tmp_path / 'out.csv')
  assert list(rows[0])[1:3] == first
  names = [
      f"{'' if dataset == 'emotic' else 'distribution_'}p_{name}"
      for name in tasks.tasks_of(load_checkpoint(runs[dataset]).description)[0 if dataset == 'emotic' else 1].outputs]
  assert all(1 < float(row['valence']) < 10 and all(0 <= float(row[name]) <= 1 for name in names) for row in rows)
  if dataset == 'emotic':
    assert any(row['labels'] for row in rows)


def test_looking_at_other_tasks_shows_no_mistakes_and_explains_their_first_classes(runs, few, tmp_path):
  result = look(runs['emotic'], few, 'emotic', str(tmp_path), examples=2)
  assert result['skipped']['mistakes'] == 'the model predicts labels, vad, and no single label'
  assert list(result['pictures']['attention']['without']) == ['person']


def test_what_does_not_fit_is_refused_in_one_line(runs, few, tmp_path, command, capsys, assert_one_line):
  config = config_of(few, 'emotic', batch_size=8, epochs=1, tasks='label')
  with pytest.raises(UserError, match="task 'label' needs records with a label.*--config.tasks=labels.vad"):
    finetune(config, str(tmp_path / 'run'))
  config = config_of(few, 'emotic', batch_size=16, epochs=1, accum_steps=2, task_loss={'vad_form': 'ccc'})
  with pytest.raises(UserError, match='the loss ccc is of a whole batch.*--config.accum_steps=1'):
    finetune(config, str(tmp_path / 'run'))
  with pytest.raises(UserError, match='no single label: use predict'):
    uniemox_jax.load_classifier(runs['emotic']).predict_proba(np.zeros((1, 40, 40, 3), np.uint8))
  with pytest.raises(UserError, match='predicts labels, vad, and the classifiers of other libraries a single label'):
    export_torch(runs['emotic'], 'timm', str(tmp_path / 'out'))
  other = tmp_path / 'other'
  other.mkdir()
  write_json(other / 'config.json', read_json(Path(runs['emotic'], 'config.json')) | {'dataset': 'emotion6'})
  (other / 'checkpoints').symlink_to(Path(runs['emotic'], 'checkpoints'))
  code = command('uniemox_jax.evaluate', f'--workdir={other}')
  assert_one_line(code, capsys.readouterr().err, 'not what the checkpoints beside it were trained with', 'restore it')


def test_run_without_a_test_split_is_measured_on_val_and_says_so(tmp_path, capsys):
  build.build('folder', _pictures_by_class(tmp_path / 'raw', ('train', 'validation')), tmp_path / 'data', name='mine')
  config = config_of(str(tmp_path / 'data'), 'mine', tasks='label', batch_size=8, epochs=1, test_split='val')
  config.model.update(SMALL)
  result = finetune(config, str(tmp_path / 'run'))
  assert 'the result will be of val, on which choices are made too' in capsys.readouterr().out
  assert (result['dataset'], result['split'], result['examples']) == ('mine', 'val', 16)
  assert read_json(tmp_path / 'run' / 'result.json') == result
  (tmp_path / 'run' / 'result.json').unlink()
  assert evaluate(str(tmp_path / 'run')) == result and evaluate(str(tmp_path / 'run'), 'train')['split'] == 'train'
  assert read_json(tmp_path / 'run' / 'result.json') == result
  assert read_json(tmp_path / 'run' / 'result_train.json')['split'] == 'train'


def test_what_cannot_be_measured_is_refused_before_anything_is_trained(few, tmp_path, monkeypatch):
  for kept, lacking, remedy in (('train', 'val', 'move some images of train there'), ('val', 'test',
                                                                                      '--config.test_split=val')):
    build.build('folder', _pictures_by_class(tmp_path / 'raw', ('train', kept)), tmp_path / 'data', overwrite=True)
    with pytest.raises(UserError, match=f"folder has no split '{lacking}': choose from train.*{remedy}"):
      finetune(config_of(str(tmp_path / 'data'), 'folder', tasks='label', batch_size=8), str(tmp_path / 'run'))

  def without_vad(split):
    found = read(split)
    return found if split.name == 'train' else found | {'vad': np.full_like(found['vad'], np.nan)}

  monkeypatch.setattr(targets, 'read', without_vad)
  with pytest.raises(UserError, match="no example of split 'val' has a vad.*leave it out of --config.tasks"):
    finetune(config_of(few, 'emotic', batch_size=8), str(tmp_path / 'run'))
  assert not (tmp_path / 'run').exists()


def test_a_run_is_not_resumed_with_other_tasks(runs, few):
  config = config_of(few, 'emotic', batch_size=8, epochs=1, tasks='labels')
  config.model.update(SMALL)
  with pytest.raises(UserError, match='other values of tasks'):
    finetune(config, runs['emotic'])


@pytest.fixture(scope='module')
def many(tmp_path_factory: pytest.TempPathFactory) -> str:
  return records(tmp_path_factory.mktemp('many'), datasets.TASK_SPLITS)


MARGIN = {
    'label': ('balanced_accuracy', 0.15), 'labels': ('map', 0.08), 'distribution': ('kl', -0.15), 'vad': ('ccc', 0.3)}
"""By how much a metric beats the best constant prediction where a task was learnt."""


@pytest.mark.slow
@pytest.mark.parametrize(
    'dataset, asked, options', [
        ('emotion6', 'label', {}),
        ('emotion6', 'distribution', {}),
        ('emotion6', 'auto', {}),
        ('emotic', 'auto', {}),
        ('emotic', 'labels', {'labels_form': 'weighted_euclidean', 'class_weights': 'static'}),
        ('emotic', 'labels+vad', {'labels_form': 'weighted_euclidean', 'class_weights': 'dynamic', 'vad_form': 'ccc'}),
    ], ids=str)
def test_task_learns(many, tmp_path, dataset, asked, options):
  config = config_of(many, dataset, tasks=asked, batch_size=32, epochs=15, eval_every_epochs=5, task_loss=options)
  config.model.update(LEARNER)
  result = finetune(config, str(tmp_path))
  on_train, on_test = (read(open_split(many, dataset, split)) for split in ('train', 'test'))
  for task in tasks.tasks_of(load_checkpoint(str(tmp_path)).description):
    outputs = np.zeros((result['examples'], len(task.outputs)), np.float32)
    if task.name == 'distribution':
      outputs += np.log(on_train['distribution'].mean(axis=0) + 1e-9)
    constant, learnt = tasks.measure(task, outputs, on_test[task.name]), metrics_of(result, task)
    metric, margin = MARGIN[task.name]
    print(f'{task.name} by {task.loss}: {metric} {learnt[metric]:.4f}, of a constant {constant[metric] or 0:.4f}')
    assert np.sign(margin) * (learnt[metric] - (constant[metric] or 0.0)) > abs(margin)


@pytest.mark.parametrize(
    'remedy', [{'sampling': 'balanced'},
               pytest.param({'task_loss': {'class_weights': 'static'}}, marks=pytest.mark.slow)], ids=str)
def test_rare_classes_are_learned_with_either_remedy(tmp_path, remedy):
  for split, counts in {'train': (60, 4), 'val': (4, 4), 'test': (8, 8)}.items():
    for label, count in zip(('dark', 'light'), counts):
      (folder := tmp_path / 'raw' / split / label).mkdir(parents=True)
      for number in range(count):
        # Hardly apart: a model that only counts the classes says 'dark' of all.
        grey = np.random.default_rng(number).normal(118 if label == 'dark' else 138, 30, (40, 40, 3))
        Image.fromarray(grey.clip(0, 255).astype(np.uint8)).save(folder / f'{number}.png')
  build.build('folder', tmp_path / 'raw', tmp_path / 'data', max_rejects=0.0)
  config = config_of(str(tmp_path / 'data'), 'folder', tasks='label', batch_size=16, epochs=6)
  config.model.update(SMALL)
  config.update(remedy)
  result = finetune(config, str(tmp_path / 'run'))
  assert result['per_class'][1]['recall'] > 0.7
