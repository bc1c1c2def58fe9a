"""`--quantize=int8`: a smaller file beside the first, which agrees with it on images that calibration has not read."""

from pathlib import Path
import re

import numpy as np
from PIL import Image
import pytest

from tests.support.predictions import assert_refused, draw, save_random
import uniemox_jax
from uniemox_jax.convert.formats.onnx_files import read_onnx
from uniemox_jax.export_torch import OnnxOptions, export_torch
from uniemox_jax.onnx_export import int8
from uniemox_jax.recognition.predictor import Predictor
from uniemox_jax.recognition.recogniser import open_recogniser
from uniemox_jax.train.checkpoint import load_checkpoint, save_weights

onnx = pytest.importorskip('onnx')
pytest.importorskip('onnxruntime')


def train_head(run: Path, images: Path, out: Path) -> str:
  """The run with a head that is fitted to the classes of the images: ten steps of fine-tuning hardly tell any apart."""
  checkpoint = load_checkpoint(str(run))
  paths = sorted(images.rglob('*.jpg'))
  features_NxD = uniemox_jax.load_encoder(str(run)).features([str(path) for path in paths])
  labels = checkpoint.description['labels']
  targets_NxC = 3.0 * np.array([[path.parent.name == label for label in labels] for path in paths])
  kernel = np.linalg.solve(features_NxD.T @ features_NxD + 10 * np.eye(16), features_NxD.T @ targets_NxC)
  head = {'kernel': kernel.astype(np.float32), 'bias': np.zeros(len(labels), np.float32)}
  save_weights(str(out), checkpoint.params | {'head': head}, checkpoint.description)
  return str(out)


@pytest.fixture(scope='module')
def trained(finetuned_run, data_dir, tmp_path_factory):
  """The export of a model that was trained, in both forms."""
  folder, raw = tmp_path_factory.mktemp('int8'), Path(data_dir).parent / 'raw' / 'emo8'
  run = train_head(finetuned_run, raw / 'train', folder / 'run')
  export_torch(run, 'onnx', str(folder / 'out'), OnnxOptions(calibration=str(raw / 'test')))
  return folder / 'out'


def test_a_trained_model_keeps_its_classes_in_8_bits_and_says_what_it_lost(trained):
  said = (trained / 'README.md').read_text()
  found = re.search(
      r'\nmodel_int8\.onnx, label: the top class is the same for ([\d.]+)%, a probability differs by at most ([\d.]+), '
      r'on average ([\d.]+)\.', said)
  same, largest, mean = map(float, found.groups())
  assert 'calibrated on 8 images, against model.onnx on 16 others of the folder' in said
  assert same > 90 and 0.0001 < mean < largest < 0.05


def test_only_products_with_weights_are_in_8_bits(trained):
  nodes = onnx.load(trained / 'model_int8.onnx').graph.node
  made = {name: node for node in nodes for name in node.output}
  products = {
      node.name: {made[name].op_type if name in made else 'weight'
                  for name in node.input} for node in nodes if node.op_type in int8.PRODUCTS}
  between = {name for name, inputs in products.items() if inputs != {'DequantizeLinear'}}
  assert between == {f'blocks.{layer}.attention.{part}' for layer in (0, 1) for part in ('scores', 'heads')}
  assert len(products) == 4 + 2 * 4 + 2
  assert {node.op_type for node in nodes if 'norm' in node.name} >= {'LayerNormalization'}
  assert read_onnx(trained / 'model_int8.onnx').description['precision'] == 'int8'
  sizes = [(trained / name).stat().st_size for name in ('model.onnx', 'model_int8.onnx')]
  assert sizes[1] < sizes[0]


def test_both_files_are_predicted_from_and_differ(trained):
  views = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), np.uint8)
  exact, rounded = (Predictor(open_recogniser(str(trained / f'{name}.onnx'))) for name in ('model', 'model_int8'))
  assert exact.column_names() == rounded.column_names()
  assert exact.recogniser.weights_sha256 != rounded.recogniser.weights_sha256
  assert 0 < np.abs(exact(views) - rounded(views)).max() < 0.1 * np.abs(exact(views)).max()


def test_too_few_images_and_unreadable_ones_are_told(tmp_path, capsys):
  run = save_random(tmp_path / 'run')
  draw(tmp_path / 'images', int8.FEWEST)
  (tmp_path / 'images' / '0003.png').write_bytes(b'\x89PNG\r\n\x1a\n')
  options = OnnxOptions(calibration=str(tmp_path / 'images'))
  assert_refused(lambda: export_torch(run, 'onnx', str(tmp_path / 'out'), options), 'holds 11 images that can be read')
  assert not (tmp_path / 'out').exists()
  Image.new('RGB', (40, 40), 'red').save(tmp_path / 'images' / 'one_more.png')
  export_torch(run, 'onnx', str(tmp_path / 'out'), options)
  assert '1 images could not be read (first: ' in capsys.readouterr().out
