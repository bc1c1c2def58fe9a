"""Makes the parts of a step from a pretraining config. It needs neither data nor tensorflow."""

import dataclasses
from typing import Any

from flax import nnx

from data_pipelines.errors import UserError
from uniemox_jax.models import attention_kernel, layers
from uniemox_jax.models.clip import CLIPConfig, Tower
from uniemox_jax.models.uniemox import UniEmoX
from uniemox_jax.models.view import View
from uniemox_jax.teacher.frozen_clip import Clip, abstract_clip
from uniemox_jax.teacher.step_teacher import Teacher
from uniemox_jax.train.config import PretrainConfig
from uniemox_jax.train.flops import ExampleWork, pretrain_work
from uniemox_jax.train.settings import LossSettings, StudentSettings, TeacherShape


def model_arguments(model: StudentSettings, loss: LossSettings, teacher: Teacher | None) -> dict[str, Any]:
  """The arguments of `UniEmoX`, except dtype and random streams, as checkpoints describe the model.

  They hold the teacher's widths that the model needs: that of embeddings if it is not the decoder's, and that of patch
  tokens if it predicts them.
  """
  widths = {}
  if teacher and teacher.width != model.decoder_width:
    widths['teacher_width'] = teacher.width
  if teacher and loss.distillation:
    widths['teacher_token_width'] = sum(teacher.token_widths)
  return dataclasses.asdict(model) | widths | {'semantic': loss.semantic, 'reconstruct': bool(loss.reconstruction)}


def step_graph(model: nnx.Module, attention: str, device: Any) -> nnx.GraphDef:
  """The static half of a model as the train step computes it; `model` may hold shapes.

  Raises:
    UserError: attention by a kernel is asked for, and this device does not have it.
  """
  if attention == 'kernel' and device.platform != 'tpu' and not attention_kernel.INTERPRET:
    raise UserError(f'--config.attention=kernel is for TPUs, and this is a {device.device_kind}: leave it out')
  return nnx.graphdef(layers.with_attention(model, attention))


def example_work(config: PretrainConfig, student: UniEmoX, teacher: Teacher | None) -> ExampleWork:
  """The work of one example by formula; the student may hold shapes in place of parameters.

  With `teacher_views`, the step reads the teacher's embeddings, and computing them is no part of it.
  """
  texts = config.loss.local_batch if config.loss.negatives == 'local' else config.batch_size
  towers = teacher.towers if teacher and not config.teacher_views else ()
  return pretrain_work(
      student, towers, texts if config.loss.contrastive else 0, 2 if config.loss.teacher_sees == 'both' else 1)


def clip_of_shape(shape: TeacherShape | None) -> Clip:
  """A CLIP with shapes in place of weights, and with its image tower's shape for both towers.

  Raises:
    UserError: there is no shape.
  """
  if shape is None:
    raise UserError(
        "config section 'teacher_shape' is missing: a plan opens no weights, so add the teacher's "
        'image_size, patch_size, width, depth, heads and projection (see configs/)')
  tower = Tower(shape.width, shape.depth, shape.heads, 4 * shape.width)
  clip = CLIPConfig(tower, tower, shape.image_size, shape.patch_size, shape.projection)
  return Clip(clip, abstract_clip(clip)[1], View(shape.image_size, shape.image_size), None)
