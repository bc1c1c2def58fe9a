"""A SigLIP that is asked in words at every door: `predict`, Python, `app`, ONNX; and what it is refused for."""

import csv
import json
from pathlib import Path
import shutil

import numpy as np
from PIL import Image
import pytest

from data_pipelines.errors import UserError
from tests.support.predictions import draw
import uniemox_jax
from uniemox_jax.predict.prediction import predict_images
from uniemox_jax.recognition.recogniser import ModelSource, open_recogniser
from uniemox_jax.recognition.words import read_words

pytest.importorskip('torch')
transformers = pytest.importorskip('transformers')
WORDS = ['joy', 'a lonely place', 'fear']


@pytest.fixture(params=['siglip_folder', 'siglip2_folder'])
def siglip(request: pytest.FixtureRequest) -> str:
  """A SigLIP, and a SigLIP 2 of fixed size, as transformers saves them."""
  return str(request.getfixturevalue(request.param))


@pytest.fixture
def paths(tmp_path: Path) -> list[str]:
  return draw(tmp_path / 'photos', 3)


def test_probabilities_are_the_softmax_of_the_logits_whose_sigmoids_transformers_pipeline_gives(
    siglip, paths, tmp_path):
  (tmp_path / 'prompts.txt').write_text('a photo of {}.')
  ours = uniemox_jax.load_classifier(siglip, ','.join(WORDS), str(tmp_path / 'prompts.txt'))
  # transformers asks about each label alone: a sigmoid of scale * cosine + bias.
  pipeline = transformers.pipeline('zero-shot-image-classification', model=siglip)
  pipeline.tokenizer.model_input_names = ['input_ids']  # as published: it was trained without an attention mask
  found = pipeline(paths, candidate_labels=WORDS, hypothesis_template='a photo of {}.')
  for row, rows in zip(ours.predict_proba(paths), found, strict=True):
    scores = {entry['label']: entry['score'] for entry in rows}
    sigmoid_C = np.array([scores[word] for word in WORDS])
    logits_C = np.log(sigmoid_C / (1 - sigmoid_C))
    np.testing.assert_allclose(row, np.exp(logits_C) / np.exp(logits_C).sum(), atol=1e-5)


def test_one_call_gives_a_table_with_similarities_that_are_cosines(siglip, paths, tmp_path):
  out = tmp_path / 'emotions.csv'
  predict_images(ModelSource(siglip, 'mikels+valence', texts=('a lonely place',)), paths, str(out))
  rows = list(csv.DictReader(out.read_text().splitlines()))
  assert {'label', 'p_awe', 'valence', 'arousal'} <= rows[0].keys()
  loaded = uniemox_jax.load_clip(siglip)
  cosines = loaded.encode_image(paths) @ loaded.encode_text(['a lonely place']).T
  np.testing.assert_allclose([float(row['similarity_a lonely place']) for row in rows], cosines[:, 0], atol=1e-5)
  for row in rows:
    assert sum(float(value) for name, value in row.items() if name.startswith('p_')) == pytest.approx(1, abs=1e-5)


def test_page_gives_the_row_of_predict_and_says_that_there_are_no_maps(siglip, paths):
  pytest.importorskip('starlette')
  from uniemox_jax.app.tried_models import open_tried
  asked = open_tried(siglip, None, read_words('ekman+valence', None), 'ekman+valence')
  with Image.open(paths[0]) as image:
    said = asked.ask(image.convert('RGB'), '')
  table = uniemox_jax.load_classifier(siglip, 'ekman+valence').predict(paths[:1]).to_dict()
  assert said.columns.pop('label') == table['label'][0]
  assert said.columns == pytest.approx({name: table[name][0] for name in said.columns}, abs=1e-5)
  assert not said.maps and 'does not show where it looks' in asked.maps_note and len(said.closest) == 5


def test_export_to_onnx_gives_its_outputs(siglip, paths, tmp_path, assert_parity):
  pytest.importorskip('onnxruntime')
  from uniemox_jax.export_torch import OnnxOptions, export_torch
  from uniemox_jax.recognition.predictor import Predictor
  words = {'labels': 'ekman+valence', 'texts': ('a lonely place',)}
  export_torch(siglip, 'onnx', str(tmp_path / 'out'), OnnxOptions(**words))
  ours = Predictor(open_recogniser(ModelSource(siglip, **words)))
  theirs = Predictor(open_recogniser(str(tmp_path / 'out' / 'model.onnx')))
  assert theirs.column_names() == ours.column_names()
  views = np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3), np.uint8)
  assert_parity(ours(views), theirs(views))


def test_pixels_beside_whole_patches_are_dropped_in_onnx_too(tmp_path, random_torch, assert_parity):
  pytest.importorskip('onnxruntime')
  from tests.support import siglip_folders
  from uniemox_jax.onnx_export import float_export
  from uniemox_jax.train.open_model import open_model
  siglip_folders.write_siglip(tmp_path, random_torch, 'siglip')
  for name, changes in (('config.json', {'image_size': 37}), ('preprocessor_config.json', {'height': 37, 'width': 37})):
    settings = json.loads((tmp_path / name).read_text())
    settings['vision_config' if name == 'config.json' else 'size'] |= changes
    (tmp_path / name).write_text(json.dumps(settings))
  export = float_export.of_words(str(tmp_path), open_model(str(tmp_path)), 'ekman', None, ())
  assert export.views == (37, 37, 3)
  assert 'model.onnx' in float_export.write_model(tmp_path, export)  # it compares the outputs itself


def test_load_encoder_gives_the_tokens_and_the_embedding_of_transformers_image_tower(siglip, assert_parity):
  torch = pytest.importorskip('torch')
  ours, theirs = uniemox_jax.load_encoder(siglip), transformers.SiglipModel.from_pretrained(siglip)
  pixels_BxSxSx3 = np.random.default_rng(0).normal(size=(2, ours.image_size, ours.image_size, 3)).astype(np.float32)
  with torch.no_grad():
    outputs = theirs.vision_model(torch.tensor(pixels_BxSxSx3.transpose(0, 3, 1, 2)))
  assert_parity(ours.tokens(pixels_BxSxSx3), outputs.last_hidden_state)
  assert_parity(ours.features(pixels_BxSxSx3), outputs.pooler_output)
  assert ours.features(np.zeros((40, 50, 3), np.uint8)).shape == (1, outputs.pooler_output.shape[1])


def test_without_a_tokenizer_it_is_one_line_that_names_the_missing_file(
    siglip, paths, tmp_path, command, capfd, assert_one_line):
  folder = shutil.copytree(siglip, tmp_path / 'bare', ignore=shutil.ignore_patterns('spiece*', 'tokenizer*'))
  capfd.readouterr()  # what making the model said
  code = command('uniemox_jax.predict', f'--checkpoint={folder}', '--labels=ekman', paths[0])
  assert_one_line(code, capfd.readouterr().err, 'bare has no tokenizer', 'spiece.model')


@pytest.mark.parametrize('verb', ['predict', 'import_torch', 'export'])
def test_what_a_siglip_cannot_be_is_one_line_that_says_what_it_can(verb, siglip_folder, paths, tmp_path):
  from uniemox_jax.export_torch import export_torch
  from uniemox_jax.import_torch import import_torch
  asked = {
      'predict': (lambda: uniemox_jax.load_classifier(str(siglip_folder)), 'needs words: add --labels'),
      'import_torch': (lambda: import_torch(str(siglip_folder), str(tmp_path / 'out')), 'be asked in words'),
      'export': (lambda: export_torch(str(siglip_folder), 'timm', str(tmp_path / 'out')), 'holds a SigLIP')}
  call, message = asked[verb]
  with pytest.raises(UserError, match=message):
    call()
  assert not (tmp_path / 'out').exists()


def test_naflex_is_refused_by_name_at_every_door(siglip2_folder, tmp_path):
  folder = shutil.copytree(siglip2_folder, tmp_path / 'naflex')
  config = json.loads((folder / 'config.json').read_text())
  (folder / 'config.json').write_text(json.dumps(config | {'model_type': 'siglip2'}))
  with pytest.raises(UserError, match='NaFlex'):
    uniemox_jax.load_classifier(str(folder), 'ekman')
