"""What a table of repeated runs tells: mean, spread, runs, and paired differences; as Markdown and LaTeX."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats


class Summary(NamedTuple):
  """Over seeds. spread: standard deviation with n - 1; None of a single run."""

  mean: float
  spread: float | None
  runs: int


class Paired(NamedTuple):
  """Mean difference over the seeds that both have. p: of Student's paired t-test, two-sided; None with fewer than two
  seeds, or where the difference is the same for all of them."""

  difference: float
  p: float | None
  runs: int


def summarise(values: Sequence[float]) -> Summary:
  """Of at least one value."""
  return Summary(float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else None, len(values))


def paired(ours: Mapping[int, float], theirs: Mapping[int, float]) -> Paired | None:
  """Ours minus theirs, seed by seed: the same seed drew the same order of images. None where they share no seed."""
  seeds = sorted(ours.keys() & theirs.keys())
  if not seeds:
    return None
  differences = np.array([ours[seed] - theirs[seed] for seed in seeds], np.float64)
  # What rounding leaves of equal differences is no spread.
  varies = len(seeds) > 1 and np.ptp(differences) > 1e-12
  p = float(stats.ttest_1samp(differences, 0.0).pvalue) if varies else None
  return Paired(float(differences.mean()), p, len(seeds))


def holm(p_values: Sequence[float | None]) -> list[float | None]:
  """Holm's correction for asking several questions of one table; None stays, and does not count as asked."""
  asked = sorted((p, index) for index, p in enumerate(p_values) if p is not None)
  corrected: list[float | None] = [None] * len(p_values)
  largest = 0.0
  for rank, (p, index) in enumerate(asked):
    largest = max(largest, min(1.0, (len(asked) - rank) * p))
    corrected[index] = largest
  return corrected


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
  """A table, bars inside cells escaped."""
  lines = [header, ['---'] * len(header), *rows]
  return '\n'.join('| ' + ' | '.join(cell.replace('|', r'\|') for cell in line) + ' |' for line in lines) + '\n'


def unfinished(count: int, failures: Mapping[str, str]) -> str:
  """Says how many runs are missing, and what those that failed said; nothing where none is missing."""
  if not count:
    return ''
  lines = [f'- {name} failed: {said}' for name, said in failures.items()]
  return f'{count} runs have no result yet' + (':\n\n' + '\n'.join(lines) if lines else '.') + '\n'


def latex(header: Sequence[str], rows: Sequence[Sequence[str]], caption: str) -> str:
  """A booktabs table; cells are plain text, in which `**` around a cell makes it bold."""
  body = [' & '.join(map(_latex_cell, line)) + r' \\' for line in rows]
  return '\n'.join([
      r'% needs \usepackage{booktabs}', r'\begin{table}', r'\centering', rf'\caption{{{_latex_text(caption)}}}',
      rf'\begin{{tabular}}{{{"l" * len(header)}}}', r'\toprule', ' & '.join(map(_latex_cell, header)) + r' \\',
      r'\midrule', *body, r'\bottomrule', r'\end{tabular}', r'\end{table}', ''])


def _latex_cell(cell: str) -> str:
  bold = cell.startswith('**') and cell.endswith('**') and len(cell) > 4
  text = _latex_text(cell[2:-2] if bold else cell)
  return rf'\textbf{{{text}}}' if bold else text


_LATEX = {
    '\\': r'\textbackslash{}', '&': r'\&', '%': r'\%', '$': r'\$', '#': r'\#', '_': r'\_', '{': r'\{', '}': r'\}',
    '~': r'\textasciitilde{}', '^': r'\textasciicircum{}', '±': r'$\pm$', '−': r'$-$', '<': r'$<$', '>': r'$>$',
    '†': r'$^\dagger$'}


def _latex_text(text: str) -> str:
  return ''.join(_LATEX.get(character, character) for character in text)
