"""What the `kind` in a checkpoint's description stands for: the student's modules by name."""

from typing import Any

from flax import nnx

from uniemox_jax.models.classifier import Classifier
from uniemox_jax.models.uniemox import UniEmoX
from uniemox_jax.models.vit import ViT


class Encoder(nnx.Module):
  """An encoder alone, as most published weights hold it. Arguments are those of `vit.ViT`."""

  def __init__(self, **arguments: Any):
    self.encoder = ViT(**arguments)


MODULES: dict[str, type[nnx.Module]] = {'uniemox': UniEmoX, 'classifier': Classifier, 'encoder': Encoder}
