"""Opens the teacher of a run; several teachers become one here (docs/method.md, Several teachers)."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from data_pipelines.errors import UserError
from uniemox_jax.teacher.caption_embeddings import KeptCaptions
from uniemox_jax.teacher.frozen_clip import Clip, load_clip
from uniemox_jax.teacher.step_teacher import Teacher, join_teachers, make_teacher

BETWEEN = ','
"""The character between the names of several teachers."""


class LoadedTeachers(NamedTuple):
  """The loaded teachers. clips: one by one. teacher, frozen: all of them as one, in the form that the step takes."""

  clips: list[Clip]
  teacher: Teacher
  frozen: Any

  @property
  def digest(self) -> str:
    """The digest of all teachers together; for a single one, it equals its `Clip.digest`."""
    return '+'.join(clip.digest for clip in self.clips)


class JoinedCaptions(NamedTuple):
  """The embeddings of the same captions by several teachers, side by side."""

  parts: Sequence[KeptCaptions]

  def at(self, positions_R: np.ndarray) -> np.ndarray:
    """The embeddings of these positions' captions, float32 (R, E); each teacher's part has unit norm."""
    return np.concatenate([part.at(positions_R) for part in self.parts], axis=1)

  def largest_share(self) -> float:
    """The share of the positions that have the most frequent caption, for the teacher for which it is largest.

    Teachers may cut captions at different lengths.
    """
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
  return LoadedTeachers(clips, *join_teachers([make_teacher(clip, dtype, statistics, attention) for clip in clips]))


def names_of(names: str) -> list[str]:
  """Splits the names of several teachers. Raises UserError if a name is empty or given twice."""
  each = [name.strip() for name in names.split(BETWEEN)]
  if '' in each or len(set(each)) < len(each):
    raise UserError(f"config key 'teacher' is {names!r}: give one name or several, with commas between, each once")
  return each
