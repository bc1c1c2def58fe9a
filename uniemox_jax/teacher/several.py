"""Opens the teacher of a run, or several, which are as one from there on (docs/method.md, Several teachers)."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from data_pipelines.errors import UserError
from uniemox_jax.teacher.caption_embeddings import KeptCaptions
from uniemox_jax.teacher.frozen_clip import Clip, load_clip
from uniemox_jax.teacher.step_teacher import Teacher, join_teachers, make_teacher

BETWEEN = ','
"""Stands between the names of several teachers."""


class LoadedTeachers(NamedTuple):
  """clips: each. teacher, frozen: all of them, as the step wants them."""

  clips: list[Clip]
  teacher: Teacher
  frozen: Any

  @property
  def digest(self) -> str:
    """Of all; that of `Clip.digest` for one."""
    return '+'.join(clip.digest for clip in self.clips)


class JoinedCaptions(NamedTuple):
  """The embeddings of the same captions by several teachers, side by side."""

  parts: Sequence[KeptCaptions]

  def at(self, positions_R: np.ndarray) -> np.ndarray:
    """float32 (R, E), each part of unit norm."""
    return np.concatenate([part.at(positions_R) for part in self.parts], axis=1)

  def largest_share(self) -> float:
    """Share of the positions that have the most frequent caption; teachers may cut captions at different lengths."""
    return max(part.largest_share() for part in self.parts)


def load_teachers(names: str, dtype: Any, statistics: str = 'clip', attention: str = 'xla') -> LoadedTeachers:
  """Loads what `--config.teacher` names.

  Args:
    names: a folder or hub id, or several with `BETWEEN` between them.
    dtype, statistics, attention: see `make_teacher`.

  Raises:
    UserError: no such CLIP or SigLIP, or one that is named twice.
  """
  clips = [load_clip(name) for name in names_of(names)]
  return LoadedTeachers(clips, *as_one([make_teacher(clip, dtype, statistics, attention) for clip in clips]))


def names_of(names: str) -> list[str]:
  """Each of several. Raises UserError for an empty one, or one that is named twice."""
  each = [name.strip() for name in names.split(BETWEEN)]
  if '' in each or len(set(each)) < len(each):
    raise UserError(f"config key 'teacher' is {names!r}: give one name or several, with commas between, each once")
  return each


def as_one(made: Sequence[tuple[Teacher, Any]]) -> tuple[Teacher, Any]:
  """A teacher and its frozen parameters, of one or more such pairs."""
  if len(made) == 1:
    return made[0]
  return join_teachers([teacher for teacher, _ in made]), tuple(frozen for _, frozen in made)
