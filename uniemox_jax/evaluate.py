"""Evaluates what a fine-tuning run left: python -m uniemox_jax.evaluate --workdir=DIR [--split=test].

On another dataset, by a map of labels: --dataset=OTHER --label_map=NAME_OR_FILE (docs/protocols.md).
"""

from collections.abc import Sequence
import functools
import os
from typing import Any

from absl import flags
from flax import nnx
import jax
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
import numpy as np

from data_pipelines.errors import UserError
from data_pipelines.records import manifest, reader, targets
from uniemox_jax.eval import label_maps
from uniemox_jax.eval.split_outputs import split_outputs
from uniemox_jax.models.classifier import Classifier, stack_views
from uniemox_jax.models.preprocess import normalise
from uniemox_jax.objectives.tasks import KINDS, Task, is_single_label, measure, single_label, split_columns, tasks_of
from uniemox_jax.runtime import cli, sharding
from uniemox_jax.runtime.distributed import is_primary
from uniemox_jax.runtime.files import exists, read_json, write_json
from uniemox_jax.train.checkpoint import Checkpoint, load_checkpoint
from uniemox_jax.train.kept_config import config_hash
from uniemox_jax.train.state import builder, graphdef_of


@functools.partial(jax.jit, static_argnums=0)
def _outputs(
    classifier: nnx.GraphDef, params: dict[str, Any], views: dict[str, jax.Array],
    fields: dict[str, jax.Array]) -> dict[str, jax.Array]:
  """The outputs of a batch and its other fields, whole on every host."""
  outputs_BxW = nnx.merge(classifier, params)(normalise(stack_views(views)))
  return jax.lax.with_sharding_constraint({'outputs': outputs_BxW, **fields}, P())


def predict_split(
    classifier: nnx.GraphDef, params: dict[str, Any], split: reader.Split, fields: Sequence[str], *, image_size: int,
    batch_size: int, mesh: Mesh) -> dict[str, np.ndarray]:
  """'outputs' float32 (N, W) and the asked `fields`, targets of tasks, of every example, in order, on every host.

  Raises:
    Preempted: SIGTERM came.
  """
  person = nnx.merge(classifier, params).streams == 2
  return split_outputs(
      functools.partial(_outputs, classifier, params), split, fields, image_size=image_size, batch_size=batch_size,
      mesh=mesh, person=person)


def evaluate_params(
    classifier: nnx.GraphDef, params: dict[str, Any], split: reader.Split, tasks: Sequence[Task], *, image_size: int,
    batch_size: int, mesh: Mesh, thresholds: Sequence[float | None] | None = None) -> dict[str, Any]:
  """Loss and metrics of a classifier over a whole split, every example counted exactly once.

  Args:
    classifier, params, mesh: the model and where it runs.
    split: the records.
    tasks: whose columns the model's head has.
    image_size, batch_size: of the batches.
    thresholds: of the task 'labels', chosen on val; None chooses them on this split.

  Returns:
    What `tasks.measure` gives of a single 'label'; else examples, loss (the weighted sum) and the same by task under
    'tasks'.

  Raises:
    UserError: the split lacks what a task needs.
  """
  for task in tasks:
    if not set(task.outputs) <= set(targets.columns(split, task.name)):
      raise UserError(
          f"split '{split.name}' holds other {task.name} than the model predicts ({', '.join(task.outputs)}"
          '): evaluate it on its own dataset')
  found = predict_split(
      classifier, params, split, [task.name for task in tasks], image_size=image_size, batch_size=batch_size, mesh=mesh)
  outputs = split_columns(found['outputs'], tasks)
  measured = {task.name: measure(task, outputs[task.name], found[task.name], thresholds) for task in tasks}
  if is_single_label(tasks):
    return measured['label']
  loss = sum(task.weight * measured[task.name]['loss'] for task in tasks)
  return {'examples': split.num_examples, 'loss': loss, 'tasks': measured}


def measured_of(metrics: dict[str, Any], task: Task) -> dict[str, Any]:
  """One task's part of what `evaluate_params` returns."""
  return metrics['tasks'][task.name] if 'tasks' in metrics else metrics


def load_trained(path: str) -> tuple[Checkpoint, nnx.GraphDef]:
  """A fine-tuned checkpoint and its classifier.

  Raises:
    UserError: not a checkpoint, or one without a classifier.
  """
  checkpoint = load_checkpoint(path)
  if checkpoint.description['kind'] != 'classifier':
    raise UserError(
        f'{path} holds a pretrained encoder without a classifier: fine-tune it first '
        f'(python -m uniemox_jax.finetune --config.init={path} …)')
  return checkpoint, graphdef_of(builder(Classifier, **checkpoint.description['model']))


def tell_persons(split: reader.Split, name: str) -> int:
  """Says for a model of scene and person in how many pictures of the whole split `name` the scene stands in for the
  person, and returns how many show one."""
  found = manifest.read_manifest(split.folder)['splits'][name]
  print(
      f"persons: {found['with_person']} of the {found['examples']} pictures of {name} show one; in the others the "
      'scene stands in', flush=True)
  return found['with_person']


def _read_config(workdir: str) -> dict[str, Any]:
  path = os.path.join(workdir, 'config.json')
  if not exists(path):
    raise UserError(f'{workdir} has no config.json: give the --workdir of a fine-tuning run, not a step folder')
  return read_json(path)


def evaluate(workdir: str, split_name: str = 'test', data_dir: str | None = None) -> dict[str, Any]:
  """Evaluates the best checkpoint of a fine-tuning run and writes result.json (result_val.json for val).

  Args:
    workdir: of the run.
    split_name: 'test', 'val' or 'train'.
    data_dir: where the records lie, if no longer where the run read them.

  Returns:
    What result.json holds: dataset, split, every metric, checkpoint_step, config_hash. Nothing depends on the clock.

  Raises:
    UserError: no such run, records or split.
  """
  checkpoint, classifier = load_trained(workdir)
  config = _read_config(workdir)
  split = reader.open_split(data_dir or config['data_dir'], config['dataset'], split_name)
  if list(split.labels) != checkpoint.description['labels']:
    raise UserError(
        f"{config['dataset']} has the labels {', '.join(split.labels)}; the checkpoint was trained with "
        f"{', '.join(checkpoint.description['labels'])}: evaluate it on its own dataset")
  if checkpoint.description['model'].get('streams', 'scene') != 'scene':
    tell_persons(split, split_name)
  mesh, tasks = sharding.make_mesh(**config['mesh']), tasks_of(checkpoint.description)
  measure_on = functools.partial(
      evaluate_params, classifier, sharding.replicate(checkpoint.params, mesh), tasks=tasks,
      image_size=config['model']['image_size'], batch_size=config['batch_size'], mesh=mesh)
  thresholds = None
  if split_name != 'val' and any(task.name == 'labels' for task in tasks):
    val = measure_on(reader.open_split(data_dir or config['data_dir'], config['dataset'], 'val'))
    thresholds = [row['threshold'] for row in val['tasks']['labels']['per_class']]
  metrics = measure_on(split, thresholds=thresholds)
  result = {
      'dataset': config['dataset'], 'split': split_name, 'init': config['init'], 'checkpoint_step': checkpoint.step,
      'config_hash': config_hash(config), **metrics
  }
  if is_primary():
    name = 'result.json' if split_name == 'test' else f'result_{split_name}.json'
    write_json(os.path.join(workdir, name), result)
  return result


def evaluate_on(
    workdir: str, dataset: str, label_map: str | None = None, split_name: str = 'test',
    data_dir: str | None = None) -> dict[str, Any]:
  """Evaluates a fine-tuning run on another dataset, and writes result_DATASET[_SPLIT][_MAP].json.

  Probabilities of classes that share a target are summed; those of classes that the map leaves out are not counted,
  and the rest is scaled to 1. Pictures whose class the map leaves out do not count, and are named.

  Args:
    workdir: of the run.
    dataset: whose pictures.
    label_map: see `label_maps.load_label_map`; None where both have the same classes.
    split_name, data_dir: as for `evaluate`.

  Returns:
    What the file holds: as `evaluate`, and trained_on, label_map and left_out, examples by class.

  Raises:
    UserError: no such run, records, split or map; a map that does not fit; or the model predicts no single label.
  """
  checkpoint, classifier = load_trained(workdir)
  config, tasks = _read_config(workdir), tasks_of(checkpoint.description)
  known = next((task.outputs for task in tasks if task.name == 'label'), None)
  if known is None:
    raise UserError(
        f'{workdir} predicts {", ".join(task.name for task in tasks)} and no single label: evaluate it on '
        'its own dataset')
  chosen = None if label_map is None else label_maps.load_label_map(label_map)
  split = reader.open_split(data_dir or config['data_dir'], dataset, split_name)
  bound = label_maps.bind(chosen, known, split.labels)
  if checkpoint.description['model'].get('streams', 'scene') != 'scene':
    tell_persons(split, split_name)
  mesh = sharding.make_mesh(**config['mesh'])
  found = predict_split(
      classifier, sharding.replicate(checkpoint.params, mesh), split, ['label'], mesh=mesh,
      image_size=config['model']['image_size'], batch_size=config['batch_size'])
  logits_NxT = label_maps.mapped_logits(split_columns(found['outputs'], tasks)['label'], bound)
  label_N, left_out = label_maps.mapped_labels(found['label'], bound, split.labels)
  print(label_maps.describe_left_out(left_out, split.num_examples), flush=True)
  result = {
      'dataset': dataset, 'split': split_name, 'init': config['init'], 'checkpoint_step': checkpoint.step,
      'config_hash': config_hash(config), 'trained_on': config['dataset'], 'label_map': chosen and chosen.name,
      'left_out': left_out, **measure(single_label(bound.classes), logits_NxT.astype(np.float32), label_N)
  }
  if is_primary():
    parts = ['result', dataset, *([split_name] if split_name != 'test' else []), *([chosen.name] if chosen else [])]
    write_json(os.path.join(workdir, f'{"_".join(parts)}.json'), result)
  return result


def describe(result: dict[str, Any]) -> str:
  """One line for people."""
  if 'tasks' not in result:
    said = f"top-1 {result['top1']:.4f}, top-3 {result['top3']:.4f}, macro-F1 {result['macro_f1']:.4f}"
  else:
    said = ', '.join(
        f'{name} {KINDS[name].score} {measured[KINDS[name].score] or 0:.4f}'
        for name, measured in result['tasks'].items())
  return (
      f"{result['dataset']} {result['split']}: {said} over {result['examples']} examples "
      f"(step {result['checkpoint_step']})")


def main() -> None:
  """Entry point after flags are parsed."""
  values = flags.FLAGS
  if values.dataset is None:
    if values.label_map is not None:
      raise UserError('--label_map is for another dataset: add --dataset=NAME')
    result = evaluate(values.workdir, values.split, values.data_dir)
  else:
    result = evaluate_on(values.workdir, values.dataset, values.label_map, values.split, values.data_dir)
  print(describe(result), flush=True)


if __name__ == '__main__':
  cli.define_workdir()
  cli.define_multihost()
  flags.DEFINE_enum('split', 'test', ['train', 'val', 'test'], 'Which split.')
  flags.DEFINE_string('data_dir', None, 'Folder of the records, if not the one the run was trained from.')
  flags.DEFINE_string('dataset', None, "Another dataset than the run's own.")
  flags.DEFINE_string('label_map', None, 'Of labels to those of --dataset: the name of a shipped map, or FILE.json.')
  cli.run(main)
