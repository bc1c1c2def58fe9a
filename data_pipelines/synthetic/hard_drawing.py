"""Draws an image of the harder world: small and large figures, further persons, things in front and behind."""

from typing import NamedTuple

import numpy as np
from PIL import Image

from data_pipelines.synthetic import drawing, figure, places
from data_pipelines.synthetic.hard_world import FIGURE_OF, Scene
from data_pipelines.synthetic.pen import SCALE, SIZE, Colour, Pen, Point

Box = tuple[float, float, float, float]

# Pixels: of the heights, middles and feet of bodies.
_NEAR = {'height': (70.0, 86.0), 'x': (34.0, 62.0), 'foot': (90.0, 95.0)}
_FAR = {'height': (42.0, 52.0), 'x': (26.0, 70.0), 'foot': (80.0, 92.0)}
_OTHER_HEIGHT, _OTHER_FOOT = (20.0, 26.0), (72.0, 84.0)
_APART = {True: 26.0, False: 18.0}
"""Between the middles of the main figure, near or not, and of others."""


class HardDrawing(NamedTuple):
  """An RGB image, SIZE x SIZE, and the boxes of its persons (xmin, ymin, xmax, ymax), pixels; the main figure first.

  A box holds the whole person, also the parts that are hidden.
  """

  image: Image.Image
  boxes: list[Box]


def draw_scene(scene: Scene, rng: np.random.Generator) -> HardDrawing:
  """Draws the scene; everything that it leaves open comes from `rng`."""
  case, flat = scene.case, scene.style == 'cartoon'
  canvas, _ = places.surroundings(case.place, scene.weather, case.light, flat, rng)
  if scene.style in drawing.BEHIND:
    drawing.BEHIND[scene.style](canvas, rng)
  for _ in range(scene.distractors):
    _distractor(Pen(canvas, outlined=flat), rng)
  boxes: list[Box] = []
  if case.face:
    body = figure.sample_body(rng, **(_NEAR if case.near else _FAR))
    others = [_other(canvas, scene, body.x, side, rng) for side in rng.permutation((-1, 1))[:scene.others]]
    # Hidden arms hang down: else they would show beside what hides them.
    posture = 'standing' if case.hidden == 'posture' else case.posture
    layer, head = figure.draw_body(body, case.face, posture, case.light, flat, rng)
    canvas.paste(layer, mask=layer)
    if case.hidden:
      _hide(Pen(canvas, outlined=flat), case.hidden, body, head, rng)
    boxes = [_box(layer), *others]
  if scene.weather == 'rain':
    places.rain(canvas, case.light, rng)
  exposed = canvas.reduce(SCALE).point([min(255, round(level)) for level in np.arange(256) * rng.uniform(0.8, 1.2)] * 3)
  return HardDrawing(drawing.FINISH[scene.style](exposed, rng), boxes)


def _other(canvas: Image.Image, scene: Scene, middle: float, side: int, rng: np.random.Generator) -> Box:
  """A further person beside the main figure, small, with any emotion's look, which means nothing."""
  apart = _APART[scene.case.near] + rng.uniform(0, 8)
  x = middle + side * apart
  if not 7 < x < SIZE - 7:
    x = middle - side * (apart + 11)
  place = {'height': _OTHER_HEIGHT, 'x': (x, x), 'foot': _OTHER_FOOT}
  face, posture = FIGURE_OF[str(rng.choice(list(FIGURE_OF)))]
  layer, _ = figure.draw_body(
      figure.sample_body(rng, **place), face, posture, scene.case.light, scene.style == 'cartoon', rng)
  canvas.paste(layer, mask=layer)
  return _box(layer)


def _box(layer: Image.Image) -> Box:
  xmin, ymin, xmax, ymax = (edge / SCALE for edge in layer.getchannel('A').getbbox() or ())
  return xmin, ymin, xmax, ymax


def _colour(rng: np.random.Generator) -> Colour:
  red, green, blue = rng.uniform(20, 245, 3)
  return red, green, blue


def _hide(pen: Pen, part: str, body: figure.Body, head: Point, rng: np.random.Generator) -> None:
  """Draws something over the whole face, or over all below the head."""
  radius = body.head * 1.12
  if part == 'face':
    pen.limb([(head[0], head[1] + radius), (head[0] + 2, body.foot)], 0.8, (120, 110, 100))
    if rng.random() < 0.5:
      pen.ellipse(head, (radius, radius * 1.05), _colour(rng))
    else:
      pen.rectangle((head[0] - radius, head[1] - radius), (head[0] + radius, head[1] + radius), _colour(rng))
    return
  half, top, foot = body.height * 0.28, head[1] + body.head, body.foot + 2
  if rng.random() < 0.5:
    pen.rectangle((body.x - half, top), (body.x + half, foot), _colour(rng))
    for y in np.arange(top + 4, foot, 5):
      pen.line([(body.x - half, y), (body.x + half, y)], 0.5, (40, 36, 34))
    return
  leaf = rng.uniform((30, 90, 30), (90, 160, 80))
  pen.rectangle((body.x - half, top + 3), (body.x + half, foot), tuple(leaf))
  for x in np.linspace(body.x - half, body.x + half, 6):
    for y in np.linspace(top + 4, foot - 3, 5):
      pen.ellipse((x, y), (half * 0.24, 4), tuple(leaf + rng.uniform(-14, 14)))


def _distractor(pen: Pen, rng: np.random.Generator) -> None:
  """A thing behind the figures that says nothing: a balloon, a crate, a ball, an umbrella or a bird."""
  (x, y), size, colour = rng.uniform((4, 8), (92, 88)), rng.uniform(4, 9), _colour(rng)
  kind = rng.integers(5)
  if kind == 0:
    pen.line([(x, y), (x + 1, y + 2 * size)], 0.5, (70, 70, 70))
    pen.ellipse((x, y), (size * 0.7, size * 0.9), colour)
  elif kind == 1:
    pen.rectangle((x - size, y - size * 0.7), (x + size, y + size * 0.7), colour)
    pen.line([(x - size, y - size * 0.7), (x + size, y + size * 0.7)], 0.7, (50, 40, 30))
  elif kind == 2:
    pen.ellipse((x, y), (size * 0.8, size * 0.8), colour)
    pen.arc((x, y), (size * 0.8, size * 0.4), (0, 180), 0.7, (250, 250, 250))
  elif kind == 3:
    pen.line([(x, y), (x, y + 1.6 * size)], 0.7, (60, 50, 44))
    pen.half((x, y), (size * 1.3, size), (180, 360), colour)
  else:
    pen.arc((x - size / 2, y), (size / 2, size / 3), (180, 360), 0.9, (30, 30, 36))
    pen.arc((x + size / 2, y), (size / 2, size / 3), (180, 360), 0.9, (30, 30, 36))
