"""Losses of the tasks (docs/tasks.md). Every function returns one value per example, float32 (B,).

Each takes `weight`, which holds whatever is known of the whole batch (missing targets, class weights), so that
micro-batches add up exactly; see `tasks.prepare`.
"""

import jax
import jax.numpy as jnp
import optax

from uniemox_jax.objectives import losses

DYNAMIC_C = 1.2
"""Of the class weights 1 / ln(c + p) (Kosti et al. 2017, whose text could not be checked; their code has it too)."""
ABSENT_WEIGHT = 1e-4
"""Of a class that no example has, as in the published code of EMOTIC; the formula would weigh it most of all."""


def cross_entropy(logits_BxC: jax.Array, target_BxC: jax.Array, weight_Bx1: jax.Array) -> jax.Array:
  """Cross-entropy against soft targets (label smoothing, mixup)."""
  return losses.cross_entropy(logits_BxC, target_BxC) * weight_Bx1[:, 0]


def binary_cross_entropy(logits_BxC: jax.Array, target_BxC: jax.Array, weight_BxC: jax.Array) -> jax.Array:
  """Mean over classes of the sigmoid cross-entropies."""
  return jnp.mean(weight_BxC * optax.sigmoid_binary_cross_entropy(logits_BxC, target_BxC), axis=-1)


def weighted_euclidean(output_BxC: jax.Array, target_BxC: jax.Array, weight_BxC: jax.Array) -> jax.Array:
  """Sum over classes of w (output - target)^2: EMOTIC's loss of the categories (Kosti et al. 2017, section 4.2).

  The output is linear, and the score of its class as it stands.
  """
  return jnp.sum(weight_BxC * (output_BxC - target_BxC)**2, axis=-1)


def kl_divergence(logits_BxC: jax.Array, target_BxC: jax.Array, weight_Bx1: jax.Array) -> jax.Array:
  """KL(target || softmax(logits)) of distributions, in nats; 0 ln 0 is 0."""
  entropy_B = jnp.sum(jax.scipy.special.xlogy(target_BxC, target_BxC), axis=-1)
  return (entropy_B + losses.cross_entropy(logits_BxC, target_BxC)) * weight_Bx1[:, 0]


def squared_error(output_BxD: jax.Array, target_BxD: jax.Array, weight_BxD: jax.Array) -> jax.Array:
  """Mean over dimensions of the squared error."""
  return jnp.mean(weight_BxD * (output_BxD - target_BxD)**2, axis=-1)


def one_minus_ccc(output_BxD: jax.Array, target_BxD: jax.Array, weight_BxD: jax.Array) -> jax.Array:
  """Each example's part of 1 - CCC (Lin 1989), mean over dimensions; the mean over rows is 1 - CCC of the batch.

  1 - CCC = E[(x - y)^2] / (var x + var y + (E x - E y)^2), and the denominator is of the whole batch: these rows must
  be all of it. `weight` must have mean 1 over rows, or be 0 throughout.
  """
  mean_x, mean_y = jnp.mean(weight_BxD * output_BxD, axis=0), jnp.mean(weight_BxD * target_BxD, axis=0)
  spread_x = jnp.mean(weight_BxD * (output_BxD - mean_x)**2, axis=0)
  spread_y = jnp.mean(weight_BxD * (target_BxD - mean_y)**2, axis=0)
  # A single example has no spread: without the floor, its perfect prediction would be 0 / 0.
  denominator_D = jnp.maximum(spread_x + spread_y + (mean_x - mean_y)**2, 1e-8)
  return squared_error(output_BxD, target_BxD, weight_BxD / denominator_D)


def class_weights(share_C: jax.Array) -> jax.Array:
  """1 / ln(c + p) with c = 1.2 of each class's share p of the examples, of the train split (static) or of the batch."""
  return jnp.where(share_C > 0, 1 / jnp.log(DYNAMIC_C + share_C), ABSENT_WEIGHT)
