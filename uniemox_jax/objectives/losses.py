"""The losses of pretraining (docs/method.md, Losses), CLIP's, and those of the tasks (docs/tasks.md).

Every function returns one value per example, float32 (B,), which the caller averages, so that micro-batches add up
exactly. What needs the whole batch (missing targets, class weights) comes in as `weight`; see `tasks.row_weights`.
"""

import functools

import jax
import jax.numpy as jnp
import optax

from uniemox_jax.models.layers import unit

DYNAMIC_C = 1.2
"""The c of the class weights 1 / ln(c + p) (Kosti et al. 2017; from their code, the text could not be checked)."""
ABSENT_WEIGHT = 1e-4
"""The weight of a class without examples, as in the published code of EMOTIC. The formula would give it the largest."""


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


def equal_text_weights(text: jax.Array) -> jax.Array:
  """Weights by which equal texts count once together: 1 / the number of equal ones; (T,) or (B, T), as `text` is."""
  return 1 / jnp.sum(jnp.all(text[..., :, None, :] == text[..., None, :, :], axis=-1), axis=-1)


def contrastive_cosine(
    fused_BxE: jax.Array, image_BxE: jax.Array, text: jax.Array, weight: jax.Array | None = None) -> jax.Array:
  """L1 as published: how differently student and teacher rank the texts, paired and unpaired.

  Each example's similarities to all texts are compared by cosine, so scale and temperature cancel.

  Args:
    fused_BxE: student embeddings, float32, any norm.
    image_BxE: teacher image embeddings, float32, unit norm.
    text: teacher text embeddings, float32, unit norm: (T, E) shared by all rows, or (B, T, E) with own texts a row.
    weight: the weights of the texts, (T,) or (B, T); None counts each once.

  Returns:
    The loss of each example, (B,), in [0, 2].
  """
  student_BxT, teacher_BxT = _text_similarities(fused_BxE, image_BxE, text)
  if weight is not None:
    student_BxT, teacher_BxT = student_BxT * jnp.sqrt(weight), teacher_BxT * jnp.sqrt(weight)
  return 1.0 - _cosine(student_BxT, teacher_BxT)


def contrastive_kl(
    fused_BxE: jax.Array, image_BxE: jax.Array, text: jax.Array, scale: jax.Array,
    weight: jax.Array | None = None) -> jax.Array:
  """L1 with a temperature: KL(softmax(s C) || softmax(s A)) per row, `scale` CLIP's learned s; (B,), >= 0."""
  student_BxT, teacher_BxT = (scale * similarity for similarity in _text_similarities(fused_BxE, image_BxE, text))
  if weight is not None:  # A text that counts w times has w times the probability.
    student_BxT, teacher_BxT = student_BxT + jnp.log(weight), teacher_BxT + jnp.log(weight)
  student_log, teacher_log = jax.nn.log_softmax(student_BxT), jax.nn.log_softmax(teacher_BxT)
  return jnp.sum(jnp.exp(teacher_log) * (teacher_log - student_log), axis=-1)


def group_texts(text_BxE: jax.Array, group: int) -> jax.Array:
  """The texts for `negatives='local'`, (B, group, E): row i gets those of its consecutive group of `group` rows."""
  batch, width = text_BxE.shape
  grouped = text_BxE.reshape(batch // group, 1, group, width)
  return jnp.broadcast_to(grouped, (batch // group, group, group, width)).reshape(batch, group, width)


def reconstruction(
    prediction_BxUxLxP: jax.Array, target_BxUxLxP: jax.Array, mask_BxUxL: jax.Array,
    norm_pix: bool = False) -> jax.Array:
  """L3: mean squared error per patch, averaged over the hidden patches of every decoded stream; (B,).

  Every example hides the same number of patches, so their mean is MAE's mean over all hidden patches.

  Args:
    prediction_BxUxLxP, target_BxUxLxP: predicted and true pixels by patch, float32.
    mask_BxUxL: 1 where hidden.
    norm_pix: normalise each target patch by its mean and (torch's unbiased) variance, eps 1e-6.
  """
  if norm_pix:
    mean = target_BxUxLxP.mean(axis=-1, keepdims=True)
    variance = target_BxUxLxP.var(axis=-1, keepdims=True, ddof=1)
    target_BxUxLxP = (target_BxUxLxP - mean) / jnp.sqrt(variance + 1e-6)
  error_BxUxL = jnp.mean((prediction_BxUxLxP - target_BxUxLxP)**2, axis=-1)
  return jnp.sum(error_BxUxL * mask_BxUxL, axis=(1, 2)) / jnp.sum(mask_BxUxL, axis=(1, 2))


def distillation(predicted_BxLxD: jax.Array, teacher_BxLxD: jax.Array, mask_BxL: jax.Array) -> jax.Array:
  """L4, which is ours: one minus the cosine between predicted and true tokens of the teacher; (B,), in [0, 2].

  It is the mean over the hidden patches, as in MaskDistill (Peng et al. 2022, whose text could not be checked).

  Args:
    predicted_BxLxD, teacher_BxLxD: the tokens of every patch, float32, any norm.
    mask_BxL: 1 where hidden.
  """
  apart_BxL = 1.0 - _cosine(predicted_BxLxD, teacher_BxLxD)
  return jnp.sum(apart_BxL * mask_BxL, axis=1) / jnp.sum(mask_BxL, axis=1)


def clip_contrastive(
    image_BxE: jax.Array, text_BxE: jax.Array, scale: jax.Array, ids_BxT: jax.Array | None = None) -> jax.Array:
  """CLIP's symmetric cross-entropy over the batch (Radford et al. 2021, figure 3); (B,). Embeddings have unit norm.

  With the texts' token ids, pairs of other images with an equal text are no negatives.
  """
  logits_BxB = scale * jnp.matmul(image_BxE, text_BxE.T, precision='highest')
  if ids_BxT is not None:
    equal_BxB = jnp.all(ids_BxT[:, None] == ids_BxT[None], axis=-1)
    logits_BxB = jnp.where(equal_BxB & ~jnp.eye(len(ids_BxT), dtype=bool), -jnp.inf, logits_BxB)
  by_image, by_text = jnp.diagonal(jax.nn.log_softmax(logits_BxB, 1)), jnp.diagonal(jax.nn.log_softmax(logits_BxB, 0))
  return -(by_image + by_text) / 2


def cross_entropy(logits_BxC: jax.Array, target_BxC: jax.Array, weight: jax.Array) -> jax.Array:
  """Cross-entropy against soft targets (label smoothing, mixup); `weight` is (B, 1), or (B, C) with one of each class.
  """
  log_BxC = jax.nn.log_softmax(logits_BxC)
  if weight.shape[-1] == 1:  # The same as below, but for the last bits, which resumed runs rely on.
    return -jnp.sum(target_BxC * log_BxC, axis=-1) * weight[:, 0]
  return -jnp.sum(target_BxC * log_BxC * weight, axis=-1)


def binary_cross_entropy(logits_BxC: jax.Array, target_BxC: jax.Array, weight_BxC: jax.Array) -> jax.Array:
  """The mean over classes of the sigmoid cross-entropies."""
  return jnp.mean(weight_BxC * optax.sigmoid_binary_cross_entropy(logits_BxC, target_BxC), axis=-1)


def weighted_euclidean(output_BxC: jax.Array, target_BxC: jax.Array, weight_BxC: jax.Array) -> jax.Array:
  """The sum over classes of w (output - target)^2: EMOTIC's loss of the categories (Kosti et al. 2017, section 4.2).

  The output is linear, and is itself the score of its class.
  """
  return jnp.sum(weight_BxC * (output_BxC - target_BxC)**2, axis=-1)


def kl_divergence(logits_BxC: jax.Array, target_BxC: jax.Array, weight_Bx1: jax.Array) -> jax.Array:
  """The divergence KL(target || softmax(logits)) of distributions, in nats; 0 ln 0 is 0."""
  entropy_B = jnp.sum(jax.scipy.special.xlogy(target_BxC, target_BxC), axis=-1)
  cross_entropy_B = -jnp.sum(target_BxC * jax.nn.log_softmax(logits_BxC), axis=-1)
  return (entropy_B + cross_entropy_B) * weight_Bx1[:, 0]


def squared_error(output_BxD: jax.Array, target_BxD: jax.Array, weight_BxD: jax.Array) -> jax.Array:
  """The mean over dimensions of the squared error."""
  return jnp.mean(weight_BxD * (output_BxD - target_BxD)**2, axis=-1)


def one_minus_ccc(output_BxD: jax.Array, target_BxD: jax.Array, weight_BxD: jax.Array) -> jax.Array:
  """Each example's part of 1 - CCC (Lin 1989), the mean over dimensions; the parts' mean over the batch is 1 - CCC.

  1 - CCC = E[(x - y)^2] / (var x + var y + (E x - E y)^2), and the denominator is of the whole batch: these examples
  must be all of it. `weight` must have mean 1 over examples, or be 0 for all.
  """
  mean_x, mean_y = jnp.mean(weight_BxD * output_BxD, axis=0), jnp.mean(weight_BxD * target_BxD, axis=0)
  spread_x = jnp.mean(weight_BxD * (output_BxD - mean_x)**2, axis=0)
  spread_y = jnp.mean(weight_BxD * (target_BxD - mean_y)**2, axis=0)
  # A single example has no spread: without the floor, its perfect prediction would be 0 / 0.
  denominator_D = jnp.maximum(spread_x + spread_y + (mean_x - mean_y)**2, 1e-8)
  return squared_error(output_BxD, target_BxD, weight_BxD / denominator_D)


def balanced_weights(share_C: jax.Array) -> jax.Array:
  """Weights 1 / (C p) by each class's share p: all classes weigh the same, an absent one 0 (scikit-learn: balanced)."""
  return jnp.where(share_C > 0, 1 / (len(share_C) * jnp.maximum(share_C, 1e-12)), 0.0)


def class_weights(share_C: jax.Array) -> jax.Array:
  """Weights 1 / ln(c + p), c = 1.2, by each class's share p of the examples, in train (static) or in the batch."""
  return jnp.where(share_C > 0, 1 / jnp.log(DYNAMIC_C + share_C), ABSENT_WEIGHT)
