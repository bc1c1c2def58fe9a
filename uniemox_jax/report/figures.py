"""Draws figures for people: sheets of tiles, heat maps, scatter plots. The same input gives the same bytes."""

from collections.abc import Sequence
import io
from typing import NamedTuple

import matplotlib
from matplotlib.figure import Figure
import numpy as np
from PIL import Image, ImageDraw

from data_pipelines.drawing.sheet_text import load_font, text_height, wrap_text

TILE = 192
"""The least side of a tile, pixels."""
_GAP = 8
_FONT = load_font(11)
# Okabe and Ito's colours, which colour-blind readers can distinguish, without yellow, too pale on white. Seven colours
# and nine shapes have no common divisor: together they name 63 classes.
COLOURS = ('#0072b2', '#d55e00', '#009e73', '#cc79a7', '#000000', '#56b4e9', '#e69f00')
MARKERS = 'os^Dv*PXp'
_HEAT = matplotlib.colormaps['inferno']


class Tile(NamedTuple):
  """A tile of a sheet. pixels: uint8 (H, W, 3), or None for an empty place. text: the text below it."""

  pixels: np.ndarray | None
  text: str = ''


def heat_overlay(pixels_SxSx3: np.ndarray, map_RxC: np.ndarray) -> np.ndarray:
  """Draws a map over its image in grey, uint8 (S, S, 3): dark is the map's least, bright its most."""
  spread = map_RxC.max() - map_RxC.min()
  heat_RxC = ((map_RxC - map_RxC.min()) / (spread if spread > 0 else 1.0)).astype(np.float32)
  heat_SxS = np.asarray(Image.fromarray(heat_RxC).resize(pixels_SxSx3.shape[1::-1], Image.Resampling.BILINEAR))
  grey_SxSx1 = np.asarray(Image.fromarray(pixels_SxSx3).convert('L'), np.float32)[..., None]
  return np.round(0.45 * grey_SxSx1 + 0.55 * 255 * _HEAT(heat_SxS)[..., :3]).astype(np.uint8)


def sheet(rows: Sequence[Sequence[Tile]], title: str) -> bytes:
  """Draws a PNG of rows of tiles below a title, each over its text; a row is as high as its longest text."""
  side = max([TILE] + [tile.pixels.shape[0] for row in rows for tile in row if tile.pixels is not None])
  columns = max(map(len, rows), default=1)
  width = max(columns, 2) * (side + _GAP) + _GAP
  title = wrap_text(title, width - 2 * _GAP, _FONT)
  texts = [[wrap_text(tile.text, side, _FONT) for tile in row] for row in rows]
  tops = [text_height(title, _FONT) + 3 * _GAP]
  for row_texts in texts:
    tops.append(tops[-1] + side + max(text_height(text, _FONT) for text in row_texts) + 3 * _GAP)
  page = Image.new('RGB', (width, tops[-1]), 'white')
  pen = ImageDraw.Draw(page)
  pen.multiline_text((_GAP, _GAP), title, 'black', _FONT)
  for top, row, row_texts in zip(tops, rows, texts):
    for place, (tile, text) in enumerate(zip(row, row_texts)):
      left = _GAP + place * (side + _GAP)
      if tile.pixels is not None:
        page.paste(Image.fromarray(tile.pixels).resize((side, side), Image.Resampling.BICUBIC), (left, top))
      pen.multiline_text((left, top + side + 2), text, 'black', _FONT)
  buffer = io.BytesIO()
  page.save(buffer, 'PNG')
  return buffer.getvalue()


def scatter_plot(points_Nx2: np.ndarray, label_N: np.ndarray, labels: Sequence[str], title: str) -> bytes:
  """Draws a PNG of points, each class in a colour and a shape; those of label -1 in grey."""
  figure = Figure(figsize=(8, 6), layout='constrained')
  axes = figure.subplots()
  for index in sorted(set(label_N.tolist())):
    chosen_Nx2 = points_Nx2[label_N == index]
    colour, marker = '#aaaaaa', '.'
    if index >= 0:
      colour, marker = COLOURS[index % len(COLOURS)], MARKERS[index % len(MARKERS)]
    axes.scatter(
        chosen_Nx2[:, 0], chosen_Nx2[:, 1], s=26, color=colour, marker=marker, alpha=0.8, linewidths=0,
        label=f'{labels[index] if index >= 0 else "no single label"} ({len(chosen_Nx2)})')
  axes.set(xticks=[], yticks=[], title=title)
  axes.legend(loc='center left', bbox_to_anchor=(1, 0.5), frameon=False, markerscale=1.6)
  buffer = io.BytesIO()
  figure.savefig(buffer, format='png', dpi=100, metadata={'Software': None})
  return buffer.getvalue()
