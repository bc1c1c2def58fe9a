"""The Colab notebooks: they run top to bottom, go on where they were, and name only what exists."""

import ast
from collections.abc import Iterator
import importlib
import json
from pathlib import Path
import re
from typing import Any

from ml_collections import ConfigDict
import numpy as np
from packaging.requirements import Requirement
import pytest

from data_pipelines.synthetic import datasets
from uniemox_jax.__main__ import flags_of

ROOT = Path(__file__).parents[2]
NOTEBOOKS = {path.stem: path for path in sorted((ROOT / 'tpu_scripts').glob('*.ipynb'))}
SCREEN_LINES, SCREEN_COLUMNS = 40, 120
CLIP_CONFIG, PRETRAIN_CONFIG = 'configs/demo.py:clip', 'configs/demo.py:pretrain'
SMALL_SETS = {'train': 40, 'val': 16, 'test': 24}


def cells(name: str, kind: str) -> list[dict[str, Any]]:
  book = json.loads(NOTEBOOKS[name].read_text(encoding='utf-8'))
  return [cell | {'source': ''.join(cell['source'])} for cell in book['cells'] if cell['cell_type'] == kind]


def text_of(node: ast.expr) -> str:
  """The literal part that a string or f-string begins with."""
  first = node.values[0] if isinstance(node, ast.JoinedStr) else node
  return first.value if isinstance(first, ast.Constant) and isinstance(first.value, str) else ''


def commands(name: str) -> Iterator[tuple[str, list[str]]]:
  """Module and literal flags of each `run(...)` in a notebook."""
  for cell in cells(name, 'code'):
    for node in ast.walk(ast.parse(cell['source'])):
      if isinstance(node, ast.Call) and getattr(node.func, 'id', None) == 'run':
        yield text_of(node.args[0]), [text for text in map(text_of, node.args[1:]) if text.startswith('--')]


def literal_flags(name: str) -> set[str]:
  """Every flag that a notebook writes out, `--name` with what follows it."""
  nodes = [node for cell in cells(name, 'code') for node in ast.walk(ast.parse(cell['source']))]
  return {
      text for node in nodes if isinstance(node, ast.Constant | ast.JoinedStr)
      if (text := text_of(node)).startswith('--') and '=' in text}


def has_key(config: ConfigDict, dotted: str) -> bool:
  for part in dotted.split('.'):
    if part not in config:
      return False
    config = config[part]
  return True


def test_there_are_two_notebooks():
  assert set(NOTEBOOKS) == {'colab_finetune', 'colab_pretrain'}


@pytest.mark.parametrize('name', NOTEBOOKS)
def test_no_output_is_committed(name):
  assert all(cell['outputs'] == [] and cell['execution_count'] is None for cell in cells(name, 'code'))


@pytest.mark.parametrize('name', NOTEBOOKS)
def test_badge_opens_this_notebook(name):
  target = f'https://colab.research.google.com/github/OWNER/uniemox_jax/blob/main/tpu_scripts/{name}.ipynb'
  assert f']({target})' in cells(name, 'markdown')[0]['source']


@pytest.mark.parametrize('name', NOTEBOOKS)
def test_no_cell_is_longer_than_a_screen(name):
  for cell in cells(name, 'code'):
    lines = cell['source'].splitlines()
    assert len(lines) <= SCREEN_LINES
    assert max(map(len, lines)) <= SCREEN_COLUMNS, cell['source']


@pytest.mark.parametrize('name', NOTEBOOKS)
def test_every_command_and_flag_exists(name):
  found = list(commands(name))
  assert found
  for module, flags in found:
    defined = {flag.strip('-=') for flag in flags_of(module)}
    assert {flag[2:].partition('=')[0].partition('.')[0] for flag in flags} <= defined, module


@pytest.mark.parametrize('name', NOTEBOOKS)
def test_every_config_and_key_exists(name):
  flags = literal_flags(name)
  used = {flag.partition('=')[2] for flag in flags if flag.startswith('--config=configs/')}
  used |= set(re.findall(r"'(configs/\w+\.py:?\w*)'", '\n'.join(cell['source'] for cell in cells(name, 'code'))))
  assert used
  configs = []
  for path, _, argument in (value.partition(':') for value in used):
    get_config = importlib.import_module(path.removesuffix('.py').replace('/', '.')).get_config
    configs.append(get_config(argument) if argument else get_config())
  prose = '\n'.join(cell['source'] for cell in cells(name, 'markdown'))
  for key in re.findall(r'--config\.([\w.]+)=', '\n'.join([*flags, prose])):
    assert any(has_key(config, key) for config in configs), key


@pytest.mark.parametrize('name', NOTEBOOKS)
def test_linked_pages_exist(name):
  for target in re.findall(r'\]\((\.\./[^)]+)\)', '\n'.join(cell['source'] for cell in cells(name, 'markdown'))):
    assert (ROOT / 'tpu_scripts' / target).exists(), target


def test_pip_keeps_colabs_jax_with_our_ranges():
  tree = ast.parse((ROOT / 'setup.py').read_text(encoding='utf-8'))
  listed = next(
      ast.literal_eval(node.value)
      for node in tree.body
      if isinstance(node, ast.Assign) and node.targets[0].id == 'INSTALL_REQUIRES')
  ranges = {need.name: need.specifier for need in map(Requirement, listed)}
  pins = [
      line.split('==')
      for line in (ROOT / 'tpu_scripts' / 'colab_versions.txt').read_text().splitlines()
      if '==' in line]
  assert {'jax', 'flax', 'orbax-checkpoint'} <= {name for name, _ in pins}
  assert all(ranges[name].contains(version) for name, version in pins if name in ranges)


def execute(name: str, folder: Path, **settings: Any) -> str:
  """Runs a notebook from top to bottom in `folder` with other settings, and gives all that it printed."""
  import nbclient
  import nbformat
  book = nbformat.read(NOTEBOOKS[name], as_version=4)
  place = next(index for index, cell in enumerate(book.cells) if 'parameters' in cell.metadata.get('tags', ()))
  assert all(f'{setting} =' in book.cells[place].source for setting in settings)
  chosen = '\n'.join(f'{setting} = {value!r}' for setting, value in settings.items())
  book.cells.insert(place + 1, nbformat.v4.new_code_cell(chosen))
  nbclient.NotebookClient(book, timeout=900, resources={'metadata': {'path': str(folder)}}).execute()
  return ''.join(
      output.text for cell in book.cells if cell.cell_type == 'code' for output in cell.outputs
      if output.output_type == 'stream')


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
  """Where a notebook runs, with this code importable there, as it is once installed."""
  monkeypatch.setenv('PYTHONPATH', str(ROOT))
  monkeypatch.setenv('JAX_PLATFORMS', 'cpu')
  monkeypatch.delenv('XLA_FLAGS', raising=False)
  return tmp_path


def weights_and_log(run: Path) -> tuple[list[np.ndarray], bytes]:
  import jax

  from uniemox_jax.train.checkpoint import load_checkpoint
  return jax.tree.leaves(load_checkpoint(str(run)).params), (run / 'metrics.jsonl').read_bytes()


def assert_second_run_trains_nothing(name: str, folder: Path, settings: dict[str, Any]) -> None:
  run = folder / 'drive' / 'uniemox' / settings['NAME']
  weights, log = weights_and_log(run)
  said = execute(name, folder, **settings)
  steps = json.loads(log.splitlines()[-1])['step']
  assert f'resumes at step {steps} of {steps}' in said
  assert 'the records are there' in said
  again, log_again = weights_and_log(run)
  assert log_again == log
  assert all(np.array_equal(a, b) for a, b in zip(weights, again, strict=True))


@pytest.mark.slow
def test_finetune_notebook_runs_on_own_images_from_foreign_weights_and_again(folder):
  from transformers import ViTMAEConfig, ViTMAEForPreTraining
  plans = datasets.plan_images('emo8', SMALL_SETS, seed=0)
  datasets.write_dataset(folder / 'drive' / 'My pictures', 'emo8', plans, {})
  ViTMAEForPreTraining(
      ViTMAEConfig(
          hidden_size=96, num_hidden_layers=4, num_attention_heads=4, intermediate_size=384, image_size=96,
          layer_norm_eps=1e-6, decoder_hidden_size=64, decoder_num_hidden_layers=1, decoder_num_attention_heads=4,
          decoder_intermediate_size=256)).save_pretrained(folder / 'drive' / 'vit_mae')
  settings = {
      'NAME': 'mine', 'DATASET': 'emo8', 'PICTURES': 'My pictures', 'INIT': 'vit_mae', 'EPOCHS': 2,
      'OPTIONS': '--config.batch_size=8 --config.eval_every_epochs=1'}
  said = execute('colab_finetune', folder, **settings)
  run = folder / 'drive' / 'uniemox' / 'mine'
  assert re.search(r'init from \S+vit_mae: taken: encoder', said)
  assert json.loads((run / 'result.json').read_text())['examples'] == SMALL_SETS['test']
  assert (run / 'export' / 'model.safetensors').exists()
  assert float(re.search(r'largest difference of a probability: (\S+)', said)[1]) < 1e-5
  assert_second_run_trains_nothing('colab_finetune', folder, settings)


@pytest.mark.slow
def test_pretrain_notebook_draws_its_set_trains_its_teacher_and_runs_again(folder):
  settings = {'NAME': 'pretrained', 'EPOCHS': 1, 'TEACHER_EPOCHS': 1}
  said = execute('colab_pretrain', folder, **settings)
  run = folder / 'drive' / 'uniemox' / 'pretrained'
  assert 'teacher saved' in said
  assert list((run / 'reconstructions').glob('step_*.png'))
  assert_second_run_trains_nothing('colab_pretrain', folder, settings)
