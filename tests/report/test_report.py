"""The demo's report says what the numbers say, needs no network, and names what is missing."""

from collections.abc import Callable
import json
from pathlib import Path
import re
from typing import Any

import numpy as np
from PIL import Image
import pytest

from data_pipelines.checksums import sha256_of
from data_pipelines.drawing.page_rendering import data_uri
from data_pipelines.errors import UserError
from uniemox_jax.report import demo_page as reporting
from uniemox_jax.report.look_page import SUMMARY, read_look

LABELS = ['amusement', 'awe', 'contentment', 'excitement', 'anger', 'disgust', 'fear', 'sadness']
RUNS = {
    'clip': 'clip', 'uniemox': 'uniemox', 'mae_only': 'mae_only', 'finetune_uniemox': 'finetune/uniemox',
    'finetune_mae_only': 'finetune/mae_only', 'finetune_scratch': 'finetune/scratch', 'look_uniemox': 'look_uniemox',
    'look_finetune_uniemox': 'look_finetune_uniemox'}
STEPS = 700


def _write_lines(folder: Path, lines: list[dict[str, Any]]) -> None:
  folder.mkdir(parents=True)
  (folder / 'metrics.jsonl').write_text(''.join(json.dumps(line) + '\n' for line in lines))


def _pretrain_lines() -> list[dict[str, Any]]:
  fall = {step: float(np.exp(-step / 200)) for step in range(20, STEPS + 1, 20)}
  return [{'step': step, 'loss': 2 * x, 'reconstruction': x, 'similarity': x / 2, 'contrastive': x / 2}
          for step, x in fall.items()]


def _result(top1: float, rng: np.random.Generator) -> dict[str, Any]:
  confusion = rng.integers(0, 7, (8, 8)) + np.diag([int(60 * top1)] * 8)
  per_class = [{'label': label, 'examples': int(row.sum()), 'precision': 0.5, 'recall': 0.625, 'f1': 0.555}
               for label, row in zip(LABELS, confusion, strict=True)]
  return {
      'top1': top1, 'top3': 0.9, 'macro_f1': top1, 'loss': 1.1, 'examples': 480, 'checkpoint_step': 150,
      'per_class': per_class, 'confusion': confusion.tolist()}


@pytest.fixture
def report() -> dict[str, Any]:
  """A whole report.json."""
  rng = np.random.default_rng(0)
  accuracy = {'uniemox': 0.7125, 'mae_only': 0.6, 'scratch': 0.5125}
  splits = {'train': {'examples': 2304, 'with_person_share': 0.7612}, 'val': {'examples': 576}}
  return {
      'accuracy': accuracy, 'test_examples': 480, 'losses': reporting.summarise_losses(_pretrain_lines(), STEPS),
      'seconds': {'build_emoset': 31.4, 'pretrain_uniemox': 182.0},
      'results': {run: _result(top1, rng) for run, top1 in accuracy.items()}, 'labels_seen': {
          'uniemox': 'EmoSet emotion words, in captions; Emo8 train', 'mae_only': 'Emo8 train',
          'scratch': 'Emo8 train'}, 'oracle': {'all': 1.0, 'scene_only': 0.64, 'figure_only': 0.55}, 'datasets': {
              'emoset': {'read': 2880, 'rejected': 3, 'splits': splits},
              'emo8': {'read': 480, 'rejected': 0,
                       'splits': {'test': {'examples': 480}}}}, 'versions': reporting.package_versions(),
      'commands': ['python -m uniemox_jax.demo --workdir=runs/demo',
                   "echo '<b>&</b>'"], 'config': {'pretrain': {'batch_size': 64}}, 'runs': RUNS}


def _write_look(folder: Path, drawn: list[str], skipped: dict[str, str]) -> None:
  """What `look` leaves."""
  folder.mkdir()
  for shade, name in enumerate(drawn):
    Image.new('RGB', (4, 4), (shade, len(folder.name), 0)).save(folder / f'{name}.png')
  listed = {name: {'file': f'{name}.png', 'note': f'{name} of {folder.name}.'} for name in drawn}
  (folder / SUMMARY).write_text(json.dumps({'pictures': listed, 'skipped': skipped}))


@pytest.fixture
def workdir(tmp_path: Path) -> Path:
  """Run folders such as those of a finished demo, with few and small files."""
  _write_lines(tmp_path / 'uniemox', _pretrain_lines())
  for run in ('uniemox', 'mae_only', 'scratch'):
    _write_lines(
        tmp_path / 'finetune' / run,
        [{'step': step, 'val_top1': 0.3 + 0.05 * len(run) * (1 - (step / 150 - 1)**2)} for step in range(25, 251, 25)])
  folder = tmp_path / 'uniemox' / 'reconstructions'
  folder.mkdir()
  rng = np.random.default_rng(0)
  for step in (200, 400, 700):
    pixels = rng.integers(0, 255, (8 * 7, 3 * 7, 3), np.uint8)
    Image.fromarray(pixels).resize((3 * 98, 8 * 98)).save(folder / f'step_{step:07d}.png')
  _write_look(tmp_path / 'look_uniemox', ['attention', 'embeddings', 'reconstruction'], {'mistakes': 'no <classes>'})
  _write_look(
      tmp_path / 'look_finetune_uniemox', ['attention', 'embeddings', 'mistakes'], {'reconstruction': 'no decoder'})
  return tmp_path


def _page(report: dict[str, Any], workdir: Path) -> str:
  reporting.write_report(report, str(workdir))
  return (workdir / 'report.html').read_text()


def _text(page: str) -> str:
  return re.sub(r'\s+', ' ', re.sub(r'<[^>]*>', ' ', page))


def test_report_json_is_the_report_and_the_page_misses_nothing(report: dict[str, Any], workdir: Path) -> None:
  assert 'class="missing"' not in _page(report, workdir)
  assert json.loads((workdir / 'report.json').read_text()) == report


def test_page_fetches_nothing_and_runs_nothing(report: dict[str, Any], workdir: Path) -> None:
  page = _page(report, workdir)
  sources = re.findall(r'<img src="([^"]*)"', page)
  assert [source.partition(';')[0] for source in sources
         ] == (['data:image/svg+xml'] * 5 + ['data:image/png'] * 2 + ['data:image/svg+xml'] + ['data:image/png'] * 6)
  rest = re.sub(r'<img src="[^"]*"', '', page)
  for word in ('src=', 'href=', 'url(', '@import', '<script', '<link', 'http:', 'https:'):
    assert word not in rest, word


def test_values_are_escaped(report: dict[str, Any], workdir: Path) -> None:
  page = _page(report, workdir)
  assert '<b>' not in page and '&lt;b&gt;&amp;&lt;/b&gt;' in page


def test_first_and_last_sheet_are_shown_unchanged(report: dict[str, Any], workdir: Path) -> None:
  page = _page(report, workdir)
  folder = workdir / 'uniemox' / 'reconstructions'
  shown = [data_uri((folder / f'step_{step:07d}.png').read_bytes(), 'image/png') in page for step in (200, 400, 700)]
  assert shown == [True, False, True]


def test_both_looks_are_shown_and_what_one_could_not_draw_is_said(report: dict[str, Any], workdir: Path) -> None:
  page = _page(report, workdir)
  for folder in ('look_uniemox', 'look_finetune_uniemox'):
    for path in (workdir / folder).glob('*.png'):
      assert data_uri(path.read_bytes(), 'image/png') in page
      assert f'{path.stem} of {folder}.' in page
  assert 'Not drawn: no &lt;classes&gt;.' in page and 'Not drawn: no decoder.' in page


def test_a_look_that_lost_an_image_says_so(report: dict[str, Any], workdir: Path) -> None:
  (workdir / 'look_uniemox' / 'attention.png').unlink()
  assert _page(report, workdir).count('its file is gone') == 1


@pytest.mark.parametrize(
    'damage', [lambda png: png[:-1], lambda png: png + b'x', lambda png: png.replace(b'IDAT', b'IDAU')])
@pytest.mark.parametrize('name', ['look_uniemox/attention.png', 'uniemox/reconstructions/step_0000200.png'])
def test_a_figure_that_is_not_what_was_drawn_is_named(
    name: str, damage: Callable[[bytes], bytes], report: dict[str, Any], workdir: Path) -> None:
  path = workdir / name
  path.write_bytes(damage(path.read_bytes()))
  with pytest.raises(UserError, match=re.escape(name)):
    _page(report, workdir)


def test_a_figure_in_the_place_of_another_is_named(tmp_path: Path) -> None:
  _write_look(tmp_path / 'look', ['attention', 'mistakes'], {})
  path = tmp_path / 'look' / SUMMARY
  look = json.loads(path.read_text())
  for name, figure in look['pictures'].items():
    figure['sha256'] = sha256_of(tmp_path / 'look' / f'{name}.png')
  path.write_text(json.dumps(look))
  assert set(read_look(str(tmp_path / 'look'))['images']) == {'attention', 'mistakes'}
  (tmp_path / 'look' / 'attention.png').write_bytes((tmp_path / 'look' / 'mistakes.png').read_bytes())
  with pytest.raises(UserError, match='attention.png is not what was drawn'):
    read_look(str(tmp_path / 'look'))


def test_same_numbers_give_the_same_page(report: dict[str, Any], workdir: Path) -> None:
  assert _page(report, workdir) == _page(report, workdir)


def test_page_shows_the_numbers(report: dict[str, Any], workdir: Path) -> None:
  text = _text(_page(report, workdir))
  for shown in ('71.2 %', '60.0 %', '51.2 %', 'This is one seed', 'emoset train 2304 76.1 %', '3 rejected',
                'emo8 test 480 not recorded', 'figure only 55.0 %', 'EmoSet emotion words, in captions', '3 min 02 s',
                'jax ', 'excitement'):
    assert shown in text, shown


@pytest.mark.parametrize(('uniemox', 'scratch', 'expected'), [
    (0.75, 0.5, 'ends 25.0 points above training from scratch (beyond ±5.9)'),
    (0.5, 0.75, 'ends 25.0 points below training from scratch (beyond ±5.9)'),
    (0.52, 0.5, 'ends 2.0 points above training from scratch (within ±6.3)'),
    (0.5, 0.5, 'ends level with training from scratch (within ±6.3)'),
    (1.0, 1.0, 'ends level with training from scratch (within ±0.0)'),])
def test_reading_follows_from_the_numbers(uniemox: float, scratch: float, expected: str) -> None:
  sentence = reporting.reading({'uniemox': uniemox, 'mae_only': uniemox - 0.2, 'scratch': scratch}, 480)
  assert expected in sentence
  assert '20.0 points above MAE pretraining (beyond' in sentence


def test_missing_parts_are_named(report: dict[str, Any], tmp_path: Path) -> None:
  required = {name: report[name] for name in ('accuracy', 'test_examples', 'losses', 'results')}
  text = _text(_page(required, tmp_path))
  for said in ('No curve', 'left no sheet', 'No validation lines in the log of: UniEmoX, MAE only, from scratch',
               'no “labels_seen”', 'no “datasets”', 'oracle', 'time of the stages was not recorded',
               'commands were not recorded', 'versions were not recorded', 'configuration was not recorded',
               'UniEmoX after pretraining: not looked at', 'UniEmoX after fine-tuning: not looked at'):
    assert said in text, said


def test_a_loss_that_rose_is_not_said_to_fall(report: dict[str, Any], workdir: Path) -> None:
  report['losses']['contrastive'] = {'first': 0.1, 'last': 0.2}
  text = _text(_page(report, workdir))
  assert 'Did not fall: from 0.1000 to 0.2000' in text
  assert text.count('Fell from') == 3


def test_nothing_is_written_when_a_required_part_is_absent(report: dict[str, Any], tmp_path: Path) -> None:
  del report['results']['scratch']
  with pytest.raises(Exception, match='scratch'):
    reporting.write_report(report, str(tmp_path))
  assert not list(tmp_path.iterdir())


def test_losses_are_means_over_the_first_and_last_twentieth() -> None:
  per_step = np.arange(1, STEPS + 1, dtype=float)
  lines = [{'step': end, 'loss': float(per_step[end - 20:end].mean())} for end in range(20, STEPS + 1, 20)]
  ends = reporting.summarise_losses(lines, STEPS)['total']
  # 35 steps: a line of 20, and 15/20 of its neighbour.
  assert ends['first'] == pytest.approx((20 * 10.5 + 15 * 30.5) / 35)
  assert ends['last'] == pytest.approx((20 * 690.5 + 15 * 670.5) / 35)


def test_losses_are_exact_where_lines_end_at_the_edges_and_validation_lines_do_not_count() -> None:
  lines = [{'step': 5, 'loss': 4.0}, {'step': 50, 'val_loss': 9.0}, {'step': 95, 'loss': 2.0},
           {'step': 100, 'loss': 1.0}]
  assert reporting.summarise_losses(lines, 100) == {'total': {'first': 4.0, 'last': 1.0}}


def test_losses_of_an_unfinished_run_are_refused() -> None:
  with pytest.raises(ValueError, match='end at step 20, the run at 40'):
    reporting.summarise_losses([{'step': 20, 'loss': 1.0}], 40)
