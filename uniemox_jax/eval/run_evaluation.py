"""Measures what a fine-tuning run left: on its own data set, on changed images, on another data set by a label map."""

from collections.abc import Iterator
import os
from typing import Any

from data_pipelines.errors import UserError
from data_pipelines.plain_text import visible
from data_pipelines.records import reader
from data_pipelines.storage import parsing
from uniemox_jax.convert import shared_model
from uniemox_jax.eval.ambiguity import measure_ambiguity, read_truths
from uniemox_jax.eval.changed_images import changes_of, describe_change, report_persons
from uniemox_jax.eval.kept_outputs import example_keys, keep_outputs
from uniemox_jax.eval.result_file import result_path, write_result
from uniemox_jax.eval.trained_classifier import (
    load_trained,
    measure_split,
    metrics_of,
    predict_split,
    predict_tasks,
)
from uniemox_jax.eval.transfer import Transfer, classes_of, measure_transfer, open_transfer
from uniemox_jax.objectives.tasks import KINDS, split_columns, tasks_of
from uniemox_jax.recognition.recogniser import view_of
from uniemox_jax.runtime import sharding
from uniemox_jax.train.data_splits import fold_of, open_part
from uniemox_jax.train.run_folder import config_hash, read_kept_config


class _FinetunedRun:
  """The best checkpoint of a fine-tuning run, its model, and the run's config.

  final_split: whose result is result.json; on_split: what `predict_split` takes besides the split and what to predict.
  """

  def __init__(self, workdir: str):
    """Raises UserError where the workdir is not of a fine-tuning run."""
    self.checkpoint, classifier = load_trained(workdir)
    self.config = read_kept_config(workdir, self.checkpoint.description)
    self.final_split: str = self.config.get('test_split', 'test')
    self.tasks = tasks_of(self.checkpoint.description)
    if self.config.get('model_type') == shared_model.MODEL_TYPE:
      raise UserError(
          f'{workdir} is a shared model, whose run and records are not in it: give the run, or predict with it')
    with parsing(os.path.join(workdir, 'config.json')):
      mesh = sharding.make_mesh(**self.config['mesh'])
      self.on_split: dict[str, Any] = {
          'classifier': classifier, 'params': sharding.replicate(self.checkpoint.params, mesh), 'mesh': mesh,
          'image_size': self.config['model']['image_size'], 'batch_size': self.config['batch_size'],
          'view': view_of(self.checkpoint.description)}

  def report_persons(self, split: reader.Split) -> None:
    """See `changed_images.report_persons`; nothing for a model of the scene alone."""
    if self.checkpoint.description['model'].get('streams', 'scene') != 'scene':
      report_persons(split)

  @property
  def identity(self) -> dict[str, Any]:
    """What `write_result` says of the run."""
    return {
        'init': self.config['init'], 'checkpoint_step': self.checkpoint.step, 'config_hash': config_hash(self.config)}


def evaluate(workdir: str, split_name: str | None = None, data_dir: str | None = None) -> dict[str, Any]:
  """Evaluates the best checkpoint of a fine-tuning run and writes result.json (result_SPLIT.json for another split).

  Beside result.json, the outputs of every example stay in outputs.npz, see `kept_outputs`.

  `split_name` is 'test', 'val' or 'train'; None for the one that the run's config takes as test. `data_dir` is for
  records that no longer lie where the run read them.

  Returns:
    The content of result.json: dataset, split, every metric, checkpoint_step, config_hash. Nothing depends on the
    clock.

  Raises:
    UserError: there is no such run, no such records or split.
  """
  return next(evaluations(workdir, split_name, data_dir))


def evaluations(workdir: str, split_name: str | None = None, data_dir: str | None = None,
                test_changes: str = '') -> Iterator[dict[str, Any]]:
  """Does what `evaluate` does, and then the same on changed images, with result_CHANGE.json and outputs_CHANGE.npz.

  Args:
    workdir, split_name, data_dir: as for `evaluate`.
    test_changes: the changes joined by +, see `image_changes.read_changes`.

  Yields:
    The content of each file when it is written; for changed images, also what `describe_change` says.

  Raises:
    UserError: as `evaluate`; or a change is unknown, or needs persons where there are none.
  """
  run = _FinetunedRun(workdir)
  split_name = split_name or run.final_split
  dataset, trained_labels = run.config['dataset'], run.checkpoint.description['labels']
  records = run.config | ({'data_dir': data_dir} if data_dir else {})
  split = open_part(records, split_name, tested=split_name == run.final_split)
  if list(split.labels) != trained_labels:
    raise UserError(
        f"{dataset} has the labels {', '.join(split.labels)}; the checkpoint was trained with "
        f"{', '.join(trained_labels)}: evaluate it on its own dataset")
  changes = changes_of(test_changes, split)
  run.report_persons(split)
  thresholds = None
  if split_name != 'val' and any(task.name == 'labels' for task in run.tasks):
    val_split = open_part(records, 'val', tested=False)
    val = measure_split(val_split, run.tasks, predict_tasks(split=val_split, tasks=run.tasks, **run.on_split))
    thresholds = [row['threshold'] for row in val['tasks']['labels']['per_class']]
  truths = read_truths(split)
  for change in ('', *changes):
    said = describe_change(change, split)
    found = predict_tasks(split=split, tasks=run.tasks, change=change, **run.on_split)
    measured = measure_split(split, run.tasks, found, thresholds, by_domain=True)
    ambiguity = measure_ambiguity(run.tasks, found['outputs'], truths)
    for task in run.tasks:
      metrics_of(measured, task).update(ambiguity.get(task.name, {}))
    if split_name == run.final_split:
      keep_outputs(workdir, config_hash(run.config), example_keys(split), run.tasks, found, truths, change)
    path = result_path(workdir, split_name, final=run.final_split, change=change)
    yield write_result(
        path, dataset=dataset, split=split_name, **run.identity, **measured, **fold_of(run.config), **said)


def evaluate_on(
    workdir: str, dataset: str, label_map: str | None = None, split_name: str = 'test',
    data_dir: str | None = None) -> dict[str, Any]:
  """Evaluates a fine-tuning run on another dataset, and writes result_DATASET[_SPLIT][_MAP].json.

  Args:
    workdir, split_name, data_dir: as for `evaluate`.
    dataset: the other dataset.
    label_map: see `label_maps.load_label_map`; None if both have the same classes.

  Returns:
    What `measure_transfer` returns.

  Raises:
    UserError: there is no such run, records, split or map; the map does not fit; or the model has no single label.
  """
  run = _FinetunedRun(workdir)
  transfer = Transfer(dataset, label_map)
  opened = open_transfer(transfer, data_dir or run.config['data_dir'], classes_of(run.tasks), split_name)
  run.report_persons(opened.split)
  found = predict_split(split=opened.split, fields=['label'], **run.on_split)
  return measure_transfer(
      opened,
      split_columns(found['outputs'], run.tasks)['label'], found['label'], workdir, trained_on=run.config['dataset'],
      **run.identity)


def describe_domains(result: dict[str, Any]) -> str:
  """Writes a line for each domain, the one with the worst first task first; '' without domains."""
  lines = []
  for domain, measured in result.get('domains', {}).items():
    scores = {name: measured[name].get(KINDS[name].score) for name in KINDS if name in measured}
    known = {name: value for name, value in scores.items() if value is not None}
    first = next((KINDS[name].direction * value for name, value in known.items()), 0)
    said = ', '.join(f'{name} {KINDS[name].score} {value:.4f}' for name, value in known.items())
    lines.append((first, visible(f'  {domain}: {said} over {measured["examples"]} examples')))
  return '\n'.join(line for _, line in sorted(lines))


def describe_result(result: dict[str, Any]) -> str:
  """Puts a result into one line for people."""
  if 'tasks' not in result:
    scores = f"top-1 {result['top1']:.4f}, top-3 {result['top3']:.4f}, macro-F1 {result['macro_f1']:.4f}"
    if 'macro_f1_present' in result:
      scores += f" ({result['macro_f1_present']:.4f} over the classes that the split has)"
  else:
    scores = ', '.join(
        f'{name} {KINDS[name].score} {measured[KINDS[name].score] or 0:.4f}'
        for name, measured in result['tasks'].items())
  change = f", {result['test_change']}" if 'test_change' in result else ''
  return (
      f"{result['dataset']} {result['split']}{change}: {scores} over {result['examples']} examples "
      f"(step {result['checkpoint_step']})")
