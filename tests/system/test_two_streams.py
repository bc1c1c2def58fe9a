"""Fine-tuning on scene and person: sums by hand, the same on any topology, and every verb that meets such a model."""

from pathlib import Path
import shutil
import time
from typing import Any

from flax import nnx
import jax
import jax.numpy as jnp
from ml_collections import ConfigDict
import numpy as np
import pytest

from configs import finetune as published
from data_pipelines import build
from data_pipelines.records.reader import open_split
from tests.support import small_runs
from tests.support.predictions import assert_refused, rows_of
from tests.support.steps import finetune_step
from tests.train.test_flops import product_flops
import uniemox_jax
from uniemox_jax.eval.run_evaluation import evaluate
from uniemox_jax.eval.trained_classifier import load_trained, predict_split
from uniemox_jax.export_torch import TARGETS, export_torch
from uniemox_jax.finetune import finetune
from uniemox_jax.look.inspection import look
from uniemox_jax.models.classifier import Classifier, stack_views
from uniemox_jax.objectives.tasks import predict as probabilities
from uniemox_jax.plan import step_compiler
from uniemox_jax.predict.prediction import BOX, predict_images
from uniemox_jax.recognition.predictor import Predictor
from uniemox_jax.recognition.recogniser import open_recogniser
from uniemox_jax.runtime import sharding
from uniemox_jax.train import optimizer
from uniemox_jax.train import state as train_state
from uniemox_jax.train.checkpoint import load_checkpoint
from uniemox_jax.train.config import FinetuneConfig
from uniemox_jax.train.flops import finetune_work
from uniemox_jax.train.run_folder import keep_config
from uniemox_jax.train.schema import parse

pytestmark = pytest.mark.usefixtures('one_device')
MODEL = dict(image_size=32, patch_size=8, width=24, depth=3, heads=2, classes=5)
BATCH = 16
TWO = 'scene+person'


def random_images(seed: int = 0) -> np.ndarray:
  return np.random.default_rng(seed).integers(0, 256, (BATCH, 32, 32, 3), np.uint8)


def floats(seed: int = 0) -> jax.Array:
  return jnp.asarray(random_images(seed) / 255 - 0.5, jnp.float32)


def random_params(**model: Any) -> dict[str, Any]:
  rng = np.random.default_rng(0)
  return jax.tree.map(
      lambda leaf: 0.2 * rng.standard_normal(leaf.shape).astype(np.float32),
      train_state.abstract_params(train_state.builder(Classifier, **model)))


def test_head_reads_the_scene_first_then_the_person_by_one_encoder(assert_parity):
  params = random_params(**MODEL, streams=TWO)
  scene_kernel, person_kernel = np.split(params['head']['kernel'], 2)
  two = nnx.merge(train_state.graphdef_of(train_state.builder(Classifier, **MODEL, streams=TWO)), params)
  one = nnx.merge(
      train_state.graphdef_of(train_state.builder(Classifier, **MODEL)),
      params | {'head': {'kernel': scene_kernel, 'bias': params['head']['bias']}})
  scene, person = floats(0), floats(1)
  views = stack_views({'image': scene, 'person': person})
  assert_parity(two(views), one(scene) + one.features(person) @ person_kernel)
  assert_parity(two.features(views), np.concatenate([one.features(scene), one.features(person)], axis=1))
  assert_parity(
      two(stack_views({'image': scene, 'person': scene})),
      one.features(scene) @ (scene_kernel + person_kernel) + params['head']['bias'])


def test_one_stream_is_the_default_and_has_the_parameters_it_always_had():
  default, scene, two = (
      train_state.initial_params(train_state.builder(Classifier, **MODEL | streams), 0)
      for streams in ({}, {'streams': 'scene'}, {'streams': TWO}))
  assert default['head']['kernel'].shape == (24, 5) and two['head']['kernel'].shape == (48, 5)
  assert jax.tree.all(jax.tree.map(np.array_equal, default, scene))
  assert jax.tree.all(jax.tree.map(np.array_equal, default['encoder'], two['encoder']))


def one_step(devices: int = 1, **options: float) -> dict[str, Any]:
  mesh = sharding.make_mesh(devices=jax.devices()[:devices])
  build = train_state.builder(Classifier, **MODEL, streams=TWO)
  tx = optimizer.adamw(lambda step: 1e-3, layer_decay=0.75, weight_decay=0.0)
  state = train_state.create_state(
      train_state.state_template(build, tx, mesh), build, tx, seed=0, loaded=random_params(**MODEL, streams=TWO))
  batch = {'image': random_images(0), 'person': random_images(1), 'label': np.arange(BATCH, dtype=np.int32) % 5}
  step = jax.jit(finetune_step(train_state.graphdef_of(build), tx, **options))
  with jax.set_mesh(mesh), jax.default_matmul_precision('highest'):
    _, metrics = step(state, (), sharding.global_batch(batch, mesh), jax.random.key(0))
  return jax.device_get(metrics)


@pytest.mark.parametrize(
    'other', [{'devices': 4, 'accum_steps': 2},
              *(pytest.param(alone, marks=pytest.mark.slow) for alone in ({'devices': 8}, {'accum_steps': 4}))],
    ids=str)
def test_devices_and_accumulation_change_no_loss_and_no_gradient_with_everything_random_on(other):
  options = dict(mixup=0.8, cutmix=1.0, smoothing=0.1, drop_path=0.3)
  one, same = one_step(**options), one_step(**options | other)
  assert same['loss'] == pytest.approx(one['loss'], rel=1e-5)
  assert same['gradient_norm'] == pytest.approx(one['gradient_norm'], rel=1e-4)


def test_each_view_drops_paths_of_its_own(monkeypatch):
  seen = []

  def classify(self, views, scale):
    jax.debug.callback(seen.append, scale)
    return jnp.zeros((BATCH, 5))

  monkeypatch.setattr(Classifier, '__call__', classify)
  batch = {
      'image': jnp.asarray(random_images()), 'person': jnp.asarray(random_images()),
      'label': jnp.zeros(BATCH, jnp.int32)}
  build = train_state.builder(Classifier, **MODEL, streams=TWO)
  tx = optimizer.adamw(lambda step: 1e-3, layer_decay=0.75, weight_decay=0.0)
  mesh = sharding.make_mesh(devices=jax.devices()[:1])
  state = train_state.create_state(train_state.state_template(build, tx, mesh), build, tx, seed=0)
  step = jax.jit(finetune_step(train_state.graphdef_of(build), tx, drop_path=0.5))
  jax.block_until_ready(step(state, (), batch, jax.random.key(0)))
  jax.effects_barrier()
  assert seen[0].shape == (3, 2 * BATCH, 2)
  last_BxVx2 = seen[0][-1].reshape(BATCH, 2, 2)
  assert (last_BxVx2[:, 0] != last_BxVx2[:, 1]).any()


def test_flops_are_those_of_the_traced_forward_pass():
  build = train_state.builder(Classifier, **MODEL, streams=TWO)
  classifier = train_state.abstract_model(build)
  views = jax.ShapeDtypeStruct((2, 2, 32, 32, 3), jnp.float32)
  traced = jax.make_jaxpr(lambda params, views: nnx.merge(nnx.graphdef(classifier), params)(views))(
      train_state.abstract_params(build), views)
  assert 2 * finetune_work(classifier).student.flops == product_flops(traced.jaxpr)


def config_of(data_dir: str, **values: Any) -> ConfigDict:
  config = small_runs.finetune_config(data_dir)
  config.streams = TWO
  config.augment.update({'randaugment': 9.0, 'erase': 0.25})
  config.update(values)
  return config


def test_plan_compiles_the_step_with_both_views(data_dir):
  one, two = (
      step_compiler.training_program(config_of(data_dir, streams=streams),
                                     jax.devices()[:1]) for streams in ('scene', TWO))
  assert one.batch.keys() == {'image', 'label'} and two.batch.keys() == {'image', 'person', 'label'}
  assert two.work.student.flops == 2 * one.work.student.flops
  assert step_compiler.measure_program(step_compiler.compile_program(two))['fits']


@pytest.fixture(scope='module')
def run(data_dir: str, tmp_path_factory: pytest.TempPathFactory) -> str:
  """Workdir of a short run; read only but for result files."""
  folder = tmp_path_factory.mktemp('two') / 'run'
  finetune(config_of(data_dir), str(folder))
  return str(folder)


@pytest.fixture(scope='module')
def one_device(finetuned_run: Path, one_device: None) -> None:
  """After the shared run, which has all."""


@pytest.fixture(scope='module')
def one_stream(finetuned_run: Path) -> str:
  return str(finetuned_run)


def test_checkpoint_says_that_it_sees_the_person_and_is_evaluated_the_same_again(run):
  checkpoint = load_checkpoint(run)
  assert checkpoint.description['model']['streams'] == TWO
  assert checkpoint.params['head']['kernel'].shape == (32, 8)
  written = Path(run, 'result.json').read_bytes()
  evaluate(run)
  assert Path(run, 'result.json').read_bytes() == written


def test_looking_at_it_explains_the_person_and_finds_the_mistakes_that_evaluation_counts(run, data_dir, tmp_path):
  result = look(run, data_dir, 'emo8', str(tmp_path), examples=3)
  assert set(result['pictures']) == {'attention', 'embeddings', 'mistakes'}
  assert result['pictures']['attention']['without'] == {}
  counted = evaluate(run)
  mistakes = result['pictures']['mistakes']
  assert mistakes['wrong'] == round((1 - counted['top1']) * counted['examples']) > 0


@pytest.mark.slow
def test_killed_run_ends_bit_equal(data_dir, run, tmp_path):
  command = small_runs.command('uniemox_jax.finetune', config_of(data_dir), tmp_path / 'run')
  process, deadline = small_runs.start(command), time.monotonic() + 300
  while not any(path.name.isdigit() for path in (tmp_path / 'run').glob('checkpoints/*')):
    assert process.poll() is None and time.monotonic() < deadline, process.stdout.read()
    time.sleep(0.02)
  process.kill()
  process.communicate()
  assert 'resumes at step' in small_runs.finish(small_runs.start(command))[0]
  assert small_runs.same_weights(Path(run), tmp_path / 'run')


@pytest.mark.parametrize(('source', 'streams'), [
    ('one_stream', TWO), pytest.param('run', 'scene', marks=pytest.mark.slow)])
def test_it_starts_from_another_run_and_another_run_from_it(data_dir, request, tmp_path, capsys, source, streams):
  config = config_of(data_dir, init=request.getfixturevalue(source), streams=streams, epochs=1)
  capsys.readouterr()  # what the run that it starts from has said
  finetune(config, str(tmp_path))
  said = capsys.readouterr().out
  assert 'taken: encoder, fc_norm' in said and (' images of train show one; ' in said) == (streams == TWO)


def test_a_run_that_was_started_before_the_key_was_is_resumed(data_dir, tmp_path):
  config = small_runs.finetune_config(data_dir)
  assert config.streams == 'scene' and published.get_config().streams == 'scene'
  keep_config(parse(FinetuneConfig, config), str(tmp_path))
  keep_config(parse(FinetuneConfig, config_of(data_dir, streams='scene', augment=config.augment)), str(tmp_path))
  assert_refused(
      lambda: keep_config(parse(FinetuneConfig, config_of(data_dir, augment=config.augment)), str(tmp_path)),
      'values of streams')


def raw(data_dir: str) -> Path:
  return Path(data_dir).parent / 'raw' / 'emo8'


def table_probabilities(table: Path, labels: list[str]) -> np.ndarray:
  return np.array([[float(row[f'p_{label}']) for label in labels] for row in rows_of(table)])


def test_predict_with_boxes_sees_what_evaluation_sees(run, data_dir, tmp_path):
  checkpoint, classifier = load_trained(run)
  split, mesh = open_split(data_dir, 'emo8', 'test'), sharding.make_mesh()
  found = predict_split(
      classifier, sharding.replicate(checkpoint.params, mesh), split, ['label'], image_size=32, batch_size=8, mesh=mesh)
  predictor = Predictor(open_recogniser(run))
  theirs = probabilities(predictor.recogniser.tasks[0], found['outputs'])
  paths = [str(raw(data_dir) / annotation.id) for annotation in split.annotations()]
  summary = predict_images(run, paths, str(tmp_path / 'with.csv'), boxes=str(raw(data_dir)))
  without = predict_images(run, paths, str(tmp_path / 'without.csv'))
  apart = [np.abs(table_probabilities(tmp_path / name, split.labels) - theirs) for name in ('with.csv', 'without.csv')]
  assert apart[0].max() < 0.01 and apart[0].mean() < 0.1 * apart[1].mean()
  boxed = [all(row[column] for column in BOX) for row in rows_of(tmp_path / 'with.csv')]
  assert 0 < summary.without_person == boxed.count(False) < len(paths) == without.without_person
  assert not any(row[column] for row in rows_of(tmp_path / 'without.csv') for column in BOX)
  largest = max(float(row['person_ymax']) for row in rows_of(tmp_path / 'with.csv') if row['person_ymax'])
  assert 0.5 < largest <= 1


def test_predict_says_once_that_the_scene_stands_in(run, data_dir, tmp_path, capsys):
  predict_images(run, [str(raw(data_dir) / 'test')], str(tmp_path / 'out.csv'))
  said = capsys.readouterr().err
  assert said.count('the scene replaces the person in every row') == 1
  assert '24 predicted, 0 unreadable\n24 without a person: the scene replaced it' in said


def test_a_detector_finds_the_persons_of_what_the_file_lacks(run, data_dir, tmp_path, monkeypatch):
  looked_at = []

  def detect(shown):
    looked_at.extend(picture.size for picture in shown)
    return [np.array([[8.0, 16.0, 40.0, 80.0, 0.9], [0, 0, 96, 96, 0.4], [np.nan] * 5])] * len(shown)

  monkeypatch.setattr('data_pipelines.person_boxes.detectors.load_detector', lambda name: detect)
  paths = [str(raw(data_dir) / annotation.id) for annotation in open_split(data_dir, 'emo8', 'test').annotations()]
  boxes = raw(data_dir) / 'person_boxes.csv'
  predict_images(run, paths, str(tmp_path / 'out.csv'), boxes=str(boxes), detector='any')
  unboxed = [
      row for row in rows_of(tmp_path / 'out.csv')
      if f"{Path(row['path']).relative_to(raw(data_dir))}," not in boxes.read_text()]
  assert len(unboxed) == len(looked_at) > 0
  for row in unboxed:
    np.testing.assert_allclose([float(row[name]) for name in BOX], np.array([16, 8, 80, 40]) / 96, atol=1e-5)


def test_table_is_gone_on_with_the_same_boxes_only(run, data_dir, tmp_path):
  folder, out = str(raw(data_dir) / 'test'), tmp_path / 'out.csv'
  predict_images(run, [folder], str(out), boxes=str(raw(data_dir)), batch_size=8)
  whole = out.read_bytes()
  out.write_bytes(whole[:1000])
  for options, match in (({}, 'another boxes'), ({'boxes': str(raw(data_dir)), 'detector': 'hog'}, 'another detector')):
    assert_refused(lambda options=options: predict_images(run, [folder], str(out), append=True, **options), match)
  predict_images(run, [folder], str(out), boxes=str(raw(data_dir)), append=True)
  assert out.read_bytes() == whole


def test_python_takes_persons_and_the_encoder_one_image(run, one_stream):
  images, persons = random_images(0), np.random.default_rng(1).integers(0, 256, (BATCH, 40, 20, 3), np.uint8)
  model = uniemox_jax.load_classifier(run)
  assert model.streams == TWO
  seen, alone = model.predict_proba(images, persons), model.predict_proba(images)
  assert seen.shape == (BATCH, 8) and np.abs(seen - alone).max() > 1e-4
  np.testing.assert_array_equal(model.predict(images, persons)['label'], seen)
  view = np.asarray(model._predictor.recogniser.view(images))
  np.testing.assert_array_equal(model.predict_proba(view, view), alone)
  encoder = uniemox_jax.load_encoder(run)
  assert encoder.tokens(images).shape == (BATCH, 17, 16) and encoder.features(images).shape == (BATCH, 16)
  with pytest.raises(ValueError, match='16 images: give one each'):
    model.predict(images, persons[:3])
  with pytest.raises(ValueError, match='^persons: float64'):
    model.predict(images, persons / 2.0)
  with pytest.raises(ValueError, match='sees the scene alone.*leave persons out'):
    uniemox_jax.load_classifier(one_stream).predict(images, persons)


@pytest.mark.filterwarnings("ignore:'uniemox_jax:RuntimeWarning")
@pytest.mark.parametrize(('model', 'arguments', 'thing', 'remedy'), [
    ('one_stream', ['--boxes={raw}'], 'sees the scene alone', 'leave --boxes and --detector out'),
    ('one_stream', ['--detector=hog'], 'sees the scene alone', 'streams=scene+person'),
    ('run', ['--boxes={tmp}/none.csv'], 'none.csv is not there', 'give a file'),
    ('run', ['--boxes={tmp}'], 'person_boxes.csv is not there', 'give a file'),
    ('run', ['--boxes={tmp}/bad.csv'], 'bad.csv line 2', 'correct or remove'),
    ('run', ['--detector={tmp}/none.onnx'], 'none.onnx', ''),], ids=str)
def test_mistake_is_one_line(
    command, assert_one_line, capsys, request, data_dir, tmp_path, model, arguments, thing, remedy):
  (tmp_path / 'bad.csv').write_text('image,xmin,ymin,xmax,ymax,score\na.jpg,1,2,three,4,1\n')
  code = command(
      'uniemox_jax.predict', f'--checkpoint={request.getfixturevalue(model)}',
      raw(data_dir) / 'test', *(argument.format(raw=raw(data_dir), tmp=tmp_path) for argument in arguments))
  assert_one_line(code, capsys.readouterr().err, thing, remedy)


def test_unknown_streams_are_one_line(data_dir, tmp_path):
  assert_refused(
      lambda: finetune(config_of(data_dir, streams='person'), str(tmp_path)),
      "config key 'streams' is 'person': choose scene or scene.person")


def test_records_without_a_person_are_one_line(data_dir, tmp_path):
  shutil.copytree(raw(data_dir), tmp_path / 'raw')
  (tmp_path / 'raw' / 'person_boxes.csv').unlink()
  build.build('emo8', tmp_path / 'raw', tmp_path / 'data')
  assert_refused(
      lambda: finetune(config_of(str(tmp_path / 'data')), str(tmp_path / 'run')),
      'no training record has one: find them .*--config.streams=scene')


def test_exports_name_what_can_be_exported(run, tmp_path):
  for target in set(TARGETS) - {'clip', 'onnx', 'uniemox'}:
    assert_refused(
        lambda target=target: export_torch(run, target, str(tmp_path / 'out')),
        'a classifier of scene and person.*export the encoder that it started from')
  assert not (tmp_path / 'out').exists()
