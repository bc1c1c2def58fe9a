"""A CLIP that classifies without training: its image tower, and words that were embedded once (docs/predict.md)."""

from typing import Any

from flax import nnx
import jax
import jax.numpy as jnp
from numpy.typing import ArrayLike


class ZeroShotClassifier(nnx.Module):
  """Computes columns from the cosine between an image and each of W texts.

  Args:
    model: a CLIP or SigLIP, of which `image` is used.
    texts_WxE: unit-norm embeddings: first of the classes, then of the two poles of each dimension, then of own texts.
    classes, dimensions: the number of classes, and of dimensions.
    scale: the model's temperature, by which cosines become logits.
  """

  def __init__(self, model: Any, texts_WxE: ArrayLike, *, classes: int, dimensions: int, scale: float):
    self.model, self.texts = model, nnx.Param(jnp.asarray(texts_WxE, jnp.float32))
    self.classes, self.dimensions, self.scale = classes, dimensions, scale

  def __call__(self, images_BxHxWx3: jax.Array) -> jax.Array:
    """The columns, float32 (B, classes + dimensions + own texts), of normalised float images.

    They are the logits of the classes; for each dimension the probability of its high pole minus that of its low one,
    from -1 to 1; and the cosine with each own text.
    """
    return zero_shot_outputs(
        self.model.image(images_BxHxWx3) @ self.texts[...].T, self.classes, self.dimensions, self.scale)


def zero_shot_outputs(cosines_BxW: jax.Array, classes: int, dimensions: int, scale: float) -> jax.Array:
  """Computes the output of a `ZeroShotClassifier` from the cosines between images and its texts."""
  classes_BxC, poles, own = jnp.split(cosines_BxW, [classes, classes + 2 * dimensions], axis=1)
  high, low = poles[:, 0::2], poles[:, 1::2]
  return jnp.concatenate([scale * classes_BxC, jnp.tanh(scale * (high - low) / 2), own], axis=1)
