"""PyTorch-style loaders, to compare ours with: Pillow and torchvision's transforms, a worker process a CPU."""

from collections.abc import Generator
import importlib.metadata
import importlib.util
import math
import pathlib
import random
from typing import Any

import numpy as np
from PIL import Image

from data_pipelines.errors import UserError
from data_pipelines.person_boxes import box_file, crops


class TwoViewDataset:
  """The images of a PyTorch-style loader: scene and person view, uint8 (S, S, 3) each, decoded once for both.

  The scene is a random resized crop of 0.2 to 1 of the area; the person is its box with a 20 % margin, squashed; both
  are flipped together. These are the Pillow calls of torchvision's RandomResizedCrop (bicubic) and
  RandomHorizontalFlip. ToTensor and Normalize are left out, in this loader's favour.
  """

  def __init__(self, source: pathlib.Path, size: int):
    self._size = size
    boxes = box_file.read_boxes(source)
    self._paths = [source / image for image in boxes]
    self._persons: list[crops.Box] = [tuple(boxes_Nx5[0, :4].tolist()) for boxes_Nx5 in boxes.values()]

  def __len__(self) -> int:
    return len(self._paths)

  def __getitem__(self, index: int) -> tuple[np.ndarray, ...]:
    with Image.open(self._paths[index]) as file:
      image = file.convert('RGB')
    boxes = random_crop(*image.size), crops.with_margin(self._persons[index], *image.size)
    views = [image.crop(box).resize((self._size, self._size), Image.Resampling.BICUBIC) for box in boxes]
    if random.random() < 0.5:
      views = [view.transpose(Image.Transpose.FLIP_LEFT_RIGHT) for view in views]
    return tuple(map(np.array, views))


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


class AugmentedDataset:
  """Fine-tuning images, uint8 (3, S, S), by torchvision's transforms, without ToTensor and Normalize, in its favour.

  Random resized crop of 0.08 to 1 of the area (bicubic), flip, RandAugment and erasing as often as in our recipe. Its
  RandAugment would apply both operations always, ours leaves out each half of the time; here both do.
  """

  def __init__(self, source: pathlib.Path, size: int):
    from torchvision import transforms

    from data_pipelines.batches.rand_augment import FILL, LAYERS, PROBABILITY
    self._paths = sorted(source.rglob('*.jpg'))
    bicubic = transforms.InterpolationMode.BICUBIC
    # 27 of 31 steps is the strength that ours has at 9 of 10.
    operation = transforms.RandAugment(1, 27, 31, interpolation=bicubic, fill=list(FILL))
    self._transform = transforms.Compose([
        transforms.RandomResizedCrop(size, (0.08, 1), interpolation=bicubic),
        transforms.RandomHorizontalFlip(), *[transforms.RandomApply([operation], PROBABILITY)] * LAYERS,
        transforms.PILToTensor(),
        transforms.RandomErasing(0.25, (0.02, 1 / 3), (0.3, 1 / 0.3), value='random')])

  def __len__(self) -> int:
    return len(self._paths)

  def __getitem__(self, index: int) -> Any:
    with Image.open(self._paths[index]) as file:
      return self._transform(file.convert('RGB'))


def declare_operators() -> None:
  """Declares what importing torchvision asks for where it was built for another torch: none of its compiled operators
  loads there, and nothing may call these."""
  torch, torchvision = (importlib.metadata.version(name).partition('+')[2] for name in ('torch', 'torchvision'))
  if torch == torchvision:
    return
  from torch import library
  for operator in ('nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor',
                   'qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor'):
    library.define(f'torchvision::{operator.partition("(")[0]}', f'({operator.partition("(")[2]}')


def has_torchvision() -> bool:
  """Whether torchvision can be imported from here on."""
  if importlib.util.find_spec('torchvision'):
    declare_operators()
    return True
  return False


def batches(images: TwoViewDataset | AugmentedDataset, size: int, workers: int) -> Generator[Any, None, None]:
  """Endless, shuffled batches of PyTorch's loader; its processes start with this call.

  Raises:
    UserError: torch is not installed.
  """
  try:
    from torch.utils import data
  except ImportError as error:
    raise UserError("the loader to compare with needs torch: pip install 'uniemox_jax[torch]'") from error
  endless = data.RandomSampler(images, replacement=True, num_samples=1 << 40)
  loaded = iter(data.DataLoader(images, size, sampler=endless, num_workers=workers))
  return (batch for batch in loaded)
