"""Persons in pictures that are no records: boxes from a file, else from a detector, cut out as records are built."""

import hashlib
import io
import os
import pathlib
import threading
from typing import NamedTuple

import numpy as np
from PIL import Image

from data_pipelines.person_boxes import box_file, detection, detectors


class Person(NamedTuple):
  """pixels: uint8 (S, S, 3), the crop with its margin, squashed; box: ymin, xmin, ymax, xmax without the margin, as
  fractions of the picture."""

  pixels: np.ndarray
  box: tuple[float, float, float, float]


class PersonFinder:
  """Gives the largest sure person of a picture, by the rule of `person_boxes.person_crops`. Safe in many threads.

  Args:
    boxes: a file that `person_boxes.read_boxes` reads, or the folder of its `person_boxes.csv`; its pictures are named
      from the folder that the file lies in. None for no file.
    detector: as `detectors.load_detector` takes it; it looks at the pictures that the file has no box of. None for no
      detector; without a file, either, nobody is found.

  Attributes:
    origin: 'boxes', the file's SHA-256, and 'detector'; None for what there is not.

  Raises:
    UserError: no such file, a broken one, or a detector that does not load.
  """

  def __init__(self, boxes: str | None, detector: str | None):
    self.origin: dict[str, str | None] = {'boxes': None, 'detector': detector}
    self._boxes: dict[str, np.ndarray] = {}
    if boxes:
      file = pathlib.Path(boxes) / box_file.FILE_NAME if os.path.isdir(boxes) else pathlib.Path(boxes)
      found = box_file.read_boxes(file)
      self._boxes = {os.path.abspath(file.parent / image): boxes_Nx5 for image, boxes_Nx5 in found.items()}
      self.origin['boxes'] = hashlib.sha256(file.read_bytes()).hexdigest()
    self._detect = detectors.load_detector(detector) if detector else None
    self._lock = threading.Lock()

  def __call__(self, name: str, picture: Image.Image, size: int) -> Person | None:
    """The person in a picture, whose name is its path; None where none is sure enough."""
    found_Nx5 = self._boxes.get(os.path.abspath(name))
    if found_Nx5 is None:
      if self._detect is None:
        return None
      with self._lock:
        found_Nx5 = detection.detect_one(picture, self._detect)
    boxes_Nx4, scores_N = box_file.to_fractions(found_Nx5, *picture.size)
    order = box_file.largest_first(boxes_Nx4, scores_N)
    if not len(order):
      return None
    # Through the same JPEG that a record would hold.
    with Image.open(io.BytesIO(box_file.person_crops(picture, boxes_Nx4, scores_N)[0])) as crop:
      pixels = np.asarray(crop.resize((size, size), Image.Resampling.BICUBIC))
    return Person(pixels, tuple(boxes_Nx4[order[0]].tolist()))
