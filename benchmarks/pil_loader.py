"""The reference loader of the input benchmark: two views an image with Pillow, in PyTorch's worker processes.

The transforms are the Pillow calls of torchvision's RandomResizedCrop (bicubic) and RandomHorizontalFlip. ToTensor and
Normalize are left out, in this loader's favour.
"""

from collections.abc import Iterator
import math
import pathlib
import random

import numpy as np
from PIL import Image

from data_pipelines.errors import UserError
from data_pipelines.person_boxes import box_file, crops


class TwoViewDataset:
  """A map-style dataset: image -> scene and person view, uint8 (S, S, 3) each, decoded once for both.

  The scene is a random resized crop of 0.2 to 1 of the area; the person is its box with a 20 % margin, squashed; both
  are flipped together.
  """

  def __init__(self, source: pathlib.Path, size: int):
    self._size = size
    boxes = box_file.read_boxes(source)
    self._paths = [source / image for image in boxes]
    self._persons: list[crops.Box] = [tuple(boxes_Nx5[0, :4].tolist()) for boxes_Nx5 in boxes.values()]

  def __len__(self) -> int:
    return len(self._paths)

  def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
    with Image.open(self._paths[index]) as file:
      image = file.convert('RGB')
    boxes = random_crop(*image.size), crops.with_margin(self._persons[index], *image.size)
    flip = random.random() < 0.5
    return tuple(self._view(image, box, flip) for box in boxes)

  def _view(self, image: Image.Image, box: crops.Box, flip: bool) -> np.ndarray:
    view = image.crop(box).resize((self._size, self._size), Image.Resampling.BICUBIC)
    return np.array(view.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if flip else view)


def random_crop(width: int, height: int) -> crops.Box:
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
  views = TwoViewDataset(source, size)
  endless = data.RandomSampler(views, replacement=True, num_samples=1 << 40)
  return iter(data.DataLoader(views, batch_size, sampler=endless, num_workers=workers))
