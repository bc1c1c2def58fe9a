"""The layout that CONTRIBUTING.md draws: which way imports point, what may be imported where, how long things get."""

import ast
from collections import Counter
from collections.abc import Iterator
import functools
from pathlib import Path
import subprocess
import sys

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ('uniemox_jax', 'data_pipelines', 'configs')

# Library -> the only places that import it; below a folder that ends in '/', or one file.
ONLY_IN = {
    'tensorflow': ('data_pipelines/light_tensorflow.py',
                  ), 'tensorflow_datasets': ('data_pipelines/',), 'orbax': ('uniemox_jax/train/checkpoint.py',),
    'torch': ('uniemox_jax/convert/', 'data_pipelines/person_boxes/detectors.py'),
    'starlette': ('data_pipelines/local_page/', 'data_pipelines/annotate/page.py', 'uniemox_jax/app/server.py'),
    'uvicorn': ('data_pipelines/local_page/',), 'jax': ('uniemox_jax/',), 'flax': ('uniemox_jax/',
                                                                                  ), 'optax': ('uniemox_jax/',)}
# Names of one thing that has several homes: every verb's entry, every dataset's builder, how a command of either
# package runs, and the same view of an image by jax, by tensorflow and by Pillow.
SAME_CONCEPT = {'main', 'Builder', 'run', 'centre_view', 'evaluation_view', 'resize'}
MAX_FILE_LINES, MAX_FUNCTION_LINES, MAX_MODULES = 400, 60, 15


def _sources(*folders: str) -> list[Path]:
  return sorted(path for folder in folders for path in (ROOT / folder).rglob('*.py'))


@functools.cache
def _parsed(path: Path) -> ast.Module:
  return ast.parse(path.read_text(encoding='utf-8'))


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


def test_imports_point_down() -> None:
  done = subprocess.run([Path(sys.executable).with_name('lint-imports'), 'pyproject.toml'], cwd=ROOT, text=True,
                        capture_output=True)
  assert done.returncode == 0, done.stdout


def test_no_folder_is_crowded() -> None:
  modules = Counter(
      _name(path.parent)
      for path in [*ROOT.glob('*.py'), *_sources(*(path.name for path in ROOT.glob('[!.]*/')))]
      if path.name not in ('__init__.py', 'conftest.py'))
  assert not {folder: count for folder, count in modules.items() if count > MAX_MODULES}


@pytest.mark.parametrize('package', PACKAGES[:2])
def test_no_two_modules_share_a_name(package: str) -> None:
  names = Counter(path.stem for path in _sources(package) if not path.stem.startswith('__'))
  assert not [name for name, count in names.items() if count > 1]


def test_no_public_name_means_two_things() -> None:
  names = Counter(
      node.name
      for path in _sources(*PACKAGES[:2])
      for node in _parsed(path).body
      if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith('_'))
  assert not {name for name, count in names.items() if count > 1} - SAME_CONCEPT


def test_every_package_says_in_a_line_what_it_is() -> None:
  said = {_name(path): ast.get_docstring(_parsed(path)) for path in _sources(*PACKAGES) if path.name == '__init__.py'}
  assert not [name for name, text in said.items() if not text or len(text.splitlines()[0]) > 120]


def test_data_pipelines_know_nothing_of_the_model() -> None:
  imported = {module for path in _sources('data_pipelines') for module in _imports(_parsed(path))}
  assert not {module for module in imported if module.split('.')[0] in ('uniemox_jax', 'configs')}


def test_configs_import_ml_collections_the_keys_and_the_rows_of_the_ablation_alone() -> None:
  imported = {module.rpartition('.')[0] or module for path in _sources('configs') for module in _imports(_parsed(path))}
  ours = {'uniemox_jax.train.config', 'uniemox_jax.train.schema', 'uniemox_jax.compare.ablation_rows'}
  assert imported <= {'ml_collections', 'configs', *ours}


@pytest.mark.parametrize('library', ONLY_IN)
def test_library_is_imported_only_where_it_belongs(library: str) -> None:
  users = [
      _name(path)
      for path in _sources(*PACKAGES)
      if library in {module.split('.')[0] for module in _imports(_parsed(path))}]
  assert not [user for user in users if not user.startswith(ONLY_IN[library])]


def _outside_functions(node: ast.AST) -> Iterator[ast.AST]:
  yield node
  for child in ast.iter_child_nodes(node):
    if not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
      yield from _outside_functions(child)


@pytest.mark.parametrize('library', ['torch', 'cv2', 'onnx', 'onnxruntime', 'apache_beam', 'av', 'krippendorff'])
def test_optional_library_is_imported_inside_functions_only(library: str) -> None:
  for path in _sources('uniemox_jax', 'data_pipelines'):
    nodes = _outside_functions(_parsed(path))
    modules = {
        module.split('.')[0] for node in nodes if isinstance(node, ast.Import | ast.ImportFrom)
        for module in _imports(node)}
    assert library not in modules, _name(path)


def test_files_and_functions_are_short() -> None:
  paths = _sources(*PACKAGES, 'tests', 'benchmarks')
  long = [_name(path) for path in paths if len(path.read_text(encoding='utf-8').splitlines()) > MAX_FILE_LINES]
  long += [
      f'{_name(path)}: {node.name}' for path in paths for node in ast.walk(_parsed(path))
      if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno -
      node.lineno >= MAX_FUNCTION_LINES]
  assert not long


@pytest.mark.parametrize(('modules', 'absent'), [
    # A user's `import uniemox_jax` is quick: not even jax.
    (['uniemox_jax'], ['tensorflow', 'torch', 'jax']),
    # The compute core runs where tensorflow is not installed.
    ([
        f'uniemox_jax.{name}' for name in (
            'models.uniemox', 'models.classifier', 'train.steps', 'train.checkpoint', 'api', 'teacher.frozen_clip',
            'train.optimizer', 'objectives.metrics')], ['tensorflow', 'torch']),
    # Predicting starts without tensorflow's seconds.
    (['uniemox_jax.predict.prediction'], ['tensorflow', 'torch', 'av'])], ids=['package', 'compute core', 'predict'])
def test_import_leaves_heavy_libraries_alone(modules: list[str], absent: list[str]) -> None:
  program = f'import sys, {", ".join(modules)}; print([name for name in {absent} if name in sys.modules])'
  done = subprocess.run([sys.executable, '-c', program], cwd=ROOT, capture_output=True, text=True, check=True)
  assert done.stdout.strip() == '[]'
