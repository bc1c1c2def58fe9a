"""Writes the parts of the documentation that come from the code: python -m docs.generate. --check only compares.

A part stands between `<!-- NAME -->` and `<!-- /NAME -->`. With --check, exit code 1 means that a page is out of date.
"""

import ast
from collections.abc import Callable
import html
from pathlib import Path
import re
import sys
import tomllib

from data_pipelines.table.columns import ROLES
from uniemox_jax.train.config import CONFIGS
from uniemox_jax.train.schema import key_rows

ROOT = Path(__file__).parents[1]


def layout() -> str:
  """Every package and the first line of its docstring, as a nested list."""
  lines = []
  for top in ('uniemox_jax', 'data_pipelines', 'configs', 'benchmarks', 'docs'):
    for path in sorted((ROOT / top).rglob('__init__.py')):
      parts = path.parent.relative_to(ROOT).parts
      docstring = ast.get_docstring(ast.parse(path.read_text(encoding='utf-8'))) or ''
      lines.append(f'{"  " * (len(parts) - 1)}- `{parts[-1]}/`: {docstring.partition(chr(10))[0]}')
  return '\n'.join(lines)


def layers() -> str:
  """The import rule of `pyproject.toml`, top layer first."""
  settings = tomllib.loads((ROOT / 'pyproject.toml').read_text(encoding='utf-8'))['tool']['importlinter']
  contracts = [contract for contract in settings['contracts'] if contract['type'] == 'layers']
  return '\n\n'.join(
      '\n'.join([f'`{contract["name"]}`:', '', '```', *contract['layers'], '```']) for contract in contracts)


def config_keys() -> str:
  """Every key of every verb's config: name, default, values and meaning. Keys that several verbs share stand once."""
  parts = []
  for verb, kind in CONFIGS.items():
    rows = [f'## {verb}', '', '| key | default | values | meaning |', '|---|---|---|---|']
    rows += [f'| `{name}` | `{default}` | {values} | {meaning} |' for name, default, values, meaning in key_rows(kind)]
    parts.append('\n'.join(rows))
  return '\n\n'.join(parts)


def table_columns() -> str:
  """What a column of a table may mean, and by which headings it is known."""
  rows = [f'| `{role}` | {", ".join(names)} |' for role, names in ROLES.items()]
  return '\n'.join(['| meaning | known by the heading |', '|---|---|', *rows])


def responsible_use() -> str:
  """The README's section of that name as HTML, for a page that must work offline: without its links."""
  text = (ROOT / 'README.md').read_text(encoding='utf-8')
  section = re.search(r'^## (Limits and responsible use)\n\n((?:.|\n)+?)\n\n(?!- )', text, re.MULTILINE)
  assert section
  points = []
  for point in re.split(r'^- ', section[2], flags=re.MULTILINE)[1:]:
    plain = html.escape(re.sub(r'\[([^\]]*)\]\([^)]*\)', r'\1', point.strip()), quote=False)
    points.append('<li>' + re.sub(r'\*\*(.+?)\*\*', r'<strong>\1</strong>', plain) + '</li>')
  return '\n'.join([f'<h2>{section[1]}</h2>', '<ul>', *points, '</ul>'])


PAGES: dict[str, dict[str, Callable[[], str]]] = {
    'CONTRIBUTING.md': {'layout': layout, 'layers': layers}, 'docs/config.md': {'keys': config_keys},
    'docs/tables.md': {'columns': table_columns}, 'uniemox_jax/app/page.html': {'responsible_use': responsible_use}}
"""The generated parts of each page, by name."""


def written(page: str) -> str:
  """The page with its parts as the code gives them now."""
  text = (ROOT / page).read_text(encoding='utf-8')
  for name, make in PAGES[page].items():
    before, begin, rest = text.partition(f'<!-- {name} -->')
    _, end, after = rest.partition(f'<!-- /{name} -->')
    assert begin and end, f'{page} has no part {name}'
    text = f'{before}{begin}\n{make()}\n{end}{after}'
  return text


def main() -> None:
  """Rewrites the pages that are out of date, or names them."""
  stale = [page for page in PAGES if written(page) != (ROOT / page).read_text(encoding='utf-8')]
  if '--check' in sys.argv[1:]:
    sys.exit(f'out of date: {", ".join(stale)}. Run: python -m docs.generate' if stale else 0)
  for page in stale:
    (ROOT / page).write_text(written(page), encoding='utf-8')
    print(f'rewrote {page}')


if __name__ == '__main__':
  main()
