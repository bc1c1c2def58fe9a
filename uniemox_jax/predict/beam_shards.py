"""The Apache Beam path of `predict`: many workers make the parts of one run, which are put together.

The list of files travels in a file, and the parts come back as files, in a folder beside the table that every worker
sees under the same path. A worker is sent a number.
"""

from collections.abc import Sequence
import functools
import json
import os
from pathlib import Path
import re
from typing import Any

from data_pipelines import storage
from data_pipelines.building.beam_options import read_beam_options
from data_pipelines.errors import UserError
from data_pipelines.images import MAX_MEGAPIXELS
from data_pipelines.media import find_images
from data_pipelines.media.find_images import FoundFiles
from data_pipelines.ownership import owned
from uniemox_jax.predict import table_writer
from uniemox_jax.predict.prediction import (
    PredictionSummary,
    batch_rows,
    expected_rows,
    opened,
    predict_images,
    print_counts,
)
from uniemox_jax.predict.ranking import NO_RANKING, Ranking, check_ranking, table_rows, write_ranking
from uniemox_jax.predict.shards import FileShard
from uniemox_jax.predict.table_writer import CHECKSUMS, DESCRIPTION, PredictionTable
from uniemox_jax.recognition.predictor import Predictor, open_predictor
from uniemox_jax.recognition.recogniser import ModelSource

MOST_SHARDS = 256
"""The most parts of one run: enough for many workers, and few enough that a worker starts seldom."""
_JOB = 'job.json'


def predict_by_beam(
    model: str | ModelSource, arguments: Sequence[str], out: str | None, *, runner: str | None, options: Sequence[str],
    batch_size: int | None = None, per_second: float = 1.0, max_megapixels: float = MAX_MEGAPIXELS,
    ranking: Ranking = NO_RANKING, **settings: Any) -> None:
  """Writes the table that `predict_images` writes, the same bytes; a run that was stopped goes on when it is repeated.

  Args:
    model, arguments, out, batch_size, per_second, max_megapixels, ranking: as for `predict_images`. Paths that are not
      absolute start from the workers' current folder.
    runner, options: as for `read_beam_options`.
    **settings: further arguments of `predict_images`.

  Raises:
    UserError: as `predict_images` and `read_beam_options`, or there is no `out`.
  """
  model = ModelSource(model) if isinstance(model, str) else model
  pipeline_options = read_beam_options(runner, options)
  if out is None:
    raise UserError('workers write files, which standard output is not: add --out=FILE')
  table_writer.check_append(out, {}, append=False)
  found = find_images.find(arguments)
  predictor = opened(model)
  check_ranking(ranking, out, predictor.column_names(), None, found.paths)
  batch_size = batch_rows(batch_size, predictor, expected_rows(found.paths, per_second))
  count = min(MOST_SHARDS, -(-len(found.paths) // batch_size))
  file_format = settings.pop('file_format', None) or table_writer.format_of(out)
  settings |= {
      'batch_size': batch_size, 'per_second': per_second, 'max_megapixels': max_megapixels, 'file_format': file_format}
  job = {
      'model': model, 'weights_sha256': predictor.recogniser.weights_sha256, 'paths': found.paths, 'count': count,
      'settings': settings}
  folder = f'{os.path.abspath(out)}.parts'
  with owned(*os.path.split(out)):
    storage.write_bytes(os.path.join(folder, _JOB), json.dumps(job).encode())  # As ASCII: names may be no UTF-8.
    _run(runner, pipeline_options, folder, count)
    _join(out, folder, count)
    storage.remove_folder(folder)
  summary = PredictionSummary()
  for _, cells in table_rows(out, file_format):
    summary.add_row(cells['path'], cells['error'])
  print_counts(summary, found, 0, out, shard=None)
  write_ranking(ranking, out, file_format, predictor.column_names(), found.paths, per_second, max_megapixels)


def _run(runner: str | None, options: Any, folder: str, count: int) -> None:
  """Makes all parts. A worker's UserError, which Beam packs into its own, is one here too."""
  import apache_beam as beam

  try:
    with beam.Pipeline(runner=runner, options=options) as pipeline:
      numbers = pipeline | 'parts' >> beam.Create(range(1, count + 1))
      _ = numbers | 'spread' >> beam.Reshuffle() | 'predict' >> beam.Map(_predict_part, folder)
  except Exception as error:  # Its type depends on the runner.
    if said := re.search(r'UserError: (.+?)(?: \[while running|$|\n)', f'{type(error).__name__}: {error}'):
      raise UserError(said[1]) from error
    raise


def _predict_part(index: int, folder: str) -> None:
  job = _read_job(folder, Path(folder, _JOB).stat().st_mtime_ns)
  predict_images(
      _loaded(_named(*job['model']), job['weights_sha256']), FoundFiles(job['paths'], {}, 0), _part(folder, index),
      append=True, shard=FileShard(index, job['count']), **job['settings'])


@functools.cache
def _read_job(folder: str, version: int) -> dict[str, Any]:
  del version  # A later job may have the same folder.
  return json.loads(storage.read_bytes(os.path.join(folder, _JOB)))


@functools.cache
def _loaded(model: ModelSource, weights_sha256: str) -> Predictor:
  """Once in each process. Raises UserError if these are other weights."""
  predictor = open_predictor(model)
  if predictor.recogniser.weights_sha256 != weights_sha256:
    raise UserError(f'{model.path} holds other weights on a worker: give a path that is the same everywhere')
  return predictor


def _named(path: str, labels: str | None, prompts: str | None, texts: Sequence[str]) -> ModelSource:
  return ModelSource(path, labels, prompts, tuple(texts))


def _part(folder: str, index: int) -> str:
  return os.path.join(folder, f'{index:05d}')


def _join(out: str, folder: str, count: int) -> None:
  """Writes the table from its parts, and its description."""
  with storage.new_file(out) as file:
    for index in range(1, count + 1):
      with storage.open_local(_part(folder, index)) as part:
        while content := part.read(1 << 20):
          file.write(content)
  made_by = storage.read_json_object(_part(folder, 1) + DESCRIPTION) | {'shard': None}
  del made_by[CHECKSUMS]
  PredictionTable(out, made_by['format'], made_by['columns'], made_by).close()
