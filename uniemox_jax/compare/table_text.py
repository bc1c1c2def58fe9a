"""Writes tables as Markdown and LaTeX, from rows of plain text with the header first; and says what a table lacks."""

from collections.abc import Iterable, Mapping, Sequence
import re
from typing import Any

from data_pipelines.plain_text import markdown_text

_LATEX = str.maketrans({
    '\\': r'\textbackslash{}', '&': r'\&', '%': r'\%', '$': r'\$', '#': r'\#', '_': r'\_', '{': r'\{', '}': r'\}',
    '~': r'\textasciitilde{}', '^': r'\textasciicircum{}', '±': r'$\pm$', '−': r'$-$', '<': r'$<$', '>': r'$>$',
    '†': r'$^\dagger$'})


def rows_of(values: Iterable[Mapping[str, Any]], columns: Mapping[str, tuple[str, str]]) -> list[list[str]]:
  """Makes a header, and a row for each of `values`, '-' for None. `columns` has a heading and a format by key."""
  header = [heading for heading, _ in columns.values()]
  return [
      header,
      *(['-' if row[key] is None else format(row[key], form) for key, (_, form) in columns.items()] for row in values)]


def markdown(rows: Sequence[Sequence[str]]) -> str:
  """Writes a table in Markdown, with its texts escaped."""
  lines = [rows[0], ['---'] * len(rows[0]), *rows[1:]]
  return ''.join('| ' + ' | '.join(map(markdown_text, line)) + ' |\n' for line in lines)


def latex(rows: Sequence[Sequence[str]], caption: str) -> str:
  """Writes a booktabs table; `**` around a text makes it bold."""
  header, *body = [' & '.join(map(_latex_text, row)) + r' \\' for row in rows]
  return '\n'.join([
      r'% needs \usepackage{booktabs}', r'\begin{table}', r'\centering', rf'\caption{{{caption.translate(_LATEX)}}}',
      rf'\begin{{tabular}}{{{"l" * len(rows[0])}}}', r'\toprule', header, r'\midrule', *body, r'\bottomrule',
      r'\end{tabular}', r'\end{table}', ''])


def _latex_text(text: str) -> str:
  bold = re.fullmatch(r'\*\*(.+)\*\*', text)
  return rf'\textbf{{{bold[1].translate(_LATEX)}}}' if bold else text.translate(_LATEX)


def missing_runs(count: int, errors: Mapping[str, str]) -> str:
  """Says how many runs have no result, and the error of each that failed, by its name; '' if none is missing."""
  if not count:
    return ''
  lines = [f'- {markdown_text(name)} failed: {markdown_text(error)}' for name, error in errors.items()]
  return f'{count} runs have no result yet' + (':\n\n' + '\n'.join(lines) if lines else '.') + '\n'
