"""The documentation agrees with the code and with itself: generated parts, citations, links, paths, images."""

from pathlib import Path
import re

import pytest

from docs import generate

ROOT = Path(__file__).parents[2]
FOLDERS = ('uniemox_jax', 'data_pipelines', 'configs', 'benchmarks', 'tests', 'tpu_scripts', 'docs')
MAX_IMAGE_BYTES = 200_000
# Names of pages that are not in this repository. The brackets keep the pattern from finding itself.
ELSEWHERE = re.compile(r'method[ ]section|(?<!docs/)\bmethod[.]md|\([d]esign, |\bre[d]esign\b|\bshare[d]/')


def _files(*endings: str) -> list[Path]:
  """Files of the repository."""
  found = [path for folder in FOLDERS for path in (ROOT / folder).rglob('*') if path.suffix in endings]
  return sorted({*found, *(path for path in ROOT.glob('*') if path.suffix in endings)})


def _name(path: Path) -> str:
  return path.relative_to(ROOT).as_posix()


SOURCES, PAGES = _files('.py', '.sh', '.j2', '.toml', '.ipynb'), _files('.md')


def _prose(page: Path) -> str:
  """The page without its code blocks."""
  return re.sub(r'^```.*?^```', '', page.read_text(encoding='utf-8'), flags=re.DOTALL | re.MULTILINE)


def _headings(page: Path) -> list[str]:
  return re.findall(r'^#+ (.+)$', _prose(page), re.MULTILINE)


def _anchor(heading: str) -> str:
  """GitHub's anchor of a heading."""
  return re.sub(r'[^\w\- ]', '', heading.lower()).replace(' ', '-')


@pytest.mark.parametrize('page', generate.PAGES)
def test_generated_parts_are_current(page: str) -> None:
  assert generate.written(page) == (ROOT / page).read_text(encoding='utf-8'), 'run: python -m docs.generate'


def _wrong_citations(text: str) -> list[str]:
  """Of citations of a page in docs/, with one of its headings or without, those that lead nowhere."""
  text = re.sub(r'\s*\n\s*(#\s*)?', ' ', text)  # a citation may be wrapped
  wrong = []
  for match in re.finditer(r'docs/\w+\.md', text):
    page, rest = ROOT / match[0], re.match(r',\s"?([A-Z].*)', text[match.end():match.end() + 100])
    if not page.exists() or (rest and not any(rest[1].startswith(heading) for heading in _headings(page))):
      wrong.append(text[match.start():match.end() + 40])
  return wrong


def test_citations_lead_to_a_page_and_a_heading() -> None:
  texts = {_name(path): path.read_text(encoding='utf-8') for path in SOURCES}
  wrong = {name: _wrong_citations(text) + ELSEWHERE.findall(text) for name, text in texts.items()}
  assert not {name: found for name, found in wrong.items() if found}


def test_a_citation_that_leads_nowhere_is_found() -> None:
  assert not _wrong_citations('as docs/method.md, Losses. And (docs/method.md,\n  # Parity traps), in docs/runs.md')
  no_page = 'docs/method.md'.replace('method', 'absent')
  for wrong in (no_page, 'docs/method.md, ' + 'Lossless', '(docs/method.md,\n    "' + 'Step 2")'):
    assert len(_wrong_citations(wrong)) == 1


def _wrong_links(page: Path) -> list[str]:
  wrong = []
  for link in re.findall(r'\]\(([^)\s]+)\)', re.sub(r'`[^`\n]*`', '', _prose(page))):
    if re.match(r'https?:|mailto:', link):
      continue
    target, _, anchor = link.partition('#')
    path = page.parent / target if target else page
    if not path.exists() or (anchor and anchor not in map(_anchor, _headings(path))):
      wrong.append(link)
  return wrong


def test_links_lead_somewhere() -> None:
  wrong = {_name(page): _wrong_links(page) for page in [*PAGES, *_files('.ipynb')]}
  assert not {name: links for name, links in wrong.items() if links}


def test_files_that_pages_name_exist() -> None:
  path = re.compile(rf'(?<![\w/])((?:{"|".join(FOLDERS)})/[\w/]+\.(?:py|sh|md|ipynb|txt|lock))')
  named = {(_name(page), name) for page in PAGES for name in path.findall(page.read_text(encoding='utf-8'))}
  assert not [(page, name) for page, name in sorted(named) if not (ROOT / name).exists()]


def test_readme_has_four_small_images() -> None:
  images = re.findall(r'!\[([^\]]*)\]\(([^)]+)\)', (ROOT / 'README.md').read_text(encoding='utf-8'))
  assert len(images) == 4
  for text, path in images:
    assert text and (ROOT / path).stat().st_size < MAX_IMAGE_BYTES
