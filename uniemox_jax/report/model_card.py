"""Writes README.md of an export: where the weights come from and what was measured, from the run's own files."""

import functools
import json
from pathlib import Path
from typing import Any

from etils import epath

from data_pipelines.storage import is_remote, parsing, write_text
from uniemox_jax.report.rendering import render
from uniemox_jax.train.run_folder import read_run_config, read_run_result, run_folder

LOCAL = ('data_dir', 'mesh', 'log_every', 'save_every', 'images_every')
"""The config keys that concern one machine only."""
NOT_METRICS = ('dataset', 'split', 'init', 'checkpoint_step', 'config_hash')
TITLES = {
    'uniemox': 'UniEmoX, pretrained', 'encoder': 'ViT encoder', 'classifier': 'UniEmoX emotion classifier',
    'clip': 'CLIP'}


def write_card(folder: Path, *, target: str, kind: str, training: dict[str, Any], facts: dict[str, Any]) -> None:
  """Writes README.md.

  Args:
    folder: the export.
    target: as in `export_torch`.
    kind: the kind of the checkpoint, 'clip' for a CLIP.
    training: see `training_record`; a shared model's is that of its config.
    facts: for the template, 'sees_person' (False if not there), 'labels' (list or None), 'view' (a `view.View`),
      'notes' (lines) and 'source' (that of imported weights, or None).

  Raises:
    UserError: a shared model's `training` has another form.
  """
  start = public_name(facts['source']) if facts['source'] else training.get('start')
  with parsing('config.json', "its 'training' has another form: remove that, or fetch it again"):
    card = render(
        'model_card.md.j2', {'sees_person': False} | facts | {
            'target': target, 'kind': kind, 'title': TITLES[kind], 'stages': training.get('stages', []), 'start': start,
            'result': training.get('result')}, {'json': functools.partial(json.dumps, indent=2, ensure_ascii=False)})
  write_text(str(folder / 'README.md'), card)


def training_record(run: epath.Path, step: int | None) -> dict[str, Any]:
  """Records where weights come from and what was measured, in plain values for JSON, without what concerns one machine
  only. It reads the configs of a run and of those it started from, and its result.json.

  'stages': the stages of training, the first one first: 'name', 'dataset', 'labelled', 'config'. 'start': what that one
  started from, if known. 'result': 'split', 'dataset', 'checkpoint_step', 'metrics' and 'per_class', if known.

  Args:
    run: a run folder.
    step: the checkpoint's step, None if unknown; a result.json of another step is ignored.
  """
  stages, start = _stages(run)
  result = read_run_result(run, step)
  record: dict[str, Any] = {'stages': stages, 'start': start}
  if not result:
    return record
  parts = {'': result, **{f'{task}: ': values for task, values in result.get('tasks', {}).items()}}
  metrics = {
      prefix + key: value for prefix, values in parts.items()
      for key, value in values.items()
      if isinstance(value, int | float) and key not in NOT_METRICS}
  kept = {key: result[key] for key in ('dataset', 'split', 'checkpoint_step', 'per_class') if key in result}
  return record | {'result': kept | {'metrics': metrics}}


def _stages(run: epath.Path) -> tuple[list[dict[str, Any]], str | None]:
  """The training stages of the weights, the first one first, and what that one started from, if known."""
  stages: list[dict[str, Any]] = []
  seen: set[epath.Path] = set()
  start = None
  while run not in seen and (config := read_run_config(run)):
    seen.add(run)
    start = str(config['init'])
    public = {key: value for key, value in config.items() if key not in LOCAL}
    public |= {key: public_name(config[key]) for key in ('init', 'teacher') if key in config}
    # The captions held the emotion word, and a loss read them.
    labelled = config.get('emotion_in_caption') and config.get('loss', {'contrastive': 1})['contrastive']
    stage = {'name': _stage_name(config), 'dataset': config['dataset'], 'labelled': bool(labelled), 'config': public}
    stages.insert(0, stage)
    run = run_folder(start)
  return stages, start and public_name(start)


def public_name(origin: str) -> str:
  """Returns a hub id as it is, and of a path its last name, since the rest is specific to one machine."""
  if is_remote(origin):
    return origin.rstrip('/').rpartition('/')[2]
  path = Path(origin).expanduser()
  return path.name if path.is_absolute() or path.exists() else origin


def _stage_name(config: dict[str, Any]) -> str:
  if 'teacher' in config:
    return 'Pretraining'
  return 'Fine-tuning' if 'regularisation' in config else 'Training of a CLIP'
