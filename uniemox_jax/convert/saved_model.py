"""Our students -> TensorFlow's SavedModel, by jax2tf. No other file of this package imports tensorflow."""

from pathlib import Path
from typing import Any

from flax import nnx
import jax

from uniemox_jax.models.registry import abstract_student

PLATFORMS = ('cpu', 'cuda', 'tpu')


def write_saved_model(folder: Path, kind: str, model: dict[str, Any], params: dict[str, Any]) -> None:
  """Writes a SavedModel with the signature `serving_default`, for any batch size, on CPU, GPU and TPU.

  Input: `images`, float32 (B, size, size, 3), normalised. Output, float32: a classifier's `logits` (B, classes), else
  `tokens` (B, 1 + L, D), CLS first, after the final LayerNorm.

  Args:
    folder: an existing folder.
    kind, model, params: as in a checkpoint.
  """
  from jax.experimental import jax2tf
  import tensorflow as tf
  graphdef = nnx.graphdef(abstract_student(kind, model))
  name = 'logits' if kind == 'classifier' else 'tokens'
  size = model['image_size']

  def run(params: dict[str, Any], images_BxHxWx3: jax.Array) -> jax.Array:
    module = nnx.merge(graphdef, params)
    with jax.default_matmul_precision('highest'):
      return (module if kind == 'classifier' else module.encoder)(images_BxHxWx3)

  converted = jax2tf.convert(
      run, polymorphic_shapes=[None, f'(b, {size}, {size}, 3)'], with_gradient=False,
      native_serialization_platforms=PLATFORMS)
  module = tf.Module()
  # Variables, since a graph with more than 2 GiB of constants cannot be written.
  module.params = jax.tree.map(tf.Variable, params)
  images = tf.TensorSpec((None, size, size, 3), tf.float32, name='images')
  module.run = tf.function(
      lambda images: {name: converted(module.params, images)}, input_signature=[images], autograph=False)
  tf.saved_model.save(module, str(folder), signatures=module.run.get_concrete_function())
