"""The tables of `compare`: Markdown and LaTeX for people, CSV with a row a run, JSON, and a figure."""

import csv
import io
import os
from typing import Any, NamedTuple

from matplotlib.figure import Figure
import numpy as np

from uniemox_jax.compare import summary_statistics
from uniemox_jax.objectives.tasks import KINDS
from uniemox_jax.runtime.files import write_bytes, write_json, write_text

Key = tuple[str, str, str, int]
"""Initialisation, dataset, protocol, seed."""
_BEYOND_CHANCE = 0.05
_COLOURS = ('#0072b2', '#d55e00', '#5f5f5f', '#009e73', '#cc79a7', '#e69f00', '#56b4e9')
_MARKERS = ('o', 's', '^', 'D', 'v', 'P', 'X')
_BEFORE = ('initialisation', 'dataset', 'protocol', 'seed', 'metric', 'value')
_AFTER = ('examples', 'checkpoint_step', 'config_hash', 'error')
NOTES = """Mean ± standard deviation over seeds (number of runs) on test; in bold the best mean of a column; † differs
from `{reference}` with p < 0.05: Student's t-test of the differences seed by seed, corrected by Holm for all questions
of this page. Few seeds can show only large differences, and seeds do not vary the test images: see docs/compare.md.
"""


class Column(NamedTuple):
  """Of a protocol's table: a dataset and one of its tasks, '' until a run has finished."""

  dataset: str
  task: str


class Table(NamedTuple):
  """Everything there is to tell.

  initialisations, datasets, protocols: in the order of rows, columns and tables; seeds: how many were asked for;
  reference: the initialisation that all others are compared with; results: content of result.json by cell; failures:
  what cells that failed said.
  """

  initialisations: tuple[str, ...]
  datasets: tuple[str, ...]
  protocols: tuple[str, ...]
  seeds: int
  reference: str
  results: dict[Key, dict[str, Any]]
  failures: dict[Key, str]

  def scores(self, initialisation: str, column: Column, protocol: str) -> dict[int, float]:
    """The task's metric by seed, of finished runs."""
    keys = ((initialisation, column.dataset, protocol, seed) for seed in range(self.seeds))
    values = {key[-1]: score_of(self.results[key], column.task) for key in keys if key in self.results}
    return {seed: value for seed, value in values.items() if value is not None}

  def columns(self, protocol: str) -> dict[Column, str]:
    """The columns of a protocol's table, with their headings: 'emo8, top1', or 'fi' where no run is finished."""
    found = {}
    for dataset in self.datasets:
      result = next((result for key, result in self.results.items() if key[1:3] == (dataset, protocol)), None)
      if result is None:
        found[Column(dataset, '')] = dataset
      else:
        found |= {Column(dataset, task): f'{dataset}, {_metric(result, task)}' for task in _tasks(result)}
    return found

  @property
  def unfinished(self) -> int:
    """How many cells have no result."""
    return len(self.initialisations) * len(self.datasets) * len(self.protocols) * self.seeds - len(self.results)


def _tasks(result: dict[str, Any]) -> list[str]:
  return list(result['tasks']) if 'tasks' in result else ['label']


def _metric(result: dict[str, Any], task: str) -> str:
  return f'{task} {KINDS[task].score}' if 'tasks' in result else KINDS[task].score


def score_of(result: dict[str, Any], task: str) -> float | None:
  """The metric that results of a task are compared by (`tasks.KINDS`); None where the test split leaves it undefined,
  or the run has not learned the task."""
  if task not in _tasks(result):
    return None
  return (result['tasks'][task] if 'tasks' in result else result)[KINDS[task].score]


def headline(result: dict[str, Any]) -> tuple[str, float | None]:
  """Name and value of the metric of a result's first task, which chose its epoch; see `score_of`."""
  first = _tasks(result)[0]
  return _metric(result, first), score_of(result, first)


def compared(table: Table) -> list[dict[str, Any]]:
  """Each initialisation's difference from the reference, by column and protocol, with p and Holm's p over all."""
  rows = []
  for protocol in table.protocols:
    for column, heading in table.columns(protocol).items():
      theirs = table.scores(table.reference, column, protocol)
      for name in table.initialisations:
        if name != table.reference and (pair := summary_statistics.paired(table.scores(name, column, protocol),
                                                                          theirs)):
          rows.append({
              'initialisation': name, **column._asdict(), 'measured': heading, 'protocol': protocol, **pair._asdict()})
  for row, corrected in zip(rows, summary_statistics.holm([row['p'] for row in rows])):
    row['p_holm'] = corrected
  return rows


def write(table: Table, workdir: str) -> None:
  """Writes comparison.md, .tex, .csv, .json and .png into `workdir`; each is whole at any time."""
  pairs = compared(table)
  beyond = {(row['initialisation'], Column(row['dataset'], row['task']), row['protocol'])
            for row in pairs
            if row['p_holm'] is not None and row['p_holm'] < _BEYOND_CHANCE}
  texts = {protocol: _texts(table, protocol, beyond) for protocol in table.protocols}
  headers = {protocol: ['initialisation', *table.columns(protocol).values()] for protocol in table.protocols}
  path = os.path.join(workdir, 'comparison')
  write_text(f'{path}.md', _markdown(table, headers, texts, pairs))
  caption = (
      f'Mean ± standard deviation over {table.seeds} seeds, test. † differs from {table.reference}, p < 0.05, '
      'Holm.')
  write_text(
      f'{path}.tex', '\n'.join(
          summary_statistics.latex(headers[protocol], rows, f'{protocol}: {caption}')
          for protocol, rows in texts.items()))
  write_text(f'{path}.csv', _csv(table))
  write_json(f'{path}.json', _json(table, pairs))
  write_bytes(f'{path}.png', _picture(table))


def _texts(table: Table, protocol: str, beyond: set[tuple[str, Column, str]]) -> list[list[str]]:
  """A protocol's rows as text: '**0.6951 ± 0.0230 (3) †**'."""
  rows = [[name] for name in table.initialisations]
  for column in table.columns(protocol):
    summaries = [
        summary_statistics.summarise(list(scores.values())) if scores else None
        for scores in (table.scores(name, column, protocol) for name in table.initialisations)]
    sign = KINDS[column.task].direction if column.task else 1
    best = max((sign * summary.mean for summary in summaries if summary), default=None)
    for row, summary in zip(rows, summaries):
      if summary is None:
        row.append('-')
        continue
      spread = '' if summary.spread is None else f' ± {summary.spread:.4f}'
      mark = ' †' if (row[0], column, protocol) in beyond else ''
      text = f'{summary.mean:.4f}{spread} ({summary.runs}){mark}'
      row.append(f'**{text}**' if sign * summary.mean == best else text)
  return rows


def _markdown(
    table: Table, headers: dict[str, list[str]], texts: dict[str, list[list[str]]], pairs: list[dict[str, Any]]) -> str:
  parts = [
      f'## {protocol}\n\n{summary_statistics.markdown(headers[protocol], rows)}' for protocol, rows in texts.items()]
  parts.append(NOTES.format(reference=table.reference))
  if pairs:
    lines = [[
        row['initialisation'], row['measured'], row['protocol'], f"{row['difference']:+.4f}",
        *('-' if row[key] is None else f'{row[key]:.3g}' for key in ('p', 'p_holm')),
        str(row['runs'])] for row in pairs]
    parts.append(
        f'## Difference from {table.reference}\n\n' + summary_statistics.markdown(
            ['initialisation', 'dataset', 'protocol', 'difference', 'p', "p, Holm's", 'pairs'], lines))
  undefined = [
      f'- {_named(key)}: {_metric(result, task)}' for key, result in table.results.items() for task in _tasks(result)
      if score_of(result, task) is None]
  if undefined:
    parts.append('Undefined on these test images, and so left out:\n\n' + '\n'.join(undefined) + '\n')
  parts.append(
      summary_statistics.unfinished(table.unfinished, {_named(key): said for key, said in table.failures.items()}))
  return '\n'.join(parts)


def _named(key: Key) -> str:
  return f'{"/".join(key[:3])} seed {key[3]}'


def _numbers(result: dict[str, Any]) -> dict[str, float]:
  """Every metric of a result but those by class and dimension, of several tasks as TASK_METRIC."""
  parts = {'': result} | {f'{task}_': measured for task, measured in result.get('tasks', {}).items()}
  return {
      f'{prefix}{name}': value
      for prefix, part in parts.items() for name, value in part.items() if isinstance(value, float)}


def _csv(table: Table) -> str:
  numbers = {key: _numbers(result) for key, result in table.results.items()}
  metrics = dict.fromkeys(name for found in numbers.values() for name in found)
  out = io.StringIO()
  writer = csv.DictWriter(out, (*_BEFORE, *metrics, *_AFTER), restval='', extrasaction='ignore', lineterminator='\n')
  writer.writeheader()
  for key, result in table.results.items():
    writer.writerow(result | numbers[key] | dict(zip(_BEFORE, (*key, *headline(result)))))
  for key, said in table.failures.items():
    writer.writerow(dict(zip(_BEFORE, key)) | {'error': said})
  return out.getvalue()


def _json(table: Table, pairs: list[dict[str, Any]]) -> dict[str, Any]:
  summaries = []
  for protocol in table.protocols:
    for column in table.columns(protocol):
      for name in table.initialisations:
        if scores := table.scores(name, column, protocol):
          summaries.append({
              'initialisation': name, **column._asdict(), 'protocol': protocol,
              **summary_statistics.summarise(list(scores.values()))._asdict(), 'by_seed': scores})
  return {
      'reference': table.reference, 'seeds': table.seeds, 'unfinished': table.unfinished, 'summaries': summaries,
      'compared': pairs, 'failures': [{'cell': list(key), 'said': said} for key, said in table.failures.items()]}


def _picture(table: Table) -> bytes:
  """A panel a protocol: every run a point, the mean a line, initialisations side by side within a column."""
  columns = {protocol: table.columns(protocol) for protocol in table.protocols}
  widest = max(map(len, columns.values()))
  figure = Figure(
      figsize=(1.5 + 0.55 * widest * len(table.initialisations), 2.6 * len(table.protocols)), layout='constrained')
  panels = figure.subplots(len(table.protocols), 1, squeeze=False)[:, 0]
  step = 0.8 / len(table.initialisations)
  for axes, protocol in zip(panels, table.protocols):
    for index, name in enumerate(table.initialisations):
      colour, marker = _COLOURS[index % len(_COLOURS)], _MARKERS[index % len(_MARKERS)]
      for position, column in enumerate(columns[protocol]):
        values = list(table.scores(name, column, protocol).values())
        place = position + (index + 0.5) * step - 0.4
        axes.scatter([place] * len(values), values, s=18, color=colour, marker=marker, alpha=0.8, linewidths=0)
        if values:
          axes.hlines(np.mean(values), place - step / 3, place + step / 3, color=colour)
      axes.scatter([], [], s=18, color=colour, marker=marker, label=name)
    axes.set(title=protocol, xlim=(-0.5, len(columns[protocol]) - 0.5))
    axes.set_xticks(range(len(columns[protocol])), columns[protocol].values())
    axes.grid(axis='y', color='#e3e3e3')
    axes.set_axisbelow(True)
  panels[0].legend(fontsize=8, frameon=False, ncols=min(4, len(table.initialisations)))
  png = io.BytesIO()
  figure.savefig(png, format='png', dpi=120)
  return png.getvalue()
