"""Trained models for notebooks and programs: images in, arrays out.

`images` are everywhere a path, a PIL image, an array of one image or of several, or a list of these, of mixed sizes;
see `models.image_arguments`. float32 (B, size, size, 3) is taken as normalised already. Anything else is a ValueError.
`persons` are the same, but each is resized to the square whatever its proportions, as person crops of records are.
"""

from collections.abc import Sequence
import dataclasses
import functools
import os
from typing import Any

from flax import nnx
import jax
import numpy as np
import tqdm

from data_pipelines.errors import UserError
from uniemox_jax.models.image_arguments import image_names
from uniemox_jax.models.registry import abstract_student
from uniemox_jax.models.siglip import SiglipImageTower
from uniemox_jax.objectives.tasks import predict, split_columns, width
from uniemox_jax.recognition.columns import Predictions
from uniemox_jax.recognition.predictor import Predictor, find_batch_size, round_up
from uniemox_jax.recognition.recogniser import ModelSource, Recogniser, open_recogniser, view_of
from uniemox_jax.teacher.frozen_clip import Clip
from uniemox_jax.train.checkpoint import Checkpoint
from uniemox_jax.train.open_model import open_encoder


@functools.partial(jax.jit, static_argnums=(0, 1))
def _apply(graphdef: nnx.GraphDef, output: str, params: dict[str, Any], views: jax.Array) -> jax.Array:
  model = nnx.merge(graphdef, params)
  if isinstance(model, SiglipImageTower):
    return model.tokens(views) if output == 'tokens' else model(views)
  return model.encoder(views) if output == 'tokens' else model.features(views)


class LoadedEncoder:
  """An image encoder: from pretraining, fine-tuning, another library, or the image tower of a CLIP or SigLIP."""

  def __init__(self, model: Checkpoint | Clip):
    if isinstance(model, Clip):  # a SigLIP; `open_encoder` gives the tower of a CLIP as a checkpoint
      module, params, self._view = nnx.merge(model.graphdef, model.params).vision, model.params['vision'], model.view
      self._pools_itself = True
    else:
      description, params = model.description, model.params
      module, self._view = abstract_student(description['kind'], description['model']), view_of(description)
      self._pools_itself = description['kind'] == 'classifier'
    self._graphdef, self._params = nnx.graphdef(module), jax.device_put(params)
    self.image_size: int = self._view.size

  def tokens(self, images: Any) -> np.ndarray:
    """The tokens, float32 (B, 1 + L, D), CLS first: after the final LayerNorm, or a fine-tuned model's block outputs.

    A SigLIP has no class token: its tokens are (B, L, D), after its LayerNorm.
    """
    return self._run('tokens', images)

  def features(self, images: Any) -> np.ndarray:
    """The features, float32 (B, D): the mean over patch tokens, or a fine-tuned model's `fc_norm` output of one view.

    A SigLIP gives its image embedding, pooled by its own head, of any norm.
    """
    return self._run('features', images) if self._pools_itself else self.tokens(images)[:, 1:].mean(axis=1)

  def _run(self, output: str, images: Any) -> np.ndarray:
    return np.asarray(_apply(self._graphdef, output, self._params, self._view(images)), np.float32)


class LoadedClassifier:
  """A model that names emotions.

  labels: class names in the order of the probabilities. tasks: all that it predicts. texts: own texts of a CLIP.
  streams: 'scene', or 'scene+person' for one that takes `persons`. image_size: the side of its views, pixels.
  """

  def __init__(self, recogniser: Recogniser):
    self._predictor = Predictor(recogniser)
    self.tasks, self.texts, self.streams = recogniser.tasks, recogniser.texts, recogniser.streams
    self.labels: list[str] = next((list(task.outputs) for task in self.tasks if task.name in ('label', 'labels')), [])
    self.image_size: int = recogniser.view.size

  def predict(self, images: Any, persons: Any = None) -> Predictions:
    """Predicts by task, float32 (B, columns); `.to_dict()` and `.to_pandas()` are the table of the verb `predict`.

    'label' holds probabilities, whose rows sum to 1; 'labels' scores; 'distribution' shares, whose rows sum to 1; 'vad'
    those of valence, arousal and dominance that the dataset has, on its scale; 'similarity', for a CLIP, the cosine
    with each of its `texts`. For many images, progress is shown.

    Args:
      images: the scenes.
      persons: the person in each, cut out with a margin (docs/two_streams.md); None shows each scene twice.

    Raises:
      ValueError: images have another form, the model sees the scene alone, or there is another number of persons.
    """
    recogniser = self._predictor.recogniser
    views = recogniser.view.views(images)
    if recogniser.sees_person:
      views = np.stack([views, self._person_views(persons, views)], axis=1)
    elif persons is not None:
      raise ValueError("this model sees the scene alone (streams 'scene'): leave persons out")
    outputs = self._run(views)
    by_task = split_columns(outputs[:, :width(self.tasks)], self.tasks)
    arrays = {task.name: predict(task, by_task[task.name]).astype(np.float32) for task in self.tasks}
    if self.texts:
      arrays['similarity'] = outputs[:, width(self.tasks):].astype(np.float32)
    return Predictions(arrays, self._predictor.columns(outputs), image_names(images))

  def predict_proba(self, images: Any, persons: Any = None) -> np.ndarray:
    """The probabilities, float32 (B, classes), whose rows sum to 1; arguments and errors are those of `predict`.

    Raises:
      UserError: the model was not trained to predict a single label.
    """
    if 'label' not in [task.name for task in self.tasks]:
      names = ', '.join(task.name for task in self.tasks)
      raise UserError(f'this checkpoint predicts {names} and no single label: use predict')
    return self.predict(images, persons)['label']

  def _person_views(self, persons: Any, scenes: np.ndarray) -> np.ndarray:
    if persons is None:
      return scenes
    view = self._predictor.recogniser.view
    found = dataclasses.replace(view, short_side=view.size, squash=True).views(persons, 'persons')
    if len(found) != len(scenes) or found.dtype != scenes.dtype:
      raise ValueError(f'there are {len(found)} persons for {len(scenes)} images: give one each, in the same form')
    return found

  def _run(self, views: np.ndarray) -> np.ndarray:
    """Outputs (B, W), batch by batch."""
    devices, rows = self._predictor.devices, find_batch_size(self._predictor, len(views))
    parts = []
    with tqdm.tqdm(total=len(views), desc='predicting', unit=' images', delay=1) as progress:
      for start in range(0, max(len(views), 1), rows):
        batch = views[start:start + rows]
        padding = [(0, round_up(rows if start else len(batch), devices) - len(batch)), *[(0, 0)] * (views.ndim - 1)]
        parts.append(np.asarray(self._predictor(np.pad(batch, padding)))[:len(batch)])
        progress.update(len(batch))
    return np.concatenate(parts)


def load_encoder(checkpoint: str | os.PathLike) -> LoadedEncoder:
  """Loads the encoder of any model: a run, or a file, folder or hub id of another library's weights.

  Raises:
    UserError: there is no model, or it has no encoder of this method.
  """
  return LoadedEncoder(open_encoder(os.fspath(checkpoint)))


def load_classifier(
    checkpoint: str | os.PathLike, labels: str | os.PathLike | Sequence[str] | None = None,
    prompts: str | os.PathLike | Sequence[str] | None = None, texts: str | Sequence[str] = ()) -> LoadedClassifier:
  """Loads any model that names emotions: a fine-tuned run, another library's classifier, or a CLIP and words.

  Args:
    checkpoint: a run's workdir (its best epoch), a step folder, or a file, folder or hub id of weights.
    labels: for a CLIP, as `predict` takes them: 'mikels+valence', 'calm,lonely', or a file; or a list of classes.
    prompts: a file of templates, or a list of them.
    texts: whole texts, whose similarity to each image `predict` gives.

  Raises:
    UserError: there is no model, it names no emotions, or a CLIP is given no words.
  """
  if not isinstance(checkpoint, str | os.PathLike):
    raise UserError(
        f'checkpoint is {checkpoint!r}, no path: give that of a run, or a file, folder or hub id of weights')
  texts = (texts,) if isinstance(texts, str) else tuple(texts)
  return LoadedClassifier(open_recogniser(ModelSource(os.fspath(checkpoint), labels, prompts, texts)))
