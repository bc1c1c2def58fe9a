"""Draws the README's images from what `make demo` left: python -m docs.draw_images --demo=runs/demo.

Writes method.png, reconstructions.jpg and attention.jpg, and report.png where Chromium is installed, to docs/images.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
import shutil
import subprocess
from typing import Any

from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch
import numpy as np
from PIL import Image

OUT = Path(__file__).parent / 'images'
INCHES, DOTS = 6.6, 150  # an inch: text of 12 points can be read on a phone
SIDE, GAP, PATCH = 192, 8, 32  # pixels of a tile, between tiles, and of a patch, in the sheets that `look` draws
GREY = np.array((124, 116, 104), np.uint8)  # a hidden patch: the mean that pixels are normalised by
# Fill and edge of a box.
PAPER, TEACHER, STUDENT, LOSS = 'white #bbbbbb', '#eeeeee #777777', '#dcebf7 #0072b2', '#fde8db #d55e00'
CAPTION = '“a dark picture\nof a lake,\na neutral face,\nevoking\ncontentment”'
# x, y, width, height, colours, text. The page is 100 wide and 132 high; y points down.
BOXES: list[tuple[float, float, float, float, str, str]] = [
    (77, 5, 20, 20, PAPER, ''), (53, 29, 45, 27, PAPER, ''), (55, 33, 18, 13, TEACHER, 'image\ntower'),
    (78, 33, 18, 13, TEACHER, 'text\ntower'), (3, 58, 45, 10, STUDENT, 'ViT encoder, one call for both'),
    (3, 77, 20, 9, STUDENT, 'decoder'), (28, 77, 20, 9, STUDENT, 'fusion'), (3, 116, 20, 13, LOSS, 'L3\nhidden pixels'),
    (28, 91, 69, 38, LOSS, 'L2   similarity\n1 − cos(γ, Ω)\n\nL1   contrast, over all captions of the batch\n'
     '1 − cos(row of γΛᵀ, row of ΩΛᵀ)')
]  # yapf: disable
ARROWS: list[tuple[str, list[tuple[float, float]]]] = [
    ('', [(13, 25), (13, 32)]), ('', [(38, 25), (38, 32)]), ('', [(13, 52), (13, 58)]), ('', [(38, 52), (38, 58)]),
    ('', [(48, 15), (64, 15), (64, 33)]), ('', [(87, 25), (87, 33)]), ('scene tokens', [(13, 68), (13, 77)]),
    ('β', [(33, 68), (33, 77)]), ('α', [(43, 68), (43, 77)]), ('', [(13, 86), (13, 91)]), ('', [(13, 111), (13, 116)]),
    ('γ', [(38, 86), (38, 91)]), ('Ω', [(64, 46), (64, 91)]), ('Λ', [(87, 46), (87, 91)])
]  # yapf: disable
ROUNDED = 'round,pad=0,rounding_size=1.5'
HEAD = {'arrowstyle': '-|>', 'color': '#444444', 'shrinkA': 0, 'shrinkB': 0, 'mutation_scale': 14}


def read_tiles(path: Path) -> list[list[np.ndarray]]:
  """The rows of tiles, uint8 (SIDE, SIDE, 3), of a sheet: squares on white, with text below."""
  sheet = np.asarray(Image.open(path).convert('RGB'))
  filled_H = np.pad((sheet[:, GAP:GAP + SIDE] < 250).any(axis=2).mean(axis=1) > 0.5, 1)
  edges_Rx2 = np.flatnonzero(filled_H[1:] != filled_H[:-1]).reshape(-1, 2)
  rows = []
  for top, bottom in edges_Rx2[np.diff(edges_Rx2)[:, 0] > SIDE - GAP]:
    lefts = range(GAP, sheet.shape[1] - SIDE, SIDE + GAP)
    # Some tiles have a white frame of two pixels.
    inner = [Image.fromarray(sheet[top:bottom, left + 2:left + SIDE - 2]) for left in lefts]
    rows.append([np.asarray(tile.resize((SIDE, SIDE))) for tile in inner])
  return rows


def draw_grid(name: str, rows: Sequence[Sequence[np.ndarray]], above: Sequence[str], before: Sequence[str]) -> None:
  """Rows of tiles, with names above the columns or before the rows."""
  frame = ((0, GAP), (0, GAP), (0, 0))
  lines = [np.concatenate([np.pad(tile, frame, constant_values=255) for tile in row], axis=1) for row in rows]
  pixels = np.concatenate(lines)[:-GAP, :-GAP]
  figure = Figure(figsize=(INCHES, INCHES * len(pixels) / pixels.shape[1] + 0.3 * bool(above)), layout='constrained')
  axes = figure.subplots()
  axes.imshow(pixels)
  centres = SIDE / 2 + (SIDE + GAP) * np.arange(max(len(rows), len(rows[0])))
  axes.set_xticks(centres[:len(above)], above, fontsize=13)
  axes.set_yticks(centres[:len(before)], before, fontsize=13, rotation=90, va='center')
  axes.tick_params(length=0, top=True, labeltop=True, bottom=False, labelbottom=False)
  axes.spines[:].set_visible(False)
  figure.savefig(OUT / name, dpi=DOTS, bbox_inches='tight', pad_inches=0.05, pil_kwargs={'quality': 88})


def draw_method(scene: np.ndarray, person: np.ndarray, masked: np.ndarray, predicted: np.ndarray) -> None:
  """The method on one page, with one example's views; `masked` and `predicted` are of its scene."""
  # The person's hidden patches: the scene's, upside down, since each view has a mask of its own.
  centres = np.int32(masked[PATCH // 2::PATCH, PATCH // 2::PATCH])
  hidden = np.kron(np.abs(centres - GREY).max(axis=2)[::-1] < 9, np.ones((PATCH, PATCH), bool))[..., None]
  views = person, np.where(hidden, GREY, person), scene, masked, predicted
  figure = Figure(figsize=(INCHES, 1.32 * INCHES))
  axes = figure.add_axes((0, 0, 1, 1))
  style: dict[str, Any] = {'ha': 'center', 'size': 12, 'linespacing': 1.5}
  for x, y, width, height, colours, text in BOXES:
    fill, edge = colours.split()
    axes.add_patch(FancyBboxPatch((x, y), width, height, ROUNDED, facecolor=fill, edgecolor=edge, linewidth=1.4))
    axes.text(x + width / 2, y + height / 2, text, va='center', **style)
  for name, points in ARROWS:
    axes.plot(*zip(*points), color='#444444', linewidth=1.4, zorder=1)
    axes.annotate('', points[-1], points[-2], arrowprops=HEAD)
    axes.text(points[-1][0] + 1.5, (points[-1][1] + points[-2][1]) / 2, name, size=12, va='center')
  for x, y, text in ((13, 3.5, 'person'), (38, 3.5, 'scene'), (87, 3.5, 'caption'), (75.5, 52.5, 'frozen CLIP')):
    axes.text(x, y, text, **style)
  axes.text(87, 15, CAPTION, va='center', style='italic', **style | {'size': 9.5})
  for (x, y), pixels in zip(((3, 5), (3, 32), (28, 5), (28, 32), (3, 91)), views):
    axes.imshow(pixels, extent=(x, x + 20, y + 20, y), zorder=2)
  axes.set(xlim=(0, 100), ylim=(132, 0))
  axes.axis('off')
  figure.savefig(OUT / 'method.png', dpi=DOTS)
  # 256 colours make a third of the size.
  Image.open(OUT / 'method.png').convert('RGB').quantize(256).save(OUT / 'method.png', optimize=True)


def draw_report(page: Path) -> None:
  """The top of the demo's report, by Chromium."""
  chromium = shutil.which('chromium') or shutil.which('google-chrome')
  if chromium is None:
    print('report.png is left as it is: Chromium is not installed')
    return
  size = ['--hide-scrollbars', '--window-size=700,805', '--force-device-scale-factor=1.5']
  command = [chromium, '--headless', '--no-sandbox', *size, f'--screenshot={OUT / "report.png"}']
  subprocess.run([*command, page.resolve().as_uri()], check=True, stderr=subprocess.DEVNULL)


def main() -> None:
  """Reads the demo's sheets and draws all images."""
  parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
  parser.add_argument('--demo', type=Path, required=True, help='what `make demo` left, such as runs/demo')
  demo = parser.parse_args().demo
  OUT.mkdir(exist_ok=True)
  attention = read_tiles(demo / 'look_uniemox' / 'attention.png')
  triplets = read_tiles(demo / 'look_uniemox' / 'reconstruction.png')
  persons = [place for place, row in enumerate(attention) if row[2].mean() < 250]
  draw_method(attention[persons[-1]][0], attention[persons[-1]][2], *triplets[persons[-1]][:2])
  draw_grid('reconstructions.jpg', list(zip(*triplets[:4])), (), ('visible', 'predicted', 'original'))
  columns = 'scene', 'attention', 'person', 'attention'
  draw_grid('attention.jpg', [attention[place] for place in persons], columns, ())
  draw_report(demo / 'report.html')


if __name__ == '__main__':
  main()
