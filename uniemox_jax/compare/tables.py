"""The tables of `compare`: Markdown and LaTeX for people, CSV with one row per run, JSON, and figures."""

from collections.abc import Mapping, Sequence
import csv
import io
import os
from typing import Any, NamedTuple

from data_pipelines.plain_text import csv_cell, markdown_text
from data_pipelines.storage import write_bytes, write_json, write_text
from uniemox_jax.compare import plots, summary_statistics, table_text
from uniemox_jax.compare.comparison_results import Column, Comparison, ComparisonJob, Scores
from uniemox_jax.compare.families import UNCHANGED, Family, columns_of, curves, families_of, left_out, weighted_sum
from uniemox_jax.compare.resampling import RunScore, interval
from uniemox_jax.objectives.tasks import KINDS

_SIGNIFICANT = 0.05
_DIFFERENCES = {
    'initialisation': ('initialisation', ''), 'measured': ('dataset', ''), 'protocol': ('protocol', ''),
    'difference': ('difference', '+.4f'), 'interval': ('95 % interval', ''), 'p': ('p', '.3g'),
    'p_holm': ("p, Holm's", '.3g'), 'runs': ('pairs', ''), 'seeds_needed': ('', '')}
_NOTES = """Mean ± standard deviation over {repeats}, 95 % interval (runs) on test, or on val where a column says so;
in bold the best mean of a column; † differs from `{reference}` with p < 0.05: Student's t-test of the differences
{pairs}, corrected by Holm for all questions of this page. Intervals are for other seeds *and* other test images; they
are not corrected for the number of questions. See docs/compare.md.
"""


class Question(NamedTuple):
  """The question which initialisation is better. protocol: the protocol, or the name of a mean of several. asked:
  whether the initialisations are compared with the reference."""

  protocol: str
  column: Column
  scores: Scores
  asked: bool = True


def questions(comparison: Comparison) -> list[Question]:
  """The questions of every column of every protocol, then of the means over the members of each family."""
  found = [
      Question(protocol, column, scores, variant.asked)
      for protocol, variant in comparison.variants.items()
      for column, scores in comparison.columns(protocol).items()]
  for family in families_of(comparison.variants, comparison.datasets):
    found += [
        Question(family.question(summary), column, weighted_sum(weights, members), family.asked)
        for column, members in columns_of(family, comparison).items()
        for summary, weights in family.summaries.items()]
  return found


def differences(comparison: Comparison) -> list[dict[str, Any]]:
  """Each initialisation's difference from the reference, by question, with its interval, p and Holm's p over all."""
  rows: list[dict[str, Any]] = []
  for protocol, column, scores, asked in questions(comparison):
    theirs = scores[comparison.reference]
    for name in comparison.initialisations if asked else ():
      if name != comparison.reference and summary_statistics.shared_repeats(scores[name], theirs):
        rows.append({'initialisation': name, **column._asdict(), 'protocol': protocol} |
                    difference_of(scores[name], theirs, comparison.folds, comparison.detect))
  for row, corrected in zip(rows, summary_statistics.holm([row['p'] for row in rows])):
    row['p_holm'] = corrected
  return rows


def difference_of(ours: Mapping[Any, RunScore], theirs: Mapping[Any, RunScore], folds: int = 0,
                  detect: float = 0.0) -> dict[str, Any]:
  """Ours minus theirs, for runs that share a repeat: a `PairedDifference` with interval, half_width, seeds_needed.

  folds, detect: see `Comparison`; without `detect` no seeds are counted.
  """
  pair = summary_statistics.paired_difference(values_of(ours), values_of(theirs), folds)
  assert pair is not None  # the caller saw a repeat that both have
  found = interval([ours[repeat] - theirs[repeat] for repeat in summary_statistics.shared_repeats(ours, theirs)], folds)
  needed = summary_statistics.seeds_needed(pair.spread, detect, folds) if pair.spread and detect else None
  return {**pair._asdict(), 'interval': found and list(found[:2]), 'seeds_needed': needed
         } | ({'half_width': found.half, 'half_width_of_images': found.of_images} if found else {})


def values_of(scores: Mapping[Any, RunScore]) -> dict[Any, float]:
  """The scores on the test images as they are."""
  return {repeat: run.value for repeat, run in scores.items()}


def write(comparison: Comparison, workdir: str) -> list[dict[str, Any]]:
  """Writes comparison.md, .tex, .csv, .json and .png into `workdir`, and comparison_curves.png if there are curves.

  Each file is whole at any time. Returns `differences`.
  """
  from_reference = differences(comparison)
  tables = _tables(comparison, from_reference)
  caption = (
      f'Mean ± standard deviation over {comparison.seeds} seeds, 95 % interval, test. † differs from '
      f'{comparison.reference}, p < 0.05, Holm.')
  path = os.path.join(workdir, 'comparison')
  write_text(f'{path}.md', _markdown(comparison, tables, from_reference))
  write_text(f'{path}.tex', '\n'.join(table_text.latex(rows, f'{title}: {caption}') for title, rows in tables.items()))
  write_text(f'{path}.csv', _csv(comparison))
  write_json(f'{path}.json', _json(comparison, from_reference))
  write_bytes(f'{path}.png', plots.runs_figure(comparison))
  if curves(comparison.variants):
    write_bytes(f'{path}_curves.png', plots.curves_figure(comparison))
  return from_reference


def _tables(comparison: Comparison, from_reference: list[dict[str, Any]]) -> dict[str, list[list[str]]]:
  """Header and rows of each table as text, by its title. Variants of a family are columns of its table."""
  significant = {(row['initialisation'], row['dataset'], row['task'], row['protocol'])
                 for row in from_reference
                 if row['p_holm'] is not None and row['p_holm'] < _SIGNIFICANT}
  variants = comparison.variants
  in_families = {name for family in (*curves(variants), *left_out(variants)) for name in family.members}
  found = {
      protocol: _table(comparison, protocol, significant)
      for protocol, variant in variants.items()
      if protocol not in in_families and protocol == variant.trained}
  for family in families_of(variants, comparison.datasets):
    for column, members in columns_of(family, comparison).items():
      rows = _family_table(comparison, family, column, members, significant)
      if _ranked(family):
        rows = [[*row, *more] for row, more in zip(rows, _worst_and_gap(comparison, family, column, members))]
      found[f'{family.name}{family.title}: {column.measured}'] = rows
  return found


def _table(comparison: Comparison, protocol: str, significant: set[tuple[str, str, str, str]]) -> list[list[str]]:
  """Header and rows of a protocol as text: '**0.6951 ± 0.0230, 0.6601 to 0.7290 (3) †**'."""
  columns = {
      column.measured: _cells(comparison, Question(protocol, column, scores), significant)
      for column, scores in comparison.columns(protocol).items()}
  return _rows(comparison, columns)


def _family_table(
    comparison: Comparison, family: Family, column: Column, members: Mapping[str, Scores],
    significant: set[tuple[str, str, str, str]]) -> list[list[str]]:
  """The columns of a family: its members, and their weighted sums."""
  columns = {
      said: _cells(comparison, Question(protocol, column, members[protocol]), significant)
      for protocol, said in family.members.items()}
  for summary, weights in family.summaries.items():
    question = Question(family.question(summary), column, weighted_sum(weights, members))
    columns[summary] = _cells(comparison, question, significant)
  return _rows(comparison, columns)


def _rows(comparison: Comparison, columns: Mapping[str, list[str]]) -> list[list[str]]:
  parts = [['initialisation', *comparison.initialisations], *([name, *cells] for name, cells in columns.items())]
  return [list(row) for row in zip(*parts)]


def _cells(comparison: Comparison, question: Question, significant: set[tuple[str, str, str, str]]) -> list[str]:
  protocol, column, scores, _ = question
  found = {name: summary_statistics.over_seeds(values_of(runs)) for name, runs in scores.items() if runs}
  direction = KINDS[column.task].direction if column.task else 1
  best = max((direction * statistics.mean for statistics in found.values()), default=None)
  texts = dict.fromkeys(scores, '-')
  for name, (mean, _, _) in found.items():
    texts[name] = runs_text(scores[name], comparison.folds)
    texts[name] += ' †' if (name, column.dataset, column.task, protocol) in significant else ''
    if direction * mean == best:
      texts[name] = f'**{texts[name]}**'
  return list(texts.values())


def runs_text(runs: Mapping[Any, RunScore], folds: int) -> str:
  """Puts the scores of one run or more into words: '0.6951 ± 0.0230, 0.6601 to 0.7290 (3)'."""
  mean, spread, count = summary_statistics.over_seeds(values_of(runs))
  limits = interval(list(runs.values()), folds)
  return (
      f'{mean:.4f}' + ('' if spread is None else f' ± {spread:.4f}') + (f', {limits_text(limits)}' if limits else '') +
      f' ({count})')


def limits_text(limits: Sequence[float], sign: str = '') -> str:
  """Puts limits into words: '0.6601 to 0.7290'; `sign` is '+' for a difference."""
  return f'{limits[0]:{sign}.4f} to {limits[1]:{sign}.4f}'


def _worst_and_gap(comparison: Comparison, family: Family, column: Column, members: Mapping[str,
                                                                                            Scores]) -> list[list[str]]:
  """The member with the worst mean for each initialisation, and how far the best is from it; a header first."""
  rows, direction = [[f'worst {family.ranked}', 'best minus worst']], KINDS[column.task].direction
  ranked = _ranked(family)
  for name in comparison.initialisations:
    means = {
        said: direction * summary_statistics.over_seeds(values_of(members[protocol][name])).mean
        for protocol, said in ranked.items()
        if members[protocol][name]}
    if len(means) < len(ranked):
      rows.append(['-', '-'])
    else:
      worst = min(means, key=means.__getitem__)
      rows.append([f'{worst}: {direction * means[worst]:.4f}', f'{max(means.values()) - means[worst]:.4f}'])
  return rows


def _ranked(family: Family) -> dict[str, str]:
  """The members of which the worst is named, with what they differ in; {} for fewer than two."""
  found = {protocol: said for protocol, said in family.members.items() if family.ranked and said != UNCHANGED}
  return found if len(found) > 1 else {}


def _markdown(comparison: Comparison, tables: dict[str, list[list[str]]], from_reference: list[dict[str, Any]]) -> str:
  parts = [f'## {markdown_text(title)}\n\n{table_text.markdown(rows)}' for title, rows in tables.items()]
  repeats, pairs = ('seeds and folds',
                    'seed by seed and fold by fold') if comparison.folds else ('seeds', 'seed by seed')
  parts.append(_NOTES.format(reference=markdown_text(comparison.reference), repeats=repeats, pairs=pairs))
  if from_reference:
    columns = _DIFFERENCES | {'seeds_needed': (f'seeds for {comparison.detect:g}', '')}
    shown = [
        row | {
            'interval': row['interval'] and limits_text(row['interval'], '+'),
            'seeds_needed': row['seeds_needed'] or (f'> {summary_statistics.MOST_SEEDS}' if row['spread'] else None)}
        for row in from_reference]
    rows = table_text.rows_of(shown, columns)
    parts.append(f'## Difference from {markdown_text(comparison.reference)}\n\n{table_text.markdown(rows)}')
  without = [
      job.name for job in comparison.results if any(
          found is None for found in comparison.resampled.get(job, {'': None}).values())]
  if without:
    parts.append(
        f'{len(without)} runs kept no outputs, as those of an earlier version, and so have no interval, such as '
        f'{markdown_text(without[0])}.\n')
  undefined = [
      f'- {markdown_text(job.name)}: {score.metric}\n' for job, result in comparison.results.items()
      for score in comparison.scores(result) if score.value is None]
  if undefined:
    parts.append('Undefined on these test images, and so left out:\n\n' + ''.join(undefined))
  parts.append(
      table_text.missing_runs(
          len(comparison.unfinished), {job.name: error for job, error in comparison.errors.items()}))
  return '\n'.join(parts)


def _numbers(result: dict[str, Any]) -> dict[str, float]:
  """Every metric of a result except those by class and dimension; of several tasks as TASK_METRIC."""
  parts = {'': result} | {f'{task}_': measured for task, measured in result.get('tasks', {}).items()}
  parts |= {f'{prefix}ambiguity_': part['ambiguity'] for prefix, part in parts.items() if 'ambiguity' in part}
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
    rows.append(result | _numbers(result) | job._asdict() | comparison.scores(result)[0]._asdict())
  rows += [job._asdict() | {'error': error} for job, error in comparison.errors.items()]
  writer.writerows({name: csv_cell(value) for name, value in row.items()} for row in rows)
  return out.getvalue()


def _json(comparison: Comparison, from_reference: list[dict[str, Any]]) -> dict[str, Any]:
  summaries = []
  for protocol, column, scores, _ in questions(comparison):
    for name, runs in scores.items():
      if runs:
        limits = interval(list(runs.values()), comparison.folds)
        summaries.append({
            'initialisation': name, 'dataset': column.dataset, 'task': column.task, 'protocol': protocol,
            **summary_statistics.over_seeds(values_of(runs))._asdict(), 'interval': limits and list(limits[:2]),
            'by_seed': {
                '_'.join(map(str, repeat)) if isinstance(repeat, tuple) else repeat: run.value
                for repeat, run in runs.items()}})
  return {
      'reference': comparison.reference, 'seeds': comparison.seeds, 'folds': comparison.folds,
      'unfinished': len(comparison.unfinished), 'summaries': summaries, 'compared': from_reference,
      'failures': [{'cell': [part
                             for part in job
                             if part is not None], 'said': error}
                   for job, error in comparison.errors.items()]}
