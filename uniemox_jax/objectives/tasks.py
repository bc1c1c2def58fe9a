"""Tasks: what of a record the fine-tuned model predicts, by which loss, and how that is measured (docs/tasks.md).

A task is named after the record's field that holds its target. The classifier's one linear head has the columns of all
tasks side by side, in their order, which is the same as a head for each.
"""

from collections.abc import Callable, Sequence
import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from data_pipelines.errors import UserError
from uniemox_jax.objectives import metrics, task_losses
from uniemox_jax.objectives.regularisation import smooth_labels

Loss = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]

LOSSES: dict[str, tuple[Loss, str]] = {
    'cross_entropy': (task_losses.cross_entropy, 'softmax'), 'bce': (task_losses.binary_cross_entropy, 'sigmoid'),
    'weighted_euclidean': (task_losses.weighted_euclidean, 'identity'), 'kl': (task_losses.kl_divergence, 'softmax'),
    'l2': (task_losses.squared_error, 'identity'), 'ccc': (task_losses.one_minus_ccc, 'identity')
}
"""By name: the loss, and what turns its outputs into predictions."""


class Kind(NamedTuple):
  """What holds for every task of a field: its losses by name, the metric that scores an epoch, and whether more of that
  is better (1) or worse (-1)."""

  losses: tuple[str, ...]
  score: str
  direction: int


KINDS = {
    'label': Kind(('cross_entropy',), 'top1', 1), 'labels': Kind(('bce', 'weighted_euclidean'), 'map', 1),
    'distribution': Kind(('kl',), 'kl', -1), 'vad': Kind(('l2', 'ccc'), 'ccc', 1)
}
"""By field of the record; 'auto' takes them in this order."""
VAD = ('valence', 'arousal', 'dominance')
DEFAULTS = {
    'label': 1.0, 'labels': 1.0, 'distribution': 1.0, 'vad': 1.0, 'labels_form': 'bce', 'class_weights': 'none',
    'vad_form': 'l2'
}
"""The config's `task_loss`: weights in the sum, and forms."""
CLASS_WEIGHTS = ('none', 'static', 'dynamic')


@dataclasses.dataclass(frozen=True)
class Task:
  """One task, as plain data that a checkpoint's description keeps.

  Attributes:
    name: the record's field, a key of `KINDS`.
    outputs: names of its columns: classes, or dimensions.
    loss: one of its kind's.
    weight: of the loss in the sum.
    class_weights: of 'labels': 'none', 'static' or 'dynamic'.
    shares: of 'static': each class's share of the training examples.
    mean, std: of 'vad': of each dimension in train; the model predicts standardised values.
  """

  name: str
  outputs: tuple[str, ...]
  loss: str
  weight: float = 1.0
  class_weights: str = 'none'
  shares: tuple[float, ...] = ()
  mean: tuple[float, ...] = ()
  std: tuple[float, ...] = ()

  def to_json(self) -> dict[str, Any]:
    """Lists for tuples."""
    return {key: list(value) if isinstance(value, tuple) else value for key, value in dataclasses.asdict(self).items()}

  @classmethod
  def from_json(cls, values: dict[str, Any]) -> 'Task':
    """The inverse of `to_json`."""
    return cls(**{key: tuple(value) if isinstance(value, list) else value for key, value in values.items()})


def single_label(labels: Sequence[Any]) -> Task:
  """The task of a dataset with one class an example."""
  return Task('label', tuple(labels), 'cross_entropy')


def tasks_of(description: dict[str, Any]) -> tuple[Task, ...]:
  """The tasks of a classifier's checkpoint; one that does not say has a single label."""
  if 'tasks' not in description:
    return (single_label(description['labels']),)
  return tuple(Task.from_json(values) for values in description['tasks'])


def is_single_label(tasks: Sequence[Task]) -> bool:
  """Whether the only task is 'label'."""
  return [task.name for task in tasks] == ['label']


def present(name: str, target: np.ndarray) -> np.ndarray:
  """Which targets of examples are there: bool (N, 1), or (N, 3) for 'vad'. Arrays as `targets.read` gives them."""
  if name == 'label':
    return (target >= 0)[:, None]
  return np.isfinite(target) if name == 'vad' else target.any(axis=-1, keepdims=True)


def choose(asked: str, columns: dict[str, Sequence[str]], targets: dict[str, np.ndarray],
           options: dict[str, Any]) -> tuple[Task, ...]:
  """The tasks of a run.

  Args:
    asked: names joined by '+', the first of which chooses the epoch, or 'auto' for all whose field the training
      examples have.
    columns: of every field, the names of what it holds.
    targets: of every field, all training targets, as `targets.read` gives them.
    options: the config's `task_loss`.

  Raises:
    UserError: an unknown name or option, or a field that no training example has.
  """
  there = [name for name in KINDS if present(name, targets[name]).any()]
  names = there if asked == 'auto' else asked.split('+')
  for name in names:
    if name not in KINDS or names.count(name) > 1:
      raise UserError(f"config key 'tasks' is '{asked}': choose auto, or join some of {', '.join(KINDS)} with +")
    if name not in there:
      raise UserError(
          f"task '{name}' needs records with a {name}, and no training record has one: "
          f'choose --config.tasks={"+".join(there) or "… and a dataset with targets"}')
  if not names:
    raise UserError('no training record has a target: choose a dataset with labels')
  return tuple(_task(name, tuple(columns[name]), targets[name], options) for name in names)


def _task(name: str, outputs: tuple[str, ...], target: np.ndarray, options: dict[str, Any]) -> Task:
  form, weighting = options.get(f'{name}_form', KINDS[name].losses[0]), options['class_weights']
  for key, value, known in ((f'{name}_form', form, KINDS[name].losses), ('class_weights', weighting, CLASS_WEIGHTS)):
    if value not in known:
      raise UserError(f"config key 'task_loss.{key}' is '{value}': choose from {', '.join(known)}")
  if options[name] <= 0:
    raise UserError(
        f"config key 'task_loss.{name}' is {options[name]}: give it more than 0, or leave the task out of "
        '--config.tasks')
  task = Task(name, outputs, form, float(options[name]))
  if name == 'labels':
    shares = target[present(name, target)[:, 0]].mean(axis=0).tolist() if weighting == 'static' else ()
    return dataclasses.replace(task, class_weights=weighting, shares=tuple(shares))
  if name == 'vad':
    known_D = np.isfinite(target).any(axis=0)
    mean_D, std_D = np.nanmean(target[:, known_D], axis=0), np.nanstd(target[:, known_D], axis=0)
    return dataclasses.replace(
        task, outputs=tuple(np.array(outputs)[known_D].tolist()), mean=tuple(mean_D.tolist()),
        std=tuple(np.where(std_D > 0, std_D, 1.0).tolist()))
  return task


def width(tasks: Sequence[Task]) -> int:
  """Columns of the head."""
  return sum(len(task.outputs) for task in tasks)


def split_columns(outputs_BxW: Any, tasks: Sequence[Task]) -> dict[str, Any]:
  """The head's outputs by task; numpy's or jax's."""
  ends = np.cumsum([len(task.outputs) for task in tasks])
  return {task.name: outputs_BxW[:, end - len(task.outputs):end] for task, end in zip(tasks, ends)}


def prepare(task: Task, target: jax.Array, smoothing: float = 0.0) -> tuple[jax.Array, jax.Array]:
  """A batch's field as the loss takes it, and which of it is there.

  Args:
    task: whose field it is.
    target: int32 (B,) of 'label', -1 for none; multi-hot float32 (B, C) of 'labels', shares float32 (B, C) of
      'distribution', zero throughout for none; float32 (B, 3) of 'vad', NaN for none.
    smoothing: of the labels of 'label'.

  Returns:
    float32 (B, C) target, zero where it is missing; float32 (B, 1), or (B, C) of 'vad', 1 where it is there.
  """
  if task.name == 'label':
    there_Bx1 = (target >= 0)[:, None].astype(jnp.float32)
    return smooth_labels(target, len(task.outputs), smoothing) * there_Bx1, there_Bx1
  if task.name == 'vad':
    target = target[:, dimensions(task)]
    there_BxD = jnp.isfinite(target)
    standard_BxD = (target - jnp.array(task.mean)) / jnp.array(task.std)
    return jnp.where(there_BxD, standard_BxD, 0.0), there_BxD.astype(jnp.float32)
  total_Bx1 = target.sum(axis=-1, keepdims=True)
  there_Bx1 = (total_Bx1 > 0).astype(jnp.float32)
  # Shares are printed with few digits.
  return target / jnp.maximum(total_Bx1, 1e-6) if task.name == 'distribution' else target, there_Bx1


def dimensions(task: Task) -> np.ndarray:
  """Which of valence, arousal, dominance the task 'vad' predicts, as indices."""
  return np.array([VAD.index(name) for name in task.outputs])


def row_weights(task: Task, target_BxC: jax.Array, there_BxK: jax.Array) -> jax.Array:
  """The loss's weights, which need the whole batch: the mean over its rows is then that over what is there.

  Returns:
    float32 (B, 1), or (B, C) for 'labels' and 'vad'; zero throughout where nothing is there.
  """
  count_K = jnp.sum(there_BxK, axis=0)
  weight_BxK = there_BxK * len(there_BxK) / jnp.maximum(count_K, 1e-6)
  if task.name != 'labels':
    return weight_BxK
  share_C = jnp.array(task.shares) if task.class_weights == 'static' else jnp.mean(weight_BxK * target_BxC, axis=0)
  class_C = jnp.ones(target_BxC.shape[-1]) if task.class_weights == 'none' else task_losses.class_weights(share_C)
  return weight_BxK * class_C


def row_loss(task: Task, outputs_BxC: jax.Array, target_BxC: jax.Array, weight_BxK: jax.Array) -> jax.Array:
  """Each example's part of the task's loss, float32 (B,)."""
  return LOSSES[task.loss][0](outputs_BxC, target_BxC, weight_BxK)


def predict(task: Task, outputs_BxC: np.ndarray) -> np.ndarray:
  """From outputs to probabilities, scores, shares, or values on the dataset's scale; (B, C)."""
  predicted_BxC = metrics.ACTIVATIONS[LOSSES[task.loss][1]](outputs_BxC)
  return predicted_BxC * np.array(task.std) + np.array(task.mean) if task.name == 'vad' else predicted_BxC


def measure(task: Task, outputs_NxC: np.ndarray, target: np.ndarray,
            thresholds: Sequence[float | None] | None = None) -> dict[str, Any]:
  """The task's loss and metrics over a whole split; examples without the target are left out.

  Args:
    task: the task.
    outputs_NxC: float32, of every example.
    target: the field, as for `prepare`.
    thresholds: of 'labels', chosen on val; None chooses them here.

  Raises:
    UserError: no example has the target.
  """
  there_N = present(task.name, target).any(axis=-1)
  if not there_N.any():
    raise UserError(
        f"no example of this split has a {task.name}, which task '{task.name}' needs: choose another "
        '--split, or build the records again')
  outputs_NxC, target = outputs_NxC[there_N], target[there_N]
  prepared_NxC, there_NxK = prepare(task, jnp.asarray(target))
  weight_NxK = row_weights(task, prepared_NxC, there_NxK)
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
  """What chooses the epoch, higher is better; 0 where the split leaves the metric undefined."""
  kind = KINDS[task.name]
  return kind.direction * (measured[kind.score] or 0.0)
