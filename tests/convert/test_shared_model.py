"""`export_torch --to=uniemox`: a folder that every verb reads, gives what the run gives, and is checked before use."""

import json
import os
from pathlib import Path
import shutil
import subprocess
import sys

from huggingface_hub import constants
import jax
import numpy as np
import pytest

from data_pipelines.errors import UserError
from tests.support import exported
from tests.support.predictions import draw
from tests.support.servers import hub_server
import uniemox_jax
from uniemox_jax.convert import shared_model
from uniemox_jax.eval.run_evaluation import evaluate
from uniemox_jax.export_torch import export_torch
from uniemox_jax.import_torch import import_torch
from uniemox_jax.objectives.tasks import Task
from uniemox_jax.train import open_model
from uniemox_jax.train.checkpoint import save_weights

TASKS = (
    Task('labels', ('Peace', 'Anger'),
         'bce'), Task('vad', ('valence', 'arousal'), 'l2', mean=(5.1, 4.2), std=(1.3, 2.0)))


@pytest.fixture(scope='module')
def run(tmp_path_factory):
  """A run with two tasks, of which thresholds were chosen on val."""
  folder = tmp_path_factory.mktemp('run')
  model = exported.TINY | {'classes': 4, 'streams': 'scene+person'}
  description = {
      'kind': 'classifier', 'model': model, 'labels': ['Peace', 'Anger'], 'tasks': [vars(task) for task in TASKS]}
  save_weights(str(folder), exported.random_params('classifier', model), description)
  rows = [{'label': 'Peace', 'threshold': 0.3}, {'label': 'Anger', 'threshold': None}]
  (folder / 'result.json').write_text(
      json.dumps({
          'dataset': 'emotic', 'split': 'test', 'checkpoint_step': 0, 'loss': 0.5,
          'tasks': {'labels': {'map': 0.25, 'per_class': rows}}}))
  return folder


@pytest.fixture(scope='module')
def shared(run):
  export_torch(str(run), 'uniemox', str(run / 'shared'))
  return run / 'shared'


def predict(checkpoint: Path, images: Path, out: Path) -> bytes:
  """The table, made by a process of its own."""
  done = subprocess.run(
      [sys.executable, '-m', 'uniemox_jax.predict', f'--checkpoint={checkpoint}', f'--out={out}',
       str(images)], capture_output=True, text=True, timeout=120)
  assert done.returncode == 0, done.stderr
  return out.read_bytes()


def test_a_new_process_predicts_the_same_bytes_as_from_the_run(run, shared, tmp_path):
  draw(tmp_path / 'images', 5)
  of_run, of_folder = (predict(path, tmp_path / 'images', tmp_path / f'{path.name}.csv') for path in (run, shared))
  assert of_run == of_folder and b'Peace' in of_run.splitlines()[0]


def test_folder_holds_all_that_is_needed_and_a_card(shared):
  assert {path.name for path in shared.iterdir()
         } == {'model.safetensors', 'config.json', 'checksums.sha256', 'README.md'}
  config = json.loads((shared / 'config.json').read_text())
  assert config['thresholds'] == [0.3, None] and config['format'] == shared_model.FORMAT
  card = (shared / 'README.md').read_text()
  assert '\\`' not in card and 'load_classifier' in card and '| labels: map | 0.2500 |' in card


@pytest.mark.parametrize(('target', 'said'), [
    ('uniemox', ['--boxes=person_boxes.csv --out', ".predict('photo.jpg', persons='person.jpg').to_dict()"]),
    ('onnx', ['--boxes=person_boxes.csv --out', 'the first is the scene and the second the person'])])  # fmt: skip
def test_card_of_a_model_of_scene_and_person_says_how_it_gets_the_person(run, tmp_path, target, said):
  if target == 'onnx':
    pytest.importorskip('onnxruntime')
  export_torch(str(run), target, str(tmp_path / 'out'))
  card = (tmp_path / 'out' / 'README.md').read_text()
  assert all(text in card for text in ['looks at the scene and at one person', *said])


def test_it_can_be_exported_again_and_loaded_as_an_encoder(shared, tmp_path):
  export_torch(str(shared), 'uniemox', str(tmp_path / 'again'))
  for name in ('model.safetensors', 'config.json'):
    assert (shared / name).read_bytes() == (tmp_path / 'again' / name).read_bytes()
  assert uniemox_jax.load_encoder(str(shared)).features(np.zeros((40, 50, 3), np.uint8)).shape == (1, 32)


def test_evaluate_asks_for_the_run_of_a_shared_model(shared):
  with pytest.raises(UserError, match='is a shared model.*give the run'):
    evaluate(str(shared))


@pytest.mark.parametrize('name', ['model.safetensors', 'config.json'])
def test_a_flipped_bit_is_named(name, shared, tmp_path):
  copy = tmp_path / 'copy'
  copy.mkdir()
  for path in shared.iterdir():
    (copy / path.name).write_bytes(path.read_bytes())
  content = bytearray((copy / name).read_bytes())
  content[-2] ^= 1
  (copy / name).write_bytes(content)
  with pytest.raises(UserError, match=name):
    uniemox_jax.load_classifier(str(copy))


@pytest.mark.parametrize(('change', 'problem'),
                         [({'format': 2, 'uniemox_jax': '9.1'}, "newer version, '9.1'"),
                          ({'format': 'x'}, "is damaged: its format is 'x'"), ({'format': None}, 'its format is None'),
                          ({'training': [1]}, 'training'), ({'kind': 'spell'}, "kind 'spell'"),
                          ({'model': {}}, 'config.json'), ({'labels': ['a\nb', 'c']}, 'label'),
                          ({'tasks': [{'name': 'labels'}]}, 'config.json'),
                          ({'view': {'short_side': -3}}, 'view|short_side'),
                          ({'tasks': [{'name': 'labels', 'outputs': ['a', 'a'], 'loss': 'bce'}]}, "'a' twice"),
                          ({'thresholds': 'high'}, 'thresholds'), ({'source': {'a': [1]}}, 'no text'),
                          ({'statistics': ...}, "lacks 'statistics'"), ({'view': ...}, "lacks 'view'")])  # fmt: skip
def test_folder_of_another_version_or_with_a_wrong_config_is_one_line(change, problem, shared, tmp_path):
  copy = tmp_path / 'copy'
  copy.mkdir()
  (copy / 'model.safetensors').write_bytes((shared / 'model.safetensors').read_bytes())
  config = json.loads((shared / 'config.json').read_text()) | change
  (copy / 'config.json').write_text(json.dumps({key: value for key, value in config.items() if value is not ...}))
  with pytest.raises(UserError, match=problem) as error:
    uniemox_jax.load_classifier(str(copy))
  assert len(str(error.value).splitlines()) == 1


@pytest.fixture
def hub(shared, tmp_path, monkeypatch):
  with hub_server.serving({'someone/emotions': shared}) as hub:
    values = {
        'ENDPOINT': hub.address, 'HF_HUB_CACHE': str(tmp_path / 'cache'), 'HF_HUB_DISABLE_XET': True,
        'HUGGINGFACE_CO_URL_TEMPLATE': hub.address + '/{repo_id}/resolve/{revision}/{filename}'}  # fmt: skip
    for name, value in values.items():
      monkeypatch.setattr(constants, name, value)
    yield hub


def test_hub_id_gives_what_the_folder_gives(hub, shared):
  image = np.random.default_rng(0).integers(0, 256, (1, 50, 40, 3), np.uint8)
  of_folder, of_hub = (uniemox_jax.load_classifier(name).predict(image) for name in (str(shared), 'someone/emotions'))
  np.testing.assert_array_equal(of_folder['labels'], of_hub['labels'])


def test_short_name_stands_for_a_hub_id_and_the_hash_of_its_weights(hub, shared, tmp_path, monkeypatch):
  digest = shared_model.checksums.sha256_of(shared / 'model.safetensors')
  registry = tmp_path / 'models.json'
  monkeypatch.setattr(open_model, 'REGISTRY', registry)
  for sha256 in (digest, '0' * 64):
    registry.write_text(json.dumps({'emotions-b16': {'repository': 'someone/emotions', 'sha256': sha256}}))
    if sha256 == digest:
      assert uniemox_jax.load_classifier('emotions-b16').labels == ['Peace', 'Anger']
    else:
      with pytest.raises(UserError, match='other weights than were published'):
        uniemox_jax.load_classifier('emotions-b16')


def test_registry_of_the_package_is_empty_until_there_are_weights():
  assert json.loads(open_model.REGISTRY.read_text()) == {}


@pytest.mark.parametrize('kind', ['encoder', 'uniemox'])
def test_pretrained_models_are_shared_too(kind, tmp_path):
  extra = exported.TINY_DECODER if kind == 'uniemox' else {}
  params = exported.saved(tmp_path / 'run', kind, **exported.TINY, **extra)
  export_torch(str(tmp_path / 'run'), 'uniemox', str(tmp_path / 'out'))
  loaded = open_model.open_model(str(tmp_path / 'out'))
  assert loaded.description['kind'] == kind
  assert jax.tree.all(jax.tree.map(np.array_equal, loaded.params, params))
  images = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), np.uint8)
  of_run, of_folder = (uniemox_jax.load_encoder(str(tmp_path / name)).tokens(images) for name in ('run', 'out'))
  np.testing.assert_array_equal(of_run, of_folder)


def test_config_says_how_images_are_prepared_and_readers_use_it(run, shared, tmp_path):
  config = json.loads((shared / 'config.json').read_text())
  assert config['view'] == {'short_side': 37, 'squash': False, 'floor': False, 'resample': 3}
  assert config['statistics'] == {'mean': [0.485, 0.456, 0.406], 'std': [0.229, 0.224, 0.225]}
  of_run, of_shared = (uniemox_jax.load_classifier(path) for path in (run, shared))
  digests = {loaded._predictor.recogniser.weights_sha256 for loaded in (of_run, of_shared)}
  assert len(digests) == 1
  copy = copied(shared, tmp_path, {'view': config['view'] | {'squash': True}})
  assert uniemox_jax.load_classifier(copy)._predictor.recogniser.view.squash


def copied(shared: Path, folder: Path, change: dict[str, object]) -> Path:
  """The shared model with another config, and without checksums."""
  shutil.copytree(shared, folder / 'copy', ignore=shutil.ignore_patterns('checksums.sha256'))
  config = json.loads((shared / 'config.json').read_text()) | change
  (folder / 'copy' / 'config.json').write_text(json.dumps(config))
  return folder / 'copy'


def test_export_of_an_export_keeps_recipe_and_metrics(shared, tmp_path):
  stage = {
      'name': 'Fine-tuning', 'dataset': 'emotic', 'labelled': False, 'config': {'epochs': 5, 'note': '```\n# Title'}}
  config = json.loads((shared / 'config.json').read_text())
  copy = copied(shared, tmp_path, {'training': config['training'] | {'stages': [stage], 'start': 'none'}})
  export_torch(str(copy), 'uniemox', str(tmp_path / 'again'))
  card = (tmp_path / 'again' / 'README.md').read_text()
  assert '| labels: map | 0.2500 |' in card and '"epochs": 5' in card and 'random weights' in card
  assert '\n# Title' not in card
  shutil.rmtree(copy)
  wrong = copied(shared, tmp_path, {'training': {'stages': [3]}})
  with pytest.raises(UserError, match="config.json .*its 'training' has another form"):
    export_torch(str(wrong), 'uniemox', str(tmp_path / 'third'))


def test_every_file_of_an_export_has_the_permissions_of_the_umask(run, tmp_path):
  pytest.importorskip('onnx')
  exported.saved(tmp_path / 'label', 'classifier', **exported.TINY, classes=8)
  mask = os.umask(0)
  os.umask(mask)
  for target in ('uniemox', 'timm', 'onnx'):
    export_torch(str(tmp_path / 'label'), target, str(tmp_path / target))
    modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / target).iterdir()}
    assert set(modes.values()) == {0o666 & ~mask}, modes


def test_its_file_of_weights_stands_for_the_folder_and_missing_weights_are_named(shared, tmp_path):
  image = np.random.default_rng(0).integers(0, 256, (1, 50, 40, 3), np.uint8)
  of_folder, of_file = (uniemox_jax.load_classifier(path) for path in (shared, shared / 'model.safetensors'))
  np.testing.assert_array_equal(of_folder.predict(image)['labels'], of_file.predict(image)['labels'])
  with pytest.raises(UserError, match='shared model of this package'):
    import_torch(str(shared), str(tmp_path / 'run'))
  copy = copied(shared, tmp_path, {})
  (copy / 'model.safetensors').unlink()
  with pytest.raises(UserError, match='a folder without weights'):
    uniemox_jax.load_classifier(copy)
