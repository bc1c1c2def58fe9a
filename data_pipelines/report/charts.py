"""Draws charts of a data set, as SVG in data URIs. None holds a user's text: matplotlib would read it as formulas."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
import numpy as np

from data_pipelines.drawing.page_rendering import svg_chart

_COLOUR = '#0072b2'
_STYLE: Any = {'svg.hashsalt': 'report', 'axes.spines.top': False, 'axes.spines.right': False, 'font.size': 9}


def length_chart(lengths: Mapping[int, int]) -> str:
  """Draws how many captions have each number of words."""

  def draw(axes: Axes) -> None:
    axes.bar(list(lengths), list(lengths.values()), width=1, color=_COLOUR)
    axes.set(xlabel='words', ylabel='captions', xlim=(0, None))

  return _svg(draw, 4.6, 2.4)


def size_chart(width_N: Sequence[int], height_N: Sequence[int]) -> str:
  """Draws widths against heights, darker where there are more images."""

  def draw(axes: Axes) -> None:
    axes.hexbin(
        width_N, height_N, gridsize=40, extent=(0, max(width_N), 0, max(height_N)), bins='log', mincnt=1, cmap='Blues')
    axes.set(xlabel='width, pixels', ylabel='height, pixels')

  return _svg(draw, 4.6, 3.2)


def rating_chart(values_Nx2: np.ndarray, scales: Sequence[Sequence[float] | None]) -> str:
  """Draws valence against arousal, darker where there are more images; over their whole scales, if these are known."""

  def draw(axes: Axes) -> None:
    known_Nx2 = values_Nx2[~np.isnan(values_Nx2).any(1)]
    ends = [scale or (column.min(), column.max()) for scale, column in zip(scales, known_Nx2.T)]
    axes.hexbin(
        *known_Nx2.T, gridsize=30, extent=(*ends[0], *ends[1]) if all(low < high for low, high in ends) else None,
        bins='log', mincnt=1, cmap='Blues')
    for line, scale in zip((axes.axvline, axes.axhline), scales):
      if scale:
        line((scale[0] + scale[1]) / 2, color='grey', linewidth=0.6)
    axes.set(xlabel='valence', ylabel='arousal', box_aspect=1)

  return _svg(draw, 4.2, 4.0)


def _svg(draw: Callable[[Axes], None], width: float, height: float) -> str:
  return svg_chart(draw, width, height, _STYLE)
