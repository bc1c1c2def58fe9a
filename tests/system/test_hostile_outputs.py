"""Labels, file names and settings that were made to do harm are nothing but text in all that is written about them."""

import csv
import json
import os
from pathlib import Path
import re

import pytest

from data_pipelines import build
from data_pipelines.media.read_media import printable
from data_pipelines.person_boxes.box_file import read_boxes, write_boxes
from tests.support.exported import LABELS, TINY, random_params, saved
from tests.support.predictions import draw, rows_of
from uniemox_jax.compare.table_text import markdown, missing_runs
from uniemox_jax.export_torch import export_torch
from uniemox_jax.predict.prediction import predict_images
from uniemox_jax.report.rendering import render
from uniemox_jax.train.checkpoint import save_weights

HOSTILE = [
    '=cmd|"C calc"!A0', '@SUM(1)', '+a', '-b', '[x](http://evil.example)', '![x](y)', '<script>x</script>', '|a`']
"""Class names: each can name a folder."""
NAMES = ['=cmd|calc.png', '@a.png', 'a\x1b[2Jb.png', 'a\nb.png', 'a"b.png', '<b>.png', "'=a.png"]


def formulas(path: Path) -> list[str]:
  """Cells that a spreadsheet would run."""
  with path.open(newline='', encoding='utf-8') as file:
    cells = [cell for row in csv.reader(file) for cell in row]
  return [cell for cell in cells if re.match(r'[=@\t\r\n]|[+-](?![\d.]+$)', cell)]


@pytest.mark.parametrize('file_format', ['csv', 'jsonl'])
def test_predictions_of_hostile_names_are_text_and_can_be_continued(
    file_format: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
  model = TINY | {'classes': len(HOSTILE)}
  save_weights(
      str(tmp_path / 'run'), random_params('classifier', model),
      {'kind': 'classifier', 'model': model, 'labels': HOSTILE})
  monkeypatch.chdir(tmp_path)
  for source, name in zip(draw(tmp_path / 'drawn', len(NAMES)), NAMES):
    os.rename(source, name)
  Path('=broken.png').write_text('no image')
  out = tmp_path / f'out.{file_format}'
  predict_images('run', NAMES[:4], out=str(out))
  predict_images('run', [*NAMES, '=broken.png'], out=str(out), append=True)
  assert '\x1b' not in capsys.readouterr().err
  if file_format == 'csv':
    assert not formulas(out)
    assert all(float(row['p_' + HOSTILE[4]]) >= 0 for row in rows_of(out) if row['label'])
    assert len(rows_of(out)) == len(NAMES) + 1
  else:
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row['path'] for row in rows] == [*map(printable, NAMES), '=broken.png']


def test_boxes_of_hostile_names_are_text_and_read_back_exactly(tmp_path: Path) -> None:
  write_boxes(tmp_path / 'person_boxes.csv', [(name, -0.5, 0, 3, 4, 0.9) for name in [*NAMES, "''=b", "it's"]])
  assert list(read_boxes(tmp_path)) == [*NAMES, "''=b", "it's"]
  assert read_boxes(tmp_path)[NAMES[0]].tolist() == [[-0.5, 0, 3, 4, 0.9]]
  assert not formulas(tmp_path / 'person_boxes.csv')


def test_rejects_and_duplicates_of_hostile_folders_are_text(tmp_path: Path) -> None:
  source = tmp_path / 'raw'
  for split in ('train', 'val'):
    for label in HOSTILE[:4]:
      draw(source / split / label, 2)
      (source / split / label / '=1+1.png').write_text('no image')
  build.build('folder', source, tmp_path / 'data', max_rejects=1.0)
  rejects, = (tmp_path / 'data').rglob('rejects.csv')
  with rejects.open(newline='') as file:
    assert len(list(csv.reader(file))) == 1 + 8
  assert not formulas(rejects)
  assert not formulas(rejects.with_name('duplicates.csv'))


def test_card_has_no_link_markup_or_cell_of_a_label_path_or_config(tmp_path: Path) -> None:
  evil = 'a`<img src=x>\n---\nlicense: mit\n[x](http://evil.example)|'
  run = tmp_path / 'run'
  model = TINY | {'classes': len(HOSTILE)}
  config = {
      'epochs': 2, 'dataset': evil, 'regularisation': {'mixup': evil}, 'init': 'org/a`<b>|[x](y)', 'teacher': evil,
      'emotion_in_caption': False, '```': '\n```\n<b>'}
  save_weights(str(run), random_params('classifier', model), {'kind': 'classifier', 'model': model, 'labels': HOSTILE})
  (run / 'config.json').write_text(json.dumps(config))
  row = {'label': HOSTILE[-1], 'examples': 1, 'precision': 0.5, 'recall': 0.5, 'f1': 0.5}
  result = {'dataset': evil, 'split': evil, 'checkpoint_step': 0, 'top1': -0.5, 'per_class': [row], evil: 0.25}
  (run / 'result.json').write_text(json.dumps(result))
  export_torch(str(run), 'timm', str(tmp_path / 'out'))
  card = (tmp_path / 'out' / 'README.md').read_text()
  assert card.count('\n---\n') == 1 and 'license: unknown' in card and '\nlicense: mit' not in card
  assert re.findall(r'^```.*', card,
                    re.MULTILINE) == ['```python', '```', '```python', '```', '```json', '```', '```bibtex', '```']
  prose = re.sub(r'^```.*?^```$|(?<!\\)`[^`\n]*`', '', card, flags=re.MULTILINE | re.DOTALL)
  assert not re.search(r'(?<!\\)[<>]|(?<!\\)\]\(|(?<!\\)`|(?<!\\)://', prose.replace('->', ''))
  tables = [line for line in prose.splitlines() if line.startswith('| ')]
  assert {len(re.findall(r'(?<!\\)\|', line)) for line in tables} == {3, 6}
  assert '| -0.5000 |' in card


def test_tables_and_failures_keep_their_cells() -> None:
  table = markdown([['name', *HOSTILE[:2]], ['a|b\nc', '<b>', '**0.5**']])
  assert table.splitlines()[2] == r'| a\|b c | \<b\> | **0.5** |'
  assert missing_runs(1, {'a|b': 'x\n# y'}) == '1 runs have no result yet:\n\n- a\\|b failed: x # y\n'


def test_page_escapes_what_it_is_told() -> None:
  evil = '"><script>x</script>'
  look = {
      'checkpoint': evil, 'kind': evil, 'step': evil, 'dataset': evil, 'split': evil, 'examples': evil, 'images': {},
      'pictures': {}, 'skipped': {'mistakes': evil}}
  assert '<script' not in render('look_page.html.j2', {'look': look})


def test_exported_labels_are_data(tmp_path: Path) -> None:
  """What timm reads stays exact: JSON needs no neutralising."""
  saved(tmp_path / 'run', 'classifier', **TINY, classes=len(LABELS))
  export_torch(str(tmp_path / 'run'), 'timm', str(tmp_path / 'out'))
  assert json.loads((tmp_path / 'out' / 'config.json').read_text())['label_names'] == LABELS
