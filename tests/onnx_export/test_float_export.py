"""`--to=onnx`: onnxruntime computes what our modules compute, for any batch, and the file says what it is."""

import sys

import numpy as np
import pytest

from data_pipelines.errors import UserError
from tests.support import exported
from tests.support.predictions import LABELS, SMALL, assert_refused
from uniemox_jax.convert import onnx_graph
from uniemox_jax.convert.formats import onnx_files
from uniemox_jax.export_torch import OnnxOptions, export_torch
from uniemox_jax.models.preprocess import normalise
from uniemox_jax.objectives.tasks import Task, single_label_task
from uniemox_jax.onnx_export import float_export
from uniemox_jax.recognition.predictor import Predictor
from uniemox_jax.recognition.recogniser import ModelSource, open_recogniser
from uniemox_jax.train.checkpoint import Checkpoint, load_checkpoint

pytest.importorskip('onnx')
onnxruntime = pytest.importorskip('onnxruntime')
TASKS = (
    single_label_task(LABELS), Task('labels', ('joy', 'fear'),
                                    'bce'), Task('vad', ('valence', 'arousal'), 'l2', mean=(5.0, 4.0), std=(2.0, 1.5)))
CLIP_LIKE = {'pre_norm': True, 'activation': 'quick_gelu', 'norm_eps': 1e-5}


def student(kind='classifier', tasks=TASKS[:1], **model) -> Checkpoint:
  """A random checkpoint in memory; of a classifier, the columns of `tasks`."""
  described = {}
  if kind == 'classifier':
    model |= {'classes': sum(len(task.outputs) for task in tasks)}
    described = {'tasks': [task.__dict__ for task in tasks], 'labels': LABELS}
  model = SMALL | model
  return Checkpoint('somewhere', 0, exported.random_params(kind, model), {'kind': kind, 'model': model, **described})


def pixels(export, count):
  return np.random.default_rng(count).integers(0, 256, (count, *export.views), np.uint8)


@pytest.mark.usefixtures('one_device')
@pytest.mark.parametrize(
    'loaded', [
        pytest.param(student(pooling=pooling, streams=streams, tasks=tasks, **model), id=f'{pooling}-{streams}-{name}')
        for pooling, streams, tasks, name, model in [
            ('mean', 'scene', TASKS, 'three tasks', {}), ('mean', 'scene+person', TASKS[:1], 'label',
                                                          {}), ('class_token', 'scene', TASKS[:1], 'label', CLIP_LIKE),
            ('mean_of_normed', 'scene', TASKS[:1], 'label',
             {}), ('class_token', 'scene+person', TASKS[1:], 'two tasks', CLIP_LIKE | {'activation': 'gelu'})]])
def test_classifier_gives_its_outputs_in_onnxruntime_for_any_batch(loaded, tmp_path, assert_parity):
  export = float_export.of_student(loaded)
  float_export.write_model(tmp_path, export)
  ours = Predictor(export.recogniser)
  theirs = Predictor(open_recogniser(str(tmp_path / 'model.onnx')))
  assert theirs.view_shape == ours.view_shape and theirs.column_names() == ours.column_names()
  for count in (1, 3, 7):
    assert_parity(ours(pixels(export, count)), theirs(pixels(export, count)))


@pytest.mark.parametrize('kind', ['encoder', 'uniemox'])
def test_encoder_gives_its_tokens(kind, tmp_path, assert_parity):
  loaded = student(kind, **(exported.TINY_DECODER if kind == 'uniemox' else CLIP_LIKE))
  export = float_export.of_student(loaded)
  float_export.write_model(tmp_path, export)
  session = onnxruntime.InferenceSession(tmp_path / 'model.onnx')
  images = np.asarray(normalise(pixels(export, 3)))
  ours = exported.module_of(kind, loaded.params, **loaded.description['model']).encoder(images)
  assert_parity(ours, session.run(None, {'images': images})[0])
  assert_refused(lambda: open_recogniser(str(tmp_path / 'model.onnx')), 'names no emotions')


@pytest.mark.usefixtures('one_device')
def test_clip_that_is_asked_in_words_keeps_them_in_the_file(clip_folder, tmp_path, assert_parity):
  words = {'labels': 'ekman+valence', 'texts': ('a lonely place', 'a feast')}
  export_torch(str(clip_folder), 'onnx', str(tmp_path / 'out'), OnnxOptions(**words))
  ours = Predictor(open_recogniser(ModelSource(str(clip_folder), **words)))
  theirs = Predictor(open_recogniser(str(tmp_path / 'out' / 'model.onnx')))
  assert theirs.column_names() == ours.column_names() and 'similarity_a feast' in ours.column_names()
  views = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), np.uint8)
  assert_parity(ours(views), theirs(views))
  assert_refused(
      lambda: open_recogniser(ModelSource(str(tmp_path / 'out' / 'model.onnx'), 'joy,fear')), 'has its words in it')


def test_a_graph_of_something_else_is_never_written(tmp_path, monkeypatch):
  exported.saved(tmp_path / 'run', 'classifier', **exported.TINY, classes=8)
  monkeypatch.setattr(onnx_graph.Graph, 'layer_norm', lambda graph, name, values, *others: values)
  with pytest.raises(RuntimeError, match='something else'):
    export_torch(str(tmp_path / 'run'), 'onnx', str(tmp_path / 'out'))
  assert [path.name for path in tmp_path.iterdir()] == ['run']


def test_card_and_messages_name_opset_and_difference(tmp_path, capsys):
  exported.saved(tmp_path / 'run', 'classifier', **exported.TINY, classes=8)
  export_torch(str(tmp_path / 'run'), 'onnx', str(tmp_path / 'out'))
  line = capsys.readouterr().out.splitlines()[0]
  assert line.startswith('model.onnx, opset 20: in onnxruntime its outputs differ from ours by at most ')
  card = (tmp_path / 'out' / 'README.md').read_text()
  assert 'person in it' not in card and '--boxes' not in card
  assert line[1:] in card and '(B, 32, 32, 3) -> (B, 8)' in card and ', '.join(exported.LABELS) in card


def test_weights_that_do_not_fit_lie_beside_the_file(tmp_path, monkeypatch, assert_parity):
  monkeypatch.setattr(onnx_files, 'MAX_INLINE', 1000)
  export = float_export.of_student(student())
  float_export.write_model(tmp_path, export)
  assert sorted(path.name for path in tmp_path.iterdir()) == ['model.onnx', 'model.onnx.data']
  assert (tmp_path / 'model.onnx.data').stat().st_size > (tmp_path / 'model.onnx').stat().st_size / 2
  assert Predictor(open_recogniser(str(tmp_path / 'model.onnx'))).column_names()[0] == 'label'
  content = bytearray((tmp_path / 'model.onnx.data').read_bytes())
  content[100] ^= 1
  (tmp_path / 'model.onnx.data').write_bytes(content)
  assert_refused(lambda: open_recogniser(str(tmp_path / 'model.onnx')), r'model\.onnx\.data is missing, or is not what')


@pytest.mark.parametrize('package', ['onnx', 'onnxruntime'])
def test_missing_package_is_named_before_any_work(package, tmp_path, monkeypatch):
  exported.saved(tmp_path / 'run', 'classifier', **exported.TINY, classes=8)
  monkeypatch.setitem(sys.modules, package, None)
  with pytest.raises(UserError, match=r"pip install 'uniemox_jax\[onnx\]'"):
    export_torch(str(tmp_path / 'run'), 'onnx', str(tmp_path / 'out'))
  assert [path.name for path in tmp_path.iterdir()] == ['run']
  assert load_checkpoint(str(tmp_path / 'run')).step == 0


def test_folder_of_an_export_stands_for_its_one_file(tmp_path):
  exported.saved(tmp_path / 'run', 'classifier', **exported.TINY, classes=8)
  out = tmp_path / 'out'
  export_torch(str(tmp_path / 'run'), 'onnx', str(out))
  assert open_recogniser(str(out)).weights_sha256 == open_recogniser(str(out / 'model.onnx')).weights_sha256
  assert '\nmodel.onnx, opset' in (out / 'README.md').read_text()
  assert_refused(lambda: export_torch(str(out), 'timm', str(tmp_path / 'again')), 'is ONNX, which only predict')
  (out / 'model_int8.onnx').write_bytes(b'')
  assert_refused(lambda: open_recogniser(str(out)), 'holds model.onnx, model_int8.onnx: give one of them')
  assert_refused(lambda: open_recogniser(str(out / 'model_int8.onnx')), 'is empty')
