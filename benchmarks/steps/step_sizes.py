"""What `benchmarks.train_step` compares: the sizes, a random batch, and the work of one example by formula."""

from typing import Any

import jax
from ml_collections import ConfigDict
import numpy as np

from configs import demo, pretrain_emoset_vitb16, pretrain_emoset_vitl16
from uniemox_jax.plan.step_compiler import Program, training_program
from uniemox_jax.train.config import PretrainConfig
from uniemox_jax.train.schema import parse

SIZES = ('demo', 'vitb16', 'vitl16')
OURS = ('ours', 'read')
CONTEXT, VOCABULARY = 77, 49408
CLIP_B16_TEXT = {'width': 512, 'depth': 12, 'heads': 8}


def load(size: str) -> ConfigDict:
  """The pretraining config of that size, with the teacher's text tower, which the original runs, as `text_shape`.

  One device with room needs neither recomputation nor a scan over blocks, so ours runs without.
  """
  config = {
      'demo': lambda: demo.get_config('pretrain'), 'vitb16': pretrain_emoset_vitb16.get_config,
      'vitl16': pretrain_emoset_vitl16.get_config}[size]()
  config.model.remat, config.model.scan = 'none', False
  config.text_shape = demo.get_config('clip').model.text if size == 'demo' else ConfigDict(CLIP_B16_TEXT)
  return config


def ours(implementation: str, config: ConfigDict) -> ConfigDict:
  """The config of one of `OURS`: 'read' is given the teacher's embeddings."""
  config = config.copy_and_resolve_references()
  config.teacher_views = int(implementation == 'read')
  return config


def random_batch(config: ConfigDict) -> dict[str, np.ndarray]:
  """'scene', 'person' uint8 (B, H, W, 3); 'ids' int32 (B, 77), the end of text, the largest id, last."""
  rng = np.random.default_rng(config.seed)
  shape = (config.batch_size, config.model.image_size, config.model.image_size, 3)
  ids = rng.integers(0, VOCABULARY - 1, (config.batch_size, CONTEXT), np.int32)
  ids[:, -1] = VOCABULARY - 1
  return {name: rng.integers(0, 256, shape, np.uint8) for name in ('scene', 'person')} | {'ids': ids}


def _trainable(config: ConfigDict) -> ConfigDict:
  """Without the keys that only the benchmark needs."""
  return ConfigDict({name: value for name, value in config.items() if name not in ('size', 'text_shape')})


def checked(config: ConfigDict) -> PretrainConfig:
  """The pretraining config that `pretrain` would take."""
  return parse(PretrainConfig, _trainable(config))


def our_program(config: ConfigDict) -> Program:
  """Our step on one device, not compiled yet; its `work` is counted by `uniemox_jax.train.flops`."""
  return training_program(_trainable(config), jax.devices()[:1])


def original_flops(config: ConfigDict) -> dict[str, int]:
  """Of one example of the original's forward pass, by part, counted as `uniemox_jax.train.flops` counts.

  Differs from ours where the original does: every patch is embedded before most are dropped, the person is decoded too,
  and the caption is embedded anew.
  """
  model, vision, text = config.model, config.teacher_shape, config.text_shape
  patches, pixels, shared = (model.image_size // model.patch_size)**2, 3 * model.patch_size**2, model.decoder_width
  tokens = 1 + int(patches * (1 - model.mask_ratio))
  teacher_patches, teacher_pixels = (vision.image_size // vision.patch_size)**2, 3 * vision.patch_size**2
  compared = 2 * config.batch_size * shared
  encoder = 2 * patches * pixels * model.width + _blocks(model, tokens) + 2 * tokens * model.width * shared
  decoder = {'width': shared, 'depth': model.decoder_depth}
  return {
      'student': 2 * encoder + _decoder(decoder, 1 + patches, pixels) + 2 * shared**2 + compared,
      'person decoder': _decoder(decoder, 1 + patches, pixels), 'image tower': (
          2 * teacher_patches * teacher_pixels * vision.width + _blocks(vision, 1 + teacher_patches) +
          2 * vision.width * shared + compared), 'text tower': _blocks(text, CONTEXT) + 2 * text.width * shared}


def original_training_flops(config: ConfigDict) -> int:
  """Of one example in training: the student three times, and once what no gradient flows through.

  Nothing depends on the person's reconstruction, so the original's second decoder pass has no backward pass.
  """
  parts = original_flops(config)
  return sum(parts.values()) + 2 * parts['student']


def _blocks(shape: Any, tokens: int) -> int:
  """Dense layers of 12 D^2 weights a block, and two products of attention."""
  return shape['depth'] * (24 * tokens * shape['width']**2 + 4 * tokens**2 * shape['width'])


def _decoder(shape: Any, tokens: int, pixels: int) -> int:
  return _blocks(shape, tokens) + 2 * tokens * shape['width'] * pixels
