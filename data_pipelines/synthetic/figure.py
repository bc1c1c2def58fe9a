"""Draws the figure of the synthetic images: postures and faces."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from PIL import Image

from data_pipelines.synthetic.pen import SCALE, SIZE, Pen, Point

_SKIN = ((255, 219, 186), (238, 188, 146), (204, 148, 104), (150, 100, 70), (112, 74, 52))
_HAIR = ((40, 30, 26), (96, 60, 34), (196, 152, 74), (150, 66, 36), (172, 172, 176))
_NIGHT = (0.74, 0.78, 0.95)
_INK = (26, 20, 24)
_UPRIGHT = {
    'standing': (0.36, 0.56, 0.06, ((0.1, 0.58), (0.15, 0.44), (0.14, 0.3))),
    'arms_up': (0.34, 0.52, 0.16, ((0.1, 0.56), (0.27, 0.7), (0.33, 0.98))),
    'akimbo': (0.36, 0.56, 0.17, ((0.1, 0.58), (0.34, 0.46), (0.12, 0.35))),
    'reaching': (0.36, 0.56, 0.1, ((0.1, 0.58), (0.28, 0.56), (0.46, 0.54))),}
"""Hip, neck, distance of a foot from the middle, and shoulder, elbow and hand, in fractions of the body's height."""


class Body(NamedTuple):
  """The measures (pixels) and colours of one figure; x grows to the right, y downwards, `side` is -1 or 1."""

  x: float
  foot: float
  height: float
  head: float
  side: int
  skin: tuple
  hair: tuple
  shirt: tuple
  trousers: tuple

  def at(self, across: float, up: float) -> Point:
    """A point of the body, in fractions of its height: across towards `side`, up from the feet."""
    return self.x + self.side * across * self.height, self.foot - up * self.height


def figure(face: str, posture: str, light: str, flat: bool, rng: np.random.Generator) -> Image.Image:
  """Draws one figure on a transparent layer.

  Args:
    face, posture, light: as in `world.Content`.
    flat: whether to draw flat colours with outlines.
    rng: the source of everything that varies.

  Returns:
    An RGBA image, (SCALE * SIZE) squared; its alpha's bounding box is the person box.
  """
  return draw_body(sample_body(rng), face, posture, light, flat, rng)[0]


def sample_body(
    rng: np.random.Generator, height: tuple[float, float] = (74, 86), x: tuple[float, float] = (38, 58),
    foot: tuple[float, float] = (90, 94)
) -> Body:
  """Samples a body whose height, middle and feet (pixels) lie in these ranges."""
  tall = float(rng.uniform(*height))
  return Body(
      x=float(rng.uniform(*x)), foot=float(rng.uniform(*foot)), height=tall, head=tall * rng.uniform(0.34, 0.38) / 2,
      side=int(rng.choice([-1, 1])), skin=_SKIN[rng.integers(len(_SKIN))], hair=_HAIR[rng.integers(len(_HAIR))],
      shirt=tuple(rng.uniform(40, 240, 3)), trousers=tuple(rng.uniform(20, 140, 3)))


def draw_body(body: Body, face: str, posture: str, light: str, flat: bool,
              rng: np.random.Generator) -> tuple[Image.Image, Point]:
  """Draws a `figure` with a given body; also returns the middle of its head."""
  layer = Image.new('RGBA', (SIZE * SCALE, SIZE * SCALE))
  pen = Pen(layer, _NIGHT if light == 'night' else (1, 1, 1), flat)
  head = _bent(pen, body) if posture == 'bent' else _upright(pen, body, posture)
  _head(pen, body, head, long_hair=bool(rng.random() < 0.4))
  _FACES[face](pen, head, body.head)
  return layer, head


def _legs(pen: Pen, body: Body, hip: Point, feet: tuple[float, float], bend: float = 0.0) -> None:
  for across in feet:
    knee = ((hip[0] + body.at(across, 0)[0]) / 2 + body.side * bend * body.height, body.at(0, 0.16)[1])
    pen.limb([hip, knee, body.at(across, 0.02)], body.height * 0.1, body.trousers)


def _trunk(pen: Pen, body: Body, hip: Point, neck: Point) -> None:
  pen.limb([hip, neck], body.height * 0.2, body.shirt)


def _arm(pen: Pen, body: Body, *points: Point) -> None:
  pen.limb(points, body.height * 0.1, body.shirt)
  pen.ellipse(points[-1], (body.height * 0.055, body.height * 0.055), body.skin)


def _head_above(body: Body, neck: Point, lean: float = 0.0) -> Point:
  return neck[0] + body.side * lean * body.height, neck[1] - body.head - body.height * 0.05


def _upright(pen: Pen, body: Body, posture: str) -> Point:
  hip_height, neck_height, stance, arm = _UPRIGHT[posture]
  hip, neck = body.at(0, hip_height), body.at(0, neck_height)
  _legs(pen, body, hip, (-stance, stance))
  if posture != 'akimbo':
    _trunk(pen, body, hip, neck)
  for side in (-1, 1):
    hanging = posture == 'reaching' and side < 0
    _arm(pen, body, *(body.at(side * across, up) for across, up in (_UPRIGHT['standing'][3] if hanging else arm)))
  if posture == 'akimbo':  # The trunk hides the hands.
    _trunk(pen, body, hip, neck)
  return _head_above(body, neck)


def _bent(pen: Pen, body: Body) -> Point:
  hip, neck = body.at(-0.16, 0.36), body.at(0.12, 0.5)
  _legs(pen, body, hip, (-0.2, -0.02), bend=0.09)
  _trunk(pen, body, hip, neck)
  for drop in (0.0, 0.06):
    _arm(pen, body, body.at(0.1, 0.5 - drop), body.at(0.18, 0.32 - drop), body.at(0.0, 0.37 - drop))
  return _head_above(body, neck, lean=0.16)


def _head(pen: Pen, body: Body, head: Point, long_hair: bool) -> None:
  radius = body.head
  if long_hair:
    pen.ellipse((head[0], head[1] + radius * 0.05), (radius * 1.2, radius * 1.05), body.hair)
  pen.ellipse(head, (radius, radius), body.skin)
  pen.half((head[0], head[1] - radius * 0.08), (radius * 1.02, radius * 1.0), (198, 342), body.hair)


def _eyes(pen: Pen, head: Point, radius: float, size: float, white: float = 0.0) -> None:
  for across in (-0.4, 0.4):
    centre = head[0] + across * radius, head[1] - 0.02 * radius
    if white:
      pen.ellipse(centre, (white * radius, white * radius), (255, 255, 255))
    pen.ellipse(centre, (size * radius, size * radius), _INK)


def _neutral(pen: Pen, head: Point, radius: float) -> None:
  _eyes(pen, head, radius, 0.1)
  (x, _), y = head, head[1] + 0.5 * radius
  pen.line([(x - 0.28 * radius, y), (x + 0.28 * radius, y)], 1.0, (120, 50, 50))


def _laughing(pen: Pen, head: Point, radius: float) -> None:
  for across in (-0.42, 0.42):
    pen.arc((head[0] + across * radius, head[1] + 0.05 * radius), (0.22 * radius, 0.24 * radius), (180, 360), 1.1, _INK)
  mouth = head[0], head[1] + 0.26 * radius
  pen.half(mouth, (0.58 * radius, 0.56 * radius), (0, 180), (130, 24, 34))
  teeth = 0.48 * radius
  pen.rectangle((mouth[0] - teeth, mouth[1]), (mouth[0] + teeth, mouth[1] + 0.3 * teeth), (255, 255, 255))


def _frowning(pen: Pen, head: Point, radius: float) -> None:
  pen.half(head, (radius, radius), (20, 160), (214, 92, 70))
  _eyes(pen, head, radius, 0.12)
  for across in (-1, 1):
    outer = head[0] + across * 0.7 * radius, head[1] - 0.46 * radius
    pen.line([outer, (head[0] + across * 0.14 * radius, head[1] - 0.14 * radius)], 1.5, _INK)
  pen.arc((head[0], head[1] + 0.78 * radius), (0.42 * radius, 0.32 * radius), (190, 350), 1.4, (70, 12, 18))


def _open_mouth(pen: Pen, head: Point, radius: float) -> None:
  _eyes(pen, head, radius, 0.11, white=0.25)
  for across in (-0.42, 0.42):
    pen.arc((head[0] + across * radius, head[1] - 0.3 * radius), (0.24 * radius, 0.18 * radius), (190, 350), 0.9, _INK)
  pen.ellipse((head[0], head[1] + 0.55 * radius), (0.26 * radius, 0.33 * radius), (96, 14, 26))


def _crying(pen: Pen, head: Point, radius: float) -> None:
  for across in (-1, 1):
    inner = head[0] + across * 0.16 * radius, head[1] - 0.44 * radius
    pen.line([(head[0] + across * 0.66 * radius, head[1] - 0.2 * radius), inner], 1.2, _INK)
    eye = head[0] + across * 0.4 * radius, head[1]
    pen.arc(eye, (0.2 * radius, 0.14 * radius), (0, 180), 1.1, _INK)
    pen.ellipse((eye[0], eye[1] + 0.4 * radius), (0.12 * radius, 0.26 * radius), (84, 160, 240))
  pen.arc((head[0], head[1] + 0.74 * radius), (0.26 * radius, 0.22 * radius), (180, 360), 1.2, (70, 12, 18))


_FACES: dict[str, Callable[[Pen, Point, float], None]] = {
    'neutral': _neutral, 'laughing': _laughing, 'frowning': _frowning, 'open_mouth': _open_mouth, 'crying': _crying}
