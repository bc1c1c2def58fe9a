"""The layout that CONTRIBUTING.md draws: which way imports point, what may be imported where, how long things get."""

import ast
from collections.abc import Iterator
from pathlib import Path
import subprocess
import sys

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ('uniemox_jax', 'data_pipelines', 'configs')

# Lowest first. A module of `uniemox_jax`, or a folder of them, imports from its own layer and from those below it.
LAYERS = (
  ('models', 'preprocess', 'files', 'topology', 'collectives', 'distributed', 'preemption', 'integrity', 'clock',
   'board'),
  ('convert', 'optim', 'losses', 'sharding', 'metrics', 'regularise', 'flops', 'task_losses', 'tasks',
   'label_maps', 'knn', 'linear_probe', 'prompts', 'tables'),
  ('train_state', 'teacher', 'caption_cache', 'config', 'logging', 'reconstruct', 'explain', 'pictures',
   'table_writer', 'cells'),
  ('train_step', 'checkpoint', 'captions', 'data_pipelines'),
  ('transfer', 'loop', 'api', 'inference', 'report', 'model_card', 'cli', 'pretraining',
   'split_outputs', 'features', 'subject', 'look_page', 'comparison'),
  ('train_clip', 'pretrain', 'evaluate', 'finetune', 'import_torch', 'export_torch', 'ablate', 'demo', 'compile_step',
   'plan', 'predict', 'look', 'probe', 'zero_shot', 'compare'),
)
LAYER_OF = {name: layer for layer, names in enumerate(LAYERS) for name in names}
FROM_ANYWHERE = 'data_pipelines.errors'

# Library -> the only places that import it; below a folder that ends in '/', or one file.
ONLY_IN = {
  'tensorflow': ('data_pipelines/', 'uniemox_jax/convert/saved_model.py'),
  'tensorflow_datasets': ('data_pipelines/',),
  'orbax': ('uniemox_jax/checkpoint.py',),
  'torch': ('uniemox_jax/convert/', 'data_pipelines/detectors.py'),
  'jax': ('uniemox_jax/',),
  'flax': ('uniemox_jax/',),
  'optax': ('uniemox_jax/',),
}
MAX_FILE_LINES, MAX_FUNCTION_LINES = 400, 60


def _sources(*folders: str) -> list[Path]:
  return sorted(path for folder in folders for path in (ROOT / folder).rglob('*.py'))


def _name(path: Path) -> str:
  return path.relative_to(ROOT).as_posix()


def _imports(tree: ast.AST) -> Iterator[str]:
  """Full names of what is imported; `from a import b` is a.b."""
  for node in ast.walk(tree):
    if isinstance(node, ast.Import):
      yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
      assert node.level == 0, 'imports are absolute'
      yield from (f'{node.module}.{alias.name}' for alias in node.names)


def _part(module: str) -> str:
  """The name in LAYERS that a full module name belongs to."""
  package, _, rest = module.partition('.')
  return rest.split('.')[0] if package == 'uniemox_jax' else package


def test_every_module_has_its_layer() -> None:
  parts = {path.name.removesuffix('.py') for path in (ROOT / 'uniemox_jax').iterdir()
           if path.suffix == '.py' or (path / '__init__.py').exists()}
  assert parts - {'__init__'} <= LAYER_OF.keys()


@pytest.mark.parametrize('path', [path for path in _sources('uniemox_jax') if path.parent.name != 'uniemox_jax'
                                  or path.name != '__init__.py'], ids=_name)
def test_imports_point_down(path: Path) -> None:
  own = LAYER_OF[path.relative_to(ROOT / 'uniemox_jax').parts[0].removesuffix('.py')]
  ours = [module for module in _imports(ast.parse(path.read_text(encoding='utf-8')))
          if module.split('.')[0] in PACKAGES and not module.startswith(FROM_ANYWHERE)]
  assert not [module for module in ours if LAYER_OF[_part(module)] > own]


def test_data_pipelines_know_nothing_of_the_model() -> None:
  imported = {module for path in _sources('data_pipelines') for module in
              _imports(ast.parse(path.read_text(encoding='utf-8')))}
  assert not {module for module in imported if module.split('.')[0] in ('uniemox_jax', 'configs')}


def test_configs_import_ml_collections_alone() -> None:
  imported = {module.split('.')[0] for path in _sources('configs') for module in
              _imports(ast.parse(path.read_text(encoding='utf-8')))}
  assert imported == {'ml_collections'}


@pytest.mark.parametrize('library', ONLY_IN)
def test_library_is_imported_only_where_it_belongs(library: str) -> None:
  users = [_name(path) for path in _sources(*PACKAGES)
           if library in {module.split('.')[0] for module in _imports(ast.parse(path.read_text(encoding='utf-8')))}]
  assert not [user for user in users if not user.startswith(ONLY_IN[library])]


def _outside_functions(node: ast.AST) -> Iterator[ast.AST]:
  yield node
  for child in ast.iter_child_nodes(node):
    if not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
      yield from _outside_functions(child)


@pytest.mark.parametrize('library', ['torch', 'cv2', 'onnxruntime', 'apache_beam', 'av'])
def test_optional_library_is_imported_inside_functions_only(library: str) -> None:
  for path in _sources('uniemox_jax', 'data_pipelines'):
    nodes = _outside_functions(ast.parse(path.read_text(encoding='utf-8')))
    modules = {module.split('.')[0] for node in nodes if isinstance(node, ast.Import | ast.ImportFrom)
               for module in _imports(node)}
    assert library not in modules, _name(path)


@pytest.mark.parametrize('path', _sources(*PACKAGES, 'tests', 'benchmarks'), ids=_name)
def test_files_and_functions_are_short(path: Path) -> None:
  text = path.read_text(encoding='utf-8')
  assert len(text.splitlines()) <= MAX_FILE_LINES
  long = [node.name for node in ast.walk(ast.parse(text)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
          and node.end_lineno - node.lineno + 1 > MAX_FUNCTION_LINES]
  assert not long


@pytest.mark.parametrize(('modules', 'absent'), [
  # A user's `import uniemox_jax` is quick: not even jax.
  (['uniemox_jax'], ['tensorflow', 'torch', 'jax']),
  # The compute core runs where tensorflow is not installed.
  ([f'uniemox_jax.{name}' for name in ('models.uniemox', 'models.classifier', 'train_step', 'checkpoint', 'api',
                                       'teacher', 'optim', 'metrics')], ['tensorflow', 'torch']),
  # Predicting starts without tensorflow's seconds.
  (['uniemox_jax.predict'], ['tensorflow', 'torch', 'av']),
], ids=['package', 'compute core', 'predict'])
def test_import_leaves_heavy_libraries_alone(modules: list[str], absent: list[str]) -> None:
  program = f'import sys, {", ".join(modules)}; print([name for name in {absent} if name in sys.modules])'
  done = subprocess.run([sys.executable, '-c', program], cwd=ROOT, capture_output=True, text=True, check=True)
  assert done.stdout.strip() == '[]'
