"""Emotions of any pictures: python -m uniemox_jax.predict --checkpoint=PATH IMAGE_OR_FOLDER... [--out=predictions.csv].

Pictures in any format that records are built from, folders with all in them, globs, text lists (*.txt, a path a line),
and videos where PyAV is installed. One row each, in order, in CSV or JSON lines; what cannot be read is a row with its
reason, and the rest goes on. A model of scene and person is told where persons are by --boxes=FILE, --detector=NAME or
both. docs/predict.md says more.
"""

from collections.abc import Iterator, Sequence
import contextlib
import dataclasses
import itertools
import sys

import jax
import numpy as np
import tqdm

from data_pipelines.errors import UserError
from data_pipelines.person_boxes.person_finder import PersonFinder
from data_pipelines.user_files import find_images, video
from data_pipelines.user_files.find_images import FoundFiles
from data_pipelines.user_files.views import ImageView, printable, views
from uniemox_jax.predict import inference, table_writer
from uniemox_jax.predict.inference import Predictor
from uniemox_jax.predict.table_writer import Table

NAMED = 3
"""How many unreadable files the summary names."""
BOX = ('person_ymin', 'person_xmin', 'person_ymax', 'person_xmax')
"""Columns of a model that sees the person: the box without its margin, as fractions of the picture."""


@dataclasses.dataclass
class Summary:
  """What a run did. predicted: rows with numbers; unreadable: rows without; without_person: predicted rows in which the
  scene stood in for the person, whom the model wants to see; reasons: 'name: error' of the first unreadable."""

  predicted: int = 0
  unreadable: int = 0
  without_person: int = 0
  reasons: list[str] = dataclasses.field(default_factory=list)

  def add(self, rows: Sequence[ImageView], wants_person: bool) -> None:
    """Counts finished rows."""
    broken = [f'{row.name}: {row.error}' for row in rows if row.pixels is None]
    self.predicted += len(rows) - len(broken)
    self.unreadable += len(broken)
    self.without_person += wants_person * sum(row.pixels is not None and row.person is None for row in rows)
    self.reasons = (self.reasons + broken)[:NAMED]


def predict(
    checkpoint: str, arguments: Sequence[str], out: str | None = None, *, file_format: str | None = None,
    append: bool = False, batch_size: int | None = None, per_second: float = 1.0, boxes: str | None = None,
    detector: str | None = None) -> Summary:
  """Writes a row for every picture and sampled frame, in order.

  Args:
    checkpoint: a checkpoint PATH of a fine-tuned model.
    arguments: files, folders, globs and text lists.
    out: the table; None for standard output.
    file_format: 'csv' or 'jsonl'; None goes by the name of `out`.
    append: go on with `out` after the rows that are there, if it is there.
    batch_size: None finds one.
    per_second: frames that are taken of a second of video.
    boxes, detector: where persons are, as `PersonFinder` takes them, for a model that sees them.

  Raises:
    UserError: nothing to predict, nothing that can be read, a checkpoint without a classifier, boxes or detector where
      the model sees no person, a table that may not be written or gone on with.
  """
  found = find_images.find(arguments)
  predictor = Predictor(checkpoint)
  finder = _finder(predictor, boxes, detector)
  columns = column_names(predictor)
  file_format = file_format or table_writer.format_of(out)
  made_by = {
      'weights_sha256': predictor.weights_sha256, 'columns': columns, 'format': file_format, 'fps': per_second,
      **(finder.origin if finder else {})
  }
  before = table_writer.unfinished(out, made_by, append)
  expected = sum(video.expected_frames(path, per_second) if video.is_video(path) else 1 for path in found.paths)
  # A row's place in its batch stays the same when a run is resumed, and with it every digit.
  batch_size = batch_size or (before or {}).get('batch_size') or inference.batch_size(predictor, expected)
  batch_size = -(-batch_size // predictor.devices) * predictor.devices
  with contextlib.closing(Table(out, file_format, columns,
                                made_by | {'checkpoint': predictor.path, 'batch_size': batch_size})) as table:
    rows = views(
        found.paths, predictor.image_size, ahead=2 * batch_size, per_second=per_second, done=table.names, finder=finder)
    initial = sum(printable(path) in table.names for path in found.paths)
    with contextlib.closing(rows), tqdm.tqdm(total=expected, initial=initial, desc='predicting', unit=' pictures',
                                             delay=1) as progress:
      summary = write_rows(predictor, rows, table, batch_size, progress)
    _report(summary, found, table.rows, out)
  return summary


def column_names(predictor: Predictor) -> list[str]:
  """Of the table, in order."""
  return ['path', *predictor.column_names(), *(BOX if _sees_person(predictor) else ()), 'error']


def _sees_person(predictor: Predictor) -> bool:
  return predictor.streams != 'scene'


def _finder(predictor: Predictor, boxes: str | None, detector: str | None) -> PersonFinder | None:
  """What finds persons for a model that sees them, which is nobody where nothing says where they are."""
  if _sees_person(predictor):
    if not (boxes or detector):
      print(
          'this model sees scene and person, and neither --boxes nor --detector says where persons are: the scene '
          'stands in for the person in every row', file=sys.stderr)
    return PersonFinder(boxes, detector)
  if boxes or detector:
    raise UserError(
        f'{predictor.path} sees the scene alone: leave --boxes and --detector out, or give a model that '
        'was fine-tuned with --config.streams=scene+person')
  return None


def write_rows(
    predictor: Predictor, rows: Iterator[ImageView], table: Table, batch_size: int, progress: tqdm.tqdm) -> Summary:
  """Predicts and writes batch by batch; while the devices work on one, the one before is written."""
  summary = Summary()
  working = None
  for batch in itertools.chain(_batches(rows, batch_size, table.rows % batch_size), [None]):
    following = batch and (batch, _start(predictor, batch, batch_size))
    if working:
      _write(table, predictor, *working)
      summary.add(working[0][1], _sees_person(predictor))
      progress.update(len(working[0][1]))
    working = following
  return summary


Batch = tuple[int, list[ImageView]]
"""Rows in order, and the place of the first of them in the batch that the devices get."""


def _batches(rows: Iterator[ImageView], batch_size: int, first: int) -> Iterator[Batch]:
  while batch := list(itertools.islice(rows, batch_size - first)):
    yield first, batch
    first = 0


def _start(predictor: Predictor, batch: Batch, batch_size: int) -> jax.Array | None:
  """The outputs to come of a batch, zeros in every other place; None where no row has pixels."""
  first, rows = batch
  views = np.zeros((batch_size, *predictor.view_shape), np.uint8)
  for place, row in enumerate(rows, first):
    if row.pixels is not None:
      views[place] = row.pixels  # Both views, where there are two.
    if row.person is not None:
      views[place, 1] = row.person.pixels
  return predictor(views) if any(row.pixels is not None for row in rows) else None


def _write(table: Table, predictor: Predictor, batch: Batch, outputs: jax.Array | None) -> None:
  first, rows = batch
  filled = dict.fromkeys(predictor.column_names(), [None] * len(rows))
  if outputs is not None:
    outputs_RxW = jax.device_get(outputs)[first:first + len(rows)]
    if not np.isfinite(outputs_RxW).all():
      raise UserError(
          f'the model gives no finite number for a picture from {rows[0].name} to {rows[-1].name}: its '
          'weights are broken; use another checkpoint')
    for name, cells in predictor.columns(outputs_RxW).items():
      filled[name] = [None if row.pixels is None else cell for row, cell in zip(rows, cells)]
  if _sees_person(predictor):
    boxes = [row.person.box if row.person else (None,) * len(BOX) for row in rows]
    filled |= dict(zip(BOX, zip(*boxes), strict=True))
  table.write({'path': [row.name for row in rows], **filled, 'error': [row.error or None for row in rows]})


def _report(summary: Summary, found: FoundFiles, before: int, out: str | None) -> None:
  """The summary on standard error. Raises UserError where there is not one prediction, now or before."""
  reasons = '; '.join(summary.reasons)
  if summary.unreadable > len(summary.reasons):
    reasons += f"; {summary.unreadable - len(summary.reasons)} more, see the column 'error'"
  if not summary.predicted and not before:
    raise UserError(f'none of {summary.unreadable} files can be read ({reasons}): give pictures that can')
  said = [
      f'{out or "standard output"}: {summary.predicted} predicted, {summary.unreadable} unreadable' +
      (f' ({reasons})' if reasons else '')
  ]
  if summary.without_person:
    said.append(f'{summary.without_person} without a person: the scene stood in')
  if before:
    said.append(f'{before} rows were there already')
  if found.duplicates:
    said.append(f'{found.duplicates} named again, and predicted once')
  if found.passed_over:
    said.append('passed over in folders: ' + ', '.join(f'{count} {kind}' for kind, count in found.passed_over.items()))
  print('\n'.join(said), file=sys.stderr)
