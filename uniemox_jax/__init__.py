"""UniEmoX in JAX: pretraining, fine-tuning and use of emotion models for whole scenes.

Importing this is quick: jax and everything else load with the first call.
"""

from typing import TYPE_CHECKING, Any

__version__ = '0.1.0'
__all__ = ['load_classifier', 'load_clip', 'load_encoder']

if TYPE_CHECKING:
  from uniemox_jax.api import LoadedClassifier, LoadedEncoder
  from uniemox_jax.teacher.frozen_clip import Clip


def load_clip(folder_or_hub_id: str, **options: Any) -> 'Clip':
  """A frozen CLIP with `.encode_image` and `.encode_text`; see `uniemox_jax.teacher.frozen_clip.load_clip`."""
  from uniemox_jax.teacher import frozen_clip
  return frozen_clip.load_clip(folder_or_hub_id, **options)


def load_encoder(checkpoint: str) -> 'LoadedEncoder':
  """A pretrained or fine-tuned encoder with `.tokens` and `.features`; see `uniemox_jax.api.load_encoder`."""
  from uniemox_jax import api
  return api.load_encoder(checkpoint)


def load_classifier(checkpoint: str) -> 'LoadedClassifier':
  """A fine-tuned classifier with `.labels` and `.predict_proba`; see `uniemox_jax.api.load_classifier`."""
  from uniemox_jax import api
  return api.load_classifier(checkpoint)
