"""Person boxes: read from a raw folder's `person_boxes.csv`, kept as fractions, and cut out once as the person view.

Where a folder has none, a detector writes them: docs/person_boxes.md.

python -m data_pipelines.person_boxes --source=DIR --detector=hog|FILE.onnx|FOLDER_OR_HUB_ID
"""

import contextlib
import csv
import dataclasses
import pathlib

from absl import flags
from etils import epath
import numpy as np
from PIL import Image

from data_pipelines import images
from data_pipelines.errors import UserError
from data_pipelines.person_boxes import detection, detectors
from data_pipelines.progress_file import Journal
from data_pipelines.records import manifest

flags.disclaim_key_flags()  # `--help` shows flags that are defined here as the verb's own

FILE_NAME = 'person_boxes.csv'
COLUMNS = ('image', 'xmin', 'ymin', 'xmax', 'ymax', 'score')
MIN_SCORE = 0.5
MARGIN = 0.2
CROP_SHORT_SIDE = 256


@dataclasses.dataclass(frozen=True)
class Detected:
  """What a detector saw in a folder.

  Attributes:
    pictures: number of pictures looked at.
    with_person: of these, how many show a confident person (score >= 0.5).
    boxes: number of boxes written.
    dropped: boxes not written, because they are not finite or have no area inside the picture.
    unreadable: path -> reason, for each picture that cannot be read; the build rejects these too.
    ignored: kind -> number of files that are no pictures.
  """

  pictures: int
  with_person: int
  boxes: int
  dropped: int
  unreadable: dict[str, str]
  ignored: dict[str, int]


def read_boxes(source: pathlib.Path) -> dict[str, np.ndarray]:
  """Boxes of a raw folder.

  Args:
    source: the raw folder, whose `person_boxes.csv` is optional; or such a file itself. Its columns are image, xmin,
      ymin, xmax, ymax, score: `image` is the picture's path inside the folder; coordinates are pixels of the original
      picture as displayed (after EXIF rotation).

  Returns:
    image -> float64 (N, 5) of xmin, ymin, xmax, ymax, score; empty when the folder has no such file.

  Raises:
    UserError: a column is missing, or a row holds something else than finite numbers, or the file is not there.
  """
  path = source / FILE_NAME if source.is_dir() else source
  if source.is_dir() and not path.exists():
    return {}
  if not path.is_file():
    raise UserError(f'{path} is not there: give a file of person boxes, or a --detector')
  try:
    rows = _read_rows(path)
  except (UnicodeDecodeError, csv.Error) as error:
    raise UserError(f'{path} is no CSV in UTF-8 ({error}): save it as one') from error
  return {image: np.array(boxes) for image, boxes in rows.items()}


def _read_rows(path: pathlib.Path) -> dict[str, list[list[float]]]:
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
  return rows


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
    original: Image.Image, boxes_Nx4: np.ndarray, scores_N: np.ndarray, max_persons: int = 1,
    subject: bool = False) -> list[bytes]:
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
  return [_crop(original, boxes_Nx4[person]) for person in largest_first(boxes_Nx4, scores_N)[:max_persons]]


def largest_first(boxes_Nx4: np.ndarray, scores_N: np.ndarray) -> np.ndarray:
  """Indices of the boxes of score >= 0.5, the largest first."""
  sides_Nx2 = boxes_Nx4[:, 2:] - boxes_Nx4[:, :2]
  order = np.argsort(-sides_Nx2.prod(axis=1), kind='stable')
  return order[scores_N[order] >= MIN_SCORE]


def _crop(original: Image.Image, box_4: np.ndarray) -> bytes:
  ymin, xmin, ymax, xmax = box_4.tolist()
  wider, taller = MARGIN * (xmax - xmin), MARGIN * (ymax - ymin)
  left, top = round(max(xmin - wider, 0) * original.width), round(max(ymin - taller, 0) * original.height)
  right, bottom = round(min(xmax + wider, 1) * original.width), round(min(ymax + taller, 1) * original.height)
  # At least one pixel, however thin the box.
  crop = original.crop((left, top, max(right, left + 1), max(bottom, top + 1)))
  return images.encode_jpeg(images.shrink(crop, CROP_SHORT_SIDE))


def detect_folder(source: pathlib.Path, detector: str, path: pathlib.Path) -> Detected:
  """Runs a detector on every picture of a raw folder and writes the boxes as `read_boxes` reads them.

  The file appears whole or not at all. Until then a hidden file beside it keeps what is done, and a run that was
  stopped at any moment goes on from there when it is started again with the same detector.

  Args:
    source: the raw folder; all pictures in it and below are looked at.
    detector: as `detectors.load_detector` takes it.
    path: of the CSV file, on a local disk. One row per box, unsure ones too (score >= 0.1), coordinates in pixels of
      the picture as displayed, clamped to it. Pictures that cannot be read are listed beside it, in NAME_rejects.csv.

  Raises:
    UserError: the file is there already or cannot be written, `source` holds no picture, or the detector cannot run.
  """
  if path.exists():
    raise UserError(f'{path} is there already: remove it, or choose another --out')
  names, ignored = detection.list_pictures(source)
  if not names:
    raise UserError(f'{source} is missing or holds no picture: give the raw folder of a dataset as --source')
  detect = detectors.load_detector(detector)
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
    journal = Journal(path.with_name(f'.{path.name}.unfinished'), job=f'boxes of {detector}')
  except OSError as error:
    raise UserError(f'{path} cannot be written ({error.strerror}): choose another place with --out') from error
  with contextlib.closing(journal):
    items, unreadable = detection.detect_all(source, names, detect, journal)
    _write(path, items, unreadable)
  journal.remove()
  return Detected(
      pictures=len(items), with_person=sum(any(score >= MIN_SCORE for *_, score in item['boxes']) for item in items),
      boxes=sum(len(item['boxes']) for item in items), dropped=sum(item['dropped'] for item in items),
      unreadable=unreadable, ignored=ignored)


def _rejects(path: pathlib.Path) -> pathlib.Path:
  return path.with_name(f'{path.stem}_{manifest.REJECTS}')


def _write(path: pathlib.Path, items: list[dict], unreadable: dict[str, str]) -> None:
  _rejects(path).unlink(missing_ok=True)
  if unreadable:
    manifest.write_rejects(epath.Path(_rejects(path)), unreadable)
  unfinished = path.with_name(f'.{path.name}.new')
  with unfinished.open('w', newline='', encoding='utf-8') as file:
    writer = csv.writer(file)
    writer.writerow(COLUMNS)
    for item in items:
      writer.writerows([item['image'], *box] for box in item['boxes'])
  unfinished.rename(path)


def define_flags() -> None:
  """Declares the command's flags; not on import, where they could clash with those of a caller of `detect_folder`."""
  flags.DEFINE_string('source', None, 'Raw folder of a dataset; all pictures in it and below are looked at.')
  flags.DEFINE_string(
      'detector', None,
      f"'hog', a YOLOX FILE.onnx, or folder or hub id of a transformers model: {detectors.RECOMMENDED}")
  flags.DEFINE_string('out', None, f'The CSV file to write; by default {FILE_NAME} in the source folder.')


def summary(detected: Detected, path: pathlib.Path) -> str:
  """What a person wants to know of a run: one line, and one for each kind of thing that is not in the file."""
  share = detected.with_person / max(detected.pictures, 1)
  lines = [
      f'{path}: {detected.boxes} boxes in {detected.pictures} pictures; {detected.with_person} pictures ({share:.1%}) '
      f'show a person with a score of {MIN_SCORE} or more'
  ]
  if detected.dropped:
    lines.append(f'{detected.dropped} boxes dropped: not finite, or without area inside the picture')
  if detected.unreadable:
    first = min(detected.unreadable)
    lines.append(
        f'{len(detected.unreadable)} pictures cannot be read: listed in {_rejects(path)}, first {first} '
        f'({detected.unreadable[first]})')
  if detected.ignored:
    lines.append('no pictures: ' + ', '.join(f'{count} {kind}' for kind, count in detected.ignored.items()))
  return '\n'.join(lines)
