"""Chooses which frames are taken of videos and animated images."""

from collections.abc import Iterator
import math
from typing import TypeVar

T = TypeVar('T')

_ROUNDING = 0.0006
"""Seconds: many files hold times in whole milliseconds, so that the frame for 1/30 s is at 0.033 s."""


def sampled(frames: Iterator[tuple[float, T]], per_second: float) -> Iterator[tuple[float, T]]:
  """Yields the first frame at or after each of 0, 1 / per_second, ... seconds; frames are (seconds from start, frame).
  """
  due = 0
  for seconds, frame in frames:
    if (passed := (seconds + _ROUNDING) * per_second) >= due:
      due = math.floor(passed) + 1
      yield seconds, frame
