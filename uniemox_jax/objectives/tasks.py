"""Tasks: what the fine-tuned model predicts of a record, by which loss, and how that is measured (docs/tasks.md).

A task is named after the record's field that holds its target. The classifier's one linear head has the columns of all
tasks side by side, in their order, which is the same as a head for each.
"""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from data_pipelines.errors import UserError
from data_pipelines.plain_text import check_distinct
from uniemox_jax.objectives import losses, metrics
from uniemox_jax.objectives.regularisation import smooth_labels

Loss = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]

LOSSES: dict[str, tuple[Loss, str]] = {
    'cross_entropy': (losses.cross_entropy, 'softmax'), 'bce': (losses.binary_cross_entropy, 'sigmoid'),
    'weighted_euclidean': (losses.weighted_euclidean, 'identity'), 'kl': (losses.kl_divergence, 'softmax'),
    'l2': (losses.squared_error, 'identity'), 'ccc': (losses.one_minus_ccc, 'identity')}
"""The losses by name, each with the function that turns its outputs into predictions."""


class Kind(NamedTuple):
  """What holds for every task of a field.

  losses: the names of its losses, the default first. score: the metric that scores an epoch. direction: 1 if more of
  that is better, else -1. options: keys of the config's `task_loss` that only this task reads, beside its weight.
  """

  losses: tuple[str, ...]
  score: str
  direction: int
  options: tuple[str, ...] = ()


KINDS = {
    'label': Kind(('cross_entropy',), 'top1', 1, ('class_weights',)),
    'labels': Kind(('bce', 'weighted_euclidean'), 'map', 1, ('labels_form', 'class_weights')),
    'distribution': Kind(('kl',), 'kl', -1), 'vad': Kind(('l2', 'ccc'), 'ccc', 1, ('vad_form',))}
"""The kinds of tasks by the record's field; 'auto' takes them in this order."""
VAD = ('valence', 'arousal', 'dominance')


@dataclasses.dataclass(frozen=True)
class Task:
  """One task, as plain data that a checkpoint's description keeps.

  Attributes:
    name: the record's field, a key of `KINDS`.
    outputs: names of its columns: classes, or dimensions.
    loss: the name of one of its kind's losses.
    weight: the weight of the loss in the sum.
    class_weights: 'none', 'static' or 'dynamic', for 'label' and 'labels'.
    shares: each class's share of the training examples, for 'static'.
    mean, std: those of each dimension in train, for 'vad'; the model predicts standardised values.
  """

  name: str
  outputs: tuple[str, ...]
  loss: str
  weight: float = 1.0
  class_weights: str = 'none'
  shares: tuple[float, ...] = ()
  mean: tuple[float, ...] = ()
  std: tuple[float, ...] = ()


def single_label_task(labels: Sequence[Any]) -> Task:
  """The task of a dataset with one class an example."""
  return Task('label', tuple(labels), 'cross_entropy')


def untrained_task(name: str, outputs: Sequence[str]) -> Task:
  """A task that was not trained here. It has its kind's own loss, and values of 'vad' are on the model's own scale."""
  ones: dict[str, Any] = {'mean': (0.0,) * len(outputs), 'std': (1.0,) * len(outputs)} if name == 'vad' else {}
  return Task(name, tuple(outputs), KINDS[name].losses[0], **ones)


def tasks_of(description: dict[str, Any]) -> tuple[Task, ...]:
  """Reads the tasks of a classifier's checkpoint, whose JSON has lists for tuples; without tasks, a single label.

  Raises:
    UserError: a task has a class twice.
  """
  if 'tasks' not in description:  # an earlier version wrote it
    check_distinct(description['labels'], 'the model')
    return (single_label_task(description['labels']),)
  tasks = []
  for written in description['tasks']:
    values: dict[str,
                 Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in written.items()}
    tasks.append(Task(**values))
    check_distinct(tasks[-1].outputs, f"the model's task '{tasks[-1].name}'")
  return tuple(tasks)


def is_single_label(tasks: Sequence[Task]) -> bool:
  """Whether the only task is 'label'."""
  return [task.name for task in tasks] == ['label']


def present(name: str, target: np.ndarray) -> np.ndarray:
  """Which targets are present: bool (N, 1), or (N, 3) for 'vad'. Arrays as `targets.read` gives them."""
  if name == 'label':
    return (target >= 0)[:, None]
  return np.isfinite(target) if name == 'vad' else np.any(target, axis=-1, keepdims=True)


def choose_tasks(
    asked: str, columns: Mapping[str, Sequence[str]], targets: dict[str, np.ndarray],
    options: dict[str, Any]) -> tuple[Task, ...]:
  """Chooses the tasks of a run.

  Args:
    asked: names joined by '+', the first of which chooses the epoch, or 'auto' for all whose field the training
      examples have.
    columns: for every field, the names of its columns.
    targets: for every field, all training targets, as `targets.read` gives them.
    options: the config's `task_loss`.

  Raises:
    UserError: a name is unknown, or no training example has the field.
  """
  found = [name for name in KINDS if present(name, targets[name]).any()]
  names = found if asked == 'auto' else asked.split('+')
  for name in names:
    if name not in KINDS or names.count(name) > 1:
      raise UserError(f"config key 'tasks' is '{asked}': choose auto, or join some of {', '.join(KINDS)} with +")
    if name not in found:
      raise UserError(
          f"task '{name}' needs records with a {name}, and no training record has one: "
          f'choose --config.tasks={"+".join(found) or "… and a dataset with targets"}')
  if not names:
    raise UserError('no training record has a target: choose a dataset with labels')
  return tuple(_task(name, tuple(columns[name]), targets[name], options) for name in names)


def _task(name: str, outputs: tuple[str, ...], target: np.ndarray, options: dict[str, Any]) -> Task:
  form, weighting = options.get(f'{name}_form', KINDS[name].losses[0]), options['class_weights']
  task = Task(name, outputs, form, float(options[name]))
  if 'class_weights' in KINDS[name].options:
    known = target[present(name, target)[:, 0]]
    multi_hot_NxC = np.eye(len(outputs))[known] if name == 'label' else known
    shares = multi_hot_NxC.mean(axis=0).tolist() if weighting == 'static' else ()
    return dataclasses.replace(task, class_weights=weighting, shares=tuple(shares))
  if name == 'vad':
    known_D = np.isfinite(target).any(axis=0)
    mean_D, std_D = np.nanmean(target[:, known_D], axis=0), np.nanstd(target[:, known_D], axis=0)
    return dataclasses.replace(
        task, outputs=tuple(np.array(outputs)[known_D].tolist()), mean=tuple(mean_D.tolist()),
        std=tuple(np.where(std_D > 0, std_D, 1.0).tolist()))
  return task


def width(tasks: Sequence[Task]) -> int:
  """The number of columns of the head."""
  return sum(len(task.outputs) for task in tasks)


def split_columns(outputs_BxW: Any, tasks: Sequence[Task]) -> dict[str, Any]:
  """Divides the head's outputs, of numpy or jax, by task."""
  ends = np.cumsum([len(task.outputs) for task in tasks])
  return {task.name: outputs_BxW[:, end - len(task.outputs):end] for task, end in zip(tasks, ends)}


def prepare_targets(task: Task, target: jax.Array, smoothing: float = 0.0) -> tuple[jax.Array, jax.Array]:
  """Prepares a batch's field for the loss, and finds which targets are present.

  Args:
    task: the task whose field it is.
    target: for 'label' int32 (B,), -1 for none; for 'labels' multi-hot float32 (B, C), and for 'distribution' shares
      float32 (B, C), both zero throughout for none; for 'vad' float32 (B, 3), NaN for none.
    smoothing: the label smoothing of 'label'.

  Returns:
    The target, float32 (B, C), zero where it is missing; and where it is present, 1 in float32 (B, 1), or (B, C) for
    'vad'.
  """
  if task.name == 'label':
    present_Bx1 = (target >= 0)[:, None].astype(jnp.float32)
    return smooth_labels(target, len(task.outputs), smoothing) * present_Bx1, present_Bx1
  if task.name == 'vad':
    target = target[:, dimensions(task)]
    present_BxD = jnp.isfinite(target)
    standard_BxD = (target - jnp.array(task.mean)) / jnp.array(task.std)
    return jnp.where(present_BxD, standard_BxD, 0.0), present_BxD.astype(jnp.float32)
  total_Bx1 = target.sum(axis=-1, keepdims=True)
  present_Bx1 = (total_Bx1 > 0).astype(jnp.float32)
  # Shares are printed with few digits.
  return target / jnp.maximum(total_Bx1, 1e-6) if task.name == 'distribution' else target, present_Bx1


def dimensions(task: Task) -> np.ndarray:
  """The indices of those of valence, arousal and dominance that the task 'vad' predicts."""
  return np.array([VAD.index(name) for name in task.outputs])


def row_weights(task: Task, target_BxC: jax.Array, present_BxK: jax.Array) -> jax.Array:
  """Computes the loss's weights, which need the whole batch.

  They are scaled so that the batch mean equals the mean over the examples that have this target.

  Returns:
    float32 (B, 1), or (B, C) with class weights and for 'vad'; all zero where no example has the target.
  """
  count_K = jnp.sum(present_BxK, axis=0)
  weight_BxK = present_BxK * len(present_BxK) / jnp.maximum(count_K, 1e-6)
  if task.class_weights == 'none':
    return weight_BxK
  share_C = jnp.array(task.shares) if task.class_weights == 'static' else jnp.mean(weight_BxK * target_BxC, axis=0)
  return weight_BxK * (losses.balanced_weights if task.name == 'label' else losses.class_weights)(share_C)


def row_loss(task: Task, outputs_BxC: jax.Array, target_BxC: jax.Array, weight_BxK: jax.Array) -> jax.Array:
  """Each example's part of the task's loss, float32 (B,)."""
  return LOSSES[task.loss][0](outputs_BxC, target_BxC, weight_BxK)


def predict(task: Task, outputs_BxC: np.ndarray) -> np.ndarray:
  """Turns outputs into probabilities, scores, shares, or values on the dataset's scale; (B, C)."""
  predicted_BxC = metrics.ACTIVATIONS[LOSSES[task.loss][1]](outputs_BxC)
  return predicted_BxC * np.array(task.std) + np.array(task.mean) if task.name == 'vad' else predicted_BxC


def measure(task: Task, outputs_NxC: np.ndarray, target: np.ndarray,
            thresholds: Sequence[float | None] | None = None) -> dict[str, Any]:
  """Computes the task's loss and metrics over a whole split; examples without the target are left out.

  Args:
    task: the task.
    outputs_NxC: the outputs of every example, float32.
    target: the field, as for `prepare_targets`.
    thresholds: those of 'labels', chosen on val; None chooses them here.

  Raises:
    UserError: no example has the target.
  """
  present_N = present(task.name, target).any(axis=-1)
  if not present_N.any():
    raise UserError(
        f"no example of this split has a {task.name}, which task '{task.name}' needs: choose another "
        '--split, or build the records again')
  outputs_NxC, target = outputs_NxC[present_N], target[present_N]
  prepared_NxC, present_NxK = prepare_targets(task, jnp.asarray(target))
  weight_NxK = row_weights(task, prepared_NxC, present_NxK)
  loss_N = np.asarray(row_loss(task, jnp.asarray(outputs_NxC), prepared_NxC, weight_NxK), np.float64)
  return {'loss': float(loss_N.mean()), **_metrics(task, outputs_NxC, target, np.asarray(prepared_NxC), thresholds)}


def _metrics(
    task: Task, outputs_NxC: np.ndarray, target: np.ndarray, prepared_NxC: np.ndarray,
    thresholds: Sequence[float | None] | None) -> dict[str, Any]:
  if task.name == 'label':
    return metrics.single_label(outputs_NxC, target, task.outputs)
  if task.name == 'distribution':
    return metrics.label_distribution(outputs_NxC, prepared_NxC)
  if task.name == 'vad':
    return metrics.dimensional(predict(task, outputs_NxC.astype(np.float64)), target[:, dimensions(task)], task.outputs)
  scores_NxC, present_NxC = predict(task, outputs_NxC.astype(np.float64)), target > 0
  if thresholds is None:
    thresholds = metrics.break_even_thresholds(scores_NxC, present_NxC)
  return metrics.multi_label(scores_NxC, present_NxC, task.outputs, thresholds)


def score(task: Task, measured: dict[str, Any]) -> float:
  """The score that chooses the epoch; higher is better, and 0 if the split leaves the metric undefined."""
  kind = KINDS[task.name]
  return kind.direction * (measured[kind.score] or 0.0)
