"""Attention, compiled for every GPU that Colab and the clouds lend: `make test-gpu-compiler` runs it, without a GPU."""

import importlib.util
from typing import Any

from flax import nnx
import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
import numpy as np
import pytest

from uniemox_jax.models.layers import Attention
from uniemox_jax.plan import gpu_cards
from uniemox_jax.train.config import DTYPES

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec('jax_cuda12_plugin') is None,
    reason='the GPU compiler is not in this environment: make test-gpu-compiler')
BATCH, TOKENS, WIDTH, HEADS = 4, 20, 64, 4


def _compile_attention(devices: list[Any], dtype: str) -> jax.stages.Compiled:
  """The gradient of one attention of the student on the first of these devices."""
  place = NamedSharding(Mesh(np.array(devices[:1]), ('data',)), P())
  attention = nnx.eval_shape(lambda: Attention(WIDTH, HEADS, causal=False, dtype=jnp.dtype(dtype), rngs=nnx.Rngs(0)))
  graphdef, params = nnx.split(attention)
  params, tokens = jax.tree.map(
      lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place),
      (params, jax.ShapeDtypeStruct((BATCH, TOKENS, WIDTH), dtype)))

  def total(params: Any, tokens: jax.Array) -> jax.Array:
    return nnx.merge(graphdef, params)(tokens).astype(jnp.float32).sum()

  return jax.jit(jax.grad(total)).lower(params, tokens).compile()


@pytest.mark.parametrize('card', gpu_cards.cards())
@pytest.mark.parametrize('dtype', DTYPES)
def test_attention_compiles_in_every_dtype(card: str, dtype: str) -> None:
  devices = gpu_cards.gpu_devices(gpu_cards.parse_topology(f'{card}:1'))
  assert devices[0].device_kind == gpu_cards.cards()[card]['name']
  assert _compile_attention(devices, dtype).memory_analysis() is not None
