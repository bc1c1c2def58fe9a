"""Losses of UniEmoX (docs/method.md, Losses) and of classifiers. Every function returns one value per example.

All are computed in float32 and averaged over rows by the caller, so that micro-batches add up exactly.
"""

import functools

import jax
import jax.numpy as jnp

from uniemox_jax.models.layers import unit


def _cosine(x: jax.Array, y: jax.Array) -> jax.Array:
  return jnp.sum(unit(x) * unit(y), axis=-1)


def similarity(fused_BxE: jax.Array, image_BxE: jax.Array) -> jax.Array:
  """L2: one minus the cosine between the fused student embedding and CLIP's image embedding; (B,), in [0, 2]."""
  return 1.0 - _cosine(fused_BxE, image_BxE)


def _text_similarities(fused_BxE: jax.Array, image_BxE: jax.Array, text: jax.Array) -> tuple[jax.Array, jax.Array]:
  """A = normalised fused x texts and C = image x texts, (B, T); `text` is (T, E), or (B, T, E) with own texts a row."""
  # By default a TPU rounds the factors of a product to bfloat16, and the scale makes a cosine's error 100 times larger.
  dot = functools.partial(jnp.einsum, 'be,te->bt' if text.ndim == 2 else 'be,bte->bt', precision='highest')
  return dot(unit(fused_BxE), text), dot(image_BxE, text)


def contrastive_cosine(fused_BxE: jax.Array, image_BxE: jax.Array, text: jax.Array) -> jax.Array:
  """L1 as published: how differently student and teacher rank the texts, paired and unpaired.

  Rows are examples, columns texts. Each row of similarities is compared by cosine, so scale and temperature cancel.

  Args:
    fused_BxE: student embeddings, float32, any norm.
    image_BxE: teacher image embeddings, float32, unit norm.
    text: teacher text embeddings, float32, unit norm: (T, E) shared by all rows, or (B, T, E) with own texts a row.

  Returns:
    Per-example loss (B,), in [0, 2].
  """
  return 1.0 - _cosine(*_text_similarities(fused_BxE, image_BxE, text))


def contrastive_kl(fused_BxE: jax.Array, image_BxE: jax.Array, text: jax.Array, scale: jax.Array) -> jax.Array:
  """L1 with a temperature: KL(softmax(s C) || softmax(s A)) per row, `scale` CLIP's learned s; (B,), >= 0."""
  student_BxT, teacher_BxT = _text_similarities(fused_BxE, image_BxE, text)
  student_log, teacher_log = jax.nn.log_softmax(scale * student_BxT), jax.nn.log_softmax(scale * teacher_BxT)
  return jnp.sum(jnp.exp(teacher_log) * (teacher_log - student_log), axis=-1)


def group_texts(text_BxE: jax.Array, group: int) -> jax.Array:
  """Texts for `negatives='local'`: row i gets the texts of its consecutive group of `group` rows, (B, group, E)."""
  batch, width = text_BxE.shape
  grouped = text_BxE.reshape(batch // group, 1, group, width)
  return jnp.broadcast_to(grouped, (batch // group, group, group, width)).reshape(batch, group, width)


def reconstruction(
    prediction_BxDxLxP: jax.Array, target_BxDxLxP: jax.Array, mask_BxDxL: jax.Array,
    norm_pix: bool = False) -> jax.Array:
  """L3: mean squared error per patch, averaged over the hidden patches of every decoded stream; (B,).

  Every row hides the same number of patches, so the mean over rows equals MAE's mean over all hidden patches.

  Args:
    prediction_BxDxLxP, target_BxDxLxP: predicted and true pixels by patch, float32.
    mask_BxDxL: 1 where hidden.
    norm_pix: normalise each target patch by its mean and (torch's unbiased) variance, eps 1e-6.
  """
  if norm_pix:
    mean = target_BxDxLxP.mean(axis=-1, keepdims=True)
    variance = target_BxDxLxP.var(axis=-1, keepdims=True, ddof=1)
    target_BxDxLxP = (target_BxDxLxP - mean) / jnp.sqrt(variance + 1e-6)
  error_BxDxL = jnp.mean((prediction_BxDxLxP - target_BxDxLxP)**2, axis=-1)
  return jnp.sum(error_BxDxL * mask_BxDxL, axis=(1, 2)) / jnp.sum(mask_BxDxL, axis=(1, 2))


def cross_entropy(logits_BxC: jax.Array, target_BxC: jax.Array) -> jax.Array:
  """Cross-entropy against soft targets (label smoothing, mixup); (B,)."""
  return -jnp.sum(target_BxC * jax.nn.log_softmax(logits_BxC), axis=-1)


def clip_contrastive(image_BxE: jax.Array, text_BxE: jax.Array, scale: jax.Array) -> jax.Array:
  """CLIP's symmetric cross-entropy over the batch (Radford et al. 2021, figure 3); (B,). Inputs have unit norm."""
  logits_BxB = scale * jnp.matmul(image_BxE, text_BxE.T, precision='highest')
  by_image, by_text = jnp.diagonal(jax.nn.log_softmax(logits_BxB, 1)), jnp.diagonal(jax.nn.log_softmax(logits_BxB, 0))
  return -(by_image + by_text) / 2
