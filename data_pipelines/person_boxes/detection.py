"""Runs a person detector over all images of a raw folder, resumably, or over a single image."""

import collections
from concurrent import futures
import contextlib
import pathlib
from typing import NamedTuple

from etils import epath
import numpy as np
from PIL import Image
import tqdm

from data_pipelines import checksums, images
from data_pipelines.errors import UserError
from data_pipelines.ownership import owned
from data_pipelines.person_boxes import box_file, crops, detectors
from data_pipelines.person_boxes.progress_file import ProgressFile
from data_pipelines.read_ahead import read_ahead
from data_pipelines.records import manifest
from data_pipelines.source_files import raw_files

# Detectors look at 800 pixels or less; larger images need not wait for them in memory.
_SHORT_SIDE = 800
_BATCH = 8


class DetectionSummary(NamedTuple):
  """What a detector found in a folder; the command prints its `str`.

  path: the file of boxes. images, with_person: how many images can be read, and show a confident person (score >= 0.5).
  boxes, dropped: how many boxes are written, and how many are not, because they are not finite or have no area inside
  the image. unreadable: path -> reason, for each image that cannot be read, which the build rejects too. ignored:
  kind -> number of files that are no images.
  """

  path: pathlib.Path
  images: int
  with_person: int
  boxes: int
  dropped: int
  unreadable: dict[str, str]
  ignored: dict[str, int]

  def __str__(self) -> str:
    share = self.with_person / max(self.images, 1)
    lines = [
        f'{self.path}: {self.boxes} boxes in {self.images} images; {self.with_person} images ({share:.1%}) show a '
        f'person with a score of {crops.MIN_SCORE} or more']
    if self.dropped:
      lines.append(f'{self.dropped} boxes dropped: not finite, or without area inside the image')
    if self.unreadable:
      first = min(self.unreadable)
      lines.append(
          f'{len(self.unreadable)} images cannot be read: listed in {_rejects_path(self.path)}, first {first} '
          f'({self.unreadable[first]})')
    if self.ignored:
      lines.append('no images: ' + ', '.join(f'{count} {kind}' for kind, count in self.ignored.items()))
    return '\n'.join(lines)


class _Shown(NamedTuple):
  """An image as a detector is shown it, and its own size (width, height)."""

  image: Image.Image
  size: tuple[int, int]


def detect_folder(source: pathlib.Path, detector: str, path: pathlib.Path) -> DetectionSummary:
  """Runs a detector on every image of a raw folder and writes the boxes as `box_file.read_boxes` reads them.

  The file appears whole or not at all. Until then a hidden file beside it holds the finished images: a run that was
  stopped at any moment goes on from there when it is started again with the same detector.

  Args:
    source: the raw folder, searched with all folders in it.
    detector: as for `detectors.load_detector`.
    path: the CSV file, on a local disk. It has one row per box, unsure ones too (score >= 0.1), with coordinates in
      pixels of the image as displayed, clamped to it. NAME_rejects.csv beside it lists images that cannot be read.

  Raises:
    UserError: the file exists already or cannot be written, `source` holds no image, or the detector cannot run.
  """
  if path.exists():
    raise UserError(f'{path} is there already: remove it, or choose another --out')
  ignored: collections.Counter[str] = collections.Counter()
  paths = raw_files.list_files(source, lambda kind: ignored.update([kind]), images.is_image)
  names = [path.relative_to(source).as_posix() for path in paths]
  if not names:
    raise UserError(f'{source} is missing or holds no image: give the raw folder of a dataset as --source')
  detect = detectors.load_detector(detector)
  with contextlib.ExitStack() as stack:
    try:
      stack.enter_context(owned(path.parent, path.name))
      progress_file = ProgressFile(path.with_name(f'.{path.name}.unfinished'), job=f'boxes of {detector}')
    except OSError as error:
      raise UserError(f'{path} cannot be written ({error.strerror}): choose another place with --out') from error
    stack.enter_context(contextlib.closing(progress_file))
    items, unreadable = _detect_images(source, names, detect, progress_file)
    rejects_path = _rejects_path(path)
    rejects_path.unlink(missing_ok=True)
    if unreadable:
      manifest.write_rejects(epath.Path(rejects_path), unreadable)
    box_file.write_boxes(path, ((item['image'], *box) for item in items for box in item['boxes']))
    checksums.write_checksums(box_file.checksums_of(path), [path])
    progress_file.remove()
  return DetectionSummary(
      path, images=len(items),
      with_person=sum(any(score >= crops.MIN_SCORE for *_, score in item['boxes']) for item in items),
      boxes=sum(len(item['boxes']) for item in items), dropped=sum(item['dropped'] for item in items),
      unreadable=unreadable, ignored=dict(sorted(ignored.items())))


def detect_one(image: Image.Image, detect: detectors.Detector) -> np.ndarray:
  """Finds the boxes of one RGB image as displayed, (N, 5) of xmin, ymin, xmax, ymax in pixels and score, surest first.
  """
  shown = _shown(image)
  return np.array(_item('', shown, detect([shown.image])[0])['boxes']).reshape(-1, 5)


def _rejects_path(path: pathlib.Path) -> pathlib.Path:
  return path.with_name(f'{path.stem}_{manifest.REJECTS}')


def _detect_images(source: pathlib.Path, names: list[str], detect: detectors.Detector,
                   progress_file: ProgressFile) -> tuple[list[dict], dict[str, str]]:
  """Runs the detector on the images that the progress file does not hold yet, and writes them there.

  Returns:
    The `_item` of each readable image, in the order of `names`; and name -> reason of those that cannot be read.
  """
  items = {item['image']: item for item in progress_file.items}
  left = [name for name in names if name not in items]
  unreadable: dict[str, str] = {}
  progress = tqdm.tqdm(total=len(names), initial=len(names) - len(left), desc='detecting persons', unit=' images')
  with progress, futures.ThreadPoolExecutor(_BATCH) as pool:
    reading = read_ahead((pool.submit(_read, source / name) for name in left), 2 * _BATCH)
    for start in range(0, len(left), _BATCH):
      batch = {name: next(reading).result() for name in left[start:start + _BATCH]}
      unreadable |= {name: shown for name, shown in batch.items() if isinstance(shown, str)}
      readable = {name: shown for name, shown in batch.items() if not isinstance(shown, str)}
      found = detect([shown.image for shown in readable.values()]) if readable else []
      finished = [_item(name, shown, found_Nx5) for (name, shown), found_Nx5 in zip(readable.items(), found)]
      progress_file.add(finished)
      items |= {item['image']: item for item in finished}
      progress.update(len(batch))
  return [items[name] for name in names if name in items], unreadable


def _read(path: pathlib.Path) -> _Shown | str:
  """The image, or why it cannot be read."""
  try:
    str(path).encode()
    with images.open_image(path) as image:
      return _shown(image.original)
  except UnicodeEncodeError:
    return 'the file name is not UTF-8'
  except images.RejectedError as error:
    return str(error)


def _shown(original: Image.Image) -> _Shown:
  return _Shown(images.shrink(original, _SHORT_SIDE), original.size)


def _item(name: str, shown: _Shown, found_Nx5: np.ndarray) -> dict:
  """The progress file's object of an image.

  Returns:
    'image', its name; 'boxes', [xmin, ymin, xmax, ymax, score] in pixels of the image as displayed, clamped to it,
    surest first; 'dropped', how many were not finite or have no area inside the image.
  """
  width, height = shown.size
  scale_4 = np.tile(np.divide(shown.size, shown.image.size), 2)
  finite_Nx5 = found_Nx5[np.isfinite(found_Nx5).all(axis=1)]
  corners_Nx4 = (finite_Nx5[:, :4] * scale_4).clip(0, [width, height, width, height]).round(2)
  boxes_Nx5 = np.column_stack([corners_Nx4, finite_Nx5[:, 4].round(4)])
  boxes_Nx5 = boxes_Nx5[(corners_Nx4[:, :2] < corners_Nx4[:, 2:]).all(axis=1)]
  boxes_Nx5 = boxes_Nx5[np.argsort(-boxes_Nx5[:, 4], kind='stable')]
  return {'image': name, 'boxes': boxes_Nx5.tolist(), 'dropped': len(found_Nx5) - len(boxes_Nx5)}
