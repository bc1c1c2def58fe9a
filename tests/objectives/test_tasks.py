"""Tasks by their definitions: losses against SciPy, scikit-learn and torch, missing targets that count nowhere."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as reference
from sklearn.utils import class_weight

from data_pipelines.errors import UserError
from tests.support.steps import finetune_step
from uniemox_jax.models.classifier import Classifier
from uniemox_jax.objectives import metrics, tasks
from uniemox_jax.objectives.tasks import Task
from uniemox_jax.runtime import sharding
from uniemox_jax.train import optimizer
from uniemox_jax.train.settings import TaskLossSettings
from uniemox_jax.train.state import builder, create_state, graphdef_of, state_template

VAD = Task('vad', ('valence', 'arousal'), 'l2', mean=(5.0, 4.0), std=(2.0, 0.5))
EVERY = (
    Task('label', tuple('abcd'), 'cross_entropy',
         weight=0.5), Task('labels', tuple('pqr'), 'bce'), Task('distribution', tuple('stuvw'), 'kl'), VAD)
ROWS = 8


@pytest.fixture
def rng():
  return np.random.default_rng(0)


def draw_targets(rng, rows, missing=()):
  """Every field of a batch; the rows `missing` have none."""
  missing = list(missing)
  label = rng.integers(0, 4, rows, dtype=np.int32)
  labels = (rng.random((rows, 3)) < 0.4).astype(np.float32)
  labels[labels.sum(1) == 0, 0] = 1
  distribution = rng.dirichlet(np.ones(5), rows).astype(np.float32)
  vad = rng.normal(5, 2, (rows, 3)).astype(np.float32)
  label[missing], labels[missing], distribution[missing], vad[missing] = -1, 0, 0, np.nan
  return {'label': label, 'labels': labels, 'distribution': distribution, 'vad': vad}


def loss_of(task, outputs, target):
  """Mean over rows, as a training step takes it."""
  prepared, there = tasks.prepare_targets(task, jnp.asarray(target))
  return float(tasks.row_loss(task, jnp.asarray(outputs), prepared, tasks.row_weights(task, prepared, there)).mean())


def close(value):
  return pytest.approx(value, abs=1e-6, rel=1e-5)


def test_bce_is_torchs(rng):
  torch = pytest.importorskip('torch')
  target, logits = draw_targets(rng, 20)['labels'], rng.standard_normal((20, 3)).astype(np.float32)
  theirs = torch.nn.BCEWithLogitsLoss()(torch.tensor(logits), torch.tensor(target))
  assert loss_of(EVERY[1], logits, target) == close(float(theirs))


@pytest.mark.parametrize('weighting', ['static', 'dynamic'])
def test_weighted_euclidean_is_kostis_formula(rng, weighting):
  target, outputs = draw_targets(rng, 20)['labels'], rng.standard_normal((20, 3)).astype(np.float32)
  target[:, 1], target[:, 2] = 0, np.maximum(target[:, 2], 1 - target[:, 0])  # every example has a class
  shares = (0.5, 0.0, 0.2) if weighting == 'static' else target.mean(axis=0)
  task = Task(
      'labels', tuple('pqr'), 'weighted_euclidean', class_weights=weighting, shares=shares if weighting == 'static' else
      ())
  weights = [1 / np.log(1.2 + shares[0]), 1e-4, 1 / np.log(1.2 + shares[2])]  # no example has the second class
  wanted = np.mean([sum(w * (o - t)**2 for o, t, w in zip(outputs[i], target[i], weights)) for i in range(20)])
  assert loss_of(task, outputs, target) == close(wanted)


def test_kl_is_scipys(rng):
  target, logits = draw_targets(rng, 20)['distribution'], rng.standard_normal((20, 5)).astype(np.float32)
  target[:, 2] = 0  # Votes are often unanimous; printed shares need not sum to 1.
  predicted = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
  assert loss_of(EVERY[2], logits, target) == close(np.mean([stats.entropy(t, p) for t, p in zip(target, predicted)]))


def test_l2_is_scikit_learns_in_standard_deviations(rng):
  target, outputs = draw_targets(rng, 20)['vad'], rng.standard_normal((20, 2)).astype(np.float32)
  standard = (target[:, :2] - VAD.mean) / VAD.std
  assert loss_of(VAD, outputs, target) == close(reference.mean_squared_error(standard, outputs))


def test_ccc_loss_is_one_minus_the_metric(rng):
  target, outputs = draw_targets(rng, 20)['vad'], rng.standard_normal((20, 2)).astype(np.float32)
  task = dataclasses.replace(VAD, loss='ccc')
  measured = tasks.measure(task, outputs, target)
  assert loss_of(task, outputs, target) == close(measured['loss']) == close(1 - measured['ccc'])


@pytest.mark.parametrize('task', [*EVERY, dataclasses.replace(VAD, loss='ccc')], ids=lambda task: task.loss)
def test_missing_targets_count_nowhere(rng, task):
  target = draw_targets(rng, 12, missing=(2, 3, 11))[task.name]
  outputs = rng.standard_normal((12, len(task.outputs))).astype(np.float32)
  kept = np.delete(np.arange(12), (2, 3, 11))
  assert loss_of(task, outputs, target) == close(loss_of(task, outputs[kept], target[kept]))
  assert tasks.measure(task, outputs, target) == tasks.measure(task, outputs[kept], target[kept])
  nothing = draw_targets(rng, 12, missing=range(12))[task.name]
  assert loss_of(task, outputs, nothing) == 0
  with pytest.raises(UserError, match=f'no example of this split has a {task.name}'):
    tasks.measure(task, outputs, nothing)


def test_one_missing_dimension_leaves_the_others(rng):
  target, outputs = draw_targets(rng, 12)['vad'], rng.standard_normal((12, 2)).astype(np.float32)
  target[:4, 1] = np.nan
  valence, arousal = (
      Task('vad', (name,), 'l2', mean=(mean,), std=(std,)) for name, mean, std in zip(VAD.outputs, VAD.mean, VAD.std))
  assert loss_of(VAD, outputs, target) == close(
      (loss_of(valence, outputs[:, :1], target) + loss_of(arousal, outputs[4:, 1:], target[4:])) / 2)


def step_with(rng, devices=1, **options):
  mesh = sharding.make_mesh(devices=jax.devices()[:devices])
  build = builder(Classifier, image_size=32, patch_size=8, width=24, depth=2, heads=2, classes=tasks.width(EVERY))
  tx = optimizer.adamw(lambda step: 1e-3)
  state = create_state(state_template(build, tx, mesh), build, tx, seed=0)
  batch = {'image': rng.integers(0, 256, (ROWS, 32, 32, 3), dtype=np.uint8)} | draw_targets(rng, ROWS, missing=(1, 6))
  step = finetune_step(graphdef_of(build), tx, EVERY, **options)
  with jax.set_mesh(mesh):
    new, values = jax.jit(step)(state, (), sharding.global_batch(batch, mesh), jax.random.key(0))
  return jax.device_get(values), jax.device_get(new.params['head'])


@pytest.fixture(scope='module')
def whole():
  """A step on one device in one micro-batch."""
  return step_with(np.random.default_rng(0), drop_path=0.3)


def test_losses_are_summed_with_their_weights(whole):
  values, _ = whole
  assert values['loss'] == close(0.5 * values['cross_entropy'] + values['bce'] + values['kl'] + values['l2'])


@pytest.mark.parametrize(
    'accum_steps, devices', [(2, 4), *(pytest.param(*alone, marks=pytest.mark.slow) for alone in ((4, 1), (1, 8)))])
def test_accumulation_and_devices_change_nothing_where_targets_are_missing(whole, accum_steps, devices):
  values, head = whole
  parts, head_of_parts = step_with(np.random.default_rng(0), devices, drop_path=0.3, accum_steps=accum_steps)
  for name in ('loss', 'cross_entropy', 'bce', 'kl', 'l2'):
    assert parts[name] == pytest.approx(values[name], rel=1e-5)
  for name, mine in head.items():
    np.testing.assert_allclose(head_of_parts[name], mine, rtol=1e-4, atol=1e-6)


def chosen(asked, targets, **options):
  columns = {'label': 'abcd', 'labels': 'pqr', 'distribution': 'stuvw', 'vad': tasks.VAD}
  return tasks.choose_tasks(asked, columns, targets, dataclasses.asdict(TaskLossSettings(**options)))


def test_auto_takes_what_the_records_hold_and_standardises_what_is_annotated(rng):
  targets = draw_targets(rng, 30, missing=(4, 5))
  targets['labels'][:], targets['vad'][:, 2] = 0, np.nan
  label, distribution, vad = chosen('auto', targets, vad=2.0)
  assert [task.name for task in (label, distribution, vad)] == ['label', 'distribution', 'vad']
  assert vad.outputs == ('valence', 'arousal') and vad.weight == 2.0
  outputs = np.zeros((30, 2), np.float32)
  np.testing.assert_allclose(tasks.predict(vad, outputs)[0], np.nanmean(targets['vad'][:, :2], axis=0), rtol=1e-6)


def test_static_weights_come_from_the_shares_in_train(rng):
  targets = draw_targets(rng, 30, missing=(4, 5))
  task, = chosen('labels', targets, class_weights='static')
  np.testing.assert_allclose(task.shares, targets['labels'].sum(0) / 28, rtol=1e-6)


@pytest.mark.parametrize('weighting', ['static', 'dynamic'])
def test_balanced_cross_entropy_is_torchs_with_scikit_learns_weights(rng, weighting):
  torch = pytest.importorskip('torch')
  target = np.repeat(np.arange(3), (2, 5, 13)).astype(np.int32)
  logits = rng.standard_normal((20, 4)).astype(np.float32)
  options = dataclasses.asdict(TaskLossSettings()) | {'class_weights': weighting}
  fields = draw_targets(rng, 20) | {'label': target}
  (task,) = tasks.choose_tasks('label', {'label': tuple('abcd')}, fields, options)
  weight = class_weight.compute_class_weight('balanced', classes=np.arange(3), y=target) * 3 / 4
  theirs = torch.nn.functional.cross_entropy(torch.tensor(logits), torch.tensor(target).long(), reduction='none')
  assert loss_of(task, logits, target) == close(float((theirs.numpy() * weight[target]).mean()))
  assert (len(task.shares), task.shares[3:]) == ((4, (0.0,)) if weighting == 'static' else (0, ()))


def test_a_task_survives_its_checkpoint(rng):
  run_tasks = chosen('auto', draw_targets(rng, 30), class_weights='static')
  description = json.loads(json.dumps({'tasks': [dataclasses.asdict(task) for task in run_tasks]}))
  assert tasks.tasks_of(description) == run_tasks and hash(run_tasks)
  assert tasks.tasks_of({'labels': ['a', 'b']}) == (tasks.single_label_task(['a', 'b']),)


@pytest.mark.parametrize(
    'asked, options, said', [
        ('mood', {}, "'tasks' is 'mood': choose auto, or join some of label, labels, distribution, vad with +"),
        ('label+label', {}, r"'tasks' is 'label\+label'"),
        (
            'label+distribution', {},
            "task 'distribution' needs records with a distribution, .* choose --config.tasks=label"),])
def test_mistakes_are_named(rng, asked, options, said):
  targets = draw_targets(rng, 10)
  targets['distribution'][:] = 0
  with pytest.raises(UserError, match=said) as error:
    chosen(asked, targets, **options)
  assert '\n' not in str(error.value)


def test_thresholds_of_val_are_used_as_they_are(rng):
  target, scores = draw_targets(rng, 40)['labels'], rng.standard_normal((40, 3)).astype(np.float32)
  own = tasks.measure(EVERY[1], scores, target)
  given = tasks.measure(EVERY[1], scores, target, thresholds=[0.9, None, 0.1])
  assert [row['threshold'] for row in given['per_class']] == [0.9, None, 0.1]
  assert given['map'] == own['map'] and given['per_class'][1]['recall'] == 0
  predicted = metrics.ACTIVATIONS['sigmoid'](scores.astype(np.float64))
  assert given['per_class'][0]['recall'] == pytest.approx(
      reference.recall_score(target[:, 0], predicted[:, 0] >= 0.9, zero_division=0))
