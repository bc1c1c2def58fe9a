"""Opens a checkpoint to inspect, and computes its outputs on records, from which the figures of `look` are drawn."""

from collections.abc import Sequence
import functools
import itertools
from typing import Any, NamedTuple

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import tqdm

from data_pipelines.batches.single_examples import Example, read_examples
from data_pipelines.errors import UserError
from data_pipelines.records import reader
from uniemox_jax.look import attention_maps
from uniemox_jax.models.classifier import Classifier
from uniemox_jax.models.preprocess import normalise
from uniemox_jax.models.registry import MODULES
from uniemox_jax.models.siglip import SiglipConfig
from uniemox_jax.models.zero_shot_classifier import ZeroShotClassifier
from uniemox_jax.objectives.tasks import Task, tasks_of
from uniemox_jax.recognition.recogniser import FlaxModel, of_clip, view_of
from uniemox_jax.recognition.words import Words
from uniemox_jax.runtime.integrity import check_finite
from uniemox_jax.teacher.frozen_clip import Clip
from uniemox_jax.train.open_model import open_model, open_student
from uniemox_jax.train.run_folder import predicts_normalised_patches
from uniemox_jax.train.state import abstract_model, builder

BATCH = 32


class InspectedModel:
  """A checkpoint to inspect.

  Attributes:
    path, step, kind: those of the checkpoint.
    title: its kind and step, for figures.
    graphdef, params: the model; params are on the default device.
    image_size: the side of its views, pixels. view: how it wants them.
    reads_person: whether it also encodes the person view.
    pooled: the tokens that stand for an image, 'cls' or 'patches'.
    reconstructs: whether it has a decoder of pixels. norm_pix: whether that predicts normalised patches.
    tasks: those of a classifier, else empty. labels: a classifier's; for a model that is asked in words, the records'.
    no_maps: why there are no maps of attention, if there are none.
    first_columns: by task, the index of its first column in the outputs.
  """

  no_maps = ''

  def __init__(self, path: str, words: Words | None = None, labels: Sequence[str] = ()):
    """Loads any model that `open_student` takes, or that can be asked in words.

    Args:
      path: of the model.
      words: what a CLIP or SigLIP is asked; None looks at the image tower of a CLIP alone.
      labels: of the records, for a model that is asked.

    Raises:
      UserError: no model, one without an encoder of this method, or words for a model with classes of its own.
    """
    if words is not None:
      self._ask(path, words, labels)
      return
    checkpoint = open_student(path)
    description = checkpoint.description
    self.path, self.step, self.kind = checkpoint.path, checkpoint.step, description['kind']
    self.norm_pix = predicts_normalised_patches(checkpoint.path, description)
    self.title = f'{self.kind}, step {self.step}'
    model = abstract_model(builder(MODULES[self.kind], **description['model']))
    self.graphdef, self.params = nnx.graphdef(model), jax.device_put(checkpoint.params)
    self.image_size: int = description['model']['image_size']
    self.reads_person = attention_maps.reads_person(model)
    self.pooled = attention_maps.pooled_tokens(model) if self.kind == 'classifier' else 'cls'
    self.reconstructs = getattr(getattr(model, 'decoder', None), 'predict', None) is not None
    self.tasks = tasks_of(description) if self.kind == 'classifier' else ()
    self.labels: list[str] = description.get('labels', []) if self.tasks else []
    self.first_columns = _first_columns(self.tasks)
    self.view = view_of(description)

  def _ask(self, path: str, words: Words, labels: Sequence[str]) -> None:
    model = open_model(path)
    if not isinstance(model, Clip):
      raise UserError(f'{path} has classes of its own: --labels and --prompts are for a CLIP or SigLIP, leave them out')
    recogniser = of_clip(path, model, words)
    assert isinstance(recogniser.model, FlaxModel)
    self.path, self.step, self.norm_pix = path, 0, False
    is_siglip = isinstance(model.config, SiglipConfig)
    self.kind, self.title = ('siglip', 'SigLIP, asked in words') if is_siglip else ('clip', 'CLIP, asked in words')
    if is_siglip:
      self.no_maps = 'a SigLIP has no class token: its own head pools the patches, and is not followed here'
    self.graphdef, self.params = recogniser.model.graphdef, jax.device_put(recogniser.model.params)
    self.image_size, self.view = recogniser.view.size, recogniser.view
    self.reads_person, self.pooled, self.reconstructs = False, 'cls', False
    self.tasks, self.labels = recogniser.tasks, list(labels)
    self.first_columns = _first_columns(self.tasks)

  def views(self, examples: Sequence[Example]) -> jax.Array:
    """The model's normalised input, (B, V, S, S, 3): the scene, then the person if it reads one, or the scene again."""
    views = [np.stack([example.scene for example in examples])]
    if self.reads_person:
      views.append(np.stack([example.scene if example.person is None else example.person for example in examples]))
    return normalise(jnp.asarray(np.stack(views, axis=1)), self.view.mean, self.view.std)


def _first_columns(tasks: Sequence[Task]) -> dict[str, int]:
  starts = itertools.accumulate((len(task.outputs) for task in tasks), initial=0)
  return {task.name: start for task, start in zip(tasks, starts)}


class Inspection(NamedTuple):
  """What a model gives for N examples.

  examples: the first of them, with their pixels. id, label_N: those of all; label -1 for none. features_PxD: those of
  the first P. outputs_NxW: a classifier's outputs, else W = 0.
  """

  examples: list[Example]
  id: list[str]
  label_N: np.ndarray
  features_PxD: np.ndarray
  outputs_NxW: np.ndarray


@functools.partial(jax.jit, static_argnums=0)
def _apply(graphdef: nnx.GraphDef, params: dict[str, Any], views_BxVxHxWx3: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Features as `load_encoder` gives them (of the scene where there are no classes) or a CLIP's embeddings; outputs."""
  model = nnx.merge(graphdef, params)
  if isinstance(model, ZeroShotClassifier):
    return model.model.image(views_BxVxHxWx3[:, 0]), model(views_BxVxHxWx3[:, 0])
  if isinstance(model, Classifier):
    features_BxD = model.features(attention_maps.classifier_input(model, views_BxVxHxWx3))
    return features_BxD, model.head(features_BxD)
  features_BxD = model.encoder(views_BxVxHxWx3[:, 0])[:, 1:].mean(axis=1)
  return features_BxD, jnp.zeros((len(features_BxD), 0))


def inspect_examples(inspected: InspectedModel, split: reader.Split, count: int, kept: int, points: int) -> Inspection:
  """Runs the model over the first `count` examples; keeps the first `kept` of them whole, and `points` features."""
  examples: list[Example] = []
  ids: list[str] = []
  labels, features, outputs = [], [], []
  remaining = read_examples(
      split, range(count), inspected.image_size, person=inspected.reads_person, centre=inspected.view.centre)
  with tqdm.tqdm(total=count, desc=f'looking at {split.name}', unit=' images', delay=1) as progress:
    while batch := list(itertools.islice(remaining, BATCH)):
      # The last batch is filled up: one shape, one compilation.
      filled = batch + batch[-1:] * (BATCH - len(batch))
      found = jax.device_get(_apply(inspected.graphdef, inspected.params, inspected.views(filled)))
      features_BxD, outputs_BxW = (values[:len(batch)] for values in found)
      features.append(features_BxD[:max(0, points - len(ids))])
      outputs.append(outputs_BxW)
      examples += batch[:max(0, kept - len(ids))]
      ids += [example.id for example in batch]
      labels += [example.label for example in batch]
      progress.update(len(batch))
  inspection = Inspection(examples, ids, np.array(labels), np.concatenate(features), np.concatenate(outputs))
  for values in (inspection.features_PxD, inspection.outputs_NxW):
    check_finite(values, f'some image of {split.name}')
  return inspection
