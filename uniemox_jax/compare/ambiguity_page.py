"""The page about images on which annotators disagree: runs that learned votes, or their majority, by the same measures.

It is written if results have `eval.ambiguity`: ambiguity.md and .json, and ambiguity.png with the risk by coverage.
"""

from collections.abc import Iterator, Mapping
import itertools
import os
from typing import Any, NamedTuple

import numpy as np

from data_pipelines.plain_text import markdown_text
from data_pipelines.storage import write_bytes, write_json, write_text
from uniemox_jax.compare import plots, summary_statistics, table_text
from uniemox_jax.compare.comparison_results import Comparison, ComparisonJob, Scores
from uniemox_jax.compare.resampling import RunScore, interval, resampled_measure
from uniemox_jax.compare.tables import difference_of, limits_text, runs_text, values_of
from uniemox_jax.eval.ambiguity import MEASURES
from uniemox_jax.eval.kept_outputs import read_answers

PAGE = 'ambiguity.md'
_DIFFERENCES = {
    'measure': ('measure', ''), 'initialisation': ('initialisation', ''), 'votes': ('of', ''),
    'majority': ('minus', ''), 'difference': ('difference', '+.4f'), 'interval': ('95 % interval', ''),
    'p': ('p', '.3g'), 'p_holm': ("p, Holm's", '.3g'), 'runs': ('pairs', '')}
_NOTES = """Mean ± standard deviation over runs, 95 % interval (runs), all over the same classes; in bold the best of a
measure. Differences are of what learned votes minus what learned the majority, by Student's paired t-test, corrected by
Holm for all questions of this page. docs/compare.md says what each measure means.
"""


class Learned(NamedTuple):
  """A column: what was learned under a protocol of the comparison. task: 'distribution' learns votes, 'label' the
  majority. heading: the protocol, with the task where it has both."""

  protocol: str
  task: str
  heading: str


Measured = Mapping[str, Mapping[Learned, Scores]]
"""The finished runs of a dataset, by measure and column."""


def write_ambiguity(comparison: Comparison, workdir: str) -> None:
  """Writes the page of the results that have both truths; nothing if none has. Each file is whole at any time."""
  found = {dataset: _measured(comparison, dataset, workdir) for dataset in comparison.datasets}
  found = {dataset: by_measure for dataset, by_measure in found.items() if by_measure}
  if not found:
    return
  compared = {dataset: _compared(comparison, by_measure) for dataset, by_measure in found.items()}
  every = list(itertools.chain(*compared.values()))
  for row, corrected in zip(every, summary_statistics.holm([row['p'] for row in every])):
    row['p_holm'] = corrected
  path = os.path.join(workdir, PAGE.removesuffix('.md'))
  write_text(f'{path}.md', _markdown(comparison, found, compared))
  write_json(
      f'{path}.json', {
          dataset: {'summaries': list(_summaries(comparison, by_measure)), 'compared': compared[dataset]}
          for dataset, by_measure in found.items()})
  write_bytes(
      f'{path}.png',
      plots.risk_figure({
          dataset: _risks(comparison, by_measure, dataset, workdir) for dataset, by_measure in found.items()}))


def _blocks(result: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
  """What a result has of each task under 'ambiguity'."""
  parts = result.get('tasks', {'label': result})
  return {task: part['ambiguity'] for task, part in parts.items() if 'ambiguity' in part}


def _jobs(comparison: Comparison, dataset: str, protocol: str) -> list[ComparisonJob]:
  return [job for job in comparison.jobs if job[1:3] == (dataset, protocol) and job in comparison.results]


def _measured(comparison: Comparison, dataset: str, workdir: str) -> Measured:
  columns = []
  for protocol, variant in comparison.variants.items():
    if protocol != variant.trained:  # Changed images, and groups of images, are not asked for here.
      continue
    tasks = dict.fromkeys(
        task for job in _jobs(comparison, dataset, protocol) for task in _blocks(comparison.results[job]))
    columns += [Learned(protocol, task, protocol if len(tasks) == 1 else f'{protocol}, {task}') for task in tasks]
  return {
      measure: {column: _scores(comparison, dataset, column, measure, workdir) for column in columns}
      for measure in MEASURES} if columns else {}


def _scores(comparison: Comparison, dataset: str, column: Learned, measure: str, workdir: str) -> Scores:
  scores: dict[str, dict[Any, RunScore]] = {name: {} for name in comparison.initialisations}
  for job in _jobs(comparison, dataset, column.protocol):
    result = comparison.results[job]
    if (value := _blocks(result).get(column.task, {}).get(measure)) is not None:
      drawn_R = resampled_measure(job.folder(workdir), result['config_hash'], column.task, measure)
      scores[job.initialisation][job.repeat] = RunScore(value, drawn_R)
  return scores


def _compared(comparison: Comparison, by_measure: Measured) -> list[dict[str, Any]]:
  """What learned votes minus what learned the majority, on the same domain and fraction of the labels."""
  rows = []
  for measure, columns in by_measure.items():
    of_votes, of_majority = (
        [column for column in columns if column.task == task] for task in ('distribution', 'label'))
    for ours, theirs in itertools.product(of_votes, of_majority):
      if comparison.variants[ours.protocol][1:] != comparison.variants[theirs.protocol][1:]:
        continue
      for name in comparison.initialisations:
        pair = columns[ours][name], columns[theirs][name]
        if summary_statistics.shared_repeats(*pair):
          rows.append({
              'measure': measure, 'initialisation': name, 'votes': ours.heading, 'majority': theirs.heading,
              **difference_of(*pair, comparison.folds, comparison.detect)})
  return rows


def _summaries(comparison: Comparison, by_measure: Measured) -> Iterator[dict[str, Any]]:
  for measure, columns in by_measure.items():
    for column, scores in columns.items():
      for name, runs in scores.items():
        if runs:
          limits = interval(list(runs.values()), comparison.folds)
          yield {
              'measure': measure, 'initialisation': name, 'protocol': column.protocol, 'task': column.task,
              **summary_statistics.over_seeds(values_of(runs))._asdict(), 'interval': limits and list(limits[:2])}


def _risks(comparison: Comparison, by_measure: Measured, dataset: str,
           workdir: str) -> dict[tuple[str, str], np.ndarray]:
  """The curve of each initialisation and column, the mean over the runs that kept their outputs."""
  risks: dict[tuple[str, str], list[np.ndarray]] = {}
  for name, column in itertools.product(comparison.initialisations, next(iter(by_measure.values()))):
    for job in _jobs(comparison, dataset, column.protocol):
      result = comparison.results[job]
      if job.initialisation != name or column.task not in _blocks(result):
        continue
      if kept := read_answers(job.folder(workdir), result['config_hash'], column.task):
        risks.setdefault((name, column.heading), []).append(kept[1].risk(plots.COVERAGES))
  return {key: np.mean(curves, axis=0) for key, curves in risks.items()}


def _markdown(
    comparison: Comparison, found: Mapping[str, Measured], compared: Mapping[str, list[dict[str, Any]]]) -> str:
  parts = ['# Where annotators disagree\n']
  for dataset, by_measure in found.items():
    parts.append(f'## {markdown_text(dataset)}\n\n{table_text.markdown(_table(comparison, by_measure))}')
    if rows := compared[dataset]:
      shown = [row | {'interval': row['interval'] and limits_text(row['interval'], '+')} for row in rows]
      table = table_text.markdown(table_text.rows_of(shown, _DIFFERENCES))
      parts.append(f'### Votes minus majority, {markdown_text(dataset)}\n\n{table}')
  return '\n'.join([*parts, _NOTES])


def _table(comparison: Comparison, by_measure: Measured) -> list[list[str]]:
  """A header, and a row for each measure and initialisation."""
  rows = [[
      'measure', 'truth', 'better', 'initialisation', *(column.heading for column in next(iter(by_measure.values())))]]
  for measure, columns in by_measure.items():
    _, truth, direction = MEASURES[measure]
    means = {(name, column): summary_statistics.over_seeds(values_of(scores[name])).mean
             for column, scores in columns.items() for name in comparison.initialisations if scores[name]}
    best = max((direction * mean for mean in means.values()), default=None)
    for name in comparison.initialisations:
      cells = []
      for column, scores in columns.items():
        text = runs_text(scores[name], comparison.folds) if scores[name] else '-'
        cells.append(f'**{text}**' if direction * means.get((name, column), np.nan) == best else text)
      rows.append([measure, truth, 'higher' if direction > 0 else 'lower', name, *cells])
  return rows
