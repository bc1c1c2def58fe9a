"""Runs a person detector over all pictures of a raw folder."""

import collections
from collections.abc import Iterator
from concurrent import futures
import dataclasses
import pathlib

import numpy as np
from PIL import Image
import tqdm

from data_pipelines import images, raw_files
from data_pipelines.person_boxes import detectors
from data_pipelines.progress_file import Journal

# Detectors look at 800 pixels or less; larger pictures need not wait for them in memory.
_SHORT_SIDE = 800
_BATCH = 8


@dataclasses.dataclass(frozen=True)
class _View:
  """A picture as a detector is shown it, and its own size (width, height)."""

  picture: Image.Image
  size: tuple[int, int]


def list_pictures(source: pathlib.Path) -> tuple[list[str], dict[str, int]]:
  """Paths of all pictures below a folder, sorted, with '/'; and kind -> number of its other files."""
  ignored: collections.Counter[str] = collections.Counter()
  names = []
  for path in raw_files.files(source, lambda kind: ignored.update([kind])):
    if images.is_picture(path):
      names.append(path.relative_to(source).as_posix())
    else:
      ignored[f'*{path.suffix}'] += 1
  return names, dict(sorted(ignored.items()))


def detect_all(source: pathlib.Path, names: list[str], detect: detectors.Detector,
               journal: Journal) -> tuple[list[dict], dict[str, str]]:
  """Looks at the pictures that the journal does not hold yet, and writes them there. Shows progress.

  Args:
    source: the raw folder.
    names: of all pictures, as `list_pictures` gives them.
    detect: the detector.
    journal: gets one object per readable picture, {image: name, boxes: [[xmin, ymin, xmax, ymax, score], ...], dropped:
      number}; boxes in pixels of the picture as displayed, inside it, surest first; `dropped` counts those that are not
      finite or have no area inside the picture.

  Returns:
    These objects, in the order of `names`; and name -> reason of the pictures that cannot be read.
  """
  items = {item['image']: item for item in journal.items}
  left = [name for name in names if name not in items]
  unreadable: dict[str, str] = {}
  initial = len(names) - len(left)
  with tqdm.tqdm(total=len(names), initial=initial, desc='detecting persons', unit=' pictures') as progress:
    for batch in _read_ahead(source, left):
      unreadable |= {name: view for name, view in batch.items() if isinstance(view, str)}
      views = {name: view for name, view in batch.items() if isinstance(view, _View)}
      found = detect([view.picture for view in views.values()]) if views else []
      finished = [_item(name, view, found_Nx5) for (name, view), found_Nx5 in zip(views.items(), found)]
      journal.add(finished)
      items |= {item['image']: item for item in finished}
      progress.update(len(batch))
  return [items[name] for name in names if name in items], unreadable


def detect_one(picture: Image.Image, detect: detectors.Detector) -> np.ndarray:
  """Looks at one RGB picture as displayed; boxes (N, 5) as those of `detect_all`, in its pixels."""
  shown = images.shrink(picture, _SHORT_SIDE)
  item = _item('', _View(shown, picture.size), detect([shown])[0])
  return np.array(item['boxes']).reshape(-1, 5)


def _read_ahead(source: pathlib.Path, names: list[str]) -> Iterator[dict[str, _View | str]]:
  """Batches of pictures, or why they cannot be read; the next one is being read while the caller works on one."""
  batches = [names[start:start + _BATCH] for start in range(0, len(names), _BATCH)]
  with futures.ThreadPoolExecutor(_BATCH) as pool:
    reading: dict[str, futures.Future] = {}
    for batch in [*batches, []]:
      following = {name: pool.submit(_read, source / name) for name in batch}
      if reading:
        yield {name: future.result() for name, future in reading.items()}
      reading = following


def _read(path: pathlib.Path) -> _View | str:
  try:
    str(path).encode()
    # Only the decoded picture is used: a JPEG of one pixel is soonest made.
    with images.opened_picture(path, short_side=1) as picture:
      return _View(images.shrink(picture.original, _SHORT_SIDE), picture.original.size)
  except UnicodeEncodeError:
    return 'the file name is not UTF-8'
  except images.RejectedError as error:
    return str(error)


def _item(name: str, view: _View, found_Nx5: np.ndarray) -> dict:
  width, height = view.size
  scale_4 = np.tile(np.divide(view.size, view.picture.size), 2)
  finite_Nx5 = found_Nx5[np.isfinite(found_Nx5).all(axis=1)]
  corners_Nx4 = (finite_Nx5[:, :4] * scale_4).clip(0, [width, height, width, height]).round(2)
  boxes_Nx5 = np.column_stack([corners_Nx4, finite_Nx5[:, 4].round(4)])
  boxes_Nx5 = boxes_Nx5[(corners_Nx4[:, :2] < corners_Nx4[:, 2:]).all(axis=1)]
  boxes_Nx5 = boxes_Nx5[np.argsort(-boxes_Nx5[:, 4], kind='stable')]
  return {'image': name, 'boxes': boxes_Nx5.tolist(), 'dropped': len(found_Nx5) - len(boxes_Nx5)}
