"""What the code before the packages left behind is read, resumed and evaluated to the same numbers.

tests/fixtures/before_packages.tar.xz holds records, a teacher, a run of each verb stopped in the middle, a finished
run, its export, and in expected.json what that code made of them in the end. Its numbers agree to 1e-4, and not to the
bit: evaluation views have since been rounded between their two axes, as Pillow does it (docs/method.md, Resizing), and
attention sums in another order (docs/performance.md).
"""

import json
from pathlib import Path
import tarfile
from typing import Any

import jax
import numpy as np
import pytest

from data_pipelines.storage import read_json
from tests.support import small_runs
import uniemox_jax
from uniemox_jax.convert.formats.vocabulary import write_openai_vocabulary
from uniemox_jax.train.checkpoint import load_checkpoint

FIXTURE = small_runs.ROOT / 'tests' / 'fixtures' / 'before_packages.tar.xz'


@pytest.fixture(scope='module')
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
  path = tmp_path_factory.mktemp('before')
  with tarfile.open(FIXTURE) as archive:
    archive.extractall(path, filter='data')
  write_openai_vocabulary(path / 'teacher')
  return path


@pytest.fixture(scope='module')
def expected(folder: Path) -> dict[str, Any]:
  return read_json(str(folder / 'expected.json'))


def run(folder: Path, verb: str, *arguments: str) -> None:
  as_a_user = f'{small_runs.DEVICE_COUNT}1'
  small_runs.finish(small_runs.start(['-m', f'uniemox_jax.{verb}', *arguments], cwd=folder, XLA_FLAGS=as_a_user))


def close(values: Any) -> Any:
  """The same, with a relative tolerance for floats."""
  if isinstance(values, dict):
    return {name: close(value) for name, value in values.items()}
  if isinstance(values, list):
    return [close(value) for value in values]
  return pytest.approx(values, rel=1e-4, abs=1e-6) if isinstance(values, float) else values


@pytest.mark.slow
@pytest.mark.parametrize('verb', ['pretrain', 'finetune'])
def test_a_run_resumes_to_the_same_numbers(folder, expected, verb):
  run(folder, verb, f'--config={verb}_config.py', f'--workdir={verb}')
  ended = load_checkpoint(str(folder / verb))
  lines = [json.loads(line) for line in (folder / verb / 'metrics.jsonl').read_text().splitlines()]
  kept = [{name: line[name] for name in before} for line, before in zip(lines, expected[verb]['metrics'])]
  assert ended.step == expected[verb]['step'] and len(lines) == len(expected[verb]['metrics'])
  assert kept == close(expected[verb]['metrics'])
  leaves = jax.tree_util.tree_leaves_with_path(ended.params)
  norms = {jax.tree_util.keystr(path): float(np.linalg.norm(np.asarray(leaf, np.float64))) for path, leaf in leaves}
  # Softmax ignores the keys' biases: their gradient is rounding error, of which Adam makes whole steps.
  rounding = {name: norms.pop(name) for name in list(norms) if name.endswith("['qkv']['bias']")}
  before = dict(expected[verb]['norms'])
  assert rounding == pytest.approx({name: before.pop(name) for name in rounding}, rel=2e-3)
  assert norms == close(before)


@pytest.mark.parametrize(('split', 'name'), [('test', 'result'), ('val', 'result_val')])
def test_a_finished_run_is_evaluated_to_the_same_result(folder, expected, split, name):
  (folder / 'done' / 'finetune' / f'{name}.json').unlink()
  run(folder, 'evaluate', '--workdir=done/finetune', f'--split={split}')
  result = read_json(str(folder / 'done' / 'finetune' / f'{name}.json'))
  new = result.keys() - expected[name].keys()
  assert new == {'adaptive_ece', 'aurc', 'top1_at_80'}  # measured since then
  assert {key: value for key, value in result.items() if key not in new} == close(expected[name])


def test_an_export_is_read_back(folder):
  run(folder, 'import_torch', 'exported', '--out=imported')
  images = np.random.default_rng(0).integers(0, 256, (4, 40, 50, 3), np.uint8)
  classifiers = [uniemox_jax.load_classifier(str(folder / path)) for path in ('done/finetune', 'imported')]
  assert classifiers[0].labels == classifiers[1].labels
  np.testing.assert_allclose(*(one.predict_proba(images) for one in classifiers), atol=1e-5)
