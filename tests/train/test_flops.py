"""FLOPs by formula: the same as the matrix products in the program, and the figures known beforehand."""

from collections.abc import Iterator
import math
from typing import Any

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from uniemox_jax.models.classifier import Classifier
from uniemox_jax.models.clip import CLIPConfig, ImageTower, Tower
from uniemox_jax.models.fusion import FUSIONS
from uniemox_jax.models.siglip import SiglipConfig
from uniemox_jax.models.uniemox import UniEmoX
from uniemox_jax.models.view import View
from uniemox_jax.runtime.hardware import peak_flops
from uniemox_jax.runtime.run_log import RunLog, read_metrics
from uniemox_jax.teacher.frozen_clip import Clip, abstract_clip
from uniemox_jax.teacher.step_teacher import make_teacher
from uniemox_jax.train.config import PretrainConfig
from uniemox_jax.train.flops import finetune_work, pretrain_work
from uniemox_jax.train.settings import LossSettings
from uniemox_jax.train.setup import example_work
from uniemox_jax.train.state import abstract_model, abstract_params, builder
from uniemox_jax.train.steps import pretrain_losses

BATCH, TEXTS = 3, 5
ENCODER = dict(image_size=32, patch_size=8, width=24, depth=2, heads=2)
STUDENT = dict(**ENCODER, decoder_width=12, decoder_depth=1, decoder_heads=2, mask_ratio=0.75)
VIT_B = dict(image_size=224, patch_size=16, width=768, depth=12, heads=12)


def _inner(value: Any) -> Iterator[Any]:
  """The programs in an operation's parameters."""
  for one in value if isinstance(value, tuple | list) else [value]:
    if hasattr(one, 'jaxpr'):
      yield one.jaxpr
    elif hasattr(one, 'eqns'):
      yield one


def product_flops(jaxpr: Any) -> int:
  """2 m k n of every matrix product that the traced program runs, loops unrolled."""
  total = 0
  for equation in jaxpr.eqns:
    if equation.primitive.name == 'dot_general':
      contracted = equation.params['dimension_numbers'][0][0]
      left = equation.invars[0].aval.shape
      total += 2 * math.prod(equation.outvars[0].aval.shape) * math.prod(left[axis] for axis in contracted)
    times = equation.params.get('length', 1) if equation.primitive.name == 'scan' else 1
    total += times * sum(product_flops(inner) for value in equation.params.values() for inner in _inner(value))
  return total


SIGLIP = SiglipConfig(Tower(12, 2, 3, 20), Tower(16, 1, 2, 32), 32, 8, 12)


def _teacher(clip_config: CLIPConfig | SiglipConfig) -> tuple[Any, Any]:
  clip = Clip(clip_config, abstract_clip(clip_config)[1], View(clip_config.image_size, clip_config.image_size), None)
  return make_teacher(clip, jnp.float32)


@pytest.mark.parametrize(
    'model', [dict(fusion=name, fusion_heads=2) for name in FUSIONS] + [
        dict(fusion='none'),
        dict(decode='both'),
        dict(reconstruct=False),
        dict(scan=True),
        dict(decoder_width=16, teacher_width=12)], ids=str)
def test_pretraining_flops_are_those_of_the_traced_forward_pass(clip_config: CLIPConfig, model: dict[str, Any]):
  check_pretraining(clip_config, model)


def test_flops_with_a_siglip_are_those_of_the_traced_forward_pass() -> None:
  check_pretraining(SIGLIP, {'fusion': 'none'})


def test_flops_of_a_step_that_reads_its_embeddings_are_those_of_the_traced_forward_pass(
    clip_config: CLIPConfig) -> None:
  check_pretraining(clip_config, {}, read=True)


def test_flops_with_a_teacher_of_both_views_are_those_of_the_traced_forward_pass(clip_config: CLIPConfig) -> None:
  check_pretraining(clip_config, {}, sees='both')


def check_pretraining(
    clip_config: CLIPConfig | SiglipConfig, model: dict[str, Any], read: bool = False, sees: str = 'scene') -> None:
  build = builder(UniEmoX, **STUDENT | model)
  student, (teacher, frozen) = abstract_model(build), _teacher(clip_config)
  shape = (BATCH, student.view_count, 32, 32, 3)
  rows = {
      'views': jax.ShapeDtypeStruct(shape, jnp.uint8),
      'noise': jax.ShapeDtypeStruct((BATCH, student.view_count, 16), jnp.float32)}
  if read:
    rows['image'] = jax.ShapeDtypeStruct((BATCH, 12), jnp.float32)
  settings = LossSettings(reconstruction=float(student.decoder is not None), teacher_sees=sees)

  def forward(params: Any, rows: Any, texts: Any, frozen: Any) -> Any:
    return pretrain_losses(nnx.graphdef(student), teacher, frozen, texts, settings, params, rows)

  texts = jax.ShapeDtypeStruct((TEXTS, 12), jnp.float32)
  traced = jax.make_jaxpr(forward)(abstract_params(build), rows, texts, frozen)
  work = pretrain_work(student, () if read else teacher.towers, TEXTS, 2 if sees == 'both' else 1)
  assert BATCH * (work.student.flops + work.teacher.flops) == product_flops(traced.jaxpr)


def test_finetuning_flops_are_those_of_the_traced_forward_pass() -> None:
  build = builder(Classifier, **ENCODER, classes=7)
  classifier = abstract_model(build)
  images = jax.ShapeDtypeStruct((BATCH, 32, 32, 3), jnp.float32)
  traced = jax.make_jaxpr(lambda params, images: nnx.merge(nnx.graphdef(classifier), params)(images))(
      abstract_params(build), images)
  assert BATCH * finetune_work(classifier).student.flops == product_flops(traced.jaxpr)


def test_vit_b_mae_costs_59_gflop_an_image_and_clip_adds_35() -> None:
  student = dict(**VIT_B, decoder_width=512, decoder_depth=8, decoder_heads=16, mask_ratio=0.75, scan=True)
  mae = pretrain_work(abstract_model(builder(UniEmoX, **student, semantic=False)), (), 0)
  assert mae.training.flops == pytest.approx(59e9, rel=0.02)
  assert mae.teacher.flops == 0
  shape = CLIPConfig(Tower(768, 12, 12, 3072), Tower(512, 12, 8, 2048), 224, 16, 512)
  tower = abstract_model(lambda rngs: ImageTower(shape, remat='none', scan=True, dtype=jnp.float32, rngs=rngs))
  both = pretrain_work(abstract_model(builder(UniEmoX, **student, fusion='none')), (tower,), 0)
  assert both.teacher.flops == pytest.approx(35e9, rel=0.01)
  assert both.training.flops == pytest.approx(both.teacher.flops + mae.training.flops, rel=0.01)


def test_texts_that_an_example_is_compared_with_follow_the_negatives(clip_config: CLIPConfig) -> None:
  student, (teacher, _) = abstract_model(builder(UniEmoX, **STUDENT)), _teacher(clip_config)
  flops = {}
  for negatives in ('global', 'local'):
    config = PretrainConfig(batch_size=64, loss=LossSettings(negatives=negatives))
    flops[negatives] = example_work(config, student, teacher).student.flops
  assert flops['global'] - flops['local'] == 2 * 12 * (64 - 2)


@pytest.mark.parametrize(('kind', 'peak'), [('TPU v4', 275e12), ('TPU v5 lite', 197e12), ('TPU v5', 459e12),
                                            ('TPU v5p', 459e12), ('TPU v6 lite', 918e12),
                                            ('NVIDIA H100 80GB HBM3', 989e12), ('NVIDIA H200', 989e12),
                                            ('NVIDIA A100-SXM4-40GB', 312e12), ('Tesla T4', None), ('cpu', None),
                                            ('TPU v99', None)])
def test_peaks_are_known_by_device_kind(kind: str, peak: float | None) -> None:
  assert peak_flops(kind) == peak


@pytest.mark.parametrize('peak', [1e6, None])
def test_log_tells_utilisation_where_the_peak_is_known(tmp_path, monkeypatch, peak) -> None:
  monkeypatch.setattr('uniemox_jax.runtime.run_log.peak_flops', lambda kind: peak)
  log = RunLog(str(tmp_path), name='test', total_steps=2, batch_size=4, start_step=0, flops_per_example=1000)
  log.clock.start()
  log.add(1, {'loss': jnp.float32(1.0), 'lr': jnp.float32(0.1), 'skipped': jnp.bool_(False)}, np.arange(4))
  log.flush(3, 'none')
  log.close()
  line = read_metrics(str(tmp_path))[-1]
  assert line.get('mfu') == (peak and pytest.approx(1000 * line['examples_per_second'] / (peak * jax.device_count())))
