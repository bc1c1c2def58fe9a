"""Writes our students as TensorFlow's SavedModel, by jax2tf. No other file of this package imports tensorflow."""

from pathlib import Path
from typing import Any

from flax import nnx
import jax

from uniemox_jax.convert.export_students import ExportedStudent
from uniemox_jax.models.registry import abstract_student

PLATFORMS = ('cpu', 'cuda', 'tpu')


def write_saved_model(folder: Path, student: ExportedStudent) -> list[str]:
  """Writes a SavedModel with the signature `serving_default`, for any batch size, on CPU, GPU and TPU.

  Its input is `images`, float32 (B, size, size, 3), normalised. Its output, float32, is a classifier's `logits`
  (B, classes), else `tokens` (B, 1 + L, D), CLS first, after the final LayerNorm.

  Returns:
    [], since nothing is left behind.
  """
  from jax.experimental import jax2tf

  from data_pipelines.light_tensorflow import tf
  graphdef = nnx.graphdef(abstract_student(student.kind, student.model))
  classifies, size = student.kind == 'classifier', student.model['image_size']
  name = 'logits' if classifies else 'tokens'

  def run(params: dict[str, Any], images_BxHxWx3: jax.Array) -> jax.Array:
    module = nnx.merge(graphdef, params)
    with jax.default_matmul_precision('highest'):
      return (module if classifies else module.encoder)(images_BxHxWx3)

  converted = jax2tf.convert(
      run, polymorphic_shapes=[None, f'(b, {size}, {size}, 3)'], with_gradient=False,
      native_serialization_platforms=PLATFORMS)
  module = tf.Module()
  # Variables, since a graph with more than 2 GiB of constants cannot be written.
  module.params = jax.tree.map(tf.Variable, student.params)
  images = tf.TensorSpec((None, size, size, 3), tf.float32, name='images')
  module.run = tf.function(
      lambda images: {name: converted(module.params, images)}, input_signature=[images], autograph=False)
  tf.saved_model.save(module, str(folder), signatures=module.run.get_concrete_function())
  return []
