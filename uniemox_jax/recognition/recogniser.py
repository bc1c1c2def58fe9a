"""One form for all models that name emotions in images: a fine-tuned run, a classifier of another library, or a CLIP
that is asked in words."""

from collections.abc import Mapping, Sequence
import dataclasses
import hashlib
import os
from typing import Any, NamedTuple

from flax import nnx
import jax
import numpy as np

from data_pipelines import images
from data_pipelines.errors import UserError
from data_pipelines.plain_text import check_labels
from data_pipelines.storage import parsing
from uniemox_jax.convert.formats.onnx_files import OnnxFile, find_onnx, read_onnx
from uniemox_jax.models.classifier import STREAMS, Classifier
from uniemox_jax.models.preprocess import IMAGENET_MEAN, IMAGENET_STD, check_statistics
from uniemox_jax.models.view import View
from uniemox_jax.models.zero_shot_classifier import ZeroShotClassifier
from uniemox_jax.objectives.tasks import Task, single_label_task, tasks_of, untrained_task, width
from uniemox_jax.recognition.words import Words, read_words
from uniemox_jax.teacher.frozen_clip import Clip
from uniemox_jax.train.checkpoint import Checkpoint
from uniemox_jax.train.open_model import open_model
from uniemox_jax.train.run_folder import read_run_result, run_folder
from uniemox_jax.train.state import builder, graphdef_of


class FlaxModel(NamedTuple):
  """A module that turns normalised views into outputs, in its two halves."""

  graphdef: nnx.GraphDef
  params: dict[str, Any]


class OnnxModel(NamedTuple):
  """A session of onnxruntime, which does the same on the CPU."""

  session: Any


class Recogniser(NamedTuple):
  """A model that names emotions, and how it is used.

  path: where it came from. tasks: what it predicts. texts: own texts, whose similarity to an image follows the columns
  of the tasks. thresholds: for the task 'labels', the scores from which on a class is chosen, with None for never; None
  if they are not known. view: how it wants its images. streams: a key of `STREAMS`. model: what computes.
  weights_sha256: the hash of all weights and of how they are used.
  """

  path: str
  tasks: tuple[Task, ...]
  texts: tuple[str, ...]
  thresholds: list[float | None] | None
  view: View
  streams: str
  model: FlaxModel | OnnxModel
  weights_sha256: str

  @property
  def sees_person(self) -> bool:
    """Whether its views are of scene and person."""
    return len(STREAMS[self.streams]) > 1


class ModelSource(NamedTuple):
  """A model as a user names it. path: what `open_model` takes. labels, prompts, texts: words for a CLIP, see
  `read_words`."""

  path: str
  labels: str | os.PathLike | Sequence[str] | None = None
  prompts: str | os.PathLike | Sequence[str] | None = None
  texts: tuple[str, ...] = ()


def open_recogniser(asked: str | ModelSource) -> Recogniser:
  """Loads a model that names emotions. A text is its path, which may be a .onnx file that `export_torch` wrote.

  Raises:
    UserError: there is no such model, or it names no emotions; words are given for a model that was trained for its own
      classes, or none for a CLIP.
  """
  source, labels, prompts, texts = ModelSource(asked) if isinstance(asked, str) else asked
  in_words = labels is not None or prompts is not None or texts
  if path := find_onnx(source):
    if in_words:
      raise UserError(f'{source} has its words in it: --labels, --prompts and --texts are for a CLIP')
    return of_onnx(source, read_onnx(path))
  model = open_model(source)
  if isinstance(model, Clip):
    return of_clip(source, model, read_words(labels, prompts, texts))
  recogniser = of_checkpoint(model)
  if in_words:
    raise UserError(
        f'{source} was trained for its own classes, {", ".join(model.description.get("labels", ())[:8])}: --labels, '
        '--prompts and --texts are for a CLIP')
  return recogniser


def of_checkpoint(checkpoint: Checkpoint) -> Recogniser:
  """Makes a recogniser of a classifier's checkpoint. Raises UserError for another kind of model."""
  description = checkpoint.description
  kind = description['kind']
  if kind != 'classifier':
    raise UserError(
        f"{checkpoint.path} holds a model of kind '{kind}', which names no emotions: give the --workdir of a "
        'fine-tuning run (python -m uniemox_jax.finetune), or a CLIP with --labels')
  tasks, view = tasks_of(description), view_of(description)
  thresholds = description.get('thresholds') or _stored_thresholds(checkpoint, tasks)
  # A shared model names its preparation of images even where it is our own: the digest is that of the run.
  is_ours = view == evaluation_view_of(view.size)
  given = {} if is_ours else description.get('statistics', {})
  statistics = tuple((name, tuple(values)) for name, values in given.items())
  used: tuple[Any, ...] = description['model'], tasks, thresholds, statistics
  if 'view' in description and not is_ours:
    used = *used, view
  return Recogniser(
      checkpoint.path, tasks, (), thresholds, view, description['model'].get('streams', 'scene'),
      FlaxModel(graphdef_of(builder(Classifier, **description['model'])), checkpoint.params),
      _digest(checkpoint.params, used))


def of_clip(source: str, clip: Clip, words: Words) -> Recogniser:
  """Makes a recogniser of a CLIP and what it is asked. Its text side is computed here, once, and left behind.

  Raises:
    UserError: see `Words.embed`.
  """
  model = nnx.merge(clip.graphdef, clip.params)
  texts_WxE = words.embed(clip)
  del model.language
  module = ZeroShotClassifier(
      model, texts_WxE, classes=len(words.classes), dimensions=len(words.dimensions), scale=clip.scale)
  graphdef, state = nnx.split(module)
  params = jax.device_get(nnx.to_pure_dict(state))
  return Recogniser(
      source, tasks_of_words(words), words.texts, None, clip.view, 'scene', FlaxModel(graphdef, params),
      _digest(params, (clip.config, clip.view, words)))


def tasks_of_words(words: Words) -> tuple[Task, ...]:
  """The tasks of a CLIP that is asked these words: a class, then the dimensions, from -1 to 1."""
  tasks = [single_label_task(words.classes)] if words.classes else []
  if words.dimensions:
    tasks.append(untrained_task('vad', words.dimensions))
  return tuple(tasks)


def describe_recogniser(recogniser: Recogniser) -> dict[str, Any]:
  """Describes a recogniser, without the model itself, in plain values for JSON; `of_onnx` reads them."""
  return {
      'tasks': [dataclasses.asdict(task) for task in recogniser.tasks], 'texts': recogniser.texts,
      'thresholds': recogniser.thresholds, 'view': dataclasses.asdict(recogniser.view), 'streams': recogniser.streams}


def of_onnx(source: str, file: OnnxFile) -> Recogniser:
  """Makes a recogniser of an opened ONNX file.

  Raises:
    UserError: it names no emotions, or its description does not fit its graph.
  """
  session, description, digest = file
  if description.get('kind') == 'encoder':
    raise UserError(
        f'{source} holds an encoder, which names no emotions: export a fine-tuned run, or a CLIP with --labels')
  with parsing(source, 'export it again'):
    tasks, settings, streams = tasks_of(description), dict(description['view']), description['streams']
    statistics = check_statistics(settings.pop('mean'), settings.pop('std'))
    view = View(mean=tuple(statistics['mean']), std=tuple(statistics['std']), **settings)
    texts, thresholds = tuple(description['texts']), description['thresholds']
    check_labels((*(name for task in tasks for name in task.outputs), *texts), source)
    shape = [*([2] if len(STREAMS[streams]) > 1 else []), view.size, view.size, 3]
    sizes = [end.shape[1:] for end in (session.get_inputs()[0], session.get_outputs()[0])]
    if sizes != [shape, [width(tasks) + len(texts)]]:
      raise ValueError(f'its graph has the shapes {sizes}, which its description does not')
  return Recogniser(source, tasks, texts, thresholds, view, streams, OnnxModel(session), digest)


def view_of(description: Mapping[str, Any]) -> View:
  """The view that a checkpoint's model wants: our own evaluation view, unless its description has another."""
  view = evaluation_view_of(description['model']['image_size'])
  changes: dict[str, Any] = {name: tuple(values) for name, values in description.get('statistics', {}).items()}
  return dataclasses.replace(view, **changes, **description.get('view', {}))


def evaluation_view_of(size: int) -> View:
  """The evaluation view of our own models: `images.evaluation_view` with ImageNet's statistics."""
  return View(size, images.short_side_of(size), mean=IMAGENET_MEAN, std=IMAGENET_STD, floor=False)


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
