"""Transformer blocks shared by the ViT student, its decoder, and both towers of CLIP and SigLIP.

Blocks are pre-LayerNorm. A stack of them keeps one parameter tree with a leading layer axis, whether it is scanned or
unrolled, so a checkpoint never depends on how the program was compiled.
"""

from collections.abc import Callable
import functools
import operator
import reprlib
from typing import Any, TypeVar

from flax import nnx
import jax
from jax.ad_checkpoint import checkpoint_name
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from uniemox_jax.models import attention_kernel

_ATTENDED = 'attended'
"""The name of what `attend` keeps for its backward pass, besides products."""
REMAT_POLICIES = {
    'dots':
        jax.checkpoint_policies.save_from_both_policies(
            jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
            jax.checkpoint_policies.save_only_these_names(_ATTENDED)), 'full': jax.checkpoint_policies.nothing_saveable}


def gelu(x: jax.Array) -> jax.Array:
  """GELU by the error function, as ViT and MAE use it.

  In float32 the complement of that function computes it, which keeps all digits of small results. bfloat16 does not
  have these digits, and takes the cheaper form (docs/performance.md).
  """
  if x.dtype == jnp.bfloat16:
    wide = x.astype(jnp.float32)
    return (0.5 * wide * (1.0 + jax.lax.erf(wide * 2**-0.5))).astype(x.dtype)
  return jax.nn.gelu(x, approximate=False)


def quick_gelu(x: jax.Array) -> jax.Array:
  """The sigmoid approximation of GELU that OpenAI's CLIP was trained with."""
  return x * jax.nn.sigmoid(1.702 * x)


def tanh_gelu(x: jax.Array) -> jax.Array:
  """GELU by its published approximation with tanh, as SigLIP was trained with it."""
  return jax.nn.gelu(x, approximate=True)


def unit(x_BxE: jax.Array) -> jax.Array:
  """Scales rows to unit length, float32. The epsilon sits inside the root, so the gradient at zero stays finite."""
  x_BxE = x_BxE.astype(jnp.float32)
  return x_BxE * jax.lax.rsqrt(jnp.sum(x_BxE * x_BxE, axis=-1, keepdims=True) + 1e-12)


MAX_SIZE = 2**20
"""The largest dimension that a config or a checkpoint may name: more is damage, or an attempt to fill the memory."""


def check_sizes(**sizes: Any) -> None:
  """Raises ValueError unless all sizes are integers from 1 to `MAX_SIZE`; it names the first that is not."""
  for name, size in sizes.items():
    if type(size) is not int or not 1 <= size <= MAX_SIZE:
      raise ValueError(f'{name} is {reprlib.repr(size)}, not an integer from 1 to {MAX_SIZE}')


Activation = Callable[[jax.Array], jax.Array]
ACTIVATIONS: dict[str, Activation] = {'gelu': gelu, 'quick_gelu': quick_gelu, 'gelu_pytorch_tanh': tanh_gelu}
"""The activations by transformers' names."""


def linear(inputs: int, outputs: int, *, dtype: Any, rngs: nnx.Rngs, use_bias: bool = True) -> nnx.Linear:
  """A dense layer with MAE's initialisation: Xavier-uniform weights, zero biases; float32 parameters."""
  return nnx.Linear(
      inputs, outputs, use_bias=use_bias, dtype=dtype, kernel_init=nnx.initializers.xavier_uniform(), rngs=rngs)


class LayerNorm(nnx.LayerNorm):
  """The library's LayerNorm with float32 statistics, in two passes: the fast variance loses the digits of parity.

  bfloat16 takes the fast one, E[x²] - E[x]², so that a TPU reads its inputs once less (docs/performance.md): what it
  loses of float32's 24 bits is below the rounding of results of 8 bits, up to means of a hundred standard deviations.

  Its gradient is written out, so that it reads the input once and keeps less for the backward pass. On a CPU that saves
  an eighth of the whole training step (docs/performance.md).
  """

  def __call__(self, x: jax.Array) -> jax.Array:  # type: ignore[override]  # without the library's mask
    assert self.scale is not None and self.bias is not None
    return _layer_norm(x, self.scale[...], self.bias[...], self.epsilon, self.dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def _layer_norm(x: jax.Array, scale: jax.Array, bias: jax.Array, eps: float, dtype: Any) -> jax.Array:
  return _layer_norm_forward(x, scale, bias, eps, dtype)[0]


def _layer_norm_forward(x: jax.Array, scale: jax.Array, bias: jax.Array, eps: float,
                        dtype: Any) -> tuple[jax.Array, tuple[jax.Array, ...]]:
  wide = x.astype(jnp.float32)
  mean = wide.mean(axis=-1, keepdims=True)
  if x.dtype == jnp.bfloat16:
    variance = jnp.maximum(jnp.square(wide).mean(axis=-1, keepdims=True) - jnp.square(mean), 0)
  else:
    variance = jnp.square(wide - mean).mean(axis=-1, keepdims=True)
  inverse = jax.lax.rsqrt(variance + eps)
  return ((wide - mean) * inverse * scale + bias).astype(dtype), (x, mean, inverse, scale)


def _layer_norm_backward(eps: float, dtype: Any, kept: tuple[jax.Array, ...],
                         gradient: jax.Array) -> tuple[jax.Array, ...]:
  del eps, dtype
  x, mean, inverse, scale = kept
  gradient = gradient.astype(jnp.float32)
  unscaled, by_unscaled = (x.astype(jnp.float32) - mean) * inverse, gradient * scale
  by_x = inverse * (
      by_unscaled - by_unscaled.mean(axis=-1, keepdims=True) - unscaled *
      (by_unscaled * unscaled).mean(axis=-1, keepdims=True))
  rows = tuple(range(x.ndim - 1))
  return by_x.astype(x.dtype), (gradient * unscaled).sum(rows), gradient.sum(rows)


_layer_norm.defvjp(_layer_norm_forward, _layer_norm_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def attend(query_BxLxHxK: jax.Array, key_BxLxHxK: jax.Array, value_BxLxHxK: jax.Array, causal: bool) -> jax.Array:
  """Softmax attention (B, L, H, K) of every token to all tokens, or with `causal` to itself and those before it.

  The softmax is float32. The matrix of attention is computed again in the backward pass, not kept: to write it and to
  read it back would take longer, and most of the memory (docs/performance.md). `jax.nn.dot_product_attention` keeps it,
  and asks for products of bfloat16 that older GPUs do not have.
  """
  return _attend_forward(query_BxLxHxK, key_BxLxHxK, value_BxLxHxK, causal)[0]


def _scores(query_BxLxHxK: jax.Array, key_BxLxHxK: jax.Array, causal: bool) -> jax.Array:
  """Scaled products, float32 (B, H, L, L)."""
  products = jnp.einsum('bqhk,bthk->bhqt', query_BxLxHxK, key_BxLxHxK, preferred_element_type=jnp.float32)
  scores_BxHxLxL = products * query_BxLxHxK.shape[-1]**-0.5
  if causal:
    scores_BxHxLxL = jnp.where(jnp.tri(scores_BxHxLxL.shape[-1], dtype=bool), scores_BxHxLxL, -jnp.inf)
  return scores_BxHxLxL


def _attend_forward(query: jax.Array, key: jax.Array, value: jax.Array,
                    causal: bool) -> tuple[jax.Array, tuple[jax.Array, ...]]:
  scores_BxHxLxL = _scores(query, key, causal)
  largest = scores_BxHxLxL.max(axis=-1, keepdims=True)
  powers = jnp.exp(scores_BxHxLxL - largest)
  total = powers.sum(axis=-1, keepdims=True)
  mixed_BxLxHxK = jnp.einsum('bhqt,bthk->bqhk', (powers / total).astype(value.dtype), value)
  mixed_BxLxHxK, log_total = checkpoint_name((mixed_BxLxHxK, largest + jnp.log(total)), _ATTENDED)
  return mixed_BxLxHxK, (query, key, value, mixed_BxLxHxK, log_total)


def _attend_backward(causal: bool, kept: tuple[jax.Array, ...], gradient_BxLxHxK: jax.Array) -> tuple[jax.Array, ...]:
  query, key, value, mixed, log_total = kept
  attention = jnp.exp(_scores(query, key, causal) - log_total)
  by_attention = jnp.einsum('bqhk,bthk->bhqt', gradient_BxLxHxK, value, preferred_element_type=jnp.float32)
  # The sum over all tokens of attention times its gradient is that of the output times its own.
  mean = jnp.einsum('bqhk,bqhk->bhq', mixed, gradient_BxLxHxK, preferred_element_type=jnp.float32)[..., None]
  by_products = (attention * (by_attention - mean) * query.shape[-1]**-0.5).astype(query.dtype)
  return (
      jnp.einsum('bhqt,bthk->bqhk', by_products, key), jnp.einsum('bhqt,bqhk->bthk', by_products, query),
      jnp.einsum('bhqt,bqhk->bthk', attention.astype(value.dtype), gradient_BxLxHxK))


attend.defvjp(_attend_forward, _attend_backward)


def project_part(qkv: nnx.Linear, tokens_BxLxD: jax.Array, heads: int, part: int) -> jax.Array:
  """The query (0), the key (1) or the value (2) of a fused projection, (B, L, heads, D / heads).

  Each part is a product by itself, since cutting one result into three would copy it (docs/performance.md).
  """
  width, dtype = tokens_BxLxD.shape[-1], qkv.dtype or tokens_BxLxD.dtype
  assert qkv.bias is not None
  kernel_DxHxK = qkv.kernel[...].astype(dtype).reshape(width, 3, heads, width // heads)[:, part]
  bias_HxK = qkv.bias[...].astype(dtype).reshape(3, heads, width // heads)[part]
  return jnp.einsum('bld,dhk->blhk', tokens_BxLxD.astype(dtype), kernel_DxHxK) + bias_HxK


class Attention(nnx.Module):
  """Multi-head self-attention with one fused projection in the order query, key, value; float32 softmax.

  kernel: whether `attention_kernel` computes it where a sequence is worth it, see `with_attention`.
  """

  def __init__(self, width: int, heads: int, *, causal: bool, dtype: Any, rngs: nnx.Rngs):
    if width % heads:
      raise ValueError(f'width {width} is not divisible by {heads} attention heads')
    self.heads, self.causal, self.kernel = heads, causal, False
    self.qkv = linear(width, 3 * width, dtype=dtype, rngs=rngs)
    self.out = linear(width, width, dtype=dtype, rngs=rngs)

  def __call__(self, tokens_BxLxD: jax.Array, sequences: int = 1) -> jax.Array:
    """Mixes the tokens of each row. Only the kernel takes rows of several sequences, see `attend_on_chip`."""
    if sequences > 1 or self.kernel and tokens_BxLxD.shape[1] >= attention_kernel.MIN_TOKENS:
      qkv, dtype = self.qkv, self.qkv.dtype or tokens_BxLxD.dtype
      assert qkv.bias is not None
      qkv_BxLx3D = tokens_BxLxD.astype(dtype) @ qkv.kernel[...].astype(dtype)
      mixed_BxLxD = attention_kernel.attend_on_chip(
          qkv_BxLx3D, qkv.bias[...].astype(dtype), self.heads, self.causal, sequences)
      return self.out(checkpoint_name(mixed_BxLxD, _ATTENDED))
    return self.out(attend(*self.project(tokens_BxLxD), self.causal).reshape(tokens_BxLxD.shape))

  def project(self, tokens_BxLxD: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The query, the key and the value, each (B, L, heads, D / heads)."""
    query, key, value = (project_part(self.qkv, tokens_BxLxD, self.heads, part) for part in range(3))
    return query, key, value


M = TypeVar('M', bound=nnx.Module)


def with_attention(model: M, kind: str) -> M:
  """Copies a model, which may hold shapes; 'xla' or the TPU's 'kernel' then computes its attention."""
  model = nnx.merge(*nnx.split(model))
  for _, node in nnx.iter_graph(model):
    if isinstance(node, Attention):
      node.kernel = kind == 'kernel'
  return model


class Mlp(nnx.Module):
  """Two dense layers with an activation between."""

  def __init__(self, width: int, hidden: int, *, activation: str, dtype: Any, rngs: nnx.Rngs):
    self.activation = ACTIVATIONS[activation]
    self.up = linear(width, hidden, dtype=dtype, rngs=rngs)
    self.down = linear(hidden, width, dtype=dtype, rngs=rngs)

  def __call__(self, tokens_BxLxD: jax.Array) -> jax.Array:
    return self.down(self.activation(self.up(tokens_BxLxD)))


class Block(nnx.Module):
  """x + attention(norm(x)), then x + mlp(norm(x)); each branch may be scaled per example (drop-path)."""

  def __init__(
      self, width: int, heads: int, hidden: int, *, eps: float, activation: str, causal: bool, dtype: Any,
      rngs: nnx.Rngs):
    self.norm1 = LayerNorm(width, epsilon=eps, dtype=dtype, rngs=rngs)
    self.attention = Attention(width, heads, causal=causal, dtype=dtype, rngs=rngs)
    self.norm2 = LayerNorm(width, epsilon=eps, dtype=dtype, rngs=rngs)
    self.mlp = Mlp(width, hidden, activation=activation, dtype=dtype, rngs=rngs)

  def __call__(
      self, tokens_BxLxD: jax.Array, branch_scale_Bx2: jax.Array | None = None, sequences: int = 1) -> jax.Array:

    def scaled(update: jax.Array, branch: int) -> jax.Array:
      if branch_scale_Bx2 is None:
        return update
      return update * branch_scale_Bx2[:, branch, None, None].astype(update.dtype)

    tokens_BxLxD = tokens_BxLxD + scaled(self.attention(self.norm1(tokens_BxLxD), sequences), 0)
    return tokens_BxLxD + scaled(self.mlp(self.norm2(tokens_BxLxD)), 1)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _layers(params_NxX: Any, depth: int, dtype: Any) -> list[Any]:
  """Cuts stacked parameters into those of each layer.

  The gradients of matrices are stacked in `dtype`, in which they were computed: in bfloat16 the optimizer then reads
  half as much (docs/performance.md).
  """
  del dtype
  return [jax.tree.map(operator.itemgetter(number), params_NxX) for number in range(depth)]


def _layers_forward(params_NxX: Any, depth: int, dtype: Any) -> tuple[list[Any], None]:
  return _layers(params_NxX, depth, dtype), None


def _layers_backward(depth: int, dtype: Any, kept: None, gradients: list[Any]) -> tuple[Any]:
  del depth, kept

  def stacked(*gradients: jax.Array) -> jax.Array:
    if gradients[0].ndim < 2:
      return jnp.stack(gradients)
    return jnp.stack([gradient.astype(dtype) for gradient in gradients]).astype(gradients[0].dtype)

  return (jax.tree.map(stacked, *gradients),)


_layers.defvjp(_layers_forward, _layers_backward)


def _on_mesh(tokens_BxLxD: jax.Array, params: Any) -> tuple[jax.Array, Any]:
  """Keeps whole examples on each device of the mesh that is set, and gathers what `fsdp` has split of one layer.

  Left to itself, XLA splits channels as the parameters are split, and sends all activations to and fro
  (docs/performance.md).
  """
  mesh = jax.sharding.get_abstract_mesh()
  if mesh.empty or mesh.size == 1 or len(tokens_BxLxD) % mesh.size:
    return tokens_BxLxD, params
  by_example, whole = P(mesh.axis_names), P()
  return (jax.lax.with_sharding_constraint(tokens_BxLxD, by_example), jax.lax.with_sharding_constraint(params, whole))


class Blocks(nnx.Module):
  """A stack of `depth` equal blocks.

  Args:
    width, depth, heads, hidden: token width, layers, attention heads, MLP width.
    eps: LayerNorm epsilon.
    activation: a key of `ACTIVATIONS`.
    causal: whether a token sees only itself and earlier ones.
    remat: 'none', 'dots' (keep matrix products) or 'full' (recompute everything in the backward pass).
    scan: compile one block and loop over it; False unrolls, which is faster and slower to compile.
  """

  def __init__(
      self, width: int, depth: int, heads: int, hidden: int, *, eps: float, activation: str = 'gelu',
      causal: bool = False, remat: str = 'none', scan: bool = False, dtype: Any = jnp.float32, rngs: nnx.Rngs):
    if remat != 'none' and remat not in REMAT_POLICIES:
      raise ValueError(f"remat '{remat}' is not one of none, {', '.join(REMAT_POLICIES)}")
    self.depth, self.remat, self.scan, self.dtype = depth, remat, scan, dtype

    @nnx.split_rngs(splits=depth)
    @nnx.vmap(in_axes=0, out_axes=0)
    def create(rngs: nnx.Rngs) -> Block:
      return Block(width, heads, hidden, eps=eps, activation=activation, causal=causal, dtype=dtype, rngs=rngs)

    self.layers = create(rngs)

  def __call__(self, tokens_BxLxD: jax.Array, branch_scale_NxBx2: jax.Array | None = None) -> jax.Array:
    """Applies all blocks; `branch_scale_NxBx2`, if given, multiplies each layer's two branches per example."""
    graphdef, params_NxX = nnx.split(self.layers)
    batch, tokens, width = tokens_BxLxD.shape
    shares_rows = self.layers.attention.kernel and branch_scale_NxBx2 is None
    sequences = attention_kernel.sequences_in_row(batch, tokens) if shares_rows else 1

    def body(tokens: jax.Array, layer: Any) -> tuple[jax.Array, None]:
      params, branch_scale = layer
      tokens, params = _on_mesh(tokens, params)
      return nnx.merge(graphdef, params)(tokens, branch_scale, sequences), None

    if self.remat != 'none':
      body = jax.checkpoint(body, policy=REMAT_POLICIES[self.remat], prevent_cse=not self.scan)
    rows = tokens_BxLxD.reshape(batch // sequences, sequences * tokens, width)
    if self.scan:
      # XLA rounds all matrices before the loop anyway. Rounded here, they have their gradients in that dtype, too.
      params_NxX = jax.tree.map(lambda leaf: leaf.astype(self.dtype) if leaf.ndim > 2 else leaf, params_NxX)
      rows, _ = jax.lax.scan(body, rows, (params_NxX, branch_scale_NxBx2))
    else:
      body = jax.jit(body)  # traced once for all layers
      for number, params in enumerate(_layers(params_NxX, self.depth, self.dtype)):
        branch_scale_Bx2 = None if branch_scale_NxBx2 is None else branch_scale_NxBx2[number]
        rows, _ = body(rows, (params, branch_scale_Bx2))
    return rows.reshape(tokens_BxLxD.shape)
