"""Draws images that cost a JPEG decoder as much as photographs, with a person box each, as a raw folder.

Decoding time depends on detail. In natural scenes amplitudes fall as a power of frequency, between -0.8 and -1.5
(Tolhurst, Tadmor and Chao, 1992); with the power below, an image takes about 60 kB, as a detailed photograph does.
"""

import pathlib

import numpy as np
from PIL import Image
import tqdm

from data_pipelines.person_boxes import box_file

WIDTH, HEIGHT = 500, 375
QUALITY = 90

_TEXTURE_SIDE = 2048
_POWER = 1.3


def draw_photographs(folder: pathlib.Path, count: int, seed: int = 0) -> None:
  """Writes `folder/train/photograph/*.jpg`, WIDTH x HEIGHT, and person_boxes.csv with one standing person each."""
  rng = np.random.default_rng(seed)
  texture = _texture(rng)
  rows = []
  (folder / 'train' / 'photograph').mkdir(parents=True)
  for index in tqdm.trange(count, desc='drawing', unit=' images'):
    top, left = rng.integers(0, (_TEXTURE_SIDE - HEIGHT, _TEXTURE_SIDE - WIDTH))
    path = f'train/photograph/{index:06d}.jpg'
    pixels = texture[top:top + HEIGHT, left:left + WIDTH]
    Image.fromarray(pixels).save(folder / path, 'JPEG', quality=QUALITY)
    height = HEIGHT * rng.uniform(0.4, 0.9)
    width = height * rng.uniform(0.35, 0.6)
    xmin, ymin = rng.uniform(0, (WIDTH - width, HEIGHT - height))
    rows.append((path, xmin, ymin, xmin + width, ymin + height, 1.0))
  box_file.write_boxes(folder / box_file.FILE_NAME, rows)


def _texture(rng: np.random.Generator) -> np.ndarray:
  """Uint8 (side, side, 3) with detail at every scale, mostly in brightness; images are cut from it."""
  frequencies = np.hypot(np.fft.fftfreq(_TEXTURE_SIDE)[:, None], np.fft.rfftfreq(_TEXTURE_SIDE))
  frequencies[0, 0] = np.inf  # No amplitude: the mean is set below.

  def field(spread: float) -> np.ndarray:
    white = rng.standard_normal((_TEXTURE_SIDE, _TEXTURE_SIDE))
    noise = np.fft.irfft2(np.fft.rfft2(white) / frequencies**_POWER)
    return noise * (spread / noise.std())

  brightness, warmth, green = field(55), field(15), field(10)
  pixels = 120 + np.stack([brightness + warmth, brightness + green, brightness - warmth], axis=-1)
  return pixels.clip(0, 255).astype(np.uint8)
