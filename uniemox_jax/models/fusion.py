"""Fusion of the scene's and the person's embedding, gamma = F(alpha, beta) (docs/method.md, One pretraining step).

Every variant maps two (B, E) arrays to one, and says whether it `uses_heads`. The biases that end a fusion start at
1e-5, as in the original.
"""

from typing import Any

from flax import nnx
import jax
import jax.numpy as jnp

from uniemox_jax.models import layers

NORM_EPS = 1e-5


def _final_linear(width: int, *, dtype: Any, rngs: nnx.Rngs) -> nnx.Linear:
  return nnx.Linear(
      width, width, dtype=dtype, kernel_init=nnx.initializers.xavier_uniform(),
      bias_init=nnx.initializers.constant(1e-5), rngs=rngs)


def _constant(value: float, *shape: int) -> nnx.Param:
  return nnx.Param(jnp.full(shape, value, jnp.float32))


class Additive(nnx.Module):
  """ELU(W (LN(alpha) + LN(beta)) + b), one LayerNorm shared by both streams: the original's default."""

  uses_heads = False

  def __init__(self, width: int, *, dtype: Any, rngs: nnx.Rngs):
    self.norm = layers.LayerNorm(width, epsilon=NORM_EPS, dtype=dtype, rngs=rngs)
    self.linear = _final_linear(width, dtype=dtype, rngs=rngs)

  def __call__(self, scene_BxE: jax.Array, person_BxE: jax.Array) -> jax.Array:
    return jax.nn.elu(self.linear(self.norm(scene_BxE) + self.norm(person_BxE)))


class Prior(nnx.Module):
  """W (lambda * alpha + beta) + b with a learned lambda: the paper's figure."""

  uses_heads = False

  def __init__(self, width: int, *, dtype: Any, rngs: nnx.Rngs):
    self.weight = _constant(1.0, width)
    self.linear = _final_linear(width, dtype=dtype, rngs=rngs)

  def __call__(self, scene_BxE: jax.Array, person_BxE: jax.Array) -> jax.Array:
    return self.linear(self.weight[...] * scene_BxE + person_BxE)


class WeightedSum(nnx.Module):
  """LN(sum_h a_h * alpha + b_h * beta) + bias; starts as the mean of the two streams."""

  uses_heads = True

  def __init__(self, width: int, heads: int, *, dtype: Any, rngs: nnx.Rngs):
    self.scene_weight = _constant(0.5 / heads, heads, width)
    self.person_weight = _constant(0.5 / heads, heads, width)
    self.norm = layers.LayerNorm(width, epsilon=NORM_EPS, dtype=dtype, rngs=rngs)
    self.bias = _constant(1e-5, width)

  def __call__(self, scene_BxE: jax.Array, person_BxE: jax.Array) -> jax.Array:
    total = self.scene_weight[...].sum(0) * scene_BxE + self.person_weight[...].sum(0) * person_BxE
    return self.norm(total) + self.bias[...]


class StreamAttention(nnx.Module):
  """swish(sum_h s_h1 alpha + s_h2 beta) + bias, with s_h the softmax over the two *streams* of their scores.

  The original's axis has size 1, so its weights are constant (docs/method.md, Differences from the original).
  """

  uses_heads = True

  def __init__(self, width: int, heads: int, *, dtype: Any, rngs: nnx.Rngs):
    self.scene_score = layers.linear(width, heads, dtype=dtype, rngs=rngs)
    self.person_score = layers.linear(width, heads, dtype=dtype, rngs=rngs)
    self.bias = _constant(1e-5, width)

  def __call__(self, scene_BxE: jax.Array, person_BxE: jax.Array) -> jax.Array:
    scores_BxHx2 = jnp.stack([self.scene_score(scene_BxE), self.person_score(person_BxE)], axis=-1)
    weights_Bx2 = jax.nn.softmax(scores_BxHx2.astype(jnp.float32), axis=-1).sum(axis=1)
    return jax.nn.silu(weights_Bx2[:, :1] * scene_BxE + weights_Bx2[:, 1:] * person_BxE) + self.bias[...]


class Glu(nnx.Module):
  """m = MLP(concat_h softmax(A_h alpha) * alpha + softmax(B_h beta) * beta); ReLU(m * sigmoid(G m)) + bias."""

  uses_heads = True

  def __init__(self, width: int, heads: int, *, dtype: Any, rngs: nnx.Rngs):
    self.heads = heads
    self.scene_gate = layers.linear(width, heads * width, dtype=dtype, rngs=rngs)
    self.person_gate = layers.linear(width, heads * width, dtype=dtype, rngs=rngs)
    self.up = layers.linear(heads * width, width, dtype=dtype, rngs=rngs)
    self.down = layers.linear(width, width, dtype=dtype, rngs=rngs)
    self.gate = layers.linear(width, width, dtype=dtype, rngs=rngs)
    self.bias = _constant(1e-5, width)

  def _attend(self, gate: nnx.Linear, stream_BxE: jax.Array) -> jax.Array:
    scores_BxHxE = gate(stream_BxE).reshape(stream_BxE.shape[0], self.heads, -1)
    return jax.nn.softmax(scores_BxHxE.astype(jnp.float32), axis=-1) * stream_BxE[:, None, :]

  def __call__(self, scene_BxE: jax.Array, person_BxE: jax.Array) -> jax.Array:
    heads_BxHxE = self._attend(self.scene_gate, scene_BxE) + self._attend(self.person_gate, person_BxE)
    mixed_BxE = self.down(jax.nn.relu(self.up(heads_BxHxE.reshape(scene_BxE.shape[0], -1))))
    return jax.nn.relu(mixed_BxE * jax.nn.sigmoid(self.gate(mixed_BxE))) + self.bias[...]


FUSIONS: dict[str, Any] = {
    'additive': Additive, 'prior': Prior, 'weighted_sum': WeightedSum, 'attention': StreamAttention, 'glu': Glu}
"""Every trained fusion by its config name; 'none' (gamma = alpha) has no module and no person view."""


def make_fusion(name: str, width: int, heads: int, *, dtype: Any, rngs: nnx.Rngs) -> nnx.Module | None:
  """The fusion called `name`, or None for 'none'.

  Args:
    name: 'none' or a key of `FUSIONS`.
    width: the width E of an embedding.
    heads: the number h of heads, 1 to 3, of the fusions that use them.

  Raises:
    ValueError: the name is unknown, or heads is not 1, 2 or 3.
  """
  if name == 'none':
    return None
  if name not in FUSIONS:
    raise ValueError(f"fusion '{name}' is not one of none, {', '.join(FUSIONS)}")
  if heads not in (1, 2, 3):
    raise ValueError(f'fusion_heads must be 1, 2 or 3, not {heads}')
  fusion = FUSIONS[name]
  return fusion(width, *([heads] if fusion.uses_heads else []), dtype=dtype, rngs=rngs)
