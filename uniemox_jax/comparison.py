"""The tables of `compare`: Markdown and LaTeX for people, CSV with a row a run, JSON, and a picture."""

import csv
import io
import os
from typing import Any, NamedTuple

from matplotlib.figure import Figure
import numpy as np

from uniemox_jax import tables
from uniemox_jax.files import write_bytes, write_json, write_text
from uniemox_jax.tasks import KINDS

Key = tuple[str, str, str, int]
"""Initialisation, dataset, protocol, seed."""
_BEYOND_CHANCE = 0.05
_COLOURS = ('#0072b2', '#d55e00', '#5f5f5f', '#009e73', '#cc79a7', '#e69f00', '#56b4e9')
_MARKERS = ('o', 's', '^', 'D', 'v', 'P', 'X')
_METRICS = ('top1', 'top3', 'macro_f1', 'balanced_accuracy', 'ece', 'loss')
_COLUMNS = ('initialisation', 'dataset', 'protocol', 'seed', 'metric', 'value', *_METRICS, 'examples',
            'checkpoint_step', 'config_hash', 'error')
NOTES = """Mean ± standard deviation over seeds (number of runs) on test; in bold the best mean of a column; † differs
from `{reference}` with p < 0.05: Student's t-test of the differences seed by seed, corrected by Holm for all questions
of this page. Few seeds can show only large differences, and seeds do not vary the test pictures: see docs/compare.md.
"""


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

  def scores(self, initialisation: str, dataset: str, protocol: str) -> dict[int, float]:
    """The headline metric by seed, of finished runs."""
    keys = ((initialisation, dataset, protocol, seed) for seed in range(self.seeds))
    values = {key[-1]: headline(self.results[key])[1] for key in keys if key in self.results}
    return {seed: value for seed, value in values.items() if value is not None}

  def measured(self, dataset: str, protocol: str) -> dict[str, Any] | None:
    """Some result of them, which tells the metric; None where there is none yet."""
    return next((result for key, result in self.results.items() if key[1:3] == (dataset, protocol)), None)

  @property
  def unfinished(self) -> int:
    """How many cells have no result."""
    return len(self.initialisations) * len(self.datasets) * len(self.protocols) * self.seeds - len(self.results)


def headline(result: dict[str, Any]) -> tuple[str, float | None]:
  """Name and value of the metric that a result is compared by: that of its first task (`tasks.KINDS`); None where the
  test split leaves it undefined."""
  task, score = _first_task(result), KINDS[_first_task(result)].score
  if 'tasks' not in result:
    return score, result[score]
  return f'{task} {score}', result['tasks'][task][score]


def _first_task(result: dict[str, Any]) -> str:
  return next(iter(result['tasks'])) if 'tasks' in result else 'label'


def compared(table: Table) -> list[dict[str, Any]]:
  """Each initialisation's difference from the reference, by dataset and protocol, with p and Holm's p over all."""
  rows = []
  for protocol in table.protocols:
    for dataset in table.datasets:
      theirs = table.scores(table.reference, dataset, protocol)
      for name in table.initialisations:
        if name != table.reference and (pair := tables.paired(table.scores(name, dataset, protocol), theirs)):
          rows.append({'initialisation': name, 'dataset': dataset, 'protocol': protocol, **pair._asdict()})
  for row, corrected in zip(rows, tables.holm([row['p'] for row in rows])):
    row['p_holm'] = corrected
  return rows


def write(table: Table, workdir: str) -> None:
  """Writes comparison.md, .tex, .csv, .json and .png into `workdir`; each is whole at any time."""
  pairs = compared(table)
  beyond = {(row['initialisation'], row['dataset'], row['protocol']) for row in pairs
            if row['p_holm'] is not None and row['p_holm'] < _BEYOND_CHANCE}
  texts = {protocol: _texts(table, protocol, beyond) for protocol in table.protocols}
  headers = {protocol: ['initialisation', *_headings(table, protocol)] for protocol in table.protocols}
  path = os.path.join(workdir, 'comparison')
  write_text(f'{path}.md', _markdown(table, headers, texts, pairs))
  caption = (f'Mean ± standard deviation over {table.seeds} seeds, test. † differs from {table.reference}, p < 0.05, '
             'Holm.')
  write_text(f'{path}.tex', '\n'.join(tables.latex(headers[protocol], rows, f'{protocol}: {caption}')
                                      for protocol, rows in texts.items()))
  write_text(f'{path}.csv', _csv(table))
  write_json(f'{path}.json', _json(table, pairs))
  write_bytes(f'{path}.png', _picture(table))


def _headings(table: Table, protocol: str) -> list[str]:
  """Datasets, each with its metric as soon as a run tells it."""
  measured = {dataset: table.measured(dataset, protocol) for dataset in table.datasets}
  return [f'{dataset}, {headline(result)[0]}' if result else dataset for dataset, result in measured.items()]


def _texts(table: Table, protocol: str, beyond: set[tuple[str, str, str]]) -> list[list[str]]:
  """A protocol's rows as text: '**0.6951 ± 0.0230 (3) †**'."""
  rows = [[name] for name in table.initialisations]
  for dataset in table.datasets:
    summaries = [tables.summarise(list(scores.values())) if scores else None for scores in (
        table.scores(name, dataset, protocol) for name in table.initialisations)]
    result = table.measured(dataset, protocol)
    sign = KINDS[_first_task(result)].direction if result else 1
    best = max((sign * summary.mean for summary in summaries if summary), default=None)
    for row, summary in zip(rows, summaries):
      if summary is None:
        row.append('-')
        continue
      spread = '' if summary.spread is None else f' ± {summary.spread:.4f}'
      mark = ' †' if (row[0], dataset, protocol) in beyond else ''
      text = f'{summary.mean:.4f}{spread} ({summary.runs}){mark}'
      row.append(f'**{text}**' if sign * summary.mean == best else text)
  return rows


def _markdown(table: Table, headers: dict[str, list[str]], texts: dict[str, list[list[str]]],
              pairs: list[dict[str, Any]]) -> str:
  parts = [f'## {protocol}\n\n{tables.markdown(headers[protocol], rows)}' for protocol, rows in texts.items()]
  parts.append(NOTES.format(reference=table.reference))
  if pairs:
    lines = [[row['initialisation'], row['dataset'], row['protocol'], f"{row['difference']:+.4f}",
              *('-' if row[key] is None else f'{row[key]:.3g}' for key in ('p', 'p_holm')), str(row['runs'])]
             for row in pairs]
    parts.append(f'## Difference from {table.reference}\n\n' + tables.markdown(
        ['initialisation', 'dataset', 'protocol', 'difference', 'p', "p, Holm's", 'pairs'], lines))
  undefined = [key for key, result in table.results.items() if headline(result)[1] is None]
  if undefined:
    parts.append('Undefined on these test pictures, and so left out:\n\n' + '\n'.join(
        f'- {"/".join(map(str, key[:3]))} seed {key[3]}' for key in undefined) + '\n')
  if table.unfinished:
    parts.append(f'{table.unfinished} runs have no result yet' + (':' if table.failures else '.') + '\n')
    parts.append('\n'.join(f'- {"/".join(map(str, key[:3]))} seed {key[3]} failed: {said}'
                           for key, said in table.failures.items()) + '\n')
  return '\n'.join(parts)


def _csv(table: Table) -> str:
  out = io.StringIO()
  writer = csv.DictWriter(out, _COLUMNS, restval='', extrasaction='ignore', lineterminator='\n')
  writer.writeheader()
  for key, result in table.results.items():
    metric, value = headline(result)
    writer.writerow(result | dict(zip(_COLUMNS, (*key, metric, value))))
  for key, said in table.failures.items():
    writer.writerow(dict(zip(_COLUMNS, key)) | {'error': said})
  return out.getvalue()


def _json(table: Table, pairs: list[dict[str, Any]]) -> dict[str, Any]:
  summaries = []
  for protocol in table.protocols:
    for dataset in table.datasets:
      for name in table.initialisations:
        if scores := table.scores(name, dataset, protocol):
          summaries.append({'initialisation': name, 'dataset': dataset, 'protocol': protocol,
                            **tables.summarise(list(scores.values()))._asdict(), 'by_seed': scores})
  return {'reference': table.reference, 'seeds': table.seeds, 'unfinished': table.unfinished, 'summaries': summaries,
          'compared': pairs, 'failures': [{'cell': list(key), 'said': said} for key, said in table.failures.items()]}


def _picture(table: Table) -> bytes:
  """A panel a protocol: every run a point, the mean a line, initialisations side by side within a dataset."""
  figure = Figure(figsize=(1.5 + 0.55 * len(table.datasets) * len(table.initialisations), 2.6 * len(table.protocols)),
                  layout='constrained')
  panels = figure.subplots(len(table.protocols), 1, squeeze=False)[:, 0]
  step = 0.8 / len(table.initialisations)
  for axes, protocol in zip(panels, table.protocols):
    for index, name in enumerate(table.initialisations):
      colour, marker = _COLOURS[index % len(_COLOURS)], _MARKERS[index % len(_MARKERS)]
      for column, dataset in enumerate(table.datasets):
        values = list(table.scores(name, dataset, protocol).values())
        place = column + (index + 0.5) * step - 0.4
        axes.scatter([place] * len(values), values, s=18, color=colour, marker=marker, alpha=0.8, linewidths=0)
        if values:
          axes.hlines(np.mean(values), place - step / 3, place + step / 3, color=colour)
      axes.scatter([], [], s=18, color=colour, marker=marker, label=name)
    axes.set(title=protocol, xlim=(-0.5, len(table.datasets) - 0.5))
    axes.set_xticks(range(len(table.datasets)), _headings(table, protocol))
    axes.grid(axis='y', color='#e3e3e3')
    axes.set_axisbelow(True)
  panels[0].legend(fontsize=8, frameon=False, ncols=min(4, len(table.initialisations)))
  png = io.BytesIO()
  figure.savefig(png, format='png', dpi=120)
  return png.getvalue()
