"""Draws reconstruction triplets: the visible patches, the reconstruction, and the original image."""

from typing import Any

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np

from uniemox_jax.models.masking import patchify, unpatchify
from uniemox_jax.models.preprocess import denormalise, normalise


def reconstruction_triplets(
    student: nnx.GraphDef, params: dict[str, Any], scenes_BxHxWx3: np.ndarray, norm_pix: bool) -> np.ndarray:
  """Draws a sheet with a row per example: masked, reconstructed (visible patches kept), original; gaps are white.

  The mask noise is fixed, so sheets of one run can be compared.

  Args:
    student: graph of a `UniEmoX` with a decoder; params: its parameters.
    scenes_BxHxWx3: uint8 images.
    norm_pix: whether the model predicts normalised patches; these are shown with the true patch's mean and deviation.

  Returns:
    uint8 (B * (H + 2), 3 * (W + 2), 3).
  """

  @jax.jit
  def reconstruct(params: dict[str, Any], scenes: jax.Array) -> tuple[jax.Array, ...]:
    model = nnx.merge(student, params)
    image = normalise(scenes)
    noise = jax.random.uniform(jax.random.key(0), (len(scenes), model.view_count, model.encoder.patches))
    outputs = model(jnp.stack([image] * model.view_count, axis=1), noise)
    target = patchify(image, model.encoder.patch_size)
    prediction, hidden = outputs.prediction_BxUxLxP[:, 0], outputs.mask_BxUxL[:, 0, :, None]
    if norm_pix:
      deviation = jnp.sqrt(target.var(-1, keepdims=True, ddof=1) + 1e-6)
      prediction = prediction * deviation + target.mean(-1, keepdims=True)
    shown = [target * (1 - hidden), prediction * hidden + target * (1 - hidden), target]
    return tuple(unpatchify(patches, model.encoder.patch_size) for patches in shown)

  columns = [denormalise(images) for images in jax.device_get(reconstruct(params, scenes_BxHxWx3))]
  framed = [np.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=255) for images in columns]
  return np.concatenate([np.concatenate(list(images), axis=0) for images in framed], axis=1)
