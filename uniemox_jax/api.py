"""Trained models for notebooks and programs: arrays in, arrays out.

`images` everywhere: uint8 (B, H, W, 3), which is resized, cropped and normalised as in the model's evaluation; or
float32 (B, size, size, 3), taken as already normalised. Anything else is a ValueError. `persons` likewise, but each is
resized to the square whatever its proportions, as the person crops of records are.
"""

import functools
from typing import Any

from flax import nnx
import jax
import numpy as np
from numpy.typing import ArrayLike

from data_pipelines.errors import UserError
from uniemox_jax.models.classifier import stack_views
from uniemox_jax.models.preprocess import person_view, student_view
from uniemox_jax.models.registry import MODULES, abstract_student
from uniemox_jax.objectives.tasks import predict, split_columns, tasks_of
from uniemox_jax.train.checkpoint import Checkpoint, load_checkpoint


@functools.partial(jax.jit, static_argnums=(0, 1))
def _apply(graphdef: nnx.GraphDef, output: str, params: dict[str, Any], views: jax.Array) -> jax.Array:
  model = nnx.merge(graphdef, params)
  if output == 'tokens':
    return model.encoder(views)
  return model(views) if output == 'outputs' else model.features(views)


class _LoadedModel:

  def __init__(self, checkpoint: Checkpoint):
    description = checkpoint.description
    self._graphdef = nnx.graphdef(abstract_student(description['kind'], description['model']))
    self._params = jax.device_put(checkpoint.params)
    self.image_size: int = description['model']['image_size']
    self._statistics = {name: tuple(values) for name, values in description.get('statistics', {}).items()}

  def _view(self, images: ArrayLike) -> jax.Array:
    return student_view(images, self.image_size, **self._statistics)

  def _run(self, output: str, views: jax.Array) -> np.ndarray:
    return np.asarray(_apply(self._graphdef, output, self._params, views), np.float32)


class LoadedEncoder(_LoadedModel):
  """A ViT encoder, from pretraining, fine-tuning or another library."""

  def __init__(self, checkpoint: Checkpoint):
    super().__init__(checkpoint)
    self._pools_itself = checkpoint.description['kind'] == 'classifier'

  def tokens(self, images: ArrayLike) -> np.ndarray:
    """float32 (B, 1 + L, D), CLS first: after the final LayerNorm, or a fine-tuned model's block outputs."""
    return self._run('tokens', self._view(images))

  def features(self, images: ArrayLike) -> np.ndarray:
    """float32 (B, D): mean over patch tokens, or a fine-tuned model's `fc_norm` output, one view alone."""
    return self._run('features', self._view(images)) if self._pools_itself else self.tokens(images)[:, 1:].mean(axis=1)


class LoadedClassifier(_LoadedModel):
  """A fine-tuned classifier.

  labels: class names in the order of the probabilities. tasks: all that it predicts. streams: 'scene', or
  'scene+person' for one that takes `persons`.
  """

  def __init__(self, checkpoint: Checkpoint):
    super().__init__(checkpoint)
    self.labels: list[str] = checkpoint.description['labels']
    self.tasks = tasks_of(checkpoint.description)
    self.streams: str = checkpoint.description['model'].get('streams', 'scene')

  def predict(self, images: ArrayLike, persons: ArrayLike | None = None) -> dict[str, np.ndarray]:
    """What it predicts, by task, float32 (B, columns); `tasks` names the columns.

    'label': probabilities, rows sum to 1; 'labels': scores; 'distribution': shares, rows sum to 1; 'vad': those of
    valence, arousal and dominance that the dataset has, on its scale.

    Args:
      images: the scenes.
      persons: the person in each, cut out with a margin (docs/two_streams.md); None shows each scene twice.

    Raises:
      ValueError: images in another form, persons for a model of the scene alone, or another number of them.
    """
    batch = {'image': self._view(images)}
    if self.streams == 'scene':
      if persons is not None:
        raise ValueError("this model sees the scene alone (streams 'scene'): leave persons out")
    else:
      scene = batch['image']
      batch['person'] = scene if persons is None else person_view(persons, self.image_size, **self._statistics)
      if len(batch['person']) != len(scene):
        raise ValueError(f'there are {len(batch["person"])} persons for {len(scene)} images: give one each')
    outputs = split_columns(self._run('outputs', stack_views(batch)), self.tasks)
    return {task.name: predict(task, outputs[task.name]).astype(np.float32) for task in self.tasks}

  def predict_proba(self, images: ArrayLike, persons: ArrayLike | None = None) -> np.ndarray:
    """float32 (B, classes), rows sum to 1; arguments and errors are those of `predict`.

    Raises:
      UserError: it was not trained to predict a single label.
    """
    predicted = self.predict(images, persons)
    if 'label' not in predicted:
      raise UserError(f'this checkpoint predicts {", ".join(predicted)} and no single label: use predict')
    return predicted['label']


def load_encoder(checkpoint: str) -> LoadedEncoder:
  """Loads the encoder of a pretrained or fine-tuned checkpoint PATH (workdir, step folder or `import_torch` output).

  Raises:
    UserError: no checkpoint, or one without a student (a CLIP's).
  """
  loaded = load_checkpoint(checkpoint)
  if loaded.description['kind'] not in MODULES:
    raise UserError(
        f"{checkpoint} holds a {loaded.description['kind']}, not a student: give a pretrain or finetune run")
  return LoadedEncoder(loaded)


def load_classifier(checkpoint: str) -> LoadedClassifier:
  """Loads a fine-tuned checkpoint PATH (workdir: its best epoch; a step folder; `import_torch` output).

  Raises:
    UserError: no checkpoint, or one that was not fine-tuned.
  """
  loaded = load_checkpoint(checkpoint)
  if loaded.description['kind'] != 'classifier':
    raise UserError(f'{checkpoint} holds no classifier: fine-tune it first (python -m uniemox_jax.finetune)')
  return LoadedClassifier(loaded)
