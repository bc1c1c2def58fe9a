"""The evaluation views of our own models, for comparison."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from data_pipelines import images as image_files
from uniemox_jax.convert.view import View
from uniemox_jax.models.preprocess import IMAGENET_MEAN, IMAGENET_STD, normalise


def student_view(images: Any, size: int, mean: Any = IMAGENET_MEAN, std: Any = IMAGENET_STD) -> jax.Array:
  """Images as the student's evaluation sees them, normalised."""
  return View(size, image_files.short_side_of(size), mean=mean, std=std, floor=False)(images)


def person_view(persons: Any, size: int, mean: Any = IMAGENET_MEAN, std: Any = IMAGENET_STD) -> jax.Array:
  """Images of persons, squashed to the square as person crops are."""
  views = View(size, size, squash=True, mean=mean, std=std).views(persons, 'persons')
  return normalise(jnp.asarray(views), mean, std) if views.dtype == np.uint8 else jnp.asarray(views)
