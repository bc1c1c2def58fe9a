"""Person boxes: read from a raw folder's `person_boxes.csv`, kept as fractions, and cut out once as the person view."""

import csv
import pathlib

import numpy as np
from PIL import Image

from data_pipelines import images
from data_pipelines.errors import UserError

FILE_NAME = 'person_boxes.csv'
COLUMNS = ('image', 'xmin', 'ymin', 'xmax', 'ymax', 'score')
MIN_SCORE = 0.5
MARGIN = 0.2
CROP_SHORT_SIDE = 256


def read_boxes(source: pathlib.Path) -> dict[str, np.ndarray]:
  """Boxes of a raw folder.

  Args:
    source: raw folder; its `person_boxes.csv` is optional and has the columns image, xmin, ymin, xmax, ymax, score.
      `image` is the record's id; coordinates are pixels of the original picture as displayed (after EXIF rotation).

  Returns:
    id -> float64 (N, 5) of xmin, ymin, xmax, ymax, score; empty when the file is not there.

  Raises:
    UserError: a column is missing, or a row holds something else than finite numbers.
  """
  path = source / FILE_NAME
  if not path.exists():
    return {}
  rows: dict[str, list[list[float]]] = {}
  with path.open(newline='', encoding='utf-8-sig') as file:
    reader = csv.DictReader(file)
    missing = set(COLUMNS) - set(reader.fieldnames or ())
    if missing:
      raise UserError(f"{path} lacks column '{min(missing)}': its first line must be {','.join(COLUMNS)}")
    for row in reader:
      try:
        numbers = [float(row[column]) for column in COLUMNS[1:]]
        finite = np.isfinite(numbers).all()
      except (TypeError, ValueError):
        finite = False
      if not finite:
        raise UserError(f'{path} line {reader.line_num} is not a picture and five numbers: mend or remove the line')
      rows.setdefault(row['image'], []).append(numbers)
  return {image: np.array(boxes) for image, boxes in rows.items()}


def to_fractions(boxes_Nx5: np.ndarray, width: int, height: int) -> tuple[np.ndarray, np.ndarray]:
  """Boxes clamped to the picture, as fractions of it, so that they survive resizing; those with no area left go.

  Args:
    boxes_Nx5: xmin, ymin, xmax, ymax in pixels, and score.
    width, height: size of the picture as displayed, pixels.

  Returns:
    boxes float32 (M, 4) as (ymin, xmin, ymax, xmax) in [0, 1], and scores float32 (M,), M <= N.
  """
  corners_Nx4 = (boxes_Nx5[:, [1, 0, 3, 2]] / [height, width, height, width]).clip(0, 1).astype(np.float32)
  kept = (corners_Nx4[:, 2] > corners_Nx4[:, 0]) & (corners_Nx4[:, 3] > corners_Nx4[:, 1])
  return corners_Nx4[kept], boxes_Nx5[kept, 4].astype(np.float32)


def person_crops(
  original: Image.Image, boxes_Nx4: np.ndarray, scores_N: np.ndarray, max_persons: int = 1, subject: bool = False
) -> list[bytes]:
  """The person views: the largest boxes of score >= 0.5, with room around them, cut from the original pixels.

  The margin is 20 % on each side: left and right edges move out by 0.2 of the box's width, top and bottom by 0.2 of
  its height, as far as the picture reaches.

  Args:
    original: RGB picture as displayed, original size.
    boxes_Nx4: float32 (ymin, xmin, ymax, xmax), fractions.
    scores_N: float32.
    max_persons: most crops made.
    subject: whether the first box is the one that the example is about: then it alone is cut out.

  Returns:
    JPEG bytes, short side <= 256, largest person first; empty where no box is sure enough.
  """
  if subject:
    return [_crop(original, boxes_Nx4[0])] if len(boxes_Nx4) else []
  confident_Nx4 = boxes_Nx4[scores_N >= MIN_SCORE]
  heights_N, widths_N = (confident_Nx4[:, 2:] - confident_Nx4[:, :2]).T
  order = np.argsort(-heights_N * widths_N, kind='stable')
  return [_crop(original, confident_Nx4[person]) for person in order[:max_persons]]


def _crop(original: Image.Image, box_4: np.ndarray) -> bytes:
  ymin, xmin, ymax, xmax = box_4.tolist()
  wider, taller = MARGIN * (xmax - xmin), MARGIN * (ymax - ymin)
  left, top = round(max(xmin - wider, 0) * original.width), round(max(ymin - taller, 0) * original.height)
  right, bottom = round(min(xmax + wider, 1) * original.width), round(min(ymax + taller, 1) * original.height)
  # At least one pixel, however thin the box.
  crop = original.crop((left, top, max(right, left + 1), max(bottom, top + 1)))
  return images.encode_jpeg(images.shrink(crop, CROP_SHORT_SIDE))
