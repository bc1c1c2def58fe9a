"""Emotions of any pictures: python -m uniemox_jax.predict --checkpoint=PATH IMAGE_OR_FOLDER... [--out=predictions.csv].

Pictures in any format that records are built from, folders with all in them, globs, text lists (*.txt, a path a line),
and videos where PyAV is installed. One row each, in order, in CSV or JSON lines; what cannot be read is a row with its
reason, and the rest goes on. docs/predict.md says more.
"""

from collections.abc import Iterator, Sequence
import contextlib
import dataclasses
import itertools
import sys

from absl import flags
import jax
import numpy as np
import tqdm

from data_pipelines import found_images, video
from data_pipelines.errors import UserError
from data_pipelines.found_images import Found
from data_pipelines.views import View, printable, views
from uniemox_jax import cli, inference, table_writer
from uniemox_jax.inference import Predictor
from uniemox_jax.table_writer import Table

NAMED = 3
"""How many unreadable files the summary names."""


@dataclasses.dataclass
class Summary:
  """What a run did. predicted: rows with probabilities; unreadable: rows without; reasons: 'name: error' of the first
  of those."""

  predicted: int = 0
  unreadable: int = 0
  reasons: list[str] = dataclasses.field(default_factory=list)

  def add(self, rows: Sequence[View]) -> None:
    """Counts finished rows."""
    broken = [f'{row.name}: {row.error}' for row in rows if row.pixels is None]
    self.predicted += len(rows) - len(broken)
    self.unreadable += len(broken)
    self.reasons = (self.reasons + broken)[:NAMED]


def predict(checkpoint: str, arguments: Sequence[str], out: str | None = None, *, file_format: str | None = None,
            append: bool = False, batch_size: int | None = None, per_second: float = 1.0) -> Summary:
  """Writes a row for every picture and sampled frame, in order.

  Args:
    checkpoint: a checkpoint PATH of a fine-tuned model.
    arguments: files, folders, globs and text lists.
    out: the table; None for standard output.
    file_format: 'csv' or 'jsonl'; None goes by the name of `out`.
    append: go on with `out` after the rows that are there, if it is there.
    batch_size: None finds one.
    per_second: frames that are taken of a second of video.

  Raises:
    UserError: nothing to predict, nothing that can be read, a checkpoint of another task, a table that may not be
      written or gone on with.
  """
  found = found_images.find(arguments)
  predictor = Predictor(checkpoint)
  columns = ['path', *inference.column_names(predictor.labels), 'error']
  file_format = file_format or table_writer.format_of(out)
  made_by = {'weights_sha256': predictor.weights_sha256, 'columns': columns, 'format': file_format, 'fps': per_second}
  before = table_writer.unfinished(out, made_by, append)
  expected = sum(video.expected_frames(path, per_second) if video.is_video(path) else 1 for path in found.paths)
  # A row's place in its batch stays the same when a run is resumed, and with it every digit.
  batch_size = batch_size or (before or {}).get('batch_size') or inference.batch_size(predictor, expected)
  batch_size = -(-batch_size // predictor.devices) * predictor.devices
  with contextlib.closing(Table(out, file_format, columns, made_by | {
      'checkpoint': predictor.path, 'batch_size': batch_size})) as table:
    rows = views(found.paths, predictor.image_size, ahead=2 * batch_size, per_second=per_second, done=table.names)
    initial = sum(printable(path) in table.names for path in found.paths)
    with contextlib.closing(rows), tqdm.tqdm(total=expected, initial=initial, desc='predicting', unit=' pictures',
                                             delay=1) as progress:
      summary = write_rows(predictor, rows, table, batch_size, progress)
    _report(summary, found, table.rows, out)
  return summary


def write_rows(predictor: Predictor, rows: Iterator[View], table: Table, batch_size: int, progress: tqdm.tqdm
               ) -> Summary:
  """Predicts and writes batch by batch; while the devices work on one, the one before is written."""
  summary = Summary()
  working = None
  for batch in itertools.chain(_batches(rows, batch_size, table.rows % batch_size), [None]):
    following = batch and (batch, _start(predictor, batch, batch_size))
    if working:
      _write(table, predictor.labels, *working)
      summary.add(working[0][1])
      progress.update(len(working[0][1]))
    working = following
  return summary


Batch = tuple[int, list[View]]
"""Rows in order, and the place of the first of them in the batch that the devices get."""


def _batches(rows: Iterator[View], batch_size: int, first: int) -> Iterator[Batch]:
  while batch := list(itertools.islice(rows, batch_size - first)):
    yield first, batch
    first = 0


def _start(predictor: Predictor, batch: Batch, batch_size: int) -> inference.Outputs | None:
  """The outputs to come of a batch, zeros in every other place; None where no row has pixels."""
  first, rows = batch
  views_BxSxSx3 = np.zeros((batch_size, predictor.image_size, predictor.image_size, 3), np.uint8)
  for place, row in enumerate(rows, first):
    if row.pixels is not None:
      views_BxSxSx3[place] = row.pixels
  return predictor(views_BxSxSx3) if any(row.pixels is not None for row in rows) else None


def _write(table: Table, labels: Sequence[str], batch: Batch, outputs: inference.Outputs | None) -> None:
  first, rows = batch
  filled = dict.fromkeys(inference.column_names(labels), [None] * len(rows))
  if outputs is not None:
    rows_of = {name: np.asarray(value)[first:first + len(rows)] for name, value in jax.device_get(outputs).items()}
    for name, cells in inference.columns(labels, rows_of).items():
      filled[name] = [None if row.pixels is None else cell for row, cell in zip(rows, cells)]
    if not all(np.isfinite(value).all() for value in rows_of.values()):
      raise UserError(f'the model gives no finite number for a picture from {rows[0].name} to {rows[-1].name}: its '
                      'weights are broken; use another checkpoint')
  table.write({'path': [row.name for row in rows], **filled, 'error': [row.error or None for row in rows]})


def _report(summary: Summary, found: Found, before: int, out: str | None) -> None:
  """The summary on standard error. Raises UserError where there is not one prediction, now or before."""
  reasons = '; '.join(summary.reasons)
  if summary.unreadable > len(summary.reasons):
    reasons += f"; {summary.unreadable - len(summary.reasons)} more, see the column 'error'"
  if not summary.predicted and not before:
    raise UserError(f'none of {summary.unreadable} files can be read ({reasons}): give pictures that can')
  said = [f'{out or "standard output"}: {summary.predicted} predicted, {summary.unreadable} unreadable'
          + (f' ({reasons})' if reasons else '')]
  if before:
    said.append(f'{before} rows were there already')
  if found.duplicates:
    said.append(f'{found.duplicates} named again, and predicted once')
  if found.passed_over:
    said.append('passed over in folders: ' + ', '.join(f'{count} {kind}' for kind, count in found.passed_over.items()))
  print('\n'.join(said), file=sys.stderr)


def main(*arguments: str) -> None:
  """Entry point after flags are parsed."""
  values = flags.FLAGS
  out = None if values.out == '-' else values.out
  try:
    predict(values.checkpoint, arguments, out, file_format=values.format, append=values.append,
            batch_size=values.batch_size, per_second=values.fps)
  except KeyboardInterrupt as error:
    raise UserError('interrupted: ' + ('run the same command with --append to go on' if out else
                                       'with --out=FILE, --append could go on here')) from error


if __name__ == '__main__':
  flags.DEFINE_string('checkpoint', None, 'Fine-tuned checkpoint: the --workdir of a run, or a step folder.',
                      required=True)
  flags.DEFINE_string('out', '-', 'The table to write; - is standard output.')
  flags.DEFINE_enum('format', None, table_writer.FORMATS, 'Of the table; by default what the name of --out ends in.')
  flags.DEFINE_bool('append', False, 'Go on with --out after the rows that are there.')
  flags.DEFINE_integer('batch_size', None, 'Pictures a batch; found automatically by default.', lower_bound=1)
  flags.DEFINE_float('fps', 1.0, 'Frames that are taken of a second of video.', lower_bound=1e-6)
  cli.run(main, 'IMAGE_OR_FOLDER...')
