"""The Apache Beam path of a build: many workers make the same records.

Work items and the workers' notes (what they rejected and ignored) travel in files beside the shards. A pipeline that
held 118,000 items would be too large for Dataflow, and a Beam metric counts a bundle again when it is retried.
"""

from collections.abc import Callable, Iterator
import contextlib
import json
import os
import pathlib
from typing import TYPE_CHECKING, Any

from etils import epath

from data_pipelines.building.raw_example import WorkItem
from data_pipelines.errors import UserError
from data_pipelines.images import RejectedError

if TYPE_CHECKING:
  from data_pipelines.building.base_builder import BaseBuilder

_ITEMS, _NOTES = 'items', 'notes'


def record_transform(
    builder: 'BaseBuilder', source: pathlib.Path, items: list[WorkItem], folder: epath.Path, split: str) -> Any:
  """Makes the beam.PTransform from a pipeline to (id, record) for one split.

  Each worker gets a copy of `builder`, finds `source` under the same path, and writes to the shards' `folder`.
  """
  import apache_beam as beam

  _file(folder, split, _ITEMS).write_text('\n'.join(item.to_json() for item in items))

  @beam.ptransform_fn
  def records(pipeline: Any) -> Any:
    lines = pipeline | 'items' >> beam.io.ReadFromText(os.fspath(_file(folder, split, _ITEMS)))
    spread = lines | 'spread' >> beam.Reshuffle()
    made = spread | 'record' >> beam.FlatMap(_record, builder, source).with_outputs(_NOTES, main='records')
    notes = made[_NOTES] | 'gather' >> beam.CombineGlobally(beam.combiners.ToListCombineFn())
    _ = notes | 'note' >> beam.Map(_write_notes, os.fspath(_file(folder, split, _NOTES)))
    return made.records

  return records()


def collect_notes(folder: epath.Path, rejects: dict[str, str], ignore: Callable[[str, int], None]) -> None:
  """Adds what the workers rejected and ignored to the builder's own counts, and removes this module's files."""
  for path in list(folder.glob(f'*.{_NOTES}.json')):
    for note in json.loads(path.read_text()):
      name, reason, ignored = json.loads(note)
      if reason:
        rejects[name] = reason
      for kind, count in ignored.items():
        ignore(kind, count)
    path.unlink()
  for path in list(folder.glob(f'*.{_ITEMS}.json')):
    path.unlink()


@contextlib.contextmanager
def explain_empty_split(source: pathlib.Path) -> Iterator[None]:
  """Turns Beam's failure over a split without records into a UserError."""
  try:
    yield
  except Exception as error:  # Its type depends on the runner.
    if 'total number of generated examples is 0' not in str(error):
      raise
    raise UserError(
        f'the workers could read no image of a split: {source} must lie under this path on every worker; if it does, '
        'a build without --beam_runner names what is wrong with the images') from error


def _file(folder: epath.Path, split: str, kind: str) -> epath.Path:
  return folder / f'{split}.{kind}.json'


def _record(line: str, builder: 'BaseBuilder', source: pathlib.Path) -> Iterator[Any]:
  """The record (id, record) of an item, if it is not rejected; then a note, if there is something to note."""
  from apache_beam import pvalue

  item = WorkItem.from_json(line)
  reason = ''
  builder.take_ignored()  # Of an earlier record that failed half-way.
  try:
    record = builder.record(source, item)
    yield record['id'], record
  except RejectedError as error:
    reason = str(error)
  ignored = builder.take_ignored()
  if reason or ignored:
    # As JSON, because Beam cannot send a file name that is not UTF-8.
    yield pvalue.TaggedOutput(_NOTES, json.dumps([item.example.id, reason, ignored]))


def _write_notes(notes: list[str], path: str) -> None:
  epath.Path(path).write_text(json.dumps(notes))
