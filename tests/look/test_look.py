"""`look` draws what a checkpoint has, says what it has not, repeats itself, and ends mistakes in one line."""

from collections.abc import Callable
import json
from pathlib import Path
import re
from typing import Any

from ml_collections import ConfigDict
import numpy as np
from PIL import Image
import pytest
from scipy import special

from data_pipelines import build
from data_pipelines.batches.pipeline import eval_batches
from data_pipelines.batches.single_examples import read_examples
from data_pipelines.drawing.page_rendering import data_uri
from data_pipelines.records import reader
from data_pipelines.storage import read_json
from tests.support import small_runs
from tests.support.predictions import draw
import uniemox_jax
from uniemox_jax import demo
from uniemox_jax.eval.trained_classifier import load_trained, predict_split
from uniemox_jax.import_torch import import_torch
from uniemox_jax.look.inspected_model import InspectedModel, Inspection, inspect_examples
from uniemox_jax.look.inspection import draw_mistakes, look
from uniemox_jax.report import figures
from uniemox_jax.report.look_page import read_look
from uniemox_jax.runtime.sharding import make_mesh, replicate
from uniemox_jax.train.checkpoint import load_checkpoint, save_weights


@pytest.fixture(scope='module')
def pretrained(pretrained_run: Path) -> str:
  return str(pretrained_run)


@pytest.fixture(scope='module')
def finetuned(finetuned_run: Path) -> str:
  return str(finetuned_run)


@pytest.fixture(scope='module')
def imported(tmp_path_factory: pytest.TempPathFactory) -> str:
  """transformers' ViT with statistics of its own, through `import_torch`."""
  transformers = pytest.importorskip('transformers')
  folder = tmp_path_factory.mktemp('imported')
  config = transformers.ViTConfig(
      hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, image_size=32, patch_size=8)
  transformers.ViTModel(config, add_pooling_layer=False).save_pretrained(folder / 'theirs')
  statistics = {'image_mean': [0.5] * 3, 'image_std': [0.5] * 3}
  (folder / 'theirs' / 'preprocessor_config.json').write_text(json.dumps(statistics))
  import_torch(str(folder / 'theirs'), str(folder / 'ours'))
  assert load_checkpoint(str(folder / 'ours')).description['statistics']['mean'] == [0.5] * 3
  return str(folder / 'ours')


@pytest.fixture(scope='module')
def looked(data_dir: str, finetuned: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
  folder = tmp_path_factory.mktemp('looked')
  return folder, look(finetuned, data_dir, 'emo8', str(folder), examples=5)


def names(folder: Path) -> set[str]:
  return {path.name for path in folder.iterdir()}


def test_classifier_gets_attention_embeddings_and_mistakes(looked):
  folder, result = looked
  assert names(folder) == {'attention.png', 'embeddings.png', 'mistakes.png', 'look.html', 'look.json'}
  assert read_json(folder / 'look.json') == result
  assert (result['kind'], result['dataset'], result['split'], result['examples']) == ('classifier', 'emo8', 'test', 24)
  assert result['skipped'] == {'reconstruction': 'a classifier has no decoder'}
  assert result['pictures']['attention']['without'] == {'person': 'the model reads the scene alone'}
  assert Image.open(folder / 'attention.png').width == 3 * (figures.TILE + 8) + 8


def test_mistakes_are_those_of_evaluate_the_surest_first(looked, finetuned, data_dir):
  listed = looked[1]['pictures']['mistakes']
  checkpoint, classifier = load_trained(finetuned)
  split, mesh = reader.open_split(data_dir, 'emo8', 'test'), make_mesh()
  found = predict_split(
      classifier, replicate(checkpoint.params, mesh), split, ['label'], image_size=32, batch_size=8, mesh=mesh)
  probabilities = special.softmax(found['outputs'], axis=1)
  wrong = probabilities.argmax(1) != found['label']
  assert (listed['examined'], listed['wrong']) == (24, wrong.sum())
  expected = sorted(probabilities.max(1)[wrong], reverse=True)[:5]
  np.testing.assert_allclose([row['confidence'] for row in listed['shown']], expected, atol=1e-5)
  ids = [annotation.id for annotation in split.annotations()]
  for row in listed['shown']:
    place = ids.index(row['id'])
    assert wrong[place] and row['label'] == split.labels[found['label'][place]]
    assert row['predicted'] == split.labels[probabilities[place].argmax()]


def test_a_classifier_without_a_mistake_is_said_to_have_none(finetuned, data_dir):
  inspected, split = InspectedModel(finetuned), reader.open_split(data_dir, 'emo8', 'test')
  labels = np.array([annotation.label for annotation in split.annotations()])
  inspection = Inspection([], [str(place) for place in range(24)], labels, np.zeros((0, 16)), np.eye(8)[labels])
  figure = draw_mistakes(inspected, split, inspection, 5)
  assert figure.facts == {'examined': 24, 'wrong': 0, 'shown': []} and 'no mistake to show' in figure.note
  assert figure.content.startswith(b'\x89PNG')


def test_pretrained_model_is_looked_at_with_the_person_and_its_decoder(pretrained, data_dir, tmp_path):
  (tmp_path / 'mistakes.png').write_bytes(b'of an earlier look')
  result = look(pretrained, data_dir, 'emo8', str(tmp_path), examples=3)
  assert names(tmp_path) == {'attention.png', 'embeddings.png', 'reconstruction.png', 'look.html', 'look.json'}
  assert list(result['skipped']) == ['mistakes']
  assert list(result['pictures']['attention']['without']) == ['relevance']
  assert Image.open(tmp_path / 'attention.png').width == 4 * (figures.TILE + 8) + 8
  assert 'true mean and deviation' in result['pictures']['reconstruction']['note']  # of the run's norm_pix


def test_imported_encoder_is_looked_at_as_far_as_it_goes(imported, data_dir, tmp_path):
  result = look(imported, data_dir, 'emoset', str(tmp_path), split_name='val', examples=2, points=9)
  assert list(result['pictures']) == ['attention', 'embeddings'] and list(result['skipped']) == [
      'mistakes', 'reconstruction']
  assert list(result['pictures']['attention']['without']) == ['relevance', 'person']
  assert result['pictures']['embeddings']['note'].startswith('9 examples')
  few = look(imported, data_dir, 'emoset', str(tmp_path), split_name='val', examples=2, points=7)
  assert 'too few' in few['skipped']['embeddings'] and 'embeddings.png' not in names(tmp_path)


def test_demo_looks_at_both_of_its_runs_and_once(pretrained, finetuned, data_dir, tmp_path):
  (tmp_path / 'uniemox').symlink_to(pretrained)
  (tmp_path / 'finetune_uniemox').symlink_to(finetuned)
  config = ConfigDict({'finetune': small_runs.finetune_config(data_dir)})
  demo.look_at_models(config, str(tmp_path), demo.Stages(str(tmp_path)))
  page = {name: read_look(str(tmp_path / f'look_{name}')) for name in demo.LOOKED_AT}
  assert list(page['uniemox']['images']) == ['attention', 'embeddings', 'reconstruction']
  assert list(page['finetune_uniemox']['images']) == ['attention', 'embeddings', 'mistakes']
  again = demo.Stages(str(tmp_path))
  assert list(again.seconds) == ['look uniemox', 'look finetune_uniemox']
  (tmp_path / 'uniemox').unlink()
  demo.look_at_models(config, str(tmp_path), again)


def test_looking_again_gives_the_same_bytes(looked, finetuned, data_dir, tmp_path):
  folder, _ = looked
  look(finetuned, data_dir, 'emo8', str(tmp_path), examples=5)
  for name in names(folder):
    assert (tmp_path / name).read_bytes() == (folder / name).read_bytes(), name


def test_page_holds_its_images_and_says_what_is_missing(looked):
  folder, _ = looked
  page = (folder / 'look.html').read_text()
  shown = [
      f'src="{data_uri((folder / name).read_bytes(), "image/png")}"' in page
      for name in ('attention.png', 'embeddings.png', 'mistakes.png')]
  assert shown == [True] * 3 and 'Not drawn: a classifier has no decoder.' in page
  rest = re.sub(r'<img src="data:image/png[^"]*"', '', page)
  assert not re.findall('src=|href=|url\\(|@import|<script|<link|https?:', rest)
  assert 'class="missing"' not in page


@pytest.mark.parametrize('dataset', ['emo8', 'emoset'])
def test_examples_are_the_views_of_evaluation_with_the_first_person(data_dir, dataset):
  split = reader.open_split(data_dir, dataset, 'test')
  examples = list(read_examples(split, range(24), 32))
  batch = next(eval_batches(split, batch_size=24, image_size=32))
  np.testing.assert_array_equal(np.stack([example.scene for example in examples]), batch['image'])
  assert [example.label for example in examples] == batch['label'].tolist()
  stored = [split.features.deserialize_example_np(split.read(position)) for position in range(24)]
  assert [example.id for example in examples] == [record['id'].decode() for record in stored]
  assert [example.person is None for example in examples] == [not len(record['persons']) for record in stored]


def test_features_are_those_of_the_python_api(pretrained, imported, finetuned, data_dir):
  split = reader.open_split(data_dir, 'emo8', 'test')
  for path in (pretrained, imported, finetuned):
    inspected = InspectedModel(path)
    inspection = inspect_examples(inspected, split, 24, 24, 10)
    expected = uniemox_jax.load_encoder(path).features(np.asarray(inspected.views(inspection.examples)[:, 0]))
    np.testing.assert_allclose(inspection.features_PxD, expected[:10], atol=1e-5)


def test_heat_is_dark_at_the_least_and_bright_at_the_most():
  overlay = figures.heat_overlay(np.full((32, 32, 3), 128, np.uint8), np.array([[0.0, 1.0], [0.2, 0.3]])).sum(-1)
  assert overlay[:8, :8].max() < overlay[:8, -8:].min()
  flat = figures.heat_overlay(np.full((32, 32, 3), 128, np.uint8), np.ones((2, 2)))
  assert len(np.unique(flat.reshape(-1, 3), axis=0)) == 1


def test_every_one_of_63_classes_has_its_own_sign():
  signs = {(figures.COLOURS[index % len(figures.COLOURS)], figures.MARKERS[index % len(figures.MARKERS)])
           for index in range(63)}
  assert len(signs) == 63


@pytest.mark.parametrize(('case', 'thing', 'remedy'),
                         [('no checkpoint', 'nowhere', '--workdir'), ('clip', 'holds a clip', 'finetune'),
                          ('other labels', 'folder has the labels calm, tense', 'its own dataset'),
                          ('no split', "'dev'", 'choose from'), ('no records', "'heco'", 'data_pipelines.build'),
                          ('no example', 'examples', '--help'), ('workdir', 'is a file', 'folder')])
def test_mistakes_of_the_user_end_in_one_line(
    case: str, thing: str, remedy: str, finetuned: str, data_dir: str, tmp_path: Path, command: Callable[..., int],
    capsys: pytest.CaptureFixture, assert_one_line: Callable[..., None]) -> None:
  flags = {'checkpoint': finetuned, 'data_dir': data_dir, 'dataset': 'emo8', 'workdir': tmp_path / 'out'}
  if case == 'no checkpoint':
    flags['checkpoint'] = tmp_path / 'nowhere'
  elif case == 'clip':
    save_weights(str(tmp_path / 'clip'), {'scale': np.ones(1, np.float32)}, {'kind': 'clip', 'model': {}})
    flags['checkpoint'] = tmp_path / 'clip'
  elif case == 'other labels':
    for label in ('calm', 'tense'):
      draw(tmp_path / 'raw' / 'test' / label, 2)
    build.build('folder', tmp_path / 'raw', tmp_path / 'data')
    flags |= {'data_dir': tmp_path / 'data', 'dataset': 'folder'}
  elif case == 'no split':
    flags['split'] = 'dev'
  elif case == 'no records':
    flags['dataset'] = 'heco'
  elif case == 'no example':
    flags['examples'] = 0
  else:
    flags['workdir'].write_text('in the way')
  capsys.readouterr()
  code = command('uniemox_jax.look', *(f'--{name}={value}' for name, value in flags.items()))
  assert_one_line(code, capsys.readouterr().err, thing, remedy)


def test_a_clip_that_is_asked_in_the_words_of_the_labels_gets_maps_and_mistakes(data_dir, clip_folder, tmp_path):
  split = reader.open_split(data_dir, 'emo8', 'test')
  words = ','.join(reversed([label.upper() for label in split.labels]))
  result = look(str(clip_folder), data_dir, 'emo8', str(tmp_path), examples=3, labels=words)
  assert names(tmp_path) == {'attention.png', 'embeddings.png', 'mistakes.png', 'look.html', 'look.json'}
  assert result['kind'] == 'clip' and 'relevance' not in result['pictures']['attention']['without']
  assert result['skipped'] == {'reconstruction': 'a CLIP has no decoder'}
  # The labels are put in the order of the records: the same answers as from Python in the words' own order.
  asked = uniemox_jax.load_classifier(str(clip_folder), words)
  shown = result['pictures']['mistakes']['shown'][0]
  example = next(one for one in read_examples(split, range(24), 32, person=False) if one.id == shown['id'])
  assert asked.labels[asked.predict_proba(example.scene).argmax()].lower() == shown['predicted'] != shown['label']


def test_a_siglip_says_which_parts_are_skipped_and_why(data_dir, siglip_folder, tmp_path):
  result = look(str(siglip_folder), data_dir, 'emo8', str(tmp_path), labels='calm,lonely')
  assert names(tmp_path) == {'embeddings.png', 'look.html', 'look.json'}
  assert result['skipped'] == {
      'attention': 'a SigLIP has no class token: its own head pools the patches, and is not followed here',
      'mistakes': 'the words that it is asked, calm, lonely, are not the labels of test',
      'reconstruction': 'a SigLIP has no decoder'}


@pytest.mark.parametrize(('model', 'labels', 'remedy'), [('siglip_folder', None, 'asked in words (--labels='),
                                                         ('finetuned_run', 'mikels', 'leave them out')])
def test_words_where_none_belong_or_some_are_missing_are_one_line(
    model, labels, remedy, data_dir, tmp_path, request, command, capfd, assert_one_line):
  arguments = [f'--labels={labels}'] if labels else []
  source = request.getfixturevalue(model)
  capfd.readouterr()  # what making the model said
  code = command(
      'uniemox_jax.look', f'--checkpoint={source}', f'--data_dir={data_dir}', '--dataset=emo8', f'--workdir={tmp_path}',
      *arguments)
  assert_one_line(code, capfd.readouterr().err, str(source), remedy)
