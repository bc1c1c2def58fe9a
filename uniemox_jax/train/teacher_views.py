"""Finds the crops and flips of a pretraining whose teacher embeddings are computed once, and their embeddings.

Source: docs/method.md, A teacher that is paid once.
"""

import os
from typing import Any

import jax.numpy as jnp
from jax.sharding import Mesh

from data_pipelines.batches.pipeline import RecurringCrops
from data_pipelines.records import reader
from uniemox_jax.teacher.step_teacher import Teacher
from uniemox_jax.teacher.view_embeddings import Scenes, ViewEmbeddings, embed_views
from uniemox_jax.train.config import PretrainConfig

CACHE = 'view_cache'
"""The folder under data_dir, beside that of the captions."""


def recurring_crops(config: PretrainConfig) -> RecurringCrops | None:
  """The crops and flips that come again; None if every epoch draws new ones."""
  if not config.teacher_views:
    return None
  seed = config.seed if config.teacher_views_seed < 0 else config.teacher_views_seed
  return RecurringCrops(config.teacher_views, seed)


def view_embeddings(
    config: PretrainConfig, split: reader.Split, digest: str, teacher: Teacher, frozen: Any,
    mesh: Mesh) -> tuple[ViewEmbeddings, int]:
  """Opens the teacher's embeddings of all views that a run reads, and computes those that are missing.

  Args:
    config: a config with `teacher_views`.
    split: its records.
    digest, teacher, frozen: see `LoadedTeachers`.
    mesh: the devices that compute.

  Returns:
    The embeddings, and how many were computed.
  """
  crops = recurring_crops(config)
  assert crops is not None  # both callers have asked
  crops = crops._replace(number=min(crops.number, config.epochs))
  scenes = Scenes(split, crops, config.model.image_size, (config.min_crop_area, 1.0), config.crop_canvas)
  kept = ViewEmbeddings(
      os.path.join(config.data_dir, CACHE), scenes, f'{digest} {config.teacher_statistics}', teacher.width,
      jnp.dtype(config.dtype))
  return kept, embed_views(
      kept, scenes, teacher, frozen, mesh=mesh, batch_size=config.batch_size // config.accum_steps,
      sharded=config.teacher_sharded)
