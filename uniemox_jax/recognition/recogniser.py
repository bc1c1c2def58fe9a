"""Anything that names emotions in images, behind one form: a fine-tuned run, a classifier of another library, or a CLIP
that is asked in words."""

from collections.abc import Mapping, Sequence
import hashlib
from typing import Any, NamedTuple

from flax import nnx
import jax
import numpy as np

from data_pipelines import images
from data_pipelines.errors import UserError
from data_pipelines.storage import parsing
from uniemox_jax.models.classifier import STREAMS, Classifier
from uniemox_jax.models.preprocess import IMAGENET_MEAN, IMAGENET_STD
from uniemox_jax.models.zero_shot_classifier import ZeroShotClassifier
from uniemox_jax.objectives.tasks import Task, single_label_task, tasks_of
from uniemox_jax.recognition.words import Words, read_words
from uniemox_jax.teacher.frozen_clip import Clip, View
from uniemox_jax.train.checkpoint import Checkpoint
from uniemox_jax.train.open_model import open_model
from uniemox_jax.train.run_folder import read_run_result, run_folder
from uniemox_jax.train.state import builder, graphdef_of


class Recogniser(NamedTuple):
  """A model that names emotions, and how it is used.

  path: where it came from. tasks: what it predicts. texts: own texts whose similarity to an image follows the columns
  of the tasks. thresholds: of the task 'labels', from which on a class is chosen, None for never; None as a whole if
  not known. view: how it wants its images. streams: a key of `STREAMS`. graphdef, params: of a module that turns
  normalised views into outputs. weights_sha256: of all weights and of how they are used.
  """

  path: str
  tasks: tuple[Task, ...]
  texts: tuple[str, ...]
  thresholds: list[float | None] | None
  view: View
  streams: str
  graphdef: nnx.GraphDef
  params: dict[str, Any]
  weights_sha256: str

  @property
  def sees_person(self) -> bool:
    """Whether its views are of scene and person."""
    return len(STREAMS[self.streams]) > 1


def open_recogniser(
    source: str, labels: str | None = None, prompts: str | None = None, texts: Sequence[str] = ()) -> Recogniser:
  """Loads a model that names emotions.

  Args:
    source: what `open_model` takes.
    labels, prompts, texts: of a CLIP, see `words.read_words`.

  Raises:
    UserError: no such model; one that names no emotions; words for one that was trained for its own classes; or none
      for a CLIP.
  """
  model = open_model(source)
  if isinstance(model, Clip):
    return of_clip(source, model, read_words(labels, prompts, texts))
  recogniser = of_checkpoint(model)
  if labels or prompts or texts:
    raise UserError(
        f'{source} was trained for its own classes, {", ".join(model.description.get("labels", ())[:8])}: --labels, '
        '--prompts and --texts are for a CLIP')
  return recogniser


def of_checkpoint(checkpoint: Checkpoint) -> Recogniser:
  """A classifier's checkpoint, ready to be used. Raises UserError for another kind of model."""
  description = checkpoint.description
  kind = description['kind']
  if kind != 'classifier':
    raise UserError(
        f"{checkpoint.path} holds a model of kind '{kind}', which names no emotions: give the --workdir of a "
        'fine-tuning run (python -m uniemox_jax.finetune), or a CLIP with --labels')
  tasks, view = tasks_of(description), view_of(description)
  thresholds = description.get('thresholds') or _stored_thresholds(checkpoint, tasks)
  statistics = tuple((name, tuple(values)) for name, values in description.get('statistics', {}).items())
  used: tuple[Any, ...] = description['model'], tasks, thresholds, statistics
  if 'view' in description:
    used = *used, view
  return Recogniser(
      checkpoint.path, tasks, (), thresholds, view, description['model'].get('streams', 'scene'),
      graphdef_of(builder(Classifier, **description['model'])), checkpoint.params, _digest(checkpoint.params, used))


def of_clip(source: str, clip: Clip, words: Words) -> Recogniser:
  """A CLIP and what it is asked; its text side is computed here, once, and left behind.

  Raises:
    UserError: see `Words.embed`.
  """
  model = nnx.merge(clip.graphdef, clip.params)
  texts_WxE = words.embed(clip)
  del model.language
  module = ZeroShotClassifier(
      model, texts_WxE, classes=len(words.classes), dimensions=len(words.dimensions),
      scale=float(np.exp(clip.params['logit_scale'])))
  graphdef, state = nnx.split(module)
  params = jax.device_get(nnx.to_pure_dict(state))
  return Recogniser(
      source, tasks_of_words(words), words.texts, None, clip.view, 'scene', graphdef, params,
      _digest(params, (clip.config, clip.view, words)))


def tasks_of_words(words: Words) -> tuple[Task, ...]:
  """What a CLIP predicts that is asked these: a class, then the dimensions, from -1 to 1."""
  tasks = [single_label_task(words.classes)] if words.classes else []
  if words.dimensions:
    zeros, ones = (tuple([value] * len(words.dimensions)) for value in (0.0, 1.0))
    tasks.append(Task('vad', words.dimensions, 'l2', mean=zeros, std=ones))
  return tuple(tasks)


def view_of(description: Mapping[str, Any]) -> View:
  """How a checkpoint's model wants its images: our own evaluation view, unless its description has another."""
  size = description['model']['image_size']
  settings = description.get('view') or {'short_side': images.short_side_of(size), 'floor': False}
  statistics = description.get('statistics') or {'mean': IMAGENET_MEAN, 'std': IMAGENET_STD}
  return View(size, mean=tuple(statistics['mean']), std=tuple(statistics['std']), **settings)


def _stored_thresholds(checkpoint: Checkpoint, tasks: Sequence[Task]) -> list[float | None] | None:
  """Thresholds of the task 'labels', chosen on val, from the result.json of this checkpoint; None without them."""
  result = read_run_result(run_folder(checkpoint.path), checkpoint.step)
  labels = [list(task.outputs) for task in tasks if task.name == 'labels']
  with parsing(run_folder(checkpoint.path) / 'result.json'):
    rows = result.get('tasks', {}).get('labels', {}).get('per_class', [])
    return [row['threshold'] for row in rows] if labels == [[row['label'] for row in rows]] else None


def _digest(params: Mapping[str, Any], description: object) -> str:
  digest = hashlib.sha256(repr(description).encode())
  for path, leaf in jax.tree_util.tree_leaves_with_path(params):
    digest.update(jax.tree_util.keystr(path).encode())
    digest.update(np.ascontiguousarray(leaf).data)
  return digest.hexdigest()
