"""The base of every dataset's builder: lists examples, checks each image once, writes records and counts everything."""

import abc
import collections
from collections.abc import Collection, Iterator, Mapping, Sequence, Set
from concurrent import futures
import contextlib
import dataclasses
import itertools
import json
import pathlib
import threading
from typing import Any

from etils import epath
import numpy as np
import tensorflow_datasets as tfds
import tqdm

from data_pipelines import images, storage
from data_pipelines.building import beam_records, stored_splits
from data_pipelines.building.raw_example import RawExample, WorkItem
from data_pipelines.building.raw_source import RawSource, folder_source, join_groups
from data_pipelines.errors import UserError
from data_pipelines.person_boxes import box_file, crops
from data_pipelines.plain_text import check_labels, csv_text
from data_pipelines.read_ahead import THREADS, read_ahead
from data_pipelines.records import manifest, schema
from data_pipelines.source_files.file_names import FileNames
from data_pipelines.source_files.text_files import read_table, without_decimal

PROVENANCE = 'provenance.json'


class BaseBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore[call-arg]
  """Builds records from a raw folder that the user fetched (`manual_dir`).

  A subclass defines VERSION, LABELS, MANUAL_DOWNLOAD_INSTRUCTIONS (layout, and where to ask for the dataset) and
  `list_examples`; if the dataset has annotations, `attributes` too.

  Args:
    max_rejects, short_side, max_megapixels, max_persons, boxes_file, groups_file, exclude_file, name: as for
      `build.build`.
    source: the source that is read; by default the folder that TFDS calls `manual_dir`.
    **kwargs: TFDS's own (data_dir, config, version).
  """

  LABELS: tuple[str, ...]
  DISTRIBUTION: tuple[str, ...] = ()  # Names of the entries of `RawExample.distribution`.
  SPLIT_SEED: int | None = None  # Of `splits.seeded_splits`; None for the dataset's own splits.
  url_infos = None  # Nothing is downloaded: TFDS need not look for checksums of URLs.

  def __init__(
      self, *, max_rejects: float = 0.01, short_side: int = 256, max_megapixels: float = images.MAX_MEGAPIXELS,
      max_persons: int = 1, boxes_file: pathlib.Path | None = None, groups_file: pathlib.Path | None = None,
      exclude_file: pathlib.Path | None = None, name: str | None = None, source: RawSource | None = None,
      **kwargs: Any) -> None:
    self._max_rejects = max_rejects
    self._options: dict[str, Any] = {
        'short_side': short_side, 'max_megapixels': float(max_megapixels), 'max_persons': max_persons}
    self._boxes_file = boxes_file
    self._groups_file, self._exclude_file = groups_file, exclude_file
    self._given_source = source
    self.facts: dict[str, Any] = {}  # What a builder found out about its source, for the manifest.
    self._ignored: collections.Counter[str] = collections.Counter()
    self._lock = threading.Lock()
    if name:
      self.name = name
    super().__init__(**kwargs)
    # TFDS makes a Beam worker's copy of the builder from these arguments.
    self._original_state |= {**self._options, 'name': name}

  @abc.abstractmethod
  def list_examples(self, source: pathlib.Path) -> dict[str, list[RawExample]]:
    """Lists the examples by split, and counts files that enter no record with `self.ignore(kind)`.

    Raises:
      UserError: the folder is not laid out as the dataset is; the message ends with `self.layout`.
    """

  def announce(self, splits: Mapping[str, Sequence[RawExample]]) -> None:
    """Prints what will be built, before the first image is read; for a published dataset it prints nothing."""

  def attributes(self, source: pathlib.Path, example: RawExample) -> dict:
    """The annotation fields of one image. Raises images.RejectedError if they contradict the listing."""
    del source
    return dict(example.attributes)

  def find_source(self, folder: pathlib.Path) -> RawSource:
    """Finds what is read, if TFDS alone says from which folder."""
    return folder_source(folder)

  def contents(self, items: list[WorkItem]) -> Iterator[tuple[WorkItem, bytes | None]]:
    """Yields each item with the bytes of its image, None if it is a file, in an order that is quick to read."""
    return ((item, None) for item in items)

  def set_labels(self, labels: Sequence[str]) -> None:
    """Sets LABELS that are known only when examples are listed. Raises UserError if one cannot be a label."""
    check_labels(labels, 'a class')
    if stripped := [label for label in labels if label != label.strip()]:
      raise UserError(f'the class {stripped[0]!r} cannot name a label: rename it')  # TFDS stores stripped lines.
    if twice := [label for label in labels if labels.count(label) > 1]:
      raise UserError(f'the class {twice[0]!r} is named twice: name each once')
    self.LABELS = tuple(labels)
    for feature in (self.info.features['label'], self.info.features['labels'].feature):
      feature.names = list(labels)

  def with_groups(self, examples: list[RawExample]) -> list[RawExample]:
    """Joins the groups of `groups_file`, if it is given, with those that the examples have.

    Raises UserError if the file names no image here.
    """
    if self._groups_file is None:
      return examples
    groups = {
        without_decimal(csv_text(row.cells['image'])): without_decimal(row.cells['group'].strip())
        for row in read_table(self._groups_file, ('image', 'group'))}
    given = {found: groups[name] for name, found in self._named(examples, groups, self._groups_file, True).items()}
    both = [(example.group, given.get(example.id) or given.get(example.path) or '') for example in examples]
    return [dataclasses.replace(example, group=group) for example, group in zip(examples, join_groups(both))]

  def _without_excluded(self, listed: dict[str, list[RawExample]]) -> dict[str, list[RawExample]]:
    """The examples that `exclude_file` does not name; the others are counted. Raises UserError if it names none."""
    if self._exclude_file is None:
      return listed
    names = dict.fromkeys(csv_text(row.cells['image']) for row in read_table(self._exclude_file, ('image',)))
    examples = list(itertools.chain(*listed.values()))
    excluded = set(self._named(examples, names, self._exclude_file, False).values())
    kept = {
        split: [example for example in found if not excluded & {example.id, example.path}]
        for split, found in listed.items()}
    for split, found in listed.items():
      left_out = len(found) - len(kept[split])
      self.ignore('images that --exclude names', left_out)
      print(f'  {split}: {left_out} images are left out, as {self._exclude_file} says')
      if found and not kept[split]:
        raise UserError(f"{self._exclude_file} names every image of split '{split}': correct it")
    return kept

  def _named(self, examples: Sequence[RawExample], names: Collection[str], table: pathlib.Path,
             anywhere: bool) -> dict[str, str]:
    """The ids or paths of examples that the names in a table mean, see `FileNames.find_all`."""
    known = {name for example in examples for name in (example.id, example.path)}
    return FileNames(known, self._source).find_all(names, table, anywhere)

  @property
  def layout(self) -> str:
    """The expected layout and where to ask for the dataset, in one line."""
    return ' '.join(self.MANUAL_DOWNLOAD_INSTRUCTIONS.split())

  def ignore(self, kind: str, count: int = 1) -> None:
    """Counts something in the raw folder that enters no record; `manifest.json` lists the kinds."""
    with self._lock:  # Several threads read images.
      self._ignored[kind] += count

  def reject(self, name: str, reason: str) -> None:
    """Counts an example that cannot become a record, which the lists show before its image is read."""
    self._rejects[name] = reason

  def check_rejects(self, found: int) -> None:
    """Raises UserError if more of the examples found are rejected than allowed."""
    if len(self._rejects) > self._max_rejects * found:
      raise self._rejects_error(
          f'{len(self._rejects)} of {found} images were rejected, more than --max_rejects={self._max_rejects:g} allows',
          next(iter(self._rejects)), ', or raise --max_rejects')

  def first_reject(self) -> str:
    """Says how many examples are rejected, and names the first, at the end of a message; '' if none is."""
    first = next(iter(self._rejects), '')
    return f'; {len(self._rejects)} rejected, first: {first} ({self._rejects[first]})' if self._rejects else ''

  def take_ignored(self) -> dict[str, int]:
    """Takes the counts of what was ignored since the last call."""
    with self._lock:
      taken = dict(sorted(self._ignored.items()))
      self._ignored.clear()
    return taken

  def files(self, folder: pathlib.Path) -> list[pathlib.Path]:
    """All files under a folder of the raw one, sorted; those of file managers and editors are left out and counted."""
    return self.source.listing.files(folder, self.ignore)

  def _info(self) -> tfds.core.DatasetInfo:
    # Description, citation and tags come from the dataset's own README.md, CITATIONS.bib and TAGS.txt.
    return self.dataset_info_from_configs(features=schema.record_features(self.LABELS))

  def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict:
    self.source = self._given_source or self.find_source(pathlib.Path(dl_manager.manual_dir))
    self._source = self.source.root
    self._fingerprint = self.source.fingerprint()
    self._rejects: dict[str, str] = {}
    self._provenance = self._read_provenance()
    listed = self.list_examples(self._source)
    splits = {split: found[:self._limit] for split, found in self._without_excluded(listed).items()}
    self._found = sum(map(len, splits.values())) + len(self._rejects)
    self.announce(splits)
    for split, found in splits.items():
      if not found:
        raise UserError(f"{self._source} holds too few images: split '{split}' is empty. {self.layout}")
    boxes = self._read_boxes({example.path for found in listed.values() for example in found})
    work = self._work_items(splits, boxes)
    if self._beam:
      return {
          split: beam_records.record_transform(self, self._source, items, self.data_path, split)
          for split, items in work.items()}
    return {split: self._generate_examples(split, items) for split, items in work.items()}

  def _read_boxes(self, paths: Set[str]) -> dict[str, list[list[float]]]:
    """Person boxes by the path of their image; those of other images are counted."""
    table = self._boxes_file or self._source / box_file.FILE_NAME
    found = box_file.read_boxes(self._boxes_file or self._source)
    paths_of = FileNames(paths, self._source).find_all(found, table, anywhere=True)
    boxes: dict[str, list[list[float]]] = {}
    for name, rows_Nx5 in found.items():
      if name in paths_of:
        boxes.setdefault(paths_of[name], []).extend(rows_Nx5.tolist())
      else:
        self.ignore('person boxes of images not listed', len(rows_Nx5))
    return boxes

  def _work_items(self, splits: dict[str, list[RawExample]],
                  boxes: dict[str, list[list[float]]]) -> dict[str, list[WorkItem]]:
    ids = sorted(example.id for found in splits.values() for example in found)
    for name, following in zip(ids, ids[1:]):
      if name == following:
        raise UserError(f"{self._source} lists '{name}' twice: every image belongs to one split, once")
    for example in itertools.chain(*splits.values()):
      for listed in map(pathlib.PurePosixPath, (example.path, example.annotation)):
        if listed.is_absolute() or '..' in listed.parts:
          raise UserError(f"{self._source} lists '{listed}', which lies outside of it. {self.layout}")
    example_ids = {name: rank for rank, name in enumerate(ids)}
    return {
        split: [WorkItem(example, example_ids[example.id], boxes.get(example.path, [])) for example in found]
        for split, found in splits.items()}

  def _generate_examples(self, split: str, items: list[WorkItem]) -> Iterator[tuple[str, dict]]:
    stored, first = 0, ''
    with futures.ThreadPoolExecutor(THREADS) as pool:
      submitted = (pool.submit(self._attempt, item, content) for item, content in self.contents(items))
      for future in tqdm.tqdm(read_ahead(submitted, 2 * THREADS), f'{self.name} {split}', len(items), unit=' images'):
        name, record, reason = future.result()
        if record is None:
          self._rejects[name] = reason
          first = first or name
          continue
        stored += 1
        yield name, record
    if not stored:
      raise self._rejects_error(f"split '{split}' has no readable image", first)

  def _attempt(self, item: WorkItem, content: bytes | None) -> tuple[str, dict | None, str]:
    """The id, and the record; or None, and why it is rejected."""
    try:
      return item.example.id, self.record(self._source, item, content), ''
    except images.RejectedError as error:
      return item.example.id, None, str(error)

  def open_image(self, path: pathlib.Path) -> contextlib.AbstractContextManager[images.CheckedImage]:
    """Opens an image by `images.open_image`. A dataset whose images are not image files overrides it."""
    return images.open_image(path, self._options['max_megapixels'])

  def record(self, source: pathlib.Path, item: WorkItem, content: bytes | None = None) -> dict:
    """Makes a record, as `schema.record_features` describes it. Raises images.RejectedError if that is not possible.

    Args:
      source: the raw folder.
      item: what is known of the example.
      content: the bytes of its image; None if they are in a file.
    """
    example = item.example
    try:
      example.path.encode()
    except UnicodeEncodeError as error:
      raise images.RejectedError('the file name is not UTF-8') from error
    attributes = self.attributes(source, example) | ({'group': example.group} if example.group else {})
    opened = self.open_image(source / example.path) if content is None else images.open_bytes(
        content, self._options['max_megapixels'])
    with opened as image:
      if image.repair:
        self.ignore(image.repair)
      boxes_Nx4, scores_N = self._boxes(item, example.size or image.original.size)
      persons_Mx4 = crops.largest_persons(boxes_Nx4, scores_N)[:self._options['max_persons']]
      if example.person is not None:
        persons_Mx4 = boxes_Nx4[:1]
      return {
          'id': example.id, 'example_id': item.example_id, 'image': image.jpeg(self._options['short_side']),
          'persons': [crops.person_crop(image.original, box_4) for box_4 in persons_Mx4], 'boxes': boxes_Nx4,
          'box_scores': scores_N, 'label': example.label, 'labels': list(example.labels),
          'distribution': example.distribution, 'vad': example.vad,
          'attributes': json.dumps(attributes, ensure_ascii=False, sort_keys=True)}

  def _boxes(self, item: WorkItem, size: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Annotated boxes, else those of person_boxes.csv, as `crops.to_fractions` returns them."""
    boxes_Nx5 = np.array([[*box, 1.0] for box in item.example.boxes] or item.boxes).reshape(-1, 5)
    if item.example.person is not None and not len(crops.to_fractions(boxes_Nx5[:1], *size)[0]):
      raise images.RejectedError('the annotated person is outside the image')
    boxes_Nx4, scores_N = crops.to_fractions(boxes_Nx5, *size)
    if len(boxes_Nx4) < len(boxes_Nx5):
      self.ignore(manifest.OUTSIDE, len(boxes_Nx5) - len(boxes_Nx4))
    return boxes_Nx4, scores_N

  def _download_and_prepare(
      self, dl_manager: tfds.download.DownloadManager, download_config: tfds.download.DownloadConfig) -> None:
    self._beam = bool(download_config.beam_runner or download_config.beam_options)
    self._limit = download_config.max_examples_per_split
    with beam_records.explain_empty_split(dl_manager.manual_dir) if self._beam else contextlib.nullcontext():
      super()._download_and_prepare(dl_manager, download_config)
    # Still inside TFDS's temporary folder: an error from here on leaves nothing that looks finished.
    if self._beam:
      beam_records.collect_notes(self.data_path, self._rejects, self.ignore)
    self.check_rejects(self._found)
    splits = {
        split: stored_splits.read_split(info.filepaths, info.shard_lengths, self.LABELS)
        for split, info in self.info.splits.items()}
    duplicates = stored_splits.duplicates(splits)
    manifest.write_manifest(self.data_path, self._manifest(splits, len(duplicates)))
    manifest.write_rejects(self.data_path / manifest.REJECTS, self._rejects)
    manifest.write_duplicates(self.data_path / manifest.DUPLICATES, duplicates)
    self._failed_rejects.unlink(missing_ok=True)

  @property
  def _failed_rejects(self) -> epath.Path:
    """Beside the version's folder, which a failed build does not leave."""
    return self.data_path.parent / manifest.REJECTS

  def _rejects_error(self, problem: str, first: str, remedy: str = '') -> UserError:
    manifest.write_rejects(self._failed_rejects, self._rejects)
    return UserError(
        f'{problem}; first: {first} ({self._rejects[first]}); all are in {self._failed_rejects}: repair or remove them'
        f'{remedy}')

  def _manifest(self, splits: dict[str, stored_splits.StoredSplit], duplicates: int) -> dict:
    source = {'path': self.source.given, **self._fingerprint, **self.source.hub}
    return {
        'dataset': self.name, 'version': str(self.version), 'labels': list(self.LABELS),
        'distribution': list(self.DISTRIBUTION), 'split_seed': self.SPLIT_SEED, **self._options, 'found': self._found,
        'read': sum(split.summary['examples'] for split in splits.values()
                   ), 'rejected': len(self._rejects), 'ignored': self.take_ignored(),
        'duplicates_across_splits': duplicates, 'splits': {name: split.summary for name, split in splits.items()},
        'provenance': self._provenance, 'source': source, **self.facts}

  def _read_provenance(self) -> object:
    path = self._source / PROVENANCE
    return storage.read_json(path) if path.exists() else None
