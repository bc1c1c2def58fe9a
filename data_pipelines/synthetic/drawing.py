"""Draws one synthetic image: surroundings, figure, weather, and one of five styles over everything."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageFilter

from data_pipelines.synthetic import figure, places
from data_pipelines.synthetic.pen import SCALE, SIZE, Pen
from data_pipelines.synthetic.world import Content


class Drawing(NamedTuple):
  """A finished image, RGB, SIZE x SIZE.

  box: the figure's (xmin, ymin, xmax, ymax) in pixels, None without one. objects: EmoSet's names of those drawn.
  """

  image: Image.Image
  box: tuple[float, float, float, float] | None
  objects: list[str]


def draw_image(content: Content, rng: np.random.Generator) -> Drawing:
  """Draws the content; everything that it leaves open comes from `rng`."""
  flat = content.style == 'cartoon'
  canvas, objects = places.surroundings(content.place, content.weather, content.light, flat, rng)
  if content.style in BEHIND:
    BEHIND[content.style](canvas, rng)
  box = None
  if content.face is not None and content.posture is not None:
    layer = figure.figure(content.face, content.posture, content.light, flat, rng)
    canvas.paste(layer, mask=layer)
    xmin, ymin, xmax, ymax = (edge / SCALE for edge in layer.getchannel('A').getbbox() or ())
    box = xmin, ymin, xmax, ymax
  if content.weather == 'rain':
    places.rain(canvas, content.light, rng)
  return Drawing(FINISH[content.style](canvas.reduce(SCALE), rng), box, objects)


def _neon_grid(canvas: Image.Image, rng: np.random.Generator) -> None:
  """Science fiction: a glowing grid on the ground, behind the figure."""
  pen = Pen(canvas)
  horizon, colour = rng.uniform(66, 74), ((40, 235, 235), (240, 60, 220))[rng.integers(2)]
  for x in np.linspace(-60, 156, 13):
    pen.line([(48 + (x - 48) * 0.35, horizon), (x, SIZE)], 0.5, colour)
  for depth in (0, 0.18, 0.45, 0.85):
    y = horizon + (SIZE - horizon) * depth
    pen.line([(0, y), (SIZE, y)], 0.5, colour)


def _banner(canvas: Image.Image, rng: np.random.Generator) -> None:
  """Advertising cover: a title banner behind the figure, as on a magazine."""
  pen = Pen(canvas)
  top, colour = rng.uniform(3, 6), tuple(rng.uniform(60, 250, 3))
  pen.rectangle((3, top), (SIZE - 3, top + 13), colour)
  ink = (250, 250, 250) if sum(colour) < 420 else (25, 25, 25)
  x = 8.0
  while x < SIZE - 14:
    width = rng.uniform(3, 8)
    pen.rectangle((x, top + 3.5), (x + width, top + 9.5), ink)
    x += width + 2


def _natural(image: Image.Image, rng: np.random.Generator) -> Image.Image:
  """Soft, with a slow change of brightness across the image."""
  soft = np.asarray(image.filter(ImageFilter.GaussianBlur(0.5)), np.float32)
  slope = np.linspace(-1, 1, SIZE)
  shade = 1 + 0.1 * (rng.uniform(-1, 1) * slope[:, None] + rng.uniform(-1, 1) * slope[None])
  return _to_image(soft * shade[..., None] + 2 * rng.standard_normal(soft.shape, np.float32))


def _realistic(image: Image.Image, rng: np.random.Generator) -> Image.Image:
  """Grain, a little blur, paler colours and dark corners."""
  pixels = np.asarray(image.filter(ImageFilter.GaussianBlur(rng.uniform(0.3, 0.7))), np.float32)
  grey = pixels.mean(axis=-1, keepdims=True)
  offset = np.linspace(-1, 1, SIZE)**2
  vignette = 1 - 0.2 * (offset[:, None] + offset[None])
  grain = 7 * rng.standard_normal(pixels.shape, np.float32)
  return _to_image((pixels + 0.25 * (grey - pixels)) * vignette[..., None] + grain)


def _science_fiction(image: Image.Image, rng: np.random.Generator) -> Image.Image:
  """A cyan or magenta cast."""
  cast = ((0.8, 1.04, 1.16), (1.1, 0.84, 1.16))[rng.integers(2)]
  return _to_image(np.asarray(image, np.float32) * cast + (0, 0, 8))


def _advertising_cover(image: Image.Image, rng: np.random.Generator) -> Image.Image:
  """A coloured border and strong colours."""
  pixels = np.asarray(image, np.float32)
  pixels = pixels + 0.2 * (pixels - pixels.mean(axis=-1, keepdims=True))
  framed = np.broadcast_to(rng.uniform(30, 250, 3), pixels.shape).copy()
  framed[3:-3, 3:-3] = pixels[3:-3, 3:-3]
  return _to_image(framed)


def _to_image(pixels: np.ndarray) -> Image.Image:
  return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


BEHIND: dict[str, Callable[[Image.Image, np.random.Generator],
                           None]] = {'science_fiction': _neon_grid, 'advertising_cover': _banner}
"""The functions that draw behind the figure, in place, by style."""
FINISH: dict[str, Callable[[Image.Image, np.random.Generator], Image.Image]] = {
    'cartoon': lambda image, rng: image, 'natural': _natural, 'realistic': _realistic,
    'science_fiction': _science_fiction, 'advertising_cover': _advertising_cover}
"""The functions that make the image of the reduced canvas, by style."""
