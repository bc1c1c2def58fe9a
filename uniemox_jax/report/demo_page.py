"""The demo's report: report.json for programs, and report.html, one page that needs no network, for people."""

from collections.abc import Callable
import importlib.metadata
import json
import math
import os
import pathlib
import platform
from typing import Any

from matplotlib.axes import Axes
import numpy as np
from scipy import stats

from data_pipelines.drawing.page_rendering import png_uri, svg_chart
from data_pipelines.storage import write_json, write_text
from uniemox_jax.report.look_page import read_look
from uniemox_jax.report.rendering import render
from uniemox_jax.runtime.run_log import read_metrics
from uniemox_jax.train.steps import PRETRAIN_LOSSES

# Shown in this order everywhere. Colours that colour-blind readers can distinguish; line styles repeat them.
_TITLES = {'uniemox': 'UniEmoX', 'mae_only': 'MAE only', 'scratch': 'from scratch'}
_OTHERS = {'scratch': 'training from scratch', 'mae_only': 'MAE pretraining'}
_LOOKS = {'look_uniemox': 'UniEmoX after pretraining', 'look_finetune_uniemox': 'UniEmoX after fine-tuning'}
_COLOURS = {'uniemox': '#0072b2', 'mae_only': '#d55e00', 'scratch': '#5f5f5f'}
_LINES = {'uniemox': '-', 'mae_only': '--', 'scratch': ':'}

# Name in metrics.jsonl, name in report.json, meaning.
_LOSSES = (('loss', 'total', 'The weighted sum of those below'),
           *((name, name, meaning) for name, (_, meaning) in PRETRAIN_LOSSES.items()))
_EDGE = 0.05
_MAIN_PACKAGES = (
    'python', 'uniemox-jax', 'jax', 'jaxlib', 'flax', 'optax', 'orbax-checkpoint', 'tensorflow-cpu',
    'tensorflow-datasets', 'transformers', 'numpy')
_STYLE: dict[Any, Any] = {
    'font.size': 9, 'axes.spines.top': False, 'axes.spines.right': False, 'axes.grid': True, 'axes.axisbelow': True,
    'grid.color': '#e3e3e3', 'svg.hashsalt': 'uniemox_jax'}


def summarise_losses(metrics_lines: list[dict[str, Any]], total_steps: int) -> dict[str, dict[str, float]]:
  """Computes the means of every pretraining loss over the first and the last 5 % of steps: report.json's 'losses'.

  A line holds the mean over the steps since the line before it. If the 5 % end inside a line, its mean counts for the
  steps inside: of 700 steps logged every 20, the first 35 are line 1 and 15/20 of line 2.

  Args:
    metrics_lines: the lines of a finished pretraining run, oldest first; those without 'loss' (validation) are ignored.
    total_steps: the steps of the run.

  Returns:
    By 'total' and the names of the losses that were logged: {'first', 'last'}.

  Raises:
    ValueError: the lines do not reach the last step.
  """
  lines = [line for line in metrics_lines if 'loss' in line]
  reached = lines[-1]['step'] if lines else 0
  if reached != total_steps:
    raise ValueError(f'the training lines end at step {reached}, the run at {total_steps}')
  ends = np.array([line['step'] for line in lines])
  starts = np.concatenate([[0], ends[:-1]])
  window = max(_EDGE * total_steps, 1)
  steps_inside = {'first': np.minimum(ends, window) - starts, 'last': ends - np.maximum(starts, total_steps - window)}
  weights = {edge: np.maximum(steps, 0) for edge, steps in steps_inside.items()}
  values = {name: [line[key] for line in lines] for key, name, _ in _LOSSES if key in lines[0]}
  return {
      name: {edge: float(np.average(losses, weights=steps)) for edge, steps in weights.items()}
      for name, losses in values.items()}


def package_versions() -> dict[str, str]:
  """The version of 'python', then of every installed distribution by its name in lower case with '-', sorted."""
  installed = {item.name.lower().replace('_', '-'): item.version for item in importlib.metadata.distributions()}
  return {'python': platform.python_version()} | dict(sorted(installed.items()))


def write_report(report: dict[str, Any], workdir: str) -> None:
  """Writes `workdir`/report.json, which is `report`, and `workdir`/report.html, from it and the run folders.

  The page names optional parts and folders that are absent.

  Args:
    report: required are 'accuracy' {run: top-1 in [0, 1]}, 'test_examples', 'losses' (see `summarise_losses`) and
      'results' {run: content of result.json}, run being 'uniemox', 'mae_only', 'scratch'. Optional are 'seconds'
      {stage: float}, 'labels_seen' {run: str}, 'oracle' {what it sees: accuracy}, 'datasets' {name: manifest.json},
      'versions', 'commands' [str], 'config' {section: dict}, and 'runs' {'uniemox', 'finetune_uniemox',
      'finetune_mae_only', 'finetune_scratch', 'look_uniemox', 'look_finetune_uniemox', ...: folder relative to
      `workdir`}.
    workdir: the demo's workdir.

  Raises:
    KeyError: a required part is absent; nothing is written.
  """
  filters = {'percent': lambda share: f'{100 * share:.1f}\N{NO-BREAK SPACE}%', 'duration': _duration}
  page = render('demo_page.html.j2', _page_parts(report, workdir), filters)
  write_json(os.path.join(workdir, 'report.json'), report)
  write_text(os.path.join(workdir, 'report.html'), page)


def _page_parts(report: dict[str, Any], workdir: str) -> dict[str, Any]:
  """What the template shows: the report itself, and what is computed or drawn from it."""
  folders = {run: os.path.join(workdir, folder) for run, folder in report.get('runs', {}).items()}
  accuracy, examples, versions = report['accuracy'], report['test_examples'], report.get('versions', {})
  labels = [row['label'] for row in report['results']['uniemox']['per_class']]
  chance, pretraining = 1 / len(labels), folders.get('uniemox')
  validation = {run: _logged(folders.get(f'finetune_{run}'), 'val_top1') for run in _TITLES}
  without_validation = [_TITLES[run] for run, lines in validation.items() if not lines]
  looks = {title: read_look(folders[run]) if run in folders else None for run, title in _LOOKS.items()}
  return dict(
      report=report, titles=_TITLES, labels=labels, chance=chance, reading=reading(accuracy, examples),
      accuracy_chart=_accuracy_chart(accuracy, examples, chance), losses=_loss_panels(report['losses'], pretraining),
      validation_chart=_validation_chart(report['results'], validation), sheets=_sheets(pretraining),
      without_validation=without_validation, looks=looks, config_text=json.dumps(report.get('config'), indent=2),
      main_versions={name: versions[name] for name in _MAIN_PACKAGES if name in versions})


def reading(accuracy: dict[str, float], examples: int) -> str:
  """Puts the accuracies of one seed into a sentence: the differences in points, and whether chance may explain them.

  Chance is the 95 % margin of two independent proportions. That is cautious, as all are measured on the same images.

  Args:
    accuracy: top-1 in [0, 1] of 'uniemox', 'mae_only' and 'scratch'.
    examples: the number of test images.
  """
  clauses = []
  for rival in ('scratch', 'mae_only'):
    ours, theirs = accuracy['uniemox'], accuracy[rival]
    points = round(100 * (ours - theirs), 1)
    margin = 196 * math.sqrt((ours * (1 - ours) + theirs * (1 - theirs)) / examples)
    side = f"{abs(points):.1f} points {'above' if points > 0 else 'below'}" if points else 'level with'
    clauses.append(f"{side} {_OTHERS[rival]} ({'beyond' if abs(points) > margin else 'within'} ±{margin:.1f})")
  return (
      f'On {examples} test images UniEmoX ends {clauses[0]} and {clauses[1]}, where ± is what the choice of test '
      'images alone could make.')


def _accuracy_chart(accuracy: dict[str, float], examples: int, chance: float) -> str:
  """Bars with 95 % Wilson intervals, and the chance level."""

  def draw(axes: Axes) -> None:
    runs = list(reversed(_TITLES))
    for row, run in enumerate(runs):
      share = accuracy[run]
      interval = stats.binomtest(round(share * examples), examples).proportion_ci(method='wilson')
      axes.barh(row, 100 * share, height=0.6, color=_COLOURS[run])
      axes.plot([100 * interval.low, 100 * interval.high], [row, row], color='#111', linewidth=1.5)
      axes.text(100 * interval.high + 1.5, row, f'{100 * share:.1f} %', va='center', weight='bold')
    axes.axvline(100 * chance, color='#111', linestyle='--', linewidth=1)
    axes.text(100 * chance + 1, len(runs) - 0.45, f'guessing {100 * chance:.1f} %', ha='left', va='bottom')
    axes.set(xlim=(0, 115), xticks=range(0, 101, 25), xlabel='top-1 on test, %', ylim=(-0.5, len(runs) - 0.1))
    axes.set_yticks(range(len(runs)), [_TITLES[run] for run in runs])
    axes.grid(axis='y', visible=False)

  return _svg(draw, 4.6, 2.2)


def _logged(folder: str | None, key: str) -> list[dict[str, Any]]:
  return [line for line in read_metrics(folder) if key in line] if folder else []


def _loss_panels(losses: dict[str, dict[str, float]], folder: str | None) -> list[dict[str, Any]]:
  """Name, meaning, means at both ends and curve of each loss that was trained; 'chart' is None without a log."""
  panels = []
  lines = _logged(folder, 'loss')
  for key, name, meaning in _LOSSES:
    chart = _loss_chart([(line['step'], line[key]) for line in lines if key in line])
    if name in losses:
      panels.append({'name': name, 'meaning': meaning, 'ends': losses[name], 'chart': chart})
  return panels


def _loss_chart(points: list[tuple[int, float]]) -> str | None:

  def draw(axes: Axes) -> None:
    axes.plot(*zip(*points), color=_COLOURS['uniemox'])
    axes.set(xlabel='step', xlim=(0, None))

  return _svg(draw, 3.6, 2.1) if points else None


def _validation_chart(results: dict[str, dict[str, Any]], validation: dict[str, list[dict[str, Any]]]) -> str | None:
  """Top-1 on val of the fine-tuning runs, a ring at the checkpoint that was kept; None if no run has any."""
  curves = {run: lines for run, lines in validation.items() if lines}
  if not curves:
    return None

  def draw(axes: Axes) -> None:
    for run, lines in curves.items():
      points = {line['step']: 100 * line['val_top1'] for line in lines}
      axes.plot(
          list(points), list(points.values()), _LINES[run], color=_COLOURS[run], label=_TITLES[run], linewidth=1.8)
      kept = results[run]['checkpoint_step']
      if kept in points:
        axes.plot(kept, points[kept], 'o', color=_COLOURS[run], markerfacecolor='white', markersize=7)
    axes.set(xlabel='step', ylabel='top-1 on val, %', xlim=(0, None))
    axes.legend(frameon=False, loc='lower right')

  return _svg(draw, 4.6, 2.7)


def _sheets(folder: str | None) -> list[dict[str, Any]]:
  """The first and the last sheet of reconstruction triplets of a pretraining run."""
  paths = sorted(pathlib.Path(folder, 'reconstructions').glob('step_*.png')) if folder else []
  ends = dict.fromkeys(paths[:1] + paths[-1:])
  return [{'step': int(path.stem.removeprefix('step_')), 'image': png_uri(path)} for path in ends]


def _svg(draw: Callable[[Axes], None], width: float, height: float) -> str:
  return svg_chart(draw, width, height, _STYLE)


def _duration(seconds: float) -> str:
  minutes, rest = divmod(round(seconds), 60)
  return f'{minutes} min {rest:02d} s' if minutes else f'{seconds:.1f} s'
