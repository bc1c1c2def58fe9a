"""The base of every dataset's builder: list the pictures, check each one once, write records and count everything."""

import abc
import collections
from collections.abc import Iterator
from concurrent import futures
import dataclasses
import json
import math
import pathlib
import threading

from etils import epath
import numpy as np
import tensorflow_datasets as tfds
import tqdm

from data_pipelines import images, manifest, person_boxes, schema
from data_pipelines.errors import UserError

PROVENANCE = 'provenance.json'
_JUNK = ('thumbs.db', 'desktop.ini')
NO_LABEL = -1
_CHUNK = 64


@dataclasses.dataclass(frozen=True)
class Listed:
  """One example of the raw folder, as its lists, folders and annotations name it.

  Attributes:
    path: of the picture, inside the folder.
    label: class name, or -1 for none.
    person: which of the picture's annotated persons the example is about, if it is about one.
    annotation: path of its annotation file, inside the folder.
    labels: class names of a multi-label dataset.
    distribution: shares of votes over the builder's DISTRIBUTION.
    vad: valence, arousal, dominance on the dataset's own scale; NaN where not annotated.
    boxes: annotated persons as (xmin, ymin, xmax, ymax) in pixels of the picture as displayed, the subject first.
  """

  path: str
  label: str | int = NO_LABEL
  person: int | None = None
  annotation: str = ''
  labels: tuple[str, ...] = ()
  distribution: tuple[float, ...] = ()
  vad: tuple[float, float, float] = (math.nan, math.nan, math.nan)
  boxes: tuple[tuple[float, float, float, float], ...] = ()

  @property
  def id(self) -> str:
    """The record's id: the path, and the person where the picture has several examples."""
    return self.path if self.person is None else f'{self.path}#{self.person}'


class FolderBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
  """Builds records from a raw folder that the user fetched (`manual_dir`).

  A subclass gives VERSION, LABELS, MANUAL_DOWNLOAD_INSTRUCTIONS (layout, and where to ask for the data set) and
  `list_pictures`; where the dataset has annotations, `attributes` too.

  Args:
    max_rejects: largest fraction of the pictures found that may be rejected.
    short_side: pictures are shrunk to this short side, pixels.
    **kwargs: TFDS's own (data_dir, config, version).
  """

  LABELS: tuple[str, ...]
  DISTRIBUTION: tuple[str, ...] = ()  # What the entries of `Listed.distribution` stand for.
  url_infos = None  # Nothing is downloaded: TFDS need not look for checksums of URLs.

  def __init__(self, *, max_rejects: float = 0.01, short_side: int = 256, **kwargs):
    self._max_rejects = max_rejects
    self._short_side = short_side
    super().__init__(**kwargs)

  @abc.abstractmethod
  def list_pictures(self, source: pathlib.Path) -> dict[str, list[Listed]]:
    """Pictures by split.

    What is passed over on purpose is counted with `self.ignore(kind)`.

    Raises:
      UserError: the folder is not laid out as the dataset is; the line ends with `self.layout`.
    """

  def attributes(self, source: pathlib.Path, listed: Listed) -> dict:
    """EmoSet's annotation fields of one picture. Raises images.RejectedError where they contradict the listing."""
    del source, listed
    return {}

  @property
  def layout(self) -> str:
    """The expected layout and where to ask for the data set, in one line."""
    return ' '.join(self.MANUAL_DOWNLOAD_INSTRUCTIONS.split())

  def ignore(self, kind: str, count: int = 1) -> None:
    """Counts something of the raw folder that enters no record; `manifest.json` lists the kinds."""
    with self._lock:  # Pictures are read by several threads.
      self._ignored[kind] += count

  def files(self, folder: pathlib.Path) -> list[pathlib.Path]:
    """All files under a folder, sorted, without what file managers and editors leave behind (counted)."""
    kept = []
    for path in sorted(folder.rglob('*')):
      if path.is_dir():
        continue
      if any(part.startswith('.') for part in path.relative_to(folder).parts):
        self.ignore('.*')
      elif path.name.endswith('~'):
        self.ignore('*~')
      elif path.name.lower() in _JUNK:
        self.ignore(path.name)
      else:
        kept.append(path)
    return kept

  def _info(self) -> tfds.core.DatasetInfo:
    return tfds.core.DatasetInfo(
      builder=self, description=self.__doc__ or '', features=schema.record_features(self.LABELS)
    )

  def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Iterator]:
    self._source = pathlib.Path(dl_manager.manual_dir)
    self._rejects: dict[str, str] = {}
    self._ignored: collections.Counter[str] = collections.Counter()
    self._lock = threading.Lock()
    self._boxes = person_boxes.read_boxes(self._source)
    self._provenance = self._read_provenance()
    splits = self.list_pictures(self._source)
    ids = sorted(listed.id for pictures in splits.values() for listed in pictures)
    for name, following in zip(ids, ids[1:]):
      if name == following:
        raise UserError(f"{self._source} lists '{name}' twice: every picture belongs to one split, once")
    self._example_ids = {name: rank for rank, name in enumerate(ids)}
    paths = {listed.path for pictures in splits.values() for listed in pictures}
    for path in self._boxes.keys() - paths:
      self.ignore('person boxes of pictures not listed', len(self._boxes[path]))
    self._tallies = {split: manifest.SplitTally(self.LABELS) for split in splits}
    return {split: self._generate_examples(split, pictures) for split, pictures in splits.items()}

  def _generate_examples(self, split: str, pictures: list[Listed]) -> Iterator[tuple[str, dict]]:
    tally = self._tallies[split]
    progress = tqdm.tqdm(total=len(pictures), desc=f'{self.name} {split}', unit=' pictures')
    with progress, futures.ThreadPoolExecutor() as pool:
      for start in range(0, len(pictures), _CHUNK):
        for record in pool.map(self._record, pictures[start : start + _CHUNK]):
          progress.update()
          if record:
            tally.add(record)
            yield record['id'], record
    if not tally.examples:
      raise self._too_many_rejects(f"split '{split}' has no readable picture")

  def _record(self, listed: Listed) -> dict | None:
    """One record of `schema.record_features`, or None and a line in the rejects."""
    try:
      listed.path.encode()
      attributes = self.attributes(self._source, listed)
      picture = images.read_picture(self._source / listed.path, self._short_side)
    except UnicodeEncodeError:
      self._rejects[listed.id] = 'the file name is not UTF-8'
      return None
    except images.RejectedError as error:
      self._rejects[listed.id] = str(error)
      return None
    boxes_Nx4, scores_N = self._person_boxes(listed, picture.original.size)
    return {
      'id': listed.id,
      'example_id': self._example_ids[listed.id],
      'image': picture.jpeg,
      'persons': person_boxes.person_crops(picture.original, boxes_Nx4, scores_N, subject=listed.person is not None),
      'boxes': boxes_Nx4,
      'box_scores': scores_N,
      'label': listed.label,
      'labels': list(listed.labels),
      'distribution': listed.distribution,
      'vad': listed.vad,
      'attributes': json.dumps(attributes, ensure_ascii=False, sort_keys=True),
    }

  def _person_boxes(self, listed: Listed, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Annotated boxes, else those of person_boxes.csv, as `person_boxes.to_fractions` returns them."""
    annotated_Nx5 = np.array([[*box, 1.0] for box in listed.boxes])
    boxes_Nx5 = annotated_Nx5 if listed.boxes else self._boxes.get(listed.path, np.zeros((0, 5)))
    boxes_Nx4, scores_N = person_boxes.to_fractions(boxes_Nx5, *size)
    if len(boxes_Nx4) < len(boxes_Nx5):
      self.ignore('person boxes outside the picture', len(boxes_Nx5) - len(boxes_Nx4))
    return boxes_Nx4, scores_N

  def _download_and_prepare(self, dl_manager, download_config) -> None:
    super()._download_and_prepare(dl_manager, download_config)
    # Still inside TFDS's temporary folder: an error from here on leaves nothing that looks finished.
    if len(self._rejects) > self._max_rejects * len(self._example_ids):
      raise self._too_many_rejects(f'{len(self._rejects)} of {len(self._example_ids)} pictures were rejected')
    manifest.write_manifest(self.data_path, self._manifest())
    manifest.write_rejects(self.data_path / manifest.REJECTS, self._rejects)
    self._failed_rejects.unlink(missing_ok=True)

  @property
  def _failed_rejects(self) -> epath.Path:
    """Beside the version's folder, which a failed build does not leave."""
    return self.data_path.parent / manifest.REJECTS

  def _too_many_rejects(self, what: str) -> UserError:
    manifest.write_rejects(self._failed_rejects, self._rejects)
    first = min(self._rejects)
    return UserError(
      f'{what}, more than --max_rejects={self._max_rejects:g} allows; first: {first} ({self._rejects[first]}); all are '
      f'in {self._failed_rejects}: mend or remove them, or raise --max_rejects'
    )

  def _manifest(self) -> dict:
    return {
      'dataset': self.name,
      'version': str(self.version),
      'labels': list(self.LABELS),
      'distribution': list(self.DISTRIBUTION),
      'short_side': self._short_side,
      'found': len(self._example_ids),
      'read': sum(tally.examples for tally in self._tallies.values()),
      'rejected': len(self._rejects),
      'ignored': dict(sorted(self._ignored.items())),
      'splits': {split: tally.summary() for split, tally in self._tallies.items()},
      'provenance': self._provenance,
    }

  def _read_provenance(self) -> object:
    path = self._source / PROVENANCE
    try:
      return json.loads(path.read_text(encoding='utf-8')) if path.exists() else None
    except ValueError as error:
      raise UserError(f'{path} is not JSON ({error}): mend or remove it') from error
