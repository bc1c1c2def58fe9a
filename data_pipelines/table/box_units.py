"""Finds whether the boxes of a table are in pixels or in fractions of their images: all are in one of the two."""

from collections.abc import Sequence
import dataclasses

from data_pipelines.table.rows import Rating


def in_fractions(ratings: Sequence[Rating]) -> bool:
  """Whether no number of most boxes exceeds 1: then they are fractions, else pixels."""
  small = [max(box) <= 1 for rating in ratings for box in rating.boxes]
  return 2 * sum(small) > len(small)


def with_one_unit(ratings: Sequence[Rating], fractions: bool) -> list[Rating]:
  """Gives ratings with a box in the other unit a problem."""
  units = ('pixels', 'fractions of the image')
  return [
      dataclasses.replace(
          rating, problem=f'a box in {units[not fractions]}, {wrong[0]}, where others are in {units[fractions]}') if
      (wrong := [box for box in rating.boxes if (max(box) <= 1) != fractions]) else rating for rating in ratings]
