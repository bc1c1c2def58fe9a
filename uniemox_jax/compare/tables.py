"""The tables of `compare`: Markdown and LaTeX for people, CSV with a row a run, JSON, and a figure."""

from collections.abc import Mapping
import csv
import io
import os
from typing import Any, NamedTuple

from matplotlib.figure import Figure
import numpy as np

from data_pipelines.plain_text import csv_cell, markdown_text
from data_pipelines.storage import write_bytes, write_json, write_text
from uniemox_jax.compare import table_text
from uniemox_jax.compare.summary_statistics import holm, over_seeds, paired_difference
from uniemox_jax.objectives.tasks import KINDS

_SIGNIFICANT = 0.05
_COLOURS = ('#0072b2', '#d55e00', '#5f5f5f', '#009e73', '#cc79a7', '#e69f00', '#56b4e9')
_MARKERS = ('o', 's', '^', 'D', 'v', 'P', 'X')
_DIFFERENCES = {
    'initialisation': ('initialisation', ''), 'measured': ('dataset', ''), 'protocol': ('protocol', ''),
    'difference': ('difference', '+.4f'), 'p': ('p', '.3g'), 'p_holm': ("p, Holm's", '.3g'), 'runs': ('pairs', '')}
_NOTES = """Mean ± standard deviation over seeds (number of runs) on test, or on val where a column says so; in bold the
best mean of a column; † differs from `{reference}` with p < 0.05: Student's t-test of the differences seed by seed,
corrected by Holm for all questions of this page. Few seeds can show only large differences, and seeds do not vary the
test images: see docs/compare.md.
"""


class ComparisonJob(NamedTuple):
  """One run of a comparison."""

  initialisation: str
  dataset: str
  protocol: str
  seed: int

  @property
  def name(self) -> str:
    """Unique among all jobs."""
    return f'{self.initialisation}/{self.dataset}/{self.protocol}/seed{self.seed}'

  def folder(self, workdir: str) -> str:
    """Where its run lies."""
    return os.path.join(workdir, self.name)


class Column(NamedTuple):
  """Of a protocol's table: a dataset and one of its tasks, '' until a run has finished.

  measured: its heading, 'emo8, top1', or 'emo8 val, top1' if val took the place of test, or 'emo8' until a run has
  finished.
  """

  dataset: str
  task: str
  measured: str


class Comparison(NamedTuple):
  """What was asked for, and what is finished of it.

  initialisations, datasets, protocols: in the order of rows, columns and tables.
  seeds: how many were asked for.
  reference: the initialisation that all others are compared with.
  results: content of result.json by job.
  errors: the last line of each job that failed.
  """

  initialisations: tuple[str, ...]
  datasets: tuple[str, ...]
  protocols: tuple[str, ...]
  seeds: int
  reference: str
  results: Mapping[ComparisonJob, dict[str, Any]]
  errors: Mapping[ComparisonJob, str]

  def columns(self, protocol: str) -> dict[Column, dict[str, dict[int, float]]]:
    """A protocol's table: by column and initialisation, the metric by seed of the runs that are finished."""
    names, columns = self.initialisations, []
    for dataset in self.datasets:
      result = next((result for job, result in self.results.items() if job[1:3] == (dataset, protocol)), None)
      if result is None:
        columns.append(Column(dataset, '', dataset))
      else:
        split = result.get('split', 'test')
        measured_on = dataset if split == 'test' else f'{dataset} {split}'
        columns += [Column(dataset, score.task, f'{measured_on}, {score.metric}') for score in scores_of(result)]
    return {column: {name: self._scores(name, column, protocol) for name in names} for column in columns}

  def _scores(self, initialisation: str, column: Column, protocol: str) -> dict[int, float]:
    jobs = (ComparisonJob(initialisation, column.dataset, protocol, seed) for seed in range(self.seeds))
    return {
        job.seed: score.value for job in jobs if job in self.results for score in scores_of(self.results[job])
        if score.task == column.task and score.value is not None}

  @property
  def missing(self) -> int:
    """How many jobs have no result."""
    return len(self.initialisations) * len(self.datasets) * len(self.protocols) * self.seeds - len(self.results)


class Score(NamedTuple):
  """The metric that results of a task are compared by (`tasks.KINDS`); value: None where the test split leaves it
  undefined."""

  task: str
  metric: str
  value: float | None


def scores_of(result: dict[str, Any]) -> list[Score]:
  """Of every task of a run, that which chose its epoch first."""
  if 'tasks' not in result:
    return [Score('label', KINDS['label'].score, result[KINDS['label'].score])]
  return [
      Score(task, f'{task} {KINDS[task].score}', metrics[KINDS[task].score])
      for task, metrics in result['tasks'].items()]


def differences(comparison: Comparison) -> list[dict[str, Any]]:
  """Each initialisation's difference from the reference, by column and protocol, with p and Holm's p over all."""
  rows: list[dict[str, Any]] = [
      {'initialisation': name, **column._asdict(), 'protocol': protocol, **pair._asdict()}
      for protocol in comparison.protocols
      for column, scores in comparison.columns(protocol).items()
      for name in comparison.initialisations
      if name != comparison.reference and (pair := paired_difference(scores[name], scores[comparison.reference]))]
  for row, corrected in zip(rows, holm([row['p'] for row in rows])):
    row['p_holm'] = corrected
  return rows


def write(comparison: Comparison, workdir: str) -> None:
  """Writes comparison.md, .tex, .csv, .json and .png into `workdir`; each is whole at any time."""
  from_reference = differences(comparison)
  significant = {(row['initialisation'], row['measured'], row['protocol'])
                 for row in from_reference
                 if row['p_holm'] is not None and row['p_holm'] < _SIGNIFICANT}
  tables = {protocol: _table(comparison, protocol, significant) for protocol in comparison.protocols}
  caption = (
      f'Mean ± standard deviation over {comparison.seeds} seeds, test. † differs from {comparison.reference}, '
      'p < 0.05, Holm.')
  path = os.path.join(workdir, 'comparison')
  write_text(f'{path}.md', _markdown(comparison, tables, from_reference))
  write_text(
      f'{path}.tex', '\n'.join(table_text.latex(rows, f'{protocol}: {caption}') for protocol, rows in tables.items()))
  write_text(f'{path}.csv', _csv(comparison))
  write_json(f'{path}.json', _json(comparison, from_reference))
  write_bytes(f'{path}.png', _figure(comparison))


def _table(comparison: Comparison, protocol: str, significant: set[tuple[str, str, str]]) -> list[list[str]]:
  """Header and rows of a protocol as text: '**0.6951 ± 0.0230 (3) †**'."""
  columns = [['initialisation', *comparison.initialisations]]
  for column, scores in comparison.columns(protocol).items():
    found = {name: over_seeds(by_seed) for name, by_seed in scores.items() if by_seed}
    direction = KINDS[column.task].direction if column.task else 1
    best = max((direction * statistics.mean for statistics in found.values()), default=None)
    texts = dict.fromkeys(scores, '-')
    for name, (mean, spread, runs) in found.items():
      texts[name] = f'{mean:.4f}' + ('' if spread is None else f' ± {spread:.4f}') + f' ({runs})'
      if (name, column.measured, protocol) in significant:
        texts[name] += ' †'
      if direction * mean == best:
        texts[name] = f'**{texts[name]}**'
    columns.append([column.measured, *texts.values()])
  return [list(row) for row in zip(*columns)]


def _markdown(comparison: Comparison, tables: dict[str, list[list[str]]], from_reference: list[dict[str, Any]]) -> str:
  parts = [f'## {protocol}\n\n{table_text.markdown(rows)}' for protocol, rows in tables.items()]
  parts.append(_NOTES.format(reference=markdown_text(comparison.reference)))
  if from_reference:
    rows = table_text.rows_of(from_reference, _DIFFERENCES)
    parts.append(f'## Difference from {markdown_text(comparison.reference)}\n\n{table_text.markdown(rows)}')
  undefined = [
      f'- {markdown_text(job.name)}: {score.metric}\n' for job, result in comparison.results.items()
      for score in scores_of(result) if score.value is None]
  if undefined:
    parts.append('Undefined on these test images, and so left out:\n\n' + ''.join(undefined))
  parts.append(
      table_text.missing_runs(comparison.missing, {job.name: error for job, error in comparison.errors.items()}))
  return '\n'.join(parts)


def _numbers(result: dict[str, Any]) -> dict[str, float]:
  """Every metric of a result but those by class and dimension, of several tasks as TASK_METRIC."""
  parts = {'': result} | {f'{task}_': measured for task, measured in result.get('tasks', {}).items()}
  return {
      f'{prefix}{name}': value
      for prefix, part in parts.items() for name, value in part.items() if isinstance(value, float)}


def _csv(comparison: Comparison) -> str:
  metrics = dict.fromkeys(name for result in comparison.results.values() for name in _numbers(result))
  out = io.StringIO()
  writer = csv.DictWriter(
      out, (*ComparisonJob._fields, 'metric', 'value', *metrics, 'examples', 'checkpoint_step', 'config_hash', 'error'),
      restval='', extrasaction='ignore', lineterminator='\n')
  writer.writeheader()
  rows: list[dict[str, Any]] = []
  for job, result in comparison.results.items():
    rows.append(result | _numbers(result) | job._asdict() | scores_of(result)[0]._asdict())
  rows += [job._asdict() | {'error': error} for job, error in comparison.errors.items()]
  writer.writerows({name: csv_cell(value) for name, value in row.items()} for row in rows)
  return out.getvalue()


def _json(comparison: Comparison, from_reference: list[dict[str, Any]]) -> dict[str, Any]:
  summaries = [{
      'initialisation': name, 'dataset': column.dataset, 'task': column.task, 'protocol': protocol,
      **over_seeds(by_seed)._asdict(), 'by_seed': by_seed}
               for protocol in comparison.protocols
               for column, scores in comparison.columns(protocol).items()
               for name, by_seed in scores.items()
               if by_seed]
  return {
      'reference': comparison.reference, 'seeds': comparison.seeds, 'unfinished': comparison.missing,
      'summaries': summaries, 'compared': from_reference,
      'failures': [{'cell': list(job), 'said': error} for job, error in comparison.errors.items()]}


def _figure(comparison: Comparison) -> bytes:
  """A panel a protocol: every run a point, the mean a line, initialisations side by side within a column."""
  tables = {protocol: comparison.columns(protocol) for protocol in comparison.protocols}
  count = len(comparison.initialisations)
  figure = Figure(
      figsize=(1.5 + 0.55 * max(map(len, tables.values())) * count, 2.6 * len(tables)), layout='constrained')
  panels = figure.subplots(len(tables), 1, squeeze=False)[:, 0]
  step = 0.8 / count
  for axes, (protocol, columns) in zip(panels, tables.items()):
    for index, name in enumerate(comparison.initialisations):
      colour, marker = _COLOURS[index % len(_COLOURS)], _MARKERS[index % len(_MARKERS)]
      for position, scores in enumerate(columns.values()):
        values = list(scores[name].values())
        x = position + (index + 0.5) * step - 0.4
        axes.scatter([x] * len(values), values, s=18, color=colour, marker=marker, alpha=0.8, linewidths=0)
        if values:
          axes.hlines(np.mean(values), x - step / 3, x + step / 3, color=colour)
      axes.scatter([], [], s=18, color=colour, marker=marker, label=name)
    axes.set(title=protocol, xlim=(-0.5, len(columns) - 0.5))
    axes.set_xticks(range(len(columns)), [column.measured for column in columns])
    axes.grid(axis='y', color='#e3e3e3')
    axes.set_axisbelow(True)
  panels[0].legend(fontsize=8, frameon=False, ncols=min(4, count))
  png = io.BytesIO()
  figure.savefig(png, format='png', dpi=120)
  return png.getvalue()
