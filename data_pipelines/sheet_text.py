"""Text on drawn sheets: one font on every machine, and lines broken to a width."""

import os
import textwrap

import matplotlib
from PIL import Image, ImageDraw, ImageFont


def load_font(size: int) -> ImageFont.FreeTypeFont:
  """matplotlib's own monospaced font: every letter is equally wide, so that lines can be broken by counting."""
  return ImageFont.truetype(os.path.join(matplotlib.get_data_path(), 'fonts', 'ttf', 'DejaVuSansMono.ttf'), size)


def wrap_text(text: str, width: int, font: ImageFont.FreeTypeFont) -> str:
  """The text with every line broken before it passes `width` pixels."""
  letters = int(width / font.getlength('m'))
  return '\n'.join(part for line in text.splitlines() for part in textwrap.wrap(line, letters))


def text_height(text: str, font: ImageFont.FreeTypeFont) -> int:
  """Pixels from the top of the first line to the bottom of the last."""
  return int(ImageDraw.Draw(Image.new('L', (1, 1))).multiline_textbbox((0, 0), text, font)[3])
