"""Changes the images that a model is tested on: by corruptions, or by taking the persons or the scene away.

Corruptions and their five severities are those of ImageNet-C (Hendrycks and Dietterich, ICLR 2019). They were chosen
for views of 224 pixels: what is a length there is in proportion to the view here.
"""

from collections.abc import Callable, Sequence
import io

import numpy as np
from PIL import Image, ImageFilter

from data_pipelines.errors import UserError
from data_pipelines.person_boxes import crops

PERSON_REMOVED, SCENE_REMOVED = 'person_removed', 'scene_removed'
REMOVALS = (PERSON_REMOVED, SCENE_REMOVED)
COLOUR = (124, 116, 104)
"""The colour in place of what is taken away: ImageNet's mean, which models see as about zero. It says nothing of the
image."""
_VIEW = 224
_SEVERITIES: dict[str, tuple[float, ...]] = {
    'noise': (0.08, 0.12, 0.18, 0.26, 0.38),  # deviation, as a share of 255
    'blur': (1, 2, 3, 4, 6),  # deviation of the Gaussian, pixels
    'jpeg': (25, 18, 15, 10, 7),  # quality
    'contrast': (0.4, 0.3, 0.2, 0.1, 0.05),  # that is left
    'brightness': (0.1, 0.2, 0.3, 0.4, 0.5),  # added to the largest channel, as a share of 255
    'pixelate': (0.6, 0.5, 0.4, 0.3, 0.25)}  # share of the pixels that are left along a side


def read_changes(text: str) -> tuple[str, ...]:
  """Reads the names of changes, joined by + in a text such as 'blur_3+person_removed'; () for ''.

  Raises:
    UserError: a name is unknown, or given twice.
  """
  names = tuple(text.split('+')) if text else ()
  known = {*REMOVALS, *(f'{kind}_{level}' for kind, values in _SEVERITIES.items() for level in _levels(values))}
  for name in names:
    if name not in known or names.count(name) > 1:
      raise UserError(
          f"'{name}' of the test changes is {'there twice' if name in known else 'unknown'}: choose, each once, from "
          f"{', '.join(REMOVALS)}, and {', '.join(_SEVERITIES)} with a severity from 1 to 5, such as blur_3")
  return names


def _levels(values: Sequence[float]) -> range:
  return range(1, len(values) + 1)


def corrupt(change: str, view_SxSx3: np.ndarray, key: Sequence[int]) -> np.ndarray:
  """Corrupts a view, uint8 (S, S, 3).

  Args:
    change: the name of a corruption, such as 'blur_3'.
    view_SxSx3: uint8.
    key: numbers of at least 0; the noise is a function of them alone.
  """
  kind, level = change.rsplit('_', 1)
  changed = _CORRUPTIONS[kind](view_SxSx3, _SEVERITIES[kind][int(level) - 1], key)
  return changed if changed.dtype == np.uint8 else changed.round().clip(0, 255).astype(np.uint8)


def _noise(view_SxSx3: np.ndarray, deviation: float, key: Sequence[int]) -> np.ndarray:
  return view_SxSx3 + 255 * deviation * np.random.default_rng(list(key)).standard_normal(view_SxSx3.shape)


def _blur(view_SxSx3: np.ndarray, deviation: float, _: Sequence[int]) -> np.ndarray:
  in_view = deviation * len(view_SxSx3) / _VIEW
  return np.asarray(Image.fromarray(view_SxSx3).filter(ImageFilter.GaussianBlur(in_view)))


def _jpeg(view_SxSx3: np.ndarray, quality: float, _: Sequence[int]) -> np.ndarray:
  file = io.BytesIO()
  Image.fromarray(view_SxSx3).save(file, 'JPEG', quality=int(quality))
  return np.asarray(Image.open(file))


def _contrast(view_SxSx3: np.ndarray, left: float, _: Sequence[int]) -> np.ndarray:
  mean_3 = view_SxSx3.mean(axis=(0, 1))
  return (view_SxSx3 - mean_3) * left + mean_3


def _brightness(view_SxSx3: np.ndarray, added: float, _: Sequence[int]) -> np.ndarray:
  """Adds to the value of HSV; hue and saturation stay."""
  value_SxSx1 = view_SxSx3.max(axis=-1, keepdims=True).astype(np.float64)
  share_SxSx3 = np.divide(view_SxSx3, value_SxSx1, out=np.ones(view_SxSx3.shape), where=value_SxSx1 > 0)
  return share_SxSx3 * (value_SxSx1 + 255 * added).clip(0, 255)


def _pixelate(view_SxSx3: np.ndarray, left: float, _: Sequence[int]) -> np.ndarray:
  size = len(view_SxSx3)
  small = max(1, int(left * size))
  image = Image.fromarray(view_SxSx3).resize((small, small), Image.Resampling.BOX)
  return np.asarray(image.resize((size, size), Image.Resampling.BOX))


_CORRUPTIONS: dict[str, Callable[[np.ndarray, float, Sequence[int]], np.ndarray]] = {
    'noise': _noise, 'blur': _blur, 'jpeg': _jpeg, 'contrast': _contrast, 'brightness': _brightness,
    'pixelate': _pixelate}


def take_away(change: str, image_HxWx3: np.ndarray, boxes_Nx4: np.ndarray, scores_N: np.ndarray) -> np.ndarray:
  """Takes the persons away from an image, or all but the persons, uint8 (H, W, 3); `COLOUR` takes their place.

  From an image without a person, the first takes nothing away, and the second takes all.

  Args:
    change: 'person_removed' or 'scene_removed'.
    image_HxWx3: uint8.
    boxes_Nx4: the boxes of persons, (ymin, xmin, ymax, xmax), fractions of the image.
    scores_N: the scores of the boxes; a box of less than `crops.MIN_SCORE` is no person.
  """
  is_person_HxW = np.zeros(image_HxWx3.shape[:2], bool)
  for box_4 in crops.largest_persons(boxes_Nx4, scores_N):
    is_person_HxW[_pixels(box_4, is_person_HxW.shape)] = True
  kept_HxW = is_person_HxW if change == SCENE_REMOVED else ~is_person_HxW
  return np.where(kept_HxW[..., None], image_HxWx3, np.array(COLOUR, np.uint8))


def take_margin_away(
    crop_HxWx3: np.ndarray, boxes_Nx4: np.ndarray, scores_N: np.ndarray, image_2: np.ndarray) -> np.ndarray:
  """Takes what surrounds the person's box away from a stored crop, uint8 (H, W, 3); `COLOUR` takes its place.

  The crop of a box without area is one pixel wide or high, and stays as it is.

  Args:
    crop_HxWx3: the crop of the first box, or of the largest person, whichever has its shape; see `crops.person_crop`.
    boxes_Nx4, scores_N: those of the whole image, as for `take_away`.
    image_2: the height and width of the whole image.
  """
  shape = np.log(crop_HxWx3.shape[0] / crop_HxWx3.shape[1])
  found = []
  for box_4 in (boxes_Nx4[0], *crops.largest_persons(boxes_Nx4, scores_N)[:1]):
    if (box_4[2:] <= box_4[:2]).any():
      continue
    outer_4 = np.array(crops.with_margin(box_4.tolist(), 1, 1))
    height, width = sides_2 = outer_4[2:] - outer_4[:2]
    found.append((
        abs(np.log(height * image_2[0] / (width * image_2[1])) - shape),
        (box_4 - np.tile(outer_4[:2], 2)) / np.tile(sides_2, 2)))
  if not found:
    return crop_HxWx3
  _, inner_4 = min(found, key=lambda candidate: candidate[0])
  return take_away(SCENE_REMOVED, crop_HxWx3, inner_4[None], np.ones(1))


def _pixels(box_4: np.ndarray, sides: tuple[int, ...]) -> tuple[slice, slice]:
  """The rows and columns that a box touches, of an image with these sides."""
  first_2, end_2 = np.floor(box_4[:2] * sides).astype(int), np.ceil(box_4[2:] * sides).astype(int)
  return slice(first_2[0], end_2[0]), slice(first_2[1], end_2[1])
