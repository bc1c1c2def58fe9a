"""Draws the surroundings of the synthetic images: six places, in clear weather or rain, by day, dusk or night."""

from collections.abc import Callable

import numpy as np
from PIL import Image

from data_pipelines.synthetic.pen import SCALE, SIZE, Colour, Pen

# By (light, weather): the colours of the sky at the top and at the horizon, and the factors of the light.
_AIR = {
    ('day', 'clear'): ((96, 160, 235), (205, 228, 246), (1.0, 1.0, 1.0)),
    ('day', 'rain'): ((128, 135, 146), (176, 180, 186), (0.74, 0.77, 0.82)),
    ('night', 'clear'): ((10, 12, 44), (36, 42, 92), (0.42, 0.46, 0.72)),
    ('night', 'rain'): ((22, 24, 34), (48, 51, 64), (0.38, 0.41, 0.58)),
    ('dusk', 'clear'): ((82, 70, 122), (238, 156, 108), (0.76, 0.66, 0.7)),
    ('dusk', 'rain'): ((88, 84, 100), (142, 118, 112), (0.6, 0.57, 0.63)),}
_RAIN = {'day': (225, 232, 242), 'night': (150, 160, 185), 'dusk': (196, 188, 196)}


def surroundings(place: str, weather: str, light: str, flat: bool,
                 rng: np.random.Generator) -> tuple[Image.Image, list[str]]:
  """Draws a place.

  Args:
    place, weather, light: as in `world.Content`.
    flat: whether to draw flat colours with outlines.
    rng: the source of everything that varies.

  Returns:
    An RGB image, (SCALE * SIZE) squared, and the EmoSet names of the objects in it.
  """
  top, horizon, lit = _AIR[light, weather]
  image = _sky(top, horizon, flat, rng)
  tint = tuple(part * factor for part, factor in zip(lit, rng.uniform(0.88, 1.12, 3)))
  if weather == 'clear':
    _sun_or_moon(Pen(image), light, rng)
  objects = _PLACES[place](Pen(image, tint, flat), rng, float(rng.uniform(52, 62)))
  if light == 'night' and place in ('street', 'amusement_park', 'landfill'):
    objects += _street_light(Pen(image, outlined=flat), rng)
  return image, objects


def rain(image: Image.Image, light: str, rng: np.random.Generator) -> None:
  """Draws rain over a finished image, in place."""
  pen = Pen(image)
  slant = rng.uniform(-4, 4)
  for x, y, length in zip(rng.uniform(-4, SIZE, 60), rng.uniform(-6, SIZE, 60), rng.uniform(5, 11, 60)):
    pen.line([(x, y), (x + slant * length / 11, y + length)], 0.5, _RAIN[light])


def _sky(top: Colour, horizon: Colour, flat: bool, rng: np.random.Generator) -> Image.Image:
  above, below = np.array([top, horizon]) + rng.uniform(-10, 10, (2, 3))
  side = SIZE * SCALE
  slope = np.full(side, 0.4) if flat else np.linspace(0, 1.4, side).clip(0, 1)
  column = (above + slope[:, None] * (below - above)).clip(0, 255).astype(np.uint8)
  return Image.fromarray(column[:, None]).resize((side, side), Image.Resampling.NEAREST)


def _sun_or_moon(pen: Pen, light: str, rng: np.random.Generator) -> None:
  centre = rng.uniform(8, 88), rng.uniform(7, 20)
  if light != 'night':
    if rng.random() < 0.6:
      pen.ellipse(centre, (6, 6), (255, 232, 120))
    return
  for x, y in zip(rng.uniform(0, SIZE, 24), rng.uniform(0, 50, 24)):
    pen.ellipse((x, y), (0.6, 0.6), (235, 235, 215))
  pen.ellipse(centre, (6, 6), (240, 238, 205))
  pen.ellipse((centre[0] + 2.5, centre[1] - 1.5), (5, 5), (24, 28, 66))


def _street_light(pen: Pen, rng: np.random.Generator) -> list[str]:
  x = rng.choice([rng.uniform(4, 16), rng.uniform(80, 92)])
  pen.limb([(x, 88), (x, 26)], 1.6, (60, 60, 66))
  pen.ellipse((x, 25), (4, 3.4), (255, 226, 130))
  return ['Street light']


def _vary(rng: np.random.Generator, *colour: float) -> Colour:
  return tuple(np.add(colour, rng.uniform(-16, 16)) + rng.uniform(-10, 10, 3))


def _ground(pen: Pen, y: float, colour: Colour) -> None:
  pen.rectangle((-2, y), (SIZE + 2, SIZE + 2), colour)


def _tree(pen: Pen, rng: np.random.Generator, x: float, foot: float, height: float, colour: Colour) -> None:
  pen.rectangle((x - height / 16, foot - height / 2), (x + height / 16, foot), _vary(rng, 96, 66, 42))
  for step in range(3):
    low, half = foot - height * (0.25 + 0.22 * step), height * (0.26 - 0.06 * step)
    pen.polygon([(x - half, low), (x, low - height * 0.34), (x + half, low)], colour)


def _mountain(pen: Pen, rng: np.random.Generator, horizon: float) -> list[str]:
  for x in rng.permutation([8, 34, 62, 90]) + rng.uniform(-7, 7, 4):
    top, half = rng.uniform(6, 24), rng.uniform(24, 34)
    grey = rng.uniform(-18, 18)
    pen.polygon([(x - half, horizon + 4), (x, top), (x + half, horizon + 4)], (128 + grey, 124 + grey, 142 + grey))
    cap = 0.34
    points = [(x, top), (x + half * cap, top + (horizon - top) * cap), (x + 3, top + 8), (x - 2, top + 14)]
    pen.polygon([*points, (x - half * cap, top + (horizon - top) * cap)], (246, 248, 252))
  _ground(pen, horizon + 3, _vary(rng, 112, 152, 92))
  for x in rng.uniform(2, 94, 3):
    _tree(pen, rng, x, horizon + rng.uniform(5, 14), rng.uniform(10, 17), _vary(rng, 42, 92, 58))
  return ['Tree']


def _lake(pen: Pen, rng: np.random.Generator, horizon: float) -> list[str]:
  objects = []
  shore = horizon - 8
  hills = [(x, shore - rng.uniform(1, 8)) for x in range(-4, 105, 12)]
  pen.polygon([(-4, shore + 3), *hills, (104, shore + 3)], _vary(rng, 86, 134, 84))
  pen.rectangle((-2, shore), (SIZE + 2, SIZE + 2), _vary(rng, 46, 122, 186))
  for y in rng.uniform(shore + 3, 92, 14):
    x = rng.uniform(0, 84)
    pen.line([(x, y), (x + rng.uniform(6, 16), y)], 0.8, (178, 212, 236))
  if rng.random() < 0.6:
    x, y = rng.uniform(12, 84), shore + rng.uniform(5, 10)
    pen.polygon([(x - 9, y), (x + 9, y), (x + 6, y + 4), (x - 6, y + 4)], _vary(rng, 150, 78, 52))
    pen.polygon([(x, y - 1), (x, y - 13), (x + 7, y - 1)], (244, 240, 228))
    objects.append('Boat')
  sand = [(x, 88 + rng.uniform(-3, 2)) for x in range(-4, 105, 18)]
  pen.polygon([(-4, 99), *sand, (104, 99)], _vary(rng, 222, 200, 150))
  return objects


def _landfill(pen: Pen, rng: np.random.Generator, horizon: float) -> list[str]:
  pen.rectangle((-2, horizon - 14), (SIZE + 2, horizon), _vary(rng, 172, 166, 110))
  _ground(pen, horizon - 2, _vary(rng, 112, 96, 58))
  rubbish = ((178, 60, 52), (214, 206, 190), (70, 98, 138), (92, 128, 62), (58, 52, 50), (196, 158, 60))
  for x in rng.permutation([10, 36, 64, 90]) + rng.uniform(-6, 6, 4):
    foot, height, half = horizon + rng.uniform(4, 22), rng.uniform(24, 40), rng.uniform(16, 25)
    heap = [(x - half, foot), (x - half / 3, foot - height), (x + half / 2, foot - height * 0.8), (x + half, foot)]
    pen.polygon(heap, _vary(rng, 104, 90, 56))
    for depth in rng.uniform(0.15, 1, 11):
      left, top = x + rng.uniform(-half, half) * depth * 0.7, foot - height * (1 - depth)
      width, tall, skew = rng.uniform((3, 3, -3), (8, 7, 3))
      low = top + tall
      piece = [(left, top), (left + width, top + skew), (left + width - skew, low), (left - skew, low)]
      pen.polygon(piece, rubbish[rng.integers(len(rubbish))])
  for x in rng.uniform(4, 92, 2):
    pen.ellipse((x, 89), (5.5, 4), (34, 32, 34))
    pen.ellipse((x, 89), (2.4, 1.7), (112, 96, 58))
  return ['Waste container', 'Tin can', 'Wheel']


def _amusement_park(pen: Pen, rng: np.random.Generator, horizon: float) -> list[str]:
  _ground(pen, horizon, _vary(rng, 206, 178, 130))
  x, y, radius = rng.choice([24, 70]) + rng.uniform(-5, 5), horizon - 26, rng.uniform(18, 23)
  for foot in (x - 12, x + 12):
    pen.limb([(x, y), (foot, horizon + 2)], 1.6, (150, 60, 110))
  pen.arc((x, y), (radius, radius), (0, 360), 1.4, (226, 70, 120))
  for turn in np.arange(8) * np.pi / 4 + rng.uniform(0, 0.7):
    rim = x + radius * np.cos(turn), y + radius * np.sin(turn)
    pen.line([(x, y), rim], 0.7, (230, 150, 190))
    pen.ellipse(rim, (2.8, 2.8), ((250, 205, 60), (70, 160, 230))[int(turn * 9) % 2])
  for tent in (94 - x + rng.uniform(-14, 4), 100 - x + rng.uniform(8, 22)):
    for stripe in range(6):
      left, foot, eaves = tent - 15 + stripe * 5, horizon + 10, horizon - 6
      wedge = [(left, foot), (left, eaves), (tent, horizon - 20), (left + 5, eaves), (left + 5, foot)]
      pen.polygon(wedge, ((214, 52, 56), (248, 244, 236))[stripe % 2])
  for _ in range(4):
    bx, by = rng.uniform(6, 90), rng.uniform(6, 34)
    pen.line([(bx, by), (bx + 1, by + 12)], 0.5, (90, 90, 90))
    pen.ellipse((bx, by), (3.2, 4), _vary(rng, *rng.permutation([230, 90, 90])))
  return ['Tent', 'Balloon']


def _street(pen: Pen, rng: np.random.Generator, horizon: float) -> list[str]:
  x = -2.0
  while x < SIZE:
    width, top = rng.uniform(16, 26), rng.uniform(4, 24)
    wall = _vary(rng, *((186, 106, 82), (168, 160, 152), (200, 176, 128))[rng.integers(3)])
    pen.rectangle((x, top), (x + width, horizon + 6), wall)
    for wx in np.arange(x + 3, x + width - 4, 6.5):
      for wy in np.arange(top + 4, horizon - 4, 9.5):
        pen.rectangle((wx, wy), (wx + 3.4, wy + 5), (250, 236, 160) if rng.random() < 0.3 else (74, 92, 116))
    x += width
  _ground(pen, horizon + 6, _vary(rng, 160, 158, 154))
  pen.polygon([(-2, 99), (26, horizon + 8), (70, horizon + 8), (98, 99)], _vary(rng, 84, 84, 90))
  for step in range(3):
    y = horizon + 13 + step * 10
    pen.polygon([(47, y), (49, y), (50, y + 6), (46, y + 6)], (238, 236, 220))
  return ['Building', 'Window']


def _forest(pen: Pen, rng: np.random.Generator, horizon: float) -> list[str]:
  pen.rectangle((-2, 12), (SIZE + 2, horizon + 8), _vary(rng, 52, 92, 54))
  _ground(pen, horizon + 6, _vary(rng, 92, 104, 52))
  for x in np.sort(rng.uniform(-4, 100, 9)):
    half = rng.uniform(1.8, 4)
    foot = horizon + rng.uniform(6, 20)
    trunk = [(x - half, -2), (x + half, -2), (x + half * 1.3, foot), (x - half * 1.3, foot)]
    pen.polygon(trunk, _vary(rng, 88, 62, 42))
  for x in range(-4, 104, 11):
    centre = x + rng.uniform(-3, 3), rng.uniform(0, 12)
    pen.ellipse(centre, (rng.uniform(9, 14), rng.uniform(8, 13)), _vary(rng, 44, 112, 48))
  return ['Tree', 'Plant']


_PLACES: dict[str, Callable[[Pen, np.random.Generator, float], list[str]]] = {
    'mountain': _mountain, 'lake': _lake, 'landfill': _landfill, 'amusement_park': _amusement_park, 'street': _street,
    'forest': _forest}
