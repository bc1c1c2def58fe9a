"""README.md of an export: where the weights come from and what was measured, as far as the run itself knows."""

import json
import os
from pathlib import Path
from typing import Any

import jinja2

from uniemox_jax.runtime.files import read_json, write_text
from uniemox_jax.train.checkpoint import FOLDER

LOCAL = ('data_dir', 'mesh', 'log_every', 'save_every', 'images_every')
"""Config keys that concern one machine only."""
NOT_METRICS = ('dataset', 'split', 'init', 'checkpoint_step', 'config_hash')
TITLES = {
    'uniemox': 'UniEmoX, pretrained', 'encoder': 'ViT encoder', 'classifier': 'UniEmoX emotion classifier',
    'clip': 'CLIP'
}


def run_folder(checkpoint: str) -> Path:
  """The run that a checkpoint PATH, or a `teacher` folder, belongs to."""
  path = Path(os.path.abspath(checkpoint))
  return path.parents[1] if path.parent.name == FOLDER else path


def read_run_config(run: Path) -> dict[str, Any]:
  """The config that a run was trained with; {} for a folder of another kind, such as an `import_torch` output."""
  config = read_json(str(run / 'config.json')) if (run / 'config.json').is_file() else {}
  return config if 'epochs' in config else {}


def write_card(folder: Path, *, target: str, kind: str, run: Path, step: int | None, facts: dict[str, Any]) -> None:
  """Writes README.md, from the configs of the run and of those it started from, and its result.json.

  Args:
    folder: the export.
    target: as in `export_torch`.
    kind: of the checkpoint, 'clip' for a CLIP.
    run: its run folder.
    step: of the checkpoint, which result.json has to be about; None if unknown.
    facts: 'labels' (list or None), 'view' (a `teacher.View`), 'notes' (lines) and 'source' (of imported weights, or
      None), for the template.
  """
  environment = jinja2.Environment(
      loader=jinja2.FileSystemLoader(Path(__file__).parent), trim_blocks=True, lstrip_blocks=True,
      keep_trailing_newline=True, undefined=jinja2.StrictUndefined)
  stages, start = _stages(run)
  start = _shown(facts['source']) if facts['source'] else start
  card = environment.get_template('model_card.md.j2').render(
      facts, target=target, kind=kind, title=TITLES[kind], stages=stages, start=start, result=_result(run, step))
  write_text(str(folder / 'README.md'), card)


def _stages(run: Path) -> tuple[list[dict[str, Any]], str | None]:
  """What the weights went through, the first stage first, and what that one started from, where it is known."""
  stages, seen, start = [], set(), None
  while run not in seen and (config := read_run_config(run)):
    seen.add(run)
    start = str(config['init'])
    shown = {
        key: _shown(value) if key in ('init', 'teacher') else value for key, value in config.items() if key not in LOCAL
    }
    stages.insert(
        0, {
            'name': _stage(config), 'dataset': config['dataset'], 'labelled': _reads_emotion(config), 'config':
                json.dumps(shown, indent=2, ensure_ascii=False)
        })
    run = run_folder(start)
  return stages, start and _shown(start)


def _shown(origin: str) -> str:
  """A hub id as it is; of a path the last name, since the rest is one machine's."""
  path = Path(origin).expanduser()
  return path.name if path.is_absolute() or path.exists() else origin


def _stage(config: dict[str, Any]) -> str:
  if 'teacher' in config:
    return 'Pretraining'
  return 'Fine-tuning' if 'regularisation' in config else 'Training of a CLIP'


def _reads_emotion(config: dict[str, Any]) -> bool:
  """Whether captions told the emotion word, and a loss read them."""
  return bool(config.get('emotion_in_caption') and config.get('loss', {'contrastive': 1})['contrastive'])


def _result(run: Path, step: int | None) -> dict[str, Any] | None:
  """result.json with its numbers under 'metrics', if there is one and it is about this step."""
  result = read_json(str(run / 'result.json')) if (run / 'result.json').is_file() else {}
  if result.get('checkpoint_step', -1) != step:
    return None
  numbers = {key: value for key, value in result.items() if isinstance(value, int | float) and key not in NOT_METRICS}
  return result | {'metrics': numbers}
