"""Finds persons in a user's own images by boxes of a file or a detector, and cuts them out as for records."""

from collections.abc import Iterable
import hashlib
import io
import pathlib
import re
import threading
from typing import NamedTuple

import numpy as np
from PIL import Image

from data_pipelines.person_boxes import box_file, crops, detection, detectors
from data_pipelines.source_files.file_names import FileNames, real_place


class Person(NamedTuple):
  """A person. pixels: the crop with its margin, squashed, uint8 (S, S, 3). box: ymin, xmin, ymax, xmax without the
  margin, as fractions of the image."""

  pixels: np.ndarray
  box: tuple[float, float, float, float]


class PersonFinder:
  """Finds the largest confident person of an image, by the rule of `crops.largest_persons`. Threads may share it.

  Args:
    boxes: a file that `box_file.read_boxes` reads, or the folder of its `person_boxes.csv`; its images are named from
      the folder of the file. None for no file.
    detector: as for `detectors.load_detector`; used for images without a box in the file. None for no detector.
      Without either, nobody is found.

  Attributes:
    origin: 'boxes', the file's SHA-256, and 'detector'; None for each that is not given.

  Raises:
    UserError: there is no such file, it is broken, or the detector does not load.
  """

  def __init__(self, boxes: str | None, detector: str | None):
    self.origin: dict[str, str | None] = {'boxes': None, 'detector': detector}
    self._boxes: dict[str, np.ndarray] = {}
    if boxes:
      file = pathlib.Path(boxes) / box_file.FILE_NAME if pathlib.Path(boxes).is_dir() else pathlib.Path(boxes)
      found = box_file.read_boxes(file)
      self._boxes = {real_place(file.parent / image): boxes_Nx5 for image, boxes_Nx5 in found.items()}
      self.origin['boxes'] = hashlib.sha256(file.read_bytes()).hexdigest()
    self._file, self._images = boxes, FileNames(self._boxes)
    self._detect = detectors.load_detector(detector) if detector else None
    self._lock = threading.Lock()

  def check_names(self, paths: Iterable[str]) -> None:
    """Says which images of the file of boxes are not among these. Raises UserError if none is."""
    if self._file:
      images = dict.fromkeys(re.sub(r'#t=[\d.]+$', '', name) for name in self._boxes)
      FileNames(map(real_place, paths)).find_all(images, self._file)

  def __call__(self, name: str, image: Image.Image, size: int) -> Person | None:
    """Finds the person in an image, whose name is its path; None without a confident one."""
    found_Nx5 = self._boxes.get(self._images.find(real_place(name)) or '')
    if found_Nx5 is None:
      if self._detect is None:
        return None
      with self._lock:
        found_Nx5 = detection.detect_one(image, self._detect)
    persons_Mx4 = crops.largest_persons(*crops.to_fractions(found_Nx5, *image.size))
    if not len(persons_Mx4):
      return None
    # Through the same JPEG that a record would hold.
    with Image.open(io.BytesIO(crops.person_crop(image, persons_Mx4[0]))) as crop:
      pixels = np.asarray(crop.resize((size, size), Image.Resampling.BICUBIC))
    ymin, xmin, ymax, xmax = persons_Mx4[0].tolist()
    return Person(pixels, (ymin, xmin, ymax, xmax))
