"""The Apache Beam path of a build: the same records, made by many workers.

Examples go to the workers, and what these reject or pass over comes back, in files beside the shards: a pipeline that
held 118,000 examples would be too large for Dataflow, and a metric counts a bundle twice that was tried twice.
"""

from collections.abc import Callable, Iterator
import contextlib
import json
import os
import pathlib
from typing import Any

from etils import epath

from data_pipelines.building.raw_example import Task
from data_pipelines.errors import UserError
from data_pipelines.images import RejectedError

_TASKS, _NOTES = 'tasks', 'notes'


def transform(builder: Any, source: pathlib.Path, tasks: list[Task], folder: epath.Path, split: str) -> Any:
  """What makes the records of one split in Beam.

  Args:
    builder: FolderBuilder, of which each worker gets a copy.
    source: raw folder, which every worker sees under this path.
    tasks: one per record.
    folder: of the shards; every worker writes to it. The files for `take_notes` lie there too.
    split: its name.

  Returns:
    beam.PTransform from a pipeline to (id, record).
  """
  import apache_beam as beam

  _file(folder, split, _TASKS).write_text('\n'.join(task.to_json() for task in tasks))

  @beam.ptransform_fn
  def records(pipeline):
    made = (
        pipeline | 'tasks' >> beam.io.ReadFromText(os.fspath(_file(folder, split, _TASKS))) |
        'spread' >> beam.Reshuffle() |
        'record' >> beam.FlatMap(_record, builder, source).with_outputs(_NOTES, main='records'))
    notes = made[_NOTES] | 'gather' >> beam.CombineGlobally(beam.combiners.ToListCombineFn())
    _ = notes | 'note' >> beam.Map(_write_notes, os.fspath(_file(folder, split, _NOTES)))
    return made.records

  return records()


def take_notes(folder: epath.Path, rejects: dict[str, str], ignore: Callable[[str, int], None]) -> None:
  """Adds what the workers rejected and passed over to the builder's own, and removes this module's files."""
  for path in list(folder.glob(f'*.{_NOTES}.json')):
    for note in json.loads(path.read_text()):
      name, reason, ignored = json.loads(note)
      if reason:
        rejects[name] = reason
      for kind, count in ignored.items():
        ignore(kind, count)
    path.unlink()
  for path in list(folder.glob(f'*.{_TASKS}.json')):
    path.unlink()


@contextlib.contextmanager
def explained(source: pathlib.Path) -> Iterator[None]:
  """Turns Beam's failure over a split without records into a UserError."""
  try:
    yield
  except Exception as error:  # What reaches us depends on the runner.
    if 'total number of generated examples is 0' not in str(error):
      raise
    raise UserError(
        f'the workers could read no picture of a split: {source} must lie under this path on every worker; if it does, '
        'a build without --beam_runner names what is wrong with the pictures') from error


def _file(folder: epath.Path, split: str, kind: str) -> epath.Path:
  return folder / f'{split}.{kind}.json'


def _record(line: str, builder: Any, source: pathlib.Path) -> Iterator[Any]:
  from apache_beam import pvalue

  task = Task.from_json(line)
  reason = ''
  builder.take_ignored()  # Of an earlier record that failed half-way.
  try:
    record = builder.record(source, task)
    yield record['id'], record
  except RejectedError as error:
    reason = str(error)
  ignored = builder.take_ignored()
  if reason or ignored:
    # As JSON, because Beam cannot send a file name that is not UTF-8.
    yield pvalue.TaggedOutput(_NOTES, json.dumps([task.listed.id, reason, ignored]))


def _write_notes(notes: list[str], path: str) -> None:
  epath.Path(path).write_text(json.dumps(notes))
