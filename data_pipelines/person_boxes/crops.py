"""Makes the person view of a record: decides which boxes are persons, and cuts them out."""

import numpy as np
from PIL import Image

from data_pipelines import images

Box = tuple[float, float, float, float]
"""A box: xmin, ymin, xmax, ymax."""

MIN_SCORE = 0.5
MARGIN = 0.2
FAR = 0.1
CROP_SHORT_SIDE, CROP_LONG_SIDE = 256, 4096


def to_fractions(boxes_Nx5: np.ndarray, width: int, height: int) -> tuple[np.ndarray, np.ndarray]:
  """Clamps boxes to the image, and makes them fractions of it, which survive resizing. Boxes without area are dropped.

  Args:
    boxes_Nx5: xmin, ymin, xmax, ymax in pixels, and score.
    width, height: the size of the image as displayed, pixels.

  Returns:
    The boxes, float32 (M, 4) as (ymin, xmin, ymax, xmax) in [0, 1], and their scores float32 (M,), M <= N.
  """
  corners_Nx4 = (boxes_Nx5[:, [1, 0, 3, 2]] / [height, width, height, width]).clip(0, 1).astype(np.float32)
  kept = (corners_Nx4[:, 2] > corners_Nx4[:, 0]) & (corners_Nx4[:, 3] > corners_Nx4[:, 1])
  return corners_Nx4[kept], boxes_Nx5[kept, 4].astype(np.float32)


def count_beyond(boxes_Nx4: np.ndarray, width: int, height: int) -> int:
  """Counts boxes that lie partly in the image, and reach over its edge by more than a tenth: the units may be others.

  Args:
    boxes_Nx4: xmin, ymin, xmax, ymax in pixels.
    width, height: the size of the image as displayed, pixels.
  """
  corners_Nx4 = boxes_Nx4 / [width, height, width, height]
  touching = (corners_Nx4[:, :2] < 1).all(1) & (corners_Nx4[:, 2:] > 0).all(1)
  return int((touching & ((corners_Nx4 < -FAR) | (corners_Nx4 > 1 + FAR)).any(1)).sum())


def largest_persons(boxes_Nx4: np.ndarray, scores_N: np.ndarray) -> np.ndarray:
  """The boxes of score >= 0.5, (M, 4), the largest first."""
  sides_Nx2 = boxes_Nx4[:, 2:] - boxes_Nx4[:, :2]
  order = np.argsort(-sides_Nx2.prod(axis=1), kind='stable')
  return boxes_Nx4[order[scores_N[order] >= MIN_SCORE]]


def with_margin(box: Box, width: float, height: float) -> Box:
  """Adds 20 % of a box's width and height on each side, as far as the image (width x height) reaches."""
  xmin, ymin, xmax, ymax = box
  wider, taller = MARGIN * (xmax - xmin), MARGIN * (ymax - ymin)
  return max(xmin - wider, 0), max(ymin - taller, 0), min(xmax + wider, width), min(ymax + taller, height)


def person_crop(original: Image.Image, box_4: np.ndarray) -> bytes:
  """Cuts one person with the margin from the original pixels, as a JPEG with a short side of at most 256 pixels.

  A long side of more than 4096 is squashed to that, to save memory: every view squashes the crop anyway.

  Args:
    original: the RGB image as displayed, in its original size.
    box_4: float32 (ymin, xmin, ymax, xmax), fractions.
  """
  ymin, xmin, ymax, xmax = box_4.tolist()
  xmin, ymin, xmax, ymax = with_margin((xmin, ymin, xmax, ymax), 1, 1)
  left, top = round(xmin * original.width), round(ymin * original.height)
  right, bottom = round(xmax * original.width), round(ymax * original.height)
  # At least one pixel, however thin the box.
  crop = original.crop((left, top, max(right, left + 1), max(bottom, top + 1)))
  crop = images.shrink(crop, CROP_SHORT_SIDE)
  if max(crop.size) > CROP_LONG_SIDE:
    crop = crop.resize((min(crop.width, CROP_LONG_SIDE), min(crop.height, CROP_LONG_SIDE)), Image.Resampling.BICUBIC)
  return images.encode_jpeg(crop)
