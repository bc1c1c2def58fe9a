"""The loader that ours is measured against: two views a picture with Pillow, in PyTorch's worker processes.

The transforms are torchvision's RandomResizedCrop (bicubic) and RandomHorizontalFlip, which on Pillow pictures make the
Pillow calls below. What is left out, ToTensor and Normalize, is in this loader's favour.
"""

from collections.abc import Iterator
import csv
import math
import pathlib
import random

import numpy as np
from PIL import Image

from data_pipelines.errors import UserError
from data_pipelines.person_boxes import box_file

Box = tuple[float, float, float, float]


class TwoViews:
  """A map-style dataset: picture -> scene and person view, uint8 (S, S, 3) each, decoded once for both.

  The scene is a random resized crop of 0.2 to 1 of the area; the person is its box with a 20 % margin, squashed; both
  are flipped together.
  """

  def __init__(self, source: pathlib.Path, size: int):
    self._size = size
    with (source / box_file.FILE_NAME).open(newline='') as file:
      rows = list(csv.DictReader(file))
    self._paths = [source / row['image'] for row in rows]
    self._persons = [tuple(float(row[edge]) for edge in box_file.COLUMNS[1:5]) for row in rows]

  def __len__(self) -> int:
    return len(self._paths)

  def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
    with Image.open(self._paths[index]) as file:
      picture = file.convert('RGB')
    boxes = random_crop(*picture.size), with_margin(self._persons[index], *picture.size)
    flip = random.random() < 0.5
    return tuple(self._view(picture, box, flip) for box in boxes)

  def _view(self, picture: Image.Image, box: Box, flip: bool) -> np.ndarray:
    view = picture.crop(box).resize((self._size, self._size), Image.Resampling.BICUBIC)
    return np.array(view.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if flip else view)


def random_crop(width: int, height: int) -> Box:
  """(left, top, right, bottom) of torchvision's RandomResizedCrop(scale=(0.2, 1)), pixels."""
  for _ in range(10):
    area = width * height * random.uniform(0.2, 1)
    ratio = math.exp(random.uniform(math.log(3 / 4), math.log(4 / 3)))
    wide, high = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
    if wide <= width and high <= height:
      left, top = random.randint(0, width - wide), random.randint(0, height - high)
      return left, top, left + wide, top + high
  wide, high = min(width, round(height * 4 / 3)), min(height, round(width * 4 / 3))
  left, top = (width - wide) // 2, (height - high) // 2
  return left, top, left + wide, top + high


def with_margin(box: Box, width: int, height: int) -> Box:
  """The box with room around it as our records cut it out, within the picture, pixels."""
  xmin, ymin, xmax, ymax = box
  wider, taller = box_file.MARGIN * (xmax - xmin), box_file.MARGIN * (ymax - ymin)
  return max(xmin - wider, 0), max(ymin - taller, 0), min(xmax + wider, width), min(ymax + taller, height)


def batches(source: pathlib.Path, batch_size: int, size: int, workers: int) -> Iterator[tuple]:
  """Endless shuffled batches of (scenes, persons), uint8 tensors (B, S, S, 3), made by `workers` processes.

  The processes start here, not with the first batch.

  Raises:
    UserError: torch is not installed.
  """
  try:
    from torch.utils import data
  except ImportError as error:
    raise UserError("the loader to compare with needs torch: pip install 'uniemox_jax[torch]'") from error
  views = TwoViews(source, size)
  endless = data.RandomSampler(views, replacement=True, num_samples=1 << 40)
  return iter(data.DataLoader(views, batch_size, sampler=endless, num_workers=workers))
