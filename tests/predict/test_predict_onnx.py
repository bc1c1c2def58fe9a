"""`predict` and `load_classifier` of a .onnx file: the table of the run, and one line for any other file."""

import csv
import json
import sys

import numpy as np
import pytest

from data_pipelines import checksums
from data_pipelines.errors import UserError
from tests.support.predictions import assert_refused, draw, save_random
from tests.support.tiny_onnx import write_yolox
import uniemox_jax
from uniemox_jax.convert.formats import onnx_files
from uniemox_jax.export_torch import export_torch
from uniemox_jax.predict.prediction import predict_images
from uniemox_jax.recognition.recogniser import open_recogniser

onnx = pytest.importorskip('onnx')
pytest.importorskip('onnxruntime')


@pytest.fixture(scope='module')
def made(tmp_path_factory):
  """A run, its export, and images."""
  folder = tmp_path_factory.mktemp('onnx')
  run = save_random(folder / 'run')
  export_torch(run, 'onnx', str(folder / 'out'))
  draw(folder / 'images', 40)
  return folder


@pytest.fixture
def model(made, tmp_path):
  """A copy of the exported file, to be changed."""
  path = tmp_path / 'model.onnx'
  path.write_bytes((made / 'out' / 'model.onnx').read_bytes())
  return path


def test_table_of_the_file_is_that_of_the_run(made, tmp_path):
  tables = []
  for name, checkpoint in (('run', made / 'run'), ('onnx', made / 'out' / 'model.onnx')):
    summary = predict_images(str(checkpoint), [str(made / 'images')], str(tmp_path / f'{name}.csv'))
    assert summary.predicted == 40
    tables.append(list(csv.reader((tmp_path / f'{name}.csv').read_text().splitlines())))
  assert tables[0][0] == tables[1][0]
  texts, numbers = ([[[cell
                       for place, cell in enumerate(row)
                       if (place in (0, 1, 6)) == is_text]
                      for row in rows[1:]]
                     for rows in tables]
                    for is_text in (True, False))
  assert texts[0] == texts[1]
  np.testing.assert_allclose(*(np.array(part, float) for part in numbers), atol=1e-5)
  made_by = json.loads((tmp_path / 'onnx.csv.made_by.json').read_text())
  assert made_by['weights_sha256'] == checksums.sha256_of(made / 'out' / 'model.onnx')


def test_classifier_from_the_file_takes_what_that_of_the_run_takes(made):
  ours, theirs = (uniemox_jax.load_classifier(str(made / name)) for name in ('run', 'out/model.onnx'))
  assert (theirs.labels, theirs.tasks, theirs.streams,
          theirs.image_size) == (ours.labels, ours.tasks, ours.streams, ours.image_size)
  paths = sorted(map(str, (made / 'images').iterdir()))
  np.testing.assert_allclose(theirs.predict_proba(paths), ours.predict_proba(paths), atol=1e-5)
  normalised = np.random.default_rng(0).standard_normal((3, 32, 32, 3), np.float32)
  np.testing.assert_allclose(theirs.predict_proba(normalised), ours.predict_proba(normalised), atol=1e-5)


def test_every_flipped_byte_is_one_line(model):
  whole = model.read_bytes()
  for place in np.random.default_rng(0).integers(0, len(whole), 60):
    damaged = bytearray(whole)
    damaged[place] ^= 1 << int(place) % 8
    model.write_bytes(damaged)
    with pytest.raises(UserError) as refusal:
      open_recogniser(str(model))
    assert str(model) in str(refusal.value) and '\n' not in str(refusal.value)


def rewritten(path, change=lambda graph: None, **fields) -> str:
  """The file with its graph changed and other fields in its metadata, sealed again as its writer would."""
  proto = onnx.load(path)
  description = json.loads(proto.metadata_props[0].value) | fields
  description.pop('seal')
  del proto.metadata_props[:]
  change(proto.graph)
  content = proto.SerializeToString()
  digest = onnx_files.hashlib.sha256(content).hexdigest()
  value = json.dumps(onnx_files.add_seal(description | {'graph_sha256': digest}))
  tail = onnx.ModelProto()
  tail.metadata_props.add(key='uniemox_jax', value=value)
  path.write_bytes(content + tail.SerializeToString())
  return str(path)


def run_another_library(graph):
  graph.node[0].domain = 'ai.onnx.contrib'


def read_another_file(graph):
  tensor = graph.initializer[0]
  tensor.ClearField('raw_data')
  tensor.data_location = onnx.TensorProto.EXTERNAL
  tensor.external_data.add(key='location', value='../../etc/passwd')


def test_what_is_only_rewritten_is_read(model):
  assert open_recogniser(rewritten(model)).tasks[0].name == 'label'


@pytest.mark.parametrize(('change', 'fields', 'said'), [
    (run_another_library, {}, 'operators that no export has'),
    (read_another_file, {}, r"takes weights from '\.\./\.\./etc/passwd', which is not its own"),
    (lambda graph: None, {'format': 2, 'version': '9.9'}, "format 2 of uniemox_jax '9.9'.* pip install --upgrade"),
    (lambda graph: None, {'format': 0}, 'format 0 .*: export it again'),
    (lambda graph: None, {'view': {'size': 32}}, "lacks 'mean'"),
    (lambda graph: None, {'texts': ['one more']}, 'its graph has the shapes'),
    (lambda graph: None, {'streams': 'scene+person'}, 'its graph has the shapes')])
def test_file_that_is_no_export_of_this_version_is_one_line(model, change, fields, said):
  assert_refused(lambda: open_recogniser(rewritten(model, change, **fields)), said)


def test_foreign_file_is_told_how_to_make_one(tmp_path):
  path = tmp_path / 'yolox.onnx'
  write_yolox(path, 64, 96, 1.0, [np.zeros(3), np.zeros(3)])
  assert_refused(lambda: open_recogniser(str(path)), 'ONNX from elsewhere.*export_torch --checkpoint=RUN --to=onnx')
  path.rename(tmp_path / 'no_ending')
  assert_refused(lambda: open_recogniser(str(tmp_path / 'no_ending')), 'ONNX from elsewhere')
  assert_refused(lambda: open_recogniser(str(path)), 'does not exist')


def test_missing_package_is_one_line_at_the_command(made, monkeypatch, capsys, command, assert_one_line):
  monkeypatch.setitem(sys.modules, 'onnxruntime', None)
  code = command('uniemox_jax.predict', f'--checkpoint={made / "out" / "model.onnx"}', made / 'images')
  assert_one_line(code, capsys.readouterr().err, 'needs onnx and onnxruntime', "pip install 'uniemox_jax[onnx]'")
