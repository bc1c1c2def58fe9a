"""Draws sheets of images above their texts, in one font on every machine, with lines broken to a width."""

from collections.abc import Sequence
import os
import textwrap

import matplotlib
from matplotlib.ft2font import FT2Font
from PIL import Image, ImageDraw, ImageFont

_GAP = 8
_PAPER, _INK = 'white', 'black'

_FONT = os.path.join(matplotlib.get_data_path(), 'fonts', 'ttf', 'DejaVuSansMono.ttf')


def load_font(size: int) -> ImageFont.FreeTypeFont:
  """Loads matplotlib's own monospaced font: all letters are equally wide, so lines can be broken by counting."""
  return ImageFont.truetype(_FONT, size)


def absent_letters(text: str) -> list[str]:
  """The letters that this font lacks, and draws as an empty box; each once, sorted."""
  known = FT2Font(_FONT).get_charmap()
  return sorted(letter for letter in set(text) if not letter.isspace() and ord(letter) not in known)


def wrap_text(text: str, width: int, font: ImageFont.FreeTypeFont) -> str:
  """Breaks every line of the text before it passes `width` pixels."""
  letters = int(width / font.getlength('m'))
  return '\n'.join(part for line in text.splitlines() for part in textwrap.wrap(line, letters))


def text_height(text: str, font: ImageFont.FreeTypeFont) -> int:
  """The pixels from the top of the first line to the bottom of the last."""
  return int(ImageDraw.Draw(Image.new('L', (1, 1))).multiline_textbbox((0, 0), text, font)[3])


def contact_sheet(tiles: Sequence[tuple[list[Image.Image], str]], title: str, columns: int) -> Image.Image:
  """Draws tiles below a title, each of as many S x S images above a text; a row is as high as its tallest tile."""
  size, font = tiles[0][0][0].width, load_font(12)
  inner = len(tiles[0][0]) * (size + _GAP) - _GAP
  width, columns = inner + 3 * _GAP, min(columns, len(tiles))
  title = wrap_text(title, columns * width - 3 * _GAP, font)
  texts = [wrap_text(text, inner, font) for _, text in tiles]
  tops = [text_height(title, font) + 3 * _GAP]
  for start in range(0, len(tiles), columns):
    tallest = max(text_height(text, font) for text in texts[start:start + columns])
    tops.append(tops[-1] + size + _GAP + tallest + 3 * _GAP)
  sheet = Image.new('RGB', (columns * width - _GAP, tops[-1]), _PAPER)
  pen = ImageDraw.Draw(sheet)
  pen.multiline_text((_GAP, _GAP), title, _INK, font)
  for index, (panel_images, _) in enumerate(tiles):
    top, left = tops[index // columns], _GAP + index % columns * width
    for place, image in enumerate(panel_images):
      sheet.paste(image, (left + place * (size + _GAP), top))
    pen.multiline_text((left, top + size + _GAP // 2), texts[index], _INK, font)
  return sheet
