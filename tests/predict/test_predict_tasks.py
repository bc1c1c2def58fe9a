"""`predict` of models of every task: columns that `docs/predict.md` names, numbers that the Python API gives."""

import dataclasses
import json
from pathlib import Path

import jax
import numpy as np
from PIL import Image
import pytest

from tests.support.predictions import SMALL, draw, rows_of
import uniemox_jax
from uniemox_jax.models.classifier import Classifier
from uniemox_jax.objectives.tasks import Task, width
from uniemox_jax.predict.prediction import predict_images
from uniemox_jax.train.checkpoint import load_checkpoint, save_weights
from uniemox_jax.train.state import builder, initial_params

LABEL = Task('label', ('awe', 'fear'), 'cross_entropy')
LABELS = Task('labels', ('Peace', 'Doubt/Confusion', 'Anger'), 'bce')
SHARES = Task('distribution', ('awe', 'fear', 'neutral'), 'kl')
VAD = Task('vad', ('valence', 'dominance'), 'l2', mean=(5.0, 4.0), std=(1.5, 2.0))


def save(folder: Path, tasks: list[Task]) -> str:
  model = SMALL | {'classes': width(tasks)}
  params = jax.device_get(initial_params(builder(Classifier, **model), 0))
  params['head']['kernel'] = 0.3 * np.random.default_rng(0).normal(size=(16, width(tasks))).astype(np.float32)
  save_weights(
      str(folder), params, {
          'kind': 'classifier', 'model': model, 'labels': list(tasks[0].outputs), 'tasks': [
              dataclasses.asdict(task) for task in tasks]})
  return str(folder)


def predicted(folder: Path, tasks: list[Task]) -> tuple[list[dict[str, str]], dict[str, np.ndarray]]:
  """The rows of the table, and what the Python API gives."""
  paths = draw(folder / 'images', 12)
  checkpoint = folder / 'run' if (folder / 'run').exists() else save(folder / 'run', tasks)
  predict_images(str(checkpoint), paths, str(folder / 'out.csv'))
  pixels = np.stack([np.asarray(Image.open(path)) for path in paths])
  return rows_of(folder / 'out.csv'), uniemox_jax.load_classifier(str(checkpoint)).predict(pixels)


@pytest.mark.parametrize(('tasks', 'columns', 'numbers'), [
    ([LABEL, VAD], ['label', 'probability', 'p_awe', 'p_fear', 'valence', 'dominance'], {
        'label': ['p_awe', 'p_fear'], 'vad': ['valence', 'dominance']}),
    ([SHARES], ['p_awe', 'p_fear', 'p_neutral'], {'distribution': ['p_awe', 'p_fear', 'p_neutral']}),
    ([LABELS], ['p_Peace', 'p_Doubt/Confusion', 'p_Anger'], {'labels': ['p_Peace', 'p_Doubt/Confusion', 'p_Anger']}),
    ([VAD], ['valence', 'dominance'], {'vad': ['valence', 'dominance']}),
    ([LABEL, SHARES, VAD], [
        'label', 'probability', 'p_awe', 'p_fear', 'distribution_p_awe', 'distribution_p_fear',
        'distribution_p_neutral', 'valence', 'dominance'], {
            'label': ['p_awe', 'p_fear'], 'vad': ['valence', 'dominance'], 'distribution': [
                'distribution_p_awe', 'distribution_p_fear', 'distribution_p_neutral']}),],
                         ids=['label+vad', 'distribution', 'labels', 'vad', 'all'])
def test_every_task_has_its_columns_on_the_scale_of_the_python_api(tmp_path, tasks, columns, numbers):
  rows, theirs = predicted(tmp_path, tasks)
  assert list(rows[0]) == ['path', *columns, 'error']
  assert len(rows) == 12 and not any(row['error'] for row in rows)
  for name, headings in numbers.items():
    ours = [[float(row[heading]) for heading in headings] for row in rows]
    np.testing.assert_allclose(ours, theirs[name], atol=0.05 if name == 'vad' else 0.01)


def test_labels_are_chosen_by_the_thresholds_of_the_run(tmp_path):
  run = save(tmp_path / 'run', [LABELS, VAD])
  thresholds = {'Peace': 0.5, 'Doubt/Confusion': None, 'Anger': 0.2}
  per_class = [{'label': name, 'threshold': threshold} for name, threshold in thresholds.items()]
  result = {'checkpoint_step': load_checkpoint(run).step, 'tasks': {'labels': {'per_class': per_class}}}
  (tmp_path / 'run' / 'result.json').write_text(json.dumps(result))
  rows, _ = predicted(tmp_path, [LABELS, VAD])
  assert list(rows[0])[:2] == ['path', 'labels']
  for row in rows:
    chosen = [name for name, threshold in thresholds.items() if threshold and float(row[f'p_{name}']) >= threshold]
    assert row['labels'] == ';'.join(chosen)
  assert len({row['labels'] for row in rows}) > 1


def test_thresholds_of_another_step_choose_nothing(tmp_path):
  run = save(tmp_path / 'run', [LABELS])
  per_class = [{'label': name, 'threshold': 0.1} for name in LABELS.outputs]
  result = {'checkpoint_step': load_checkpoint(run).step + 1, 'tasks': {'labels': {'per_class': per_class}}}
  (tmp_path / 'run' / 'result.json').write_text(json.dumps(result))
  rows, _ = predicted(tmp_path, [LABELS])
  assert 'labels' not in rows[0]
