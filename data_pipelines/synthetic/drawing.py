"""Draws one synthetic picture: surroundings, figure, weather, and one of five styles over all of it."""

import dataclasses

import numpy as np
from PIL import Image, ImageFilter

from data_pipelines.synthetic import figure, places
from data_pipelines.synthetic.pen import SCALE, SIZE, Pen
from data_pipelines.synthetic.world import Look


@dataclasses.dataclass(frozen=True)
class Drawing:
  """A finished picture.

  Attributes:
    picture: RGB, SIZE x SIZE.
    box: (xmin, ymin, xmax, ymax) of the figure in pixels, None where there is none.
    objects: EmoSet's names of the objects drawn.
  """

  picture: Image.Image
  box: tuple[float, float, float, float] | None
  objects: list[str]


def draw(look: Look, rng: np.random.Generator) -> Drawing:
  """Draws what `look` says; all that it leaves open comes from `rng`."""
  flat = look.style == 'cartoon'
  image, objects = places.surroundings(look.place, look.weather, look.light, flat, rng)
  if look.style in _BEHIND:
    _BEHIND[look.style](image, rng)
  box = None
  if look.face is not None:
    layer = figure.figure(look.face, look.posture, look.light, flat, rng)
    image.paste(layer, mask=layer)
    box = tuple(edge / SCALE for edge in layer.getchannel('A').getbbox())
  if look.weather == 'rain':
    places.rain(image, look.light, rng)
  picture = image.reduce(SCALE)
  return Drawing(_FINISH[look.style](picture, rng), box, objects)


def _neon_grid(image: Image.Image, rng: np.random.Generator) -> None:
  """Science fiction: a glowing grid on the ground, behind the figure."""
  pen = Pen(image)
  horizon, colour = rng.uniform(66, 74), ((40, 235, 235), (240, 60, 220))[rng.integers(2)]
  for x in np.linspace(-60, 156, 13):
    pen.line([(48 + (x - 48) * 0.35, horizon), (x, SIZE)], 0.5, colour)
  for depth in (0, 0.18, 0.45, 0.85):
    y = horizon + (SIZE - horizon) * depth
    pen.line([(0, y), (SIZE, y)], 0.5, colour)


def _banner(image: Image.Image, rng: np.random.Generator) -> None:
  """Advertising cover: a title banner behind the figure, as on a magazine."""
  pen = Pen(image)
  top, colour = rng.uniform(3, 6), tuple(rng.uniform(60, 250, 3))
  pen.rectangle((3, top), (SIZE - 3, top + 13), colour)
  ink = (250, 250, 250) if sum(colour) < 420 else (25, 25, 25)
  x = 8.0
  while x < SIZE - 14:
    width = rng.uniform(3, 8)
    pen.rectangle((x, top + 3.5), (x + width, top + 9.5), ink)
    x += width + 2


def _cartoon(picture: Image.Image, rng: np.random.Generator) -> Image.Image:
  del rng
  return picture


def _natural(picture: Image.Image, rng: np.random.Generator) -> Image.Image:
  """Soft, with a slow change of brightness across the picture."""
  soft = np.asarray(picture.filter(ImageFilter.GaussianBlur(0.5)), np.float32)
  slope = np.linspace(-1, 1, SIZE)
  shade = 1 + 0.1 * (rng.uniform(-1, 1) * slope[:, None] + rng.uniform(-1, 1) * slope[None])
  return _picture(soft * shade[..., None] + 2 * rng.standard_normal(soft.shape, np.float32))


def _realistic(picture: Image.Image, rng: np.random.Generator) -> Image.Image:
  """Grain, a little blur, paler colours and dark corners."""
  pixels = np.asarray(picture.filter(ImageFilter.GaussianBlur(rng.uniform(0.3, 0.7))), np.float32)
  grey = pixels.mean(axis=-1, keepdims=True)
  offset = np.linspace(-1, 1, SIZE)**2
  vignette = 1 - 0.2 * (offset[:, None] + offset[None])
  grain = 7 * rng.standard_normal(pixels.shape, np.float32)
  return _picture((pixels + 0.25 * (grey - pixels)) * vignette[..., None] + grain)


def _science_fiction(picture: Image.Image, rng: np.random.Generator) -> Image.Image:
  """A cyan or magenta cast."""
  cast = ((0.8, 1.04, 1.16), (1.1, 0.84, 1.16))[rng.integers(2)]
  return _picture(np.asarray(picture, np.float32) * cast + (0, 0, 8))


def _advertising_cover(picture: Image.Image, rng: np.random.Generator) -> Image.Image:
  """A coloured border and strong colours."""
  pixels = np.asarray(picture, np.float32)
  pixels = pixels + 0.2 * (pixels - pixels.mean(axis=-1, keepdims=True))
  framed = np.broadcast_to(rng.uniform(30, 250, 3), pixels.shape).copy()
  framed[3:-3, 3:-3] = pixels[3:-3, 3:-3]
  return _picture(framed)


def _picture(pixels: np.ndarray) -> Image.Image:
  return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


_BEHIND = {'science_fiction': _neon_grid, 'advertising_cover': _banner}
_FINISH = {
    'cartoon': _cartoon, 'natural': _natural, 'realistic': _realistic, 'science_fiction': _science_fiction,
    'advertising_cover': _advertising_cover
}
