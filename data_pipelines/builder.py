"""The base of every dataset's builder: list the pictures, check each one once, write records and count everything."""

import abc
import collections
from collections.abc import Iterator
from concurrent import futures
import dataclasses
import json
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
_CHUNK = 64


@dataclasses.dataclass(frozen=True)
class Listed:
  """One picture of the raw folder: its path inside the folder (the record's id), its label, its annotation's path."""

  path: str
  label: str
  annotation: str = ''


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
    paths = sorted(listed.path for pictures in splits.values() for listed in pictures)
    for path, following in zip(paths, paths[1:]):
      if path == following:
        raise UserError(f"{self._source} lists '{path}' twice: every picture belongs to one split, once")
    self._example_ids = {path: rank for rank, path in enumerate(paths)}
    for path in self._boxes.keys() - self._example_ids.keys():
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
      self._rejects[listed.path] = 'the file name is not UTF-8'
      return None
    except images.RejectedError as error:
      self._rejects[listed.path] = str(error)
      return None
    boxes_Nx5 = self._boxes.get(listed.path, np.zeros((0, 5)))
    boxes_Nx4, scores_N = person_boxes.to_fractions(boxes_Nx5, *picture.original.size)
    if len(boxes_Nx4) < len(boxes_Nx5):
      self.ignore('person boxes outside the picture', len(boxes_Nx5) - len(boxes_Nx4))
    return {
      'id': listed.path,
      'example_id': self._example_ids[listed.path],
      'image': picture.jpeg,
      'person': person_boxes.person_crop(picture.original, boxes_Nx4, scores_N),
      'boxes': boxes_Nx4,
      'box_scores': scores_N,
      'label': listed.label,
      'attributes': json.dumps(attributes, ensure_ascii=False, sort_keys=True),
    }

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
