"""AdamW as the recipes use it: warm-up, cosine, no decay on biases and norms, layer-wise rates.

Source: docs/method.md, Recipes.
"""

from collections.abc import Callable
import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from uniemox_jax.train.config import TrainConfig

Schedule = Callable[[jax.Array], jax.Array]
NOT_DECAYED = ('bias', 'scale', 'positions', 'cls_token', 'mask_token', 'logit_scale', 'class_embedding')
_TOKENS = ('cls_token', 'mask_token')


def warmup_cosine(base_lr: float, batch_size: int, steps: int, warmup_steps: int, final_lr: float = 0.0) -> Schedule:
  """The learning rate by step: linear from zero to a peak of base_lr * batch/256, then a cosine to `final_lr`."""
  peak = base_lr * batch_size / 256
  return optax.warmup_cosine_decay_schedule(0.0, peak, warmup_steps, max(steps, warmup_steps + 1), final_lr)


def decay_mask(params: dict[str, Any], tokens: bool = False) -> dict[str, Any]:
  """True where weight decay applies: everything but biases, norms, tokens and positions.

  With `tokens`, it applies to the class token, the mask token and the bias that ends a fusion, too. These have more
  than one axis in the original, whose optimizer decides by the number of axes.
  """

  def decayed(path: tuple[Any, ...], _: jax.Array) -> bool:
    names = [key.key for key in path]
    of_original = names[-1] in _TOKENS or names[-2:] == ['fusion', 'bias']
    return names[-1] not in NOT_DECAYED or tokens and of_original

  return jax.tree_util.tree_map_with_path(decayed, params)


def layer_rates(params: dict[str, Any], decay: float) -> dict[str, Any]:
  """Layer-wise learning-rate factors of a `Classifier` (BEiT's rule, as MAE fine-tunes).

  With N blocks: patch embedding, tokens and positions are layer 0, block i is layer i + 1, everything after the
  blocks layer N + 1; the factor is decay^(N + 1 - layer). Stacked blocks get one factor per row.
  """
  depth = params['encoder']['blocks']['layers']['norm1']['scale'].shape[0]

  def rate(path: tuple[Any, ...], leaf: jax.Array) -> jax.Array:
    names = [key.key for key in path]
    if 'blocks' in names:
      return (decay**jnp.arange(depth, 0, -1, dtype=jnp.float32)).reshape(-1, *[1] * (leaf.ndim - 1))
    return jnp.float32(decay**(depth + 1) if names[0] == 'encoder' else 1.0)

  return jax.tree_util.tree_map_with_path(rate, params)


def adamw(
    schedule: Schedule, *, b1: float = 0.9, b2: float = 0.95, weight_decay: float = 0.05, decay_tokens: bool = False,
    layer_decay: float = 1.0) -> optax.GradientTransformation:
  """AdamW with masked decay (see `decay_mask`); `layer_decay` < 1 applies layer-wise rates, to updates and decay alike.
  """
  mask = functools.partial(decay_mask, tokens=decay_tokens)
  by_layer = optax.stateless(lambda updates, _: jax.tree.map(jnp.multiply, updates, layer_rates(updates, layer_decay)))
  return optax.chain(
      optax.scale_by_adam(b1=b1, b2=b2), optax.add_decayed_weights(weight_decay, mask=mask),
      by_layer if layer_decay != 1.0 else optax.identity(), optax.scale_by_learning_rate(schedule))


def update_average(average: dict[str, Any], params: dict[str, Any], step: jax.Array, decay: float) -> dict[str, Any]:
  """The exponential moving average of the parameters after one more update.

  Its decay is min(`decay`, (1 + step) / (10 + step)), TensorFlow's rule (`tf.train.ExponentialMovingAverage` with
  `num_updates`). The average starts from the initial weights and soon forgets them, so it needs no correction.

  Args:
    average, params: nested dicts of float32 arrays; `params` are the updated ones.
    step: how many updates were done before this one.
    decay: the final decay, below 1.
  """
  slowed = jnp.minimum(decay, (1 + step) / (10 + step))
  return optax.incremental_update(params, average, 1 - slowed)


class Optimizer(NamedTuple):
  """How a gradient becomes an update.

  tx: optax's transformation. schedule: the learning rate of a step, for the log; `tx` follows it.
  accum_steps: the number of micro-batches in a step. max_gradient_norm: a longer gradient is not applied.
  ema_decay: the decay of the averaged parameters, 0 without an average; see `update_average`.
  """

  tx: optax.GradientTransformation
  schedule: Schedule
  accum_steps: int = 1
  max_gradient_norm: float = math.inf
  ema_decay: float = 0.0


def make_optimizer(config: TrainConfig, steps_per_epoch: int) -> Optimizer:
  """Makes the optimizer of a run, with accumulation, averaging and layer decay if its verb has these keys."""
  settings = config.optimizer
  steps, warmup_steps = config.epochs * steps_per_epoch, config.warmup_epochs * steps_per_epoch
  schedule = warmup_cosine(settings.base_lr, config.batch_size, steps, warmup_steps, settings.final_lr)
  tx = adamw(
      schedule, b1=settings.b1, b2=settings.b2, weight_decay=settings.weight_decay, decay_tokens=settings.decay_tokens,
      layer_decay=getattr(settings, 'layer_decay', 1.0))
  return Optimizer(
      tx, schedule, getattr(config, 'accum_steps', 1), config.max_gradient_norm, getattr(config, 'ema_decay', 0.0))
