"""The base of every dataset's builder: list the pictures, check each one once, write records and count everything."""

import abc
import collections
from collections.abc import Callable, Iterator
from concurrent import futures
import contextlib
import functools
import json
import os
import pathlib
import threading

from etils import epath
import numpy as np
import tensorflow_datasets as tfds
import tqdm

from data_pipelines import images, raw_files
from data_pipelines.building import beam_records, stored_splits
from data_pipelines.building.raw_example import Listed, Task
from data_pipelines.errors import UserError
from data_pipelines.person_boxes import box_file
from data_pipelines.records import manifest, schema

PROVENANCE = 'provenance.json'
_THREADS = min(32, (os.cpu_count() or 1) + 4)  # Pillow decodes, resizes and encodes without holding Python's lock.


class FolderBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
  """Builds records from a raw folder that the user fetched (`manual_dir`).

  A subclass gives VERSION, LABELS, MANUAL_DOWNLOAD_INSTRUCTIONS (layout, and where to ask for the data set) and
  `list_pictures`; where the dataset has annotations, `attributes` too.

  Args:
    max_rejects: largest fraction of the pictures found that may be rejected.
    short_side: pictures are shrunk to this short side, pixels; 0 keeps the original size.
    max_megapixels: larger pictures are rejected undecoded.
    max_persons: most person crops of a picture whose persons come from `boxes_file`.
    boxes_file: person boxes, a file that `person_boxes.read_boxes` reads; None: person_boxes.csv in the raw folder.
    **kwargs: TFDS's own (data_dir, config, version).
  """

  LABELS: tuple[str, ...]
  DISTRIBUTION: tuple[str, ...] = ()  # What the entries of `Listed.distribution` stand for.
  SPLIT_SEED: int | None = None  # Of `splits.seeded_splits`; None where the splits are the dataset's own.
  url_infos = None  # Nothing is downloaded: TFDS need not look for checksums of URLs.

  def __init__(
      self, *, max_rejects: float = 0.01, short_side: int = 256, max_megapixels: float = images.MAX_MEGAPIXELS,
      max_persons: int = 1, boxes_file: pathlib.Path | None = None, **kwargs):
    self._max_rejects = max_rejects
    self._options = {'short_side': short_side, 'max_megapixels': float(max_megapixels), 'max_persons': max_persons}
    self._boxes_file = boxes_file
    self._ignored: collections.Counter[str] = collections.Counter()
    self._lock = threading.Lock()
    super().__init__(**kwargs)
    self._original_state |= self._options  # TFDS makes a Beam worker's copy of the builder from these arguments.

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

  def take_ignored(self) -> dict[str, int]:
    """What was counted since the last call."""
    with self._lock:
      taken = dict(sorted(self._ignored.items()))
      self._ignored.clear()
    return taken

  def files(self, folder: pathlib.Path) -> list[pathlib.Path]:
    """All files under a folder, sorted, without what file managers and editors leave behind (counted)."""
    return raw_files.files(folder, self.ignore)

  def _info(self) -> tfds.core.DatasetInfo:
    # Description, citation and tags come from the dataset's own README.md, CITATIONS.bib and TAGS.txt.
    return self.dataset_info_from_configs(features=schema.record_features(self.LABELS))

  def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Iterator]:
    self._source = pathlib.Path(dl_manager.manual_dir)
    self._rejects: dict[str, str] = {}
    self._provenance = self._read_provenance()
    tasks = self._tasks({split: listed[:self._limit] for split, listed in self.list_pictures(self._source).items()})
    self._found = sum(map(len, tasks.values()))
    for split, of_split in tasks.items():
      if not of_split:
        raise UserError(f"{self._source} holds too few pictures: split '{split}' is empty. {self.layout}")
    if not self._beam:
      return {split: self._generate_examples(split, of_split) for split, of_split in tasks.items()}
    return {
        split: beam_records.transform(self, self._source, of_split, self.data_path, split)
        for split, of_split in tasks.items()
    }

  def _tasks(self, splits: dict[str, list[Listed]]) -> dict[str, list[Task]]:
    ids = sorted(listed.id for pictures in splits.values() for listed in pictures)
    for name, following in zip(ids, ids[1:]):
      if name == following:
        raise UserError(f"{self._source} lists '{name}' twice: every picture belongs to one split, once")
    example_ids = {name: rank for rank, name in enumerate(ids)}
    boxes = box_file.read_boxes(self._boxes_file or self._source)
    paths = {listed.path for pictures in splits.values() for listed in pictures}
    for path in boxes.keys() - paths:
      self.ignore('person boxes of pictures not listed', len(boxes[path]))
    nowhere = np.zeros((0, 5))
    return {
        split: [Task(one, example_ids[one.id],
                     boxes.get(one.path, nowhere).tolist()) for one in pictures] for split, pictures in splits.items()
    }

  def _generate_examples(self, split: str, tasks: list[Task]) -> Iterator[tuple[str, dict]]:
    empty = True
    running = _in_threads(functools.partial(self.record, self._source), tasks)
    for task, future in tqdm.tqdm(running, f'{self.name} {split}', len(tasks), unit=' pictures'):
      try:
        record = future.result()
      except images.RejectedError as error:
        self._rejects[task.listed.id] = str(error)
        continue
      empty = False
      yield record['id'], record
    if empty:
      raise self._too_many_rejects(f"split '{split}' has no readable picture")

  def record(self, source: pathlib.Path, task: Task) -> dict:
    """One record, as `schema.record_features` describes it, before TFDS encodes it.

    Raises:
      images.RejectedError: the picture, or what is known about it, cannot become a record.
    """
    listed = task.listed
    try:
      listed.path.encode()
    except UnicodeEncodeError as error:
      raise images.RejectedError('the file name is not UTF-8') from error
    attributes = self.attributes(source, listed)
    short_side, max_megapixels = self._options['short_side'], self._options['max_megapixels']
    with images.opened_picture(source / listed.path, short_side, max_megapixels) as picture:
      boxes_Nx4, scores_N = self._boxes(task, picture.original.size)
      return {
          'id': listed.id, 'example_id': task.example_id, 'image': picture.jpeg, 'persons':
              box_file.person_crops(
                  picture.original, boxes_Nx4, scores_N, self._options['max_persons'], subject=listed.person
                  is not None), 'boxes': boxes_Nx4, 'box_scores': scores_N, 'label': listed.label,
          'labels': list(listed.labels), 'distribution': listed.distribution, 'vad': listed.vad,
          'attributes': json.dumps(attributes, ensure_ascii=False, sort_keys=True)
      }

  def _boxes(self, task: Task, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Annotated boxes, else those of person_boxes.csv, as `person_boxes.to_fractions` returns them."""
    boxes_Nx5 = np.array([[*box, 1.0] for box in task.listed.boxes] or task.boxes).reshape(-1, 5)
    if task.listed.person is not None and not len(box_file.to_fractions(boxes_Nx5[:1], *size)[0]):
      raise images.RejectedError('the annotated person is outside the picture')
    boxes_Nx4, scores_N = box_file.to_fractions(boxes_Nx5, *size)
    if len(boxes_Nx4) < len(boxes_Nx5):
      self.ignore('person boxes outside the picture', len(boxes_Nx5) - len(boxes_Nx4))
    return boxes_Nx4, scores_N

  def _download_and_prepare(self, dl_manager, download_config) -> None:
    self._beam = bool(download_config.beam_runner or download_config.beam_options)
    self._limit = download_config.max_examples_per_split
    with beam_records.explained(dl_manager.manual_dir) if self._beam else contextlib.nullcontext():
      super()._download_and_prepare(dl_manager, download_config)
    # Still inside TFDS's temporary folder: an error from here on leaves nothing that looks finished.
    if self._beam:
      beam_records.take_notes(self.data_path, self._rejects, self.ignore)
    if len(self._rejects) > self._max_rejects * self._found:
      raise self._too_many_rejects(f'{len(self._rejects)} of {self._found} pictures were rejected')
    splits = {
        split: stored_splits.read_split(split, info.filepaths, info.num_examples, self.LABELS)
        for split, info in self.info.splits.items()
    }
    duplicates = stored_splits.duplicates(splits)
    manifest.write_manifest(self.data_path, self._manifest(splits, len(duplicates)))
    manifest.write_rejects(self.data_path / manifest.REJECTS, self._rejects)
    manifest.write_duplicates(self.data_path / manifest.DUPLICATES, duplicates)
    self._failed_rejects.unlink(missing_ok=True)

  @property
  def _failed_rejects(self) -> epath.Path:
    """Beside the version's folder, which a failed build does not leave."""
    return self.data_path.parent / manifest.REJECTS

  def _too_many_rejects(self, what: str) -> UserError:
    manifest.write_rejects(self._failed_rejects, self._rejects)
    first = min(self._rejects)
    return UserError(
        f'{what}, more than --max_rejects={self._max_rejects:g} allows; first: {first} ({self._rejects[first]}); all '
        f'are in {self._failed_rejects}: mend or remove them, or raise --max_rejects')

  def _manifest(self, splits: dict[str, stored_splits.StoredSplit], duplicates: int) -> dict:
    return {
        'dataset': self.name, 'version': str(self.version), 'labels': list(self.LABELS),
        'distribution': list(self.DISTRIBUTION), 'split_seed': self.SPLIT_SEED, **self._options, 'found': self._found,
        'read': sum(len(split.pictures) for split in splits.values()), 'rejected': len(self._rejects),
        'ignored': self.take_ignored(), 'duplicates_across_splits': duplicates,
        'splits': {name: split.summary for name, split in splits.items()}, 'provenance': self._provenance
    }

  def _read_provenance(self) -> object:
    path = self._source / PROVENANCE
    try:
      return json.loads(path.read_text(encoding='utf-8')) if path.exists() else None
    except ValueError as error:
      raise UserError(f'{path} is not JSON ({error}): mend or remove it') from error


def _in_threads(function: Callable[[Task], dict], tasks: list[Task]) -> Iterator[tuple[Task, futures.Future[dict]]]:
  """Calls the function in several threads, a little ahead of who takes the results, in the order of the tasks."""
  running: collections.deque[tuple[Task, futures.Future[dict]]] = collections.deque()
  with futures.ThreadPoolExecutor(_THREADS) as pool:
    for task in tasks:
      running.append((task, pool.submit(function, task)))
      if len(running) > 2 * _THREADS:
        yield running.popleft()
    yield from running
