"""Draws Pillow's shapes in the coordinates of small images, with the light and the style's outline."""

from collections.abc import Sequence
from typing import Any

from PIL import Image, ImageDraw

SIZE = 96
SCALE = 2
"""How many times their size images are drawn, before they are reduced: cheap antialiasing."""

Colour = tuple[float, float, float]
Point = tuple[float, float]
_INK = (20, 18, 24, 255)


class Pen:
  """Draws shapes onto an image of SCALE * SIZE.

  Args:
    image: RGB or RGBA, (SCALE * SIZE) squared.
    light: factors on red, green and blue: the light that falls on what is drawn.
    outlined: whether to draw a dark line round every shape (cartoons).
  """

  def __init__(self, image: Image.Image, light: Colour = (1, 1, 1), outlined: bool = False):
    self._draw = ImageDraw.Draw(image)
    self._light = light
    self._outline: dict[str, Any] = {'outline': _INK, 'width': 2} if outlined else {}

  def polygon(self, points: Sequence[Point], colour: Colour) -> None:
    """Draws a filled polygon; points are in image coordinates, 0 to SIZE."""
    self._draw.polygon(self._scaled(points), self._lit(colour), **self._outline)

  def ellipse(self, centre: Point, radii: Point, colour: Colour) -> None:
    """Draws a filled ellipse."""
    self._draw.ellipse(self._box(centre, radii), self._lit(colour), **self._outline)

  def rectangle(self, corner: Point, opposite: Point, colour: Colour) -> None:
    """Draws a filled rectangle from upper left to lower right."""
    self._draw.rectangle(self._scaled([corner, opposite]), self._lit(colour), **self._outline)

  def limb(self, points: Sequence[Point], width: float, colour: Colour) -> None:
    """Draws a thick line with round ends and joints; cartoons outline it."""
    if self._outline:
      self._stroke(points, width + 1.6, _INK)
    self._stroke(points, width, self._lit(colour))

  def line(self, points: Sequence[Point], width: float, colour: Colour) -> None:
    """Draws a plain line without outline."""
    self._draw.line(self._scaled(points), self._lit(colour), max(1, round(width * SCALE)))

  def arc(self, centre: Point, radii: Point, degrees: tuple[float, float], width: float, colour: Colour) -> None:
    """Draws a part of an ellipse's rim; degrees are clockwise from three o'clock."""
    self._draw.arc(self._box(centre, radii), *degrees, self._lit(colour), max(1, round(width * SCALE)))

  def half(self, centre: Point, radii: Point, degrees: tuple[float, float], colour: Colour) -> None:
    """Draws a part of an ellipse's area, cut off by a straight chord."""
    self._draw.chord(self._box(centre, radii), *degrees, self._lit(colour), **self._outline)

  def _stroke(self, points: Sequence[Point], width: float, colour: tuple[int, ...]) -> None:
    self._draw.line(self._scaled(points), colour, max(1, round(width * SCALE)), joint='curve')
    for end in (points[0], points[-1]):
      self._draw.ellipse(self._box(end, (width / 2, width / 2)), colour)

  def _lit(self, colour: Colour) -> tuple[int, ...]:
    return (*(min(255, max(0, round(part * factor))) for part, factor in zip(colour, self._light)), 255)

  @staticmethod
  def _scaled(points: Sequence[Point]) -> list[Point]:
    return [(x * SCALE, y * SCALE) for x, y in points]

  @staticmethod
  def _box(centre: Point, radii: Point) -> list[float]:
    (x, y), (across, down) = centre, radii
    return [SCALE * edge for edge in (x - across, y - down, x + across, y + down)]
