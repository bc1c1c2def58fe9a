"""Measures a fine-tuned classifier on a split, from its checkpoint to its metrics."""

from collections.abc import Sequence
import functools
from typing import Any

from flax import nnx
import jax
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
import numpy as np

from data_pipelines.batches import augment
from data_pipelines.errors import UserError
from data_pipelines.records import reader, targets
from uniemox_jax.eval.split_outputs import Fields, split_outputs
from uniemox_jax.models.classifier import Classifier, stack_views
from uniemox_jax.models.preprocess import normalise
from uniemox_jax.models.view import View
from uniemox_jax.objectives.tasks import Task, is_single_label, measure, present, split_columns
from uniemox_jax.recognition.recogniser import evaluation_view_of
from uniemox_jax.train.checkpoint import Checkpoint
from uniemox_jax.train.open_model import open_student
from uniemox_jax.train.state import builder, graphdef_of

MAX_DOMAINS = 100
"""The most domains that are measured one by one; if there are more, they are something else, such as names of files."""


def load_trained(path: str) -> tuple[Checkpoint, nnx.GraphDef]:
  """Loads a fine-tuned checkpoint and its classifier.

  Raises:
    UserError: `path` is no checkpoint, or one without a classifier.
  """
  checkpoint = open_student(path)
  if checkpoint.description['kind'] != 'classifier':
    raise UserError(
        f'{path} holds a pretrained encoder without a classifier: fine-tune it first '
        f'(python -m uniemox_jax.finetune --config.init={path} …)')
  return checkpoint, graphdef_of(builder(Classifier, **checkpoint.description['model']))


@functools.partial(jax.jit, static_argnums=(0, 1))
def _outputs(classifier: nnx.GraphDef, view: View, params: dict[str, Any], views: Fields, fields: Fields) -> Fields:
  outputs_BxW = nnx.merge(classifier, params)(normalise(stack_views(views), view.mean, view.std))
  return jax.lax.with_sharding_constraint({'outputs': outputs_BxW, **fields}, P())


def predict_split(
    classifier: nnx.GraphDef, params: dict[str, Any], split: reader.Split, fields: Sequence[str], *, image_size: int,
    batch_size: int, mesh: Mesh, view: View | None = None, change: str = '') -> dict[str, np.ndarray]:
  """Computes `split_outputs` of a classifier: 'outputs' float32 (N, W), and the targets `fields`, named by task.

  Raises:
    UserError: a shard is damaged, or outputs are not finite.
    Preempted: SIGTERM came.
  """
  person = nnx.merge(classifier, params).view_count == 2
  view = view or evaluation_view_of(image_size)
  return split_outputs(
      functools.partial(_outputs, classifier, view, params), split, fields, image_size=image_size,
      batch_size=batch_size, mesh=mesh, person=person, view=functools.partial(augment.centre_view,
                                                                              **view.centre), change=change)


def predict_tasks(
    classifier: nnx.GraphDef, params: dict[str, Any], split: reader.Split, tasks: Sequence[Task],
    **options: Any) -> dict[str, np.ndarray]:
  """Computes `predict_split` with what a model's tasks need: 'outputs', and the targets, named by task.

  Args:
    classifier, params, split: as for `predict_split`; so are the `options`.
    tasks: the tasks that the head was made for.

  Raises:
    UserError: the split lacks what a task needs; or as for `predict_split`.
  """
  for task in tasks:
    if not set(task.outputs) <= set(targets.columns(split, task.name)):
      raise UserError(
          f"split '{split.name}' holds other {task.name} than the model predicts ({', '.join(task.outputs)}): "
          'evaluate it on its own dataset')
  return predict_split(classifier, params, split, [task.name for task in tasks], **options)


def measure_split(
    split: reader.Split, tasks: Sequence[Task], found: dict[str, np.ndarray],
    thresholds: Sequence[float | None] | None = None, by_domain: bool = False) -> dict[str, Any]:
  """Computes loss and metrics over a whole split, every example counted exactly once.

  Args:
    split, tasks: what was predicted.
    found: see `predict_tasks`.
    thresholds: for the task 'labels', chosen on val; None chooses them on this split.
    by_domain: whether to measure the examples of each domain by themselves, too, where the records name them.

  Returns:
    For a single 'label', what `tasks.measure` returns. Otherwise 'examples', 'loss' (the weighted sum), and under
    'tasks' what `measure` returns for each. With domains, under 'domains' their examples and single numbers.

  Raises:
    UserError: no example has what a task is measured by.
  """
  outputs = split_columns(found['outputs'], tasks)
  measured = {task.name: measure(task, outputs[task.name], found[task.name], thresholds) for task in tasks}
  domains = _measure_domains(split, tasks, outputs, found, thresholds) if by_domain else {}
  if is_single_label(tasks):
    return {**measured['label'], **domains}
  loss = sum(task.weight * measured[task.name]['loss'] for task in tasks)
  return {'examples': split.num_examples, 'loss': loss, 'tasks': measured, **domains}


def _measure_domains(
    split: reader.Split, tasks: Sequence[Task], outputs: dict[str, np.ndarray], found: dict[str, np.ndarray],
    thresholds: Sequence[float | None] | None) -> dict[str, Any]:
  """{'domains': domain -> examples, and task -> its single numbers}; {} where the records name none or one."""
  domain_N = split.domains()
  domains = np.unique(domain_N)
  if len(domains) > MAX_DOMAINS:
    print(f'{split.name} has {len(domains)} domains: too many to measure each', flush=True)
  if not 2 <= len(domains) <= MAX_DOMAINS:
    return {}
  measured: dict[str, Any] = {}
  for domain in domains.tolist():
    inside_N = domain_N == domain
    row: dict[str, Any] = {'examples': int(inside_N.sum())}
    for task in tasks:
      if present(task.name, found[task.name][inside_N]).any():
        values = measure(task, outputs[task.name][inside_N], found[task.name][inside_N], thresholds)
        row[task.name] = {name: value for name, value in values.items() if isinstance(value, float)}
    measured[domain or 'no domain'] = row
  return {'domains': measured}


def metrics_of(metrics: dict[str, Any], task: Task) -> dict[str, Any]:
  """One task's part of what `measure_split` returns."""
  return metrics['tasks'][task.name] if 'tasks' in metrics else metrics
