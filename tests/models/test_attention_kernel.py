"""The TPU's attention kernel computes what XLA computes, here by its operations one by one: no TPU is needed."""

from collections.abc import Iterator

from flax import nnx
import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding
import numpy as np
import pytest

from tests.support.steps import pretrain_step
from uniemox_jax.models import attention_kernel, layers
from uniemox_jax.models.clip import CLIPConfig
from uniemox_jax.models.uniemox import UniEmoX
from uniemox_jax.models.view import View
from uniemox_jax.runtime import sharding
from uniemox_jax.teacher.frozen_clip import Clip
from uniemox_jax.teacher.step_teacher import make_teacher
from uniemox_jax.train import optimizer
from uniemox_jax.train.setup import step_graph
from uniemox_jax.train.state import abstract_model, builder, create_state, state_template


@pytest.fixture(autouse=True)
def interpreted(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
  monkeypatch.setattr(attention_kernel, 'INTERPRET', True)
  monkeypatch.setattr(attention_kernel, 'MIN_TOKENS', 1)
  yield


def draw(width: int, dtype: str, rows: int = 2) -> list[jax.Array]:
  """Query, key and value as one array, their bias, and a gradient of the output."""
  shapes = (rows, 9, 3 * width), (3 * width,), (rows, 9, width)
  return [jax.random.normal(jax.random.key(index), shape, dtype) for index, shape in enumerate(shapes)]


def gradients(arrays: list[jax.Array], heads: int, causal: bool, kernel: bool) -> list[np.ndarray]:
  """The output, and the gradients of query, key and value and of their bias, float64."""
  *inputs, gradient = arrays

  def attend(qkv: jax.Array, bias: jax.Array) -> jax.Array:
    if kernel:
      return attention_kernel.attend_on_chip(qkv, bias, heads, causal)
    parts = (part.reshape(*part.shape[:2], heads, -1) for part in jnp.split(qkv + bias, 3, axis=-1))
    return layers.attend(*parts, causal).reshape(gradient.shape)

  output, pull = jax.vjp(attend, *inputs)
  return [np.asarray(result, np.float64) for result in (output, *pull(gradient))]


# Heads that share the chip's 128 lanes, that fill them, that are wider, and that do not come out even.
@pytest.mark.parametrize(('heads', 'size'), [(8, 32), (1, 160), (3, 32), (3, 8)])
@pytest.mark.parametrize('causal', [False, True])
def test_it_computes_what_xla_computes(heads: int, size: int, causal: bool) -> None:
  arrays = draw(heads * size, 'float32')
  for ours, xlas in zip(gradients(arrays, heads, causal, True), gradients(arrays, heads, causal, False)):
    assert np.abs(ours - xlas).max() < 5e-6


@pytest.mark.parametrize('causal', [False, True])
def test_sequences_that_share_a_row_do_not_see_each_other(causal: bool) -> None:
  qkv, bias, gradient = draw(32, 'float32', rows=8)

  def run(sequences: int) -> list[jax.Array]:
    rows = [array.reshape(8 // sequences, sequences * 9, -1) for array in (qkv, gradient)]
    output, pull = jax.vjp(
        lambda *inputs: attention_kernel.attend_on_chip(*inputs, 4, causal, sequences), rows[0], bias)
    by_qkv, by_bias = pull(rows[1])
    return [output.reshape(gradient.shape), by_qkv.reshape(qkv.shape), by_bias]

  for together, alone in zip(run(4), run(1)):
    assert np.abs(together - alone).max() < 5e-6


def test_as_many_sequences_share_a_row_as_fit_and_as_devices_can_share(monkeypatch: pytest.MonkeyPatch) -> None:
  with jax.set_mesh(sharding.make_mesh(2, 4)):
    assert attention_kernel.sequences_in_row(256, 20) == 4
    assert attention_kernel.sequences_in_row(16, 20) == 2
    assert attention_kernel.sequences_in_row(8, 20) == 1
  assert attention_kernel.sequences_in_row(256, 65) == 1
  monkeypatch.setattr(attention_kernel, 'MIN_TOKENS', 64)
  assert attention_kernel.sequences_in_row(256, 20) == 4
  assert attention_kernel.sequences_in_row(2, 20) == 1
  assert attention_kernel.sequences_in_row(3, 20) == 1


def test_in_bfloat16_it_is_as_near_to_the_exact_result_as_xla() -> None:
  arrays = draw(4 * 32, 'bfloat16')
  exact = gradients([array.astype(jnp.float32) for array in arrays], 4, False, False)
  for ours, xlas, true in zip(gradients(arrays, 4, False, True), gradients(arrays, 4, False, False), exact):
    assert np.abs(ours - true).max() < 1.5 * np.abs(xlas - true).max()


def test_devices_share_the_sequences_and_change_nothing() -> None:
  qkv, bias, _ = draw(32, 'float32', rows=8)
  alone = attention_kernel.attend_on_chip(qkv, bias, 4, False)
  mesh = sharding.make_mesh(2, 4)
  placed = jax.device_put(qkv, NamedSharding(mesh, sharding.BATCH))
  with jax.set_mesh(mesh):
    shared = jax.jit(attention_kernel.attend_on_chip, static_argnums=(2, 3))(placed, bias, 4, False)
  assert np.array_equal(alone, shared)


def test_a_sequence_that_does_not_fit_is_refused() -> None:
  tokens = jnp.zeros((1, attention_kernel.MAX_TOKENS + 1, 24))
  with pytest.raises(ValueError, match='513 tokens'):
    attention_kernel.attend_on_chip(tokens, jnp.zeros(24), 1, False)


def test_only_a_tpu_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
  monkeypatch.setattr(attention_kernel, 'INTERPRET', False)
  with pytest.raises(Exception, match='--config.attention=kernel is for TPUs'):
    step_graph(layers.linear(2, 2, dtype='float32', rngs=nnx.Rngs(0)), 'kernel', jax.devices()[0])


def test_a_pretraining_step_computes_the_same_with_it(clip_config: CLIPConfig, clip_params: dict) -> None:
  size, width = clip_config.image_size, clip_config.projection_dim
  rng = np.random.default_rng(0)
  text = rng.standard_normal((8, width)).astype(np.float32)
  images = rng.integers(0, 256, (2, 8, size, size, 3), dtype=np.uint8)
  batch = {'scene': images[0], 'person': images[1], 'text': text / np.linalg.norm(text, axis=1, keepdims=True)}
  build = builder(
      UniEmoX, image_size=size, patch_size=8, width=16, depth=2, heads=2, decoder_width=width, decoder_depth=2,
      decoder_heads=2, scan=True, remat='dots')
  mesh, schedule = sharding.make_mesh(-1, 1, jax.devices()[:4]), optimizer.warmup_cosine(0.016, 8, 10, 0)
  tx = optimizer.adamw(schedule)
  first = create_state(state_template(build, tx, mesh), build, tx, seed=0)
  clip = Clip(clip_config, clip_params, View(size, size), None)
  measured = {}
  for attention in ('xla', 'kernel'):
    teacher, frozen = make_teacher(clip, 'float32', attention=attention)
    graph = step_graph(abstract_model(build), attention, mesh.devices.flat[0])
    step = pretrain_step(graph, teacher, tx, schedule, contrastive=1.0, similarity=1.0, reconstruction=1.0)
    arguments = (first, frozen, sharding.global_batch(batch, mesh), jax.random.key(1))
    with jax.set_mesh(mesh):
      traced = jax.jit(step).trace(*arguments)
      _, metrics = traced.lower().compile()(*arguments)
    calls = str(traced.jaxpr).count('pallas_call')
    assert calls == (5 if attention == 'kernel' else 0)  # both ways in encoder and decoder, forward in the teacher
    measured[attention] = {name: float(value) for name, value in metrics.items()}
  for name, value in measured['xla'].items():
    assert measured['kernel'][name] == pytest.approx(value, rel=1e-5), name
