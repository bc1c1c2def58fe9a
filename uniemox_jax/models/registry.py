"""The student's modules by name, which is the `kind` in a checkpoint's description."""

from collections.abc import Callable, Mapping
from typing import Any

from flax import nnx
import jax

from uniemox_jax.models.classifier import Classifier
from uniemox_jax.models.uniemox import UniEmoX
from uniemox_jax.models.vit import ViT


class Encoder(nnx.Module):
  """An encoder alone, as most published weights hold it. Arguments are those of `vit.ViT`."""

  def __init__(self, **arguments: Any):
    self.encoder = ViT(**arguments)

  def features(self, images_BxHxWx3: jax.Array) -> jax.Array:
    """The features (B, D) of normalised float images: the mean over patch tokens, after the final LayerNorm."""
    return self.encoder(images_BxHxWx3)[:, 1:].mean(axis=1)


MODULES: dict[str, type[nnx.Module]] = {'uniemox': UniEmoX, 'classifier': Classifier, 'encoder': Encoder}


def abstract_student(kind: str, arguments: Mapping[str, Any]) -> nnx.Module:
  """Makes the module of a checkpoint's `kind` and 'model' arguments, with shapes in place of parameters.

  Raises:
    ValueError, TypeError: there is no such model.
  """
  module: Callable[..., nnx.Module] = MODULES[kind]
  return nnx.eval_shape(lambda: module(**arguments, rngs=nnx.Rngs(0)))
