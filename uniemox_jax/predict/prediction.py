"""Emotions of any images: python -m uniemox_jax.predict --checkpoint=PATH IMAGE_OR_FOLDER... [--out=predictions.csv].

Reads images in any format that records are built from, folders, zip and tar archives, globs, text lists (*.txt, one
path per line), and videos if PyAV is installed. Writes a row for each, in order, as CSV or JSON lines. A file that
cannot be read gets a row with the reason. A model of scene and person finds persons by --boxes=FILE, --detector=NAME or
both.
More: docs/predict.md.
"""

import collections
from collections.abc import Iterable, Iterator, Sequence
import contextlib
import dataclasses
import itertools
import os
import sys

import jax
import numpy as np
import tqdm

from data_pipelines import storage
from data_pipelines.errors import UserError
from data_pipelines.images import MAX_MEGAPIXELS
from data_pipelines.media import find_images, video
from data_pipelines.media.find_images import FoundFiles
from data_pipelines.media.read_media import ReadImage, printable, read_media
from data_pipelines.ownership import owned
from data_pipelines.person_boxes.person_finder import PersonFinder
from data_pipelines.plain_text import single_line
from uniemox_jax.predict import table_writer
from uniemox_jax.predict.ranking import NO_RANKING, Ranking, check_ranking, write_ranking
from uniemox_jax.predict.shards import FileShard
from uniemox_jax.predict.table_writer import PredictionTable, Value
from uniemox_jax.recognition.predictor import Predictor, find_batch_size, open_predictor, round_up
from uniemox_jax.recognition.recogniser import ModelSource, Recogniser
from uniemox_jax.runtime.integrity import check_finite

MAX_REASONS = 3
"""How many unreadable files the summary names."""
BOX = ('person_ymin', 'person_xmin', 'person_ymax', 'person_xmax')
"""The columns of a model that sees the person: the box without its margin, as fractions of the image."""


@dataclasses.dataclass
class PredictionSummary:
  """The counts of a run. predicted: rows with numbers. unreadable: rows without. without_person: predicted rows in
  which the scene replaced the person that the model expects. reasons: 'name: error' of the first unreadable files.
  repaired: how many predicted files were read without a damaged part, by that part."""

  predicted: int = 0
  unreadable: int = 0
  without_person: int = 0
  reasons: list[str] = dataclasses.field(default_factory=list)
  repaired: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)

  def add(self, rows: Sequence[ReadImage], wants_person: bool) -> None:
    """Counts finished rows."""
    broken = [f'{row.name}: {row.error}' for row in rows if row.pixels is None]
    self.predicted += len(rows) - len(broken)
    self.unreadable += len(broken)
    self.without_person += wants_person * sum(row.pixels is not None and row.person is None for row in rows)
    self.reasons = (self.reasons + broken)[:MAX_REASONS]
    self.repaired.update(row.repair for row in rows if row.repair)

  def add_row(self, path: str, error: str | None) -> None:
    """Counts a row of a table."""
    self.add([ReadImage(path, None if error else np.zeros(0), error or '')], wants_person=False)


def predict_images(
    model: str | ModelSource | Predictor, arguments: Sequence[str] | FoundFiles, out: str | None = None, *,
    file_format: str | None = None, append: bool = False, batch_size: int | None = None, per_second: float = 1.0,
    max_megapixels: float = MAX_MEGAPIXELS, boxes: str | None = None, detector: str | None = None,
    shard: FileShard | None = None, ranking: Ranking = NO_RANKING) -> PredictionSummary:
  """Writes a row for every image and sampled frame, in order.

  Args:
    model: any model that names emotions, as `open_recogniser` takes it, or what was loaded from it.
    arguments: files, folders, archives, globs and text lists; or the files that were found in them.
    out: the table; None for standard output.
    file_format: 'csv' or 'jsonl'; None goes by the name of `out`.
    append: continue `out` after its rows, if it exists.
    batch_size: None finds one.
    per_second: how many frames are taken of a second of a video or an animated image.
    max_megapixels: larger images are not decoded; up to 178, Pillow's own limit.
    boxes, detector: where persons are, as `PersonFinder` takes them, for a model that sees them.
    shard: the part of the files that is predicted; None for all. Only the first part's CSV has the headings.
    ranking: what is made of the finished table.

  Raises:
    UserError: there is nothing to predict, or nothing that can be read; the model names no emotions; boxes or a
      detector are given for a model of the scene alone; or the table may not be written, continued or ranked.
  """
  found = arguments if isinstance(arguments, FoundFiles) else find_images.find(arguments)
  predictor = model if isinstance(model, Predictor) else opened(model)
  recogniser = predictor.recogniser
  check_ranking(ranking, out, predictor.column_names(), shard, found.paths)
  finder = _finder(recogniser, boxes, detector)
  if finder:
    finder.check_names(found.paths)
  columns = table_columns(predictor)
  file_format = file_format or table_writer.format_of(out)
  made_by = {
      'weights_sha256': recogniser.weights_sha256, 'columns': columns, 'format': file_format, 'fps': per_second,
      'max_megapixels': max_megapixels, 'shard': shard and str(shard), **(finder.origin if finder else {})}
  earlier = table_writer.check_append(out, made_by, append)
  expected = expected_rows(found.paths, per_second)
  # The same batches as before a resumption, since the last digits depend on a row's place in its batch.
  batch_size = batch_rows(batch_size or (earlier or {}).get('batch_size'), predictor, expected)
  made_by |= {'checkpoint': recogniser.path, 'batch_size': batch_size}
  paths = found.paths
  if shard:
    paths = shard.part(paths, batch_size)
    expected = expected_rows(paths, per_second)
  with owned(*os.path.split(out)) if out else contextlib.nullcontext():
    table = PredictionTable(out, file_format, columns, made_by, not shard or shard.index == 1)
    rows = read_media(
        paths, recogniser.view.size, ahead=2 * batch_size, view=recogniser.view.pixels, per_second=per_second,
        done=table.names, finder=finder, max_megapixels=max_megapixels)
    initial = sum(printable(path) in table.names for path in paths)
    progress = tqdm.tqdm(total=expected, initial=initial, desc='predicting', unit=' images', delay=1)
    with contextlib.closing(table), contextlib.closing(rows), progress:
      summary = write_rows(predictor, rows, table, batch_size, progress)
    print_counts(summary, found, table.rows, out, shard)
  write_ranking(ranking, out, file_format, predictor.column_names(), found.paths, per_second, max_megapixels)
  return summary


def opened(model: str | ModelSource) -> Predictor:
  """Loads the model. Messages about it go to standard error, since standard output is for the table."""
  with contextlib.redirect_stdout(sys.stderr):
    return open_predictor(model)


def batch_rows(asked: int | None, predictor: Predictor, expected: int) -> int:
  """The number of images in a batch: the one asked for, but no more than there are; None finds a good number."""
  if asked is None:
    return find_batch_size(predictor, expected)
  return min(round_up(asked, predictor.devices), round_up(expected, predictor.devices))


def expected_rows(paths: Iterable[str], per_second: float) -> int:
  """Estimates how many rows these files have; an animated image counts as one."""
  return sum(video.expected_frames(path, per_second) if video.is_video(path) else 1 for path in paths)


def table_columns(predictor: Predictor) -> list[str]:
  """The names of the table's columns, in order."""
  return ['path', *predictor.column_names(), *(BOX if predictor.recogniser.sees_person else ()), 'error']


def _finder(recogniser: Recogniser, boxes: str | None, detector: str | None) -> PersonFinder | None:
  """The finder of persons for a model that sees them; without boxes and detector it finds none."""
  if recogniser.sees_person:
    if not (boxes or detector):
      print(
          'this model sees scene and person, and neither --boxes nor --detector says where persons are: the scene '
          'replaces the person in every row', file=sys.stderr)
    return PersonFinder(boxes, detector)
  if boxes or detector:
    raise UserError(
        f'{recogniser.path} sees the scene alone: leave --boxes and --detector out, or give a model that '
        'was fine-tuned with --config.streams=scene+person')
  return None


Batch = tuple[list[ReadImage], int, jax.Array | np.ndarray | None]
"""Rows, the first one's place in the devices' batch, and that batch's outputs; None if no row has pixels."""


def write_rows(
    predictor: Predictor, rows: Iterator[ReadImage], table: PredictionTable, batch_size: int,
    progress: tqdm.tqdm) -> PredictionSummary:
  """Predicts and writes batch by batch: while the devices compute one, the one before is written."""
  summary = PredictionSummary()
  started = _start_batches(predictor, rows, batch_size, table.rows % batch_size)
  end: Batch = [], 0, None
  for (batch, first, outputs), _ in itertools.pairwise(itertools.chain(started, [end])):
    _write(table, predictor, batch, outputs, first)
    summary.add(batch, predictor.recogniser.sees_person)
    progress.update(len(batch))
  return summary


def _start_batches(predictor: Predictor, rows: Iterator[ReadImage], batch_size: int, first: int) -> Iterator[Batch]:
  """Starts each batch when it is asked for: the first one from place `first` on; zeros where there are no pixels."""
  while batch := list(itertools.islice(rows, batch_size - first)):
    views = np.zeros((batch_size, *predictor.view_shape), np.uint8)
    for place, row in enumerate(batch, first):
      if row.pixels is not None:
        views[place] = row.pixels  # of both views, if there are two
      if row.person is not None:
        views[place, 1] = row.person.pixels
    yield batch, first, predictor(views) if any(row.pixels is not None for row in batch) else None
    first = 0


def _write(
    table: PredictionTable, predictor: Predictor, rows: list[ReadImage], outputs: jax.Array | np.ndarray | None,
    first: int) -> None:
  columns: dict[str, Sequence[Value]] = dict.fromkeys(predictor.column_names(), [None] * len(rows))
  if outputs is not None:
    outputs_RxW = jax.device_get(outputs)[first:first + len(rows)]
    check_finite(outputs_RxW, f'an image from {rows[0].name} to {rows[-1].name}')
    for name, values in predictor.columns(outputs_RxW).items():
      columns[name] = [None if row.pixels is None else value for row, value in zip(rows, values)]
  if predictor.recogniser.sees_person:
    boxes = [row.person.box if row.person else (None,) * len(BOX) for row in rows]
    columns |= dict(zip(BOX, zip(*boxes), strict=True))
  table.write({'path': [row.name for row in rows], **columns, 'error': [row.error or None for row in rows]})


def print_counts(
    summary: PredictionSummary, found: FoundFiles, earlier_rows: int, out: str | None, shard: FileShard | None) -> None:
  """Prints the counts to standard error. If no file could be predicted, now or in an earlier run, it raises UserError
  and removes the table, in which none of these files would be tried again."""
  reasons = '; '.join(summary.reasons)
  if summary.unreadable > len(summary.reasons):
    reasons += f"; {summary.unreadable - len(summary.reasons)} more, see the column 'error'"
  if not summary.predicted and not earlier_rows and not shard:
    for path in (out, out + table_writer.DESCRIPTION) if out else ():
      storage.remove(path)
    raise UserError(f'none of {summary.unreadable} files can be read ({reasons}): give images that can')
  part = f', part {shard} of {len(found.paths)} files' if shard else ''
  counts = f'{out or "standard output"}{part}: {summary.predicted} predicted, {summary.unreadable} unreadable'
  lines = [counts + (f' ({reasons})' if reasons else '')]
  if summary.without_person:
    lines.append(f'{summary.without_person} without a person: the scene replaced it')
  lines += [f'{count} {repair}' for repair, count in sorted(summary.repaired.items())]
  if earlier_rows:
    lines.append(f'{earlier_rows} rows were there already')
  if found.duplicates:
    lines.append(f'{found.duplicates} named again, and predicted once')
  if found.passed_over:
    lines.append(
        'passed over in folders and archives: ' +
        ', '.join(f'{count} {kind}' for kind, count in found.passed_over.items()))
  print('\n'.join(map(single_line, lines)), file=sys.stderr)
