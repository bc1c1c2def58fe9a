"""Finds the scales of valence, arousal and dominance: each has its own, declared or found."""

from collections.abc import Mapping, Sequence
import math

from data_pipelines.records.label_sets import VAD

SCALES = ((0, 1), (-1, 1), (1, 5), (1, 7), (1, 9), (1, 10), (-3, 3), (-4, 4), (0, 10), (0, 100), (-100, 100))
"""The scales of questionnaires. The first that holds all values is taken; one below 0 only for values below 0."""

_WIDE = 100
"""The upper end of scales that are not taken for a few small numbers: those have a -9 or a 99 for nothing, say."""


def _holds(scale: tuple[int, int], low: float, high: float) -> bool:
  used = scale[1] < _WIDE or max(-low, high) > _WIDE / 4
  return used and scale[0] <= low and high <= scale[1] and (low < 0) == (scale[0] < 0)


def find_scales(values: Sequence[Sequence[float]],
                declared: Mapping[str, Sequence[float] | None]) -> tuple[dict[str, list[float]], list[str]]:
  """Finds the scale of each dimension that has values, and writes lines for people.

  Args:
    values: valence, arousal and dominance of each image; NaN if not said.
    declared: dimension -> its scale, None if it is not declared.
  """
  scales, lines = {}, []
  for name, column in zip(VAD, zip(*values)):
    known = [value for value in column if not math.isnan(value)]
    if not known:
      continue
    low, high = min(known), max(known)
    usual = next((pair for pair in SCALES if _holds(pair, low, high)), None)
    scale = declared[name] or usual or (low, high)
    how = 'declared' if declared[name] else 'found; declare another with --vad_scale'
    lines.append(f'  scale of {name}: {scale[0]:g} to {scale[1]:g} ({how}); the values are {low:g} to {high:g}')
    if not declared[name] and not usual:
      lines.append('  warning: that is no usual scale: if some numbers mean that nothing was said, give --vad_scale')
    scales[name] = list(scale)
  return scales, lines
