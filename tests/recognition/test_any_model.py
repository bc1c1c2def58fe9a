"""`predict` and `load_classifier` with the classifiers of other libraries, and with a CLIP that is asked in words."""

import csv
import json
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms
import pytest

from data_pipelines.errors import UserError
from tests.support.predictions import save_random
import uniemox_jax
from uniemox_jax.import_torch import import_torch
from uniemox_jax.predict.prediction import predict_images
from uniemox_jax.recognition.recogniser import ModelSource
from uniemox_jax.recognition.words import POLES, read_words

torch = pytest.importorskip('torch')
transformers = pytest.importorskip('transformers')

VIT = {
    'image_size': 32, 'patch_size': 8, 'hidden_size': 16, 'num_hidden_layers': 2, 'num_attention_heads': 2,
    'intermediate_size': 64, 'id2label': {0: 'angry', 1: 'calm', 2: 'fear'}}


@pytest.fixture
def photos(tmp_path):
  """JPEGs of several shapes, drawn as waves so that resizing matters."""
  folder = tmp_path / 'photos'
  folder.mkdir()
  rng = np.random.default_rng(0)
  for index, (height, width) in enumerate([(60, 80), (81, 47), (33, 200), (32, 32), (500, 301)]):
    y, x = np.mgrid[:height, :width]
    waves = np.stack([np.sin(x / rng.uniform(1, 9) + y / rng.uniform(1, 9)) for _ in range(3)], axis=-1)
    Image.fromarray((127 + 120 * waves).astype(np.uint8)).save(folder / f'{index}.jpg', quality=92)
  return folder


def rgb(folder: Path) -> list[Image.Image]:
  return [Image.open(path).convert('RGB') for path in sorted(folder.glob('*.jpg'))]


def vit(folder: Path, random_torch, processor=None, **config) -> str:
  """A published form of a ViT classifier: what transformers itself saves."""
  theirs = random_torch(transformers.ViTForImageClassification, transformers.ViTConfig(**VIT | config))
  theirs.save_pretrained(folder)
  (processor or transformers.ViTImageProcessor(size={'height': 32, 'width': 32})).save_pretrained(folder)
  return str(folder)


PROCESSORS = {
    'ViT': lambda: transformers.ViTImageProcessor(size={'height': 32, 'width': 32}), 'ViT, bicubic':
        lambda: transformers.ViTImageProcessor(
            size={'height': 32, 'width': 32}, resample=3, image_mean=[0.485, 0.456, 0.406], image_std=[0.2, 0.3, 0.4]),
    'DeiT, with an odd margin':
        lambda: transformers.DeiTImageProcessor(
            size={'height': 39, 'width': 39}, crop_size={'height': 32, 'width': 32})}


@pytest.mark.parametrize('name', PROCESSORS)
def test_vit_classifier_of_transformers_gives_its_probabilities_in_its_own_preparation(
    name, tmp_path, photos, random_torch):
  folder = vit(tmp_path / 'vit', random_torch, PROCESSORS[name]())
  pipeline = transformers.pipeline('image-classification', model=folder, top_k=None)
  ours = uniemox_jax.load_classifier(folder)
  assert ours.labels == ['angry', 'calm', 'fear']
  paths = sorted(map(str, photos.glob('*.jpg')))
  for row, found in zip(ours.predict(paths)['label'], pipeline(paths)):
    theirs = {entry['label']: entry['score'] for entry in found}
    np.testing.assert_allclose(row, [theirs[label] for label in ours.labels], atol=1e-4 if 'margin' in name else 1e-5)


@pytest.mark.parametrize('name', PROCESSORS)
def test_pixels_are_those_of_transformers_but_for_two_levels_of_a_few_where_a_margin_is_cut(
    name, tmp_path, photos, random_torch):
  processor = PROCESSORS[name]()
  folder = vit(tmp_path / 'vit', random_torch, processor)
  view = uniemox_jax.load_classifier(folder)._predictor.recogniser.view
  theirs = processor(rgb(photos), return_tensors='np')['pixel_values'].transpose(0, 2, 3, 1)
  levels = np.abs(view(rgb(photos)) - theirs) * np.array(view.std) * 255
  # They resize the whole and cut; we resize what the cut shows, whose edges are no whole pixels then.
  assert levels.max() < 2.01 and (levels > 0.5).mean() < 0.01 if 'margin' in name else levels.max() < 0.01


def test_head_is_kept_by_the_import_too(tmp_path, photos, random_torch):
  folder = vit(tmp_path / 'vit', random_torch)
  import_torch(folder, str(tmp_path / 'run'))
  paths = sorted(map(str, photos.glob('*.jpg')))
  direct, imported = (uniemox_jax.load_classifier(str(tmp_path / name)) for name in ('vit', 'run'))
  np.testing.assert_array_equal(direct.predict(paths)['label'], imported.predict(paths)['label'])


@pytest.fixture
def clip(clip_folder, tmp_path, photos, random_torch):
  """A CLIP as transformers saves one, with OpenAI's vocabulary."""
  return str(clip_folder)


def table(path: Path) -> list[dict[str, str]]:
  return list(csv.DictReader(path.read_text().splitlines()))


def test_clip_gives_the_zero_shot_probabilities_of_transformers(clip, photos):
  words = 'joy,a lonely place,fear'
  prompts = photos.parent / 'prompts.txt'
  prompts.write_text('a photo of {}.\n')
  pipeline = transformers.pipeline('zero-shot-image-classification', model=clip, dtype=torch.float32)
  ours = uniemox_jax.load_classifier(clip, labels=words, prompts=str(prompts))
  paths = sorted(map(str, photos.glob('*.jpg')))
  probabilities = ours.predict_proba(paths)
  # Their pipeline embeds a label as it is given, ours as a noun.
  found = pipeline(paths, candidate_labels=words.split(','), hypothesis_template='a photo of {}.')
  for row, rows in zip(probabilities, found):
    theirs = {entry['label']: entry['score'] for entry in rows}
    np.testing.assert_allclose(row, [theirs[label] for label in ours.labels], atol=1e-5)


def test_one_call_gives_a_table_of_zero_shot_emotions(clip, photos, tmp_path):
  out = tmp_path / 'emotions.csv'
  predict_images(ModelSource(clip, 'mikels+valence', texts=('a lonely place',)), [str(photos)], str(out))
  rows = table(out)
  assert len(rows) == 5
  assert list(rows[0])[:3] == ['path', 'label', 'probability']
  assert {'p_awe', 'p_sadness', 'valence', 'arousal', 'similarity_a lonely place'} <= rows[0].keys()
  for row in rows:
    assert sum(float(value) for name, value in row.items() if name.startswith('p_')) == pytest.approx(1, abs=1e-5)
    assert all(-1 <= float(row[name]) <= 1 for name in ('valence', 'arousal', 'similarity_a lonely place'))


def test_valence_is_the_share_of_its_high_pole_less_that_of_its_low_one(clip, photos):
  loaded = uniemox_jax.load_clip(clip)
  image_BxE = loaded.encode_image(rgb(photos))
  template = 'a photo of {}.'
  (photos.parent / 'one.txt').write_text(template)
  poles = [loaded.encode_text([template.format(word) for word in pole]) for pole in POLES['valence']]
  high_E, low_E = (pole.mean(axis=0) / np.linalg.norm(pole.mean(axis=0)) for pole in poles)
  logits = np.exp(loaded.params['logit_scale']) * image_BxE @ np.stack([high_E, low_E]).T
  shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
  ours = uniemox_jax.load_classifier(clip, labels='valence', prompts=str(photos.parent / 'one.txt'))
  np.testing.assert_allclose(ours.predict(rgb(photos))['vad'][:, 0], shares[:, 0] - shares[:, 1], atol=1e-5)


def test_similarity_to_own_words_is_the_cosine(clip, photos, tmp_path):
  out = tmp_path / 'similar.csv'
  predict_images(ModelSource(clip, texts=('a lonely place', 'joy, loud')), [str(photos)], str(out))
  loaded = uniemox_jax.load_clip(clip)
  cosines = loaded.encode_image(rgb(photos)) @ loaded.encode_text(['a lonely place', 'joy, loud']).T
  rows = table(out)
  assert list(rows[0]) == ['path', 'similarity_a lonely place', 'similarity_joy, loud', 'error']
  np.testing.assert_allclose([list(map(float, list(row.values())[1:3])) for row in rows], cosines, atol=1e-5)


@pytest.mark.parametrize(('labels', 'classes'), [('ekman', 6), ('emotic', 26), ('Mikels', 8), ('mikels+ekman', 10),
                                                 ('calm, lonely', 2), ('valence+calm,lonely', 2),
                                                 ('mikels+fear,joy', 9), ('mikels+lonely+valence', 9),
                                                 (['calm', 'lonely, at night'], 2), (['mikels', 'valence'], 8),
                                                 ('ekman+emotic', 28), (['ekman', 'emotic', 'FEAR'], 28),
                                                 ('rock+roll,calm', 2)])  # fmt: skip
def test_words_are_a_named_set_sets_joined_or_own_words_each_asked_once_whatever_its_case(labels, classes):
  found = read_words(labels, None).classes
  assert len(found) == len({word.lower() for word in found}) == classes
  assert ('anger' in found) == ('Mikels' in labels or 'mikels' in labels or 'ekman' in str(labels)), 'first spelling'


def test_words_may_be_a_file_with_a_class_a_line(tmp_path):
  path = tmp_path / 'classes.txt'
  path.write_text('calm\n\n lonely, at night\n')
  assert read_words(str(path), None).classes == ('calm', 'lonely, at night')
  joined = read_words(f'valence+{path}', None)
  assert joined.classes == ('calm', 'lonely, at night') and joined.dimensions == tuple(POLES)
  path.write_text('calm\n')
  with pytest.raises(UserError, match='names 1 class: '):  # the file is there
    read_words(str(path), None)
  (tmp_path / 'folder').mkdir()
  with pytest.raises(UserError, match='no file of that name'):
    read_words(str(tmp_path / 'folder'), None)


@pytest.mark.parametrize(('labels', 'problem'), [(None, 'a CLIP needs words'), ('calm', '1 class'),
                                                 ('calm,Calm', "'calm' twice"), ('mikel', '1 class'), (',', '0 class'),
                                                 ('mikels+mikels', "'mikels' twice"),
                                                 ('missing.txt', 'no file of that name is there'),
                                                 ('mikels,valence', 'join it by \\+'), ('valence+calm', '1 class'),
                                                 ('calm,' + 'a' * 250, 'shorten it, 250 characters'),
                                                 ('calm,' + 'a' * 5000, 'shorten it, 5000 characters'),
                                                 ([], '0 classes'), ('', '0 classes'), ([3, 'calm'], 'no text'),
                                                 (5, 'labels are 5')])  # fmt: skip
def test_words_that_cannot_be_asked_are_one_line(labels, problem):
  with pytest.raises(UserError, match=problem):
    read_words(labels, None)


def test_templates_without_classes_are_not_ignored(tmp_path):
  templates = tmp_path / 'prompts.txt'
  templates.write_text('a photo of {}\n', encoding='utf-8')
  with pytest.raises(UserError, match='add --labels, or leave --prompts out'):
    read_words(None, str(templates), ['a lonely place'])
  with pytest.raises(UserError, match='is a folder: give a text file as --prompts'):
    read_words('calm,lonely', str(tmp_path))
  assert read_words('calm,lonely', str(templates), ['a lonely place']).templates == ('a photo of {}',)


@pytest.mark.parametrize(('texts', 'problem'), [([''], 'empty text'), (['a\nb'], 'on one line'), (['a', 'a'], 'twice')])
def test_texts_that_cannot_be_columns_are_one_line(texts, problem):
  with pytest.raises(UserError, match=f'--texts.*{problem}'):
    read_words(None, None, texts)


def test_python_takes_paths_lists_and_texts_as_the_flags_do(clip, photos):
  paths = sorted(photos.glob('*.jpg'))
  (photos.parent / 'prompts.txt').write_text('a photo of {}.')
  flags = uniemox_jax.load_classifier(clip, 'calm,lonely', str(photos.parent / 'prompts.txt'))
  found = uniemox_jax.load_classifier(Path(clip), ['calm', 'lonely'], ['a photo of {}.'], texts=['a dark forest'])
  predicted = found.predict(paths)
  np.testing.assert_array_equal(predicted['label'], flags.predict(paths)['label'])
  loaded = uniemox_jax.load_clip(clip)
  cosines = loaded.encode_image(paths) @ loaded.encode_text(['a dark forest']).T
  np.testing.assert_allclose(predicted['similarity'], cosines, atol=1e-5)
  assert 'similarity_a dark forest' in predicted.to_dict()
  for templates, problem in ((['no place'], 'templates'), ([], 'is empty')):
    with pytest.raises(UserError, match=problem):
      uniemox_jax.load_classifier(clip, 'mikels', templates)


def test_words_for_a_model_with_its_own_classes_are_refused(tmp_path, photos, command, capfd, assert_one_line):
  run = save_random(tmp_path / 'run')
  code = command('uniemox_jax.predict', f'--checkpoint={run}', '--labels=mikels', str(photos))
  assert_one_line(code, capfd.readouterr().err, 'amusement, awe, sadness', 'are for a CLIP')


@pytest.mark.parametrize(('model_type', 'named'), [('beit', 'beit'), ('deit', 'deit'), ('swin', 'swin')])
def test_other_architectures_are_refused_by_name(model_type, named, tmp_path, random_torch):
  folder = Path(vit(tmp_path / 'other', random_torch))
  config = json.loads((folder / 'config.json').read_text())
  (folder / 'config.json').write_text(json.dumps(config | {'model_type': model_type}))
  with pytest.raises(UserError, match=f"model_type '{named}'"):
    uniemox_jax.load_classifier(str(folder))


def test_image_classifier_made_of_a_clip_is_refused_by_name(tmp_path, random_torch):
  tower = {'hidden_size': 16, 'intermediate_size': 32, 'num_hidden_layers': 1, 'num_attention_heads': 2}
  config = transformers.CLIPConfig(
      vision_config=tower | {'image_size': 32, 'patch_size': 8}, text_config=tower, projection_dim=8, num_labels=2)
  random_torch(transformers.CLIPForImageClassification, config).save_pretrained(tmp_path / 'clip')
  with pytest.raises(UserError, match='it is a CLIPForImageClassification, which has no text side'):
    uniemox_jax.load_classifier(str(tmp_path / 'clip'), 'mikels')


def test_processor_of_another_model_is_refused_by_name(tmp_path, random_torch):
  folder = Path(vit(tmp_path / 'other', random_torch))
  (folder / 'preprocessor_config.json').write_text('{"image_processor_type": "ConvNextImageProcessor", "size": 32}')
  with pytest.raises(UserError, match='ConvNextImageProcessor'):
    uniemox_jax.load_classifier(str(folder))


def test_mistyped_run_is_named_and_the_hub_is_not_asked(tmp_path):
  with pytest.raises(UserError, match='checkpoint is None, no path'):
    uniemox_jax.load_classifier(None)
  with pytest.raises(UserError, match='holds no checkpoint'):
    uniemox_jax.load_classifier(str(tmp_path / 'ruin'))


def odd_jpegs(folder: Path, count: int) -> list[str]:
  """JPEGs of odd shapes, modes, qualities, subsamplings and orientations, progressive or with profiles."""
  rng = np.random.default_rng(1)
  folder.mkdir()
  paths = [folder / f'{index:03d}.jpg' for index in range(count)]
  for index, path in enumerate(paths):
    width, height = rng.integers(1, 700, 2) if index % 7 else (rng.integers(1, 4), rng.integers(200, 900))
    y, x = np.mgrid[:height, :width]
    waves = np.stack([np.sin(x / rng.uniform(1, 60) + y / rng.uniform(1, 60)) for _ in range(4)], axis=-1)
    pixels = (127 + 90 * waves + rng.normal(0, 15, waves.shape)).clip(0, 255).astype(np.uint8)
    mode = ('RGB', 'L', 'RGB', 'CMYK', 'RGB')[index % 5]
    image = Image.fromarray(pixels[..., 0] if mode == 'L' else pixels[..., :len(mode)], mode)
    exif = Image.Exif()
    exif[0x0112] = index % 9
    profile = {'icc_profile': ImageCms.ImageCmsProfile(ImageCms.createProfile('sRGB')).tobytes()} if index % 4 else {}
    image.save(
        path, quality=int(rng.integers(5, 100)), subsampling=index % 3, progressive=index % 2 == 0, exif=exif,
        dpi=(72 + index, 72), **profile)
  return list(map(str, paths))


@pytest.mark.parametrize('count', [40, pytest.param(300, marks=pytest.mark.slow)])
def test_odd_jpegs_get_the_label_of_transformers_pipelines(tmp_path, clip, random_torch, count):
  paths = odd_jpegs(tmp_path / 'odd', count)
  folder = vit(tmp_path / 'vit', random_torch)
  words = ['joy', 'a lonely place', 'fear']
  (tmp_path / 'prompts.txt').write_text('a photo of {}.')
  asked = transformers.pipeline('zero-shot-image-classification', model=clip, dtype=torch.float32)
  found = {
      'a ViT':
          (uniemox_jax.load_classifier(folder), transformers.pipeline('image-classification', model=folder)(paths)),
      'a CLIP': (
          uniemox_jax.load_classifier(clip, ','.join(words), str(tmp_path / 'prompts.txt')),
          asked(paths, candidate_labels=words, hypothesis_template='a photo of {}.'))}
  for ours, of_pipeline in found.values():
    theirs = [{entry['label']: entry['score'] for entry in rows} for rows in of_pipeline]
    probabilities = ours.predict_proba(paths)
    for row, scores in zip(probabilities, theirs, strict=True):
      np.testing.assert_allclose(row, [scores[label] for label in ours.labels], atol=1e-3)
      assert ours.labels[row.argmax()] == max(scores, key=scores.__getitem__)


def test_several_classes_at_once_and_a_single_one_get_the_sigmoids_of_transformers(tmp_path, photos, random_torch):
  paths = sorted(map(str, photos.glob('*.jpg')))
  changes = {'several': {'problem_type': 'multi_label_classification'}, 'one': {'id2label': {0: 'calm'}}}
  for name, config in changes.items():
    folder = vit(tmp_path / name, random_torch, **config)
    ours = uniemox_jax.load_classifier(folder)
    assert [task.name for task in ours.tasks] == ['labels']
    found = transformers.pipeline('image-classification', model=folder, top_k=None)(paths)
    for row, rows in zip(ours.predict(paths)['labels'], found, strict=True):
      theirs = {entry['label']: entry['score'] for entry in rows}
      np.testing.assert_allclose(row, [theirs[label] for label in ours.labels], atol=1e-5)
  import_torch(str(tmp_path / 'several'), str(tmp_path / 'run'))
  assert uniemox_jax.load_classifier(str(tmp_path / 'run')).predict(paths).keys() == {'labels'}


def test_numbers_are_read_if_they_are_valence_and_arousal_and_refused_by_name_if_not(tmp_path, photos, random_torch):
  paths = sorted(map(str, photos.glob('*.jpg')))
  names = {0: 'valence', 1: 'arousal'}
  folder = vit(tmp_path / 'vad', random_torch, problem_type='regression', id2label=names)
  found = transformers.pipeline('image-classification', model=folder, top_k=None)(paths)
  for row, rows in zip(uniemox_jax.load_classifier(folder).predict(paths)['vad'], found, strict=True):
    theirs = {entry['label']: entry['score'] for entry in rows}
    np.testing.assert_allclose(row, [theirs[name] for name in names.values()], atol=1e-5)
  with pytest.raises(UserError, match=r'config\.json.*problem_type is regression'):
    uniemox_jax.load_classifier(vit(tmp_path / 'other', random_torch, problem_type='regression'))


@pytest.mark.parametrize(('change', 'problem'), [
    ({'id2label': {'0': 'x', '1': 'x', '2': 'y'}}, "has the label 'x' twice"),
    ({'id2label': {'0': 'a', '1': 'b', '5': 'c'}}, 'id2label has the numbers 0, 1, 5, wanted 0 to 2'),
    ({'problem_type': 'ranking'}, "problem_type is 'ranking'")])  # fmt: skip
def test_a_config_that_does_not_name_each_class_once_is_one_line_at_every_door(change, problem, tmp_path, random_torch):
  folder = Path(vit(tmp_path / 'vit', random_torch))
  config = json.loads((folder / 'config.json').read_text())
  (folder / 'config.json').write_text(json.dumps(config | change))
  for call in (uniemox_jax.load_classifier, lambda path: import_torch(path, str(tmp_path / 'run'))):
    with pytest.raises(UserError, match=problem):
      call(str(folder))
  assert not (tmp_path / 'run').exists()


@pytest.mark.parametrize('model_type', ['swin', 'convnext'])
def test_weights_of_no_family_are_refused_by_the_name_in_their_config(model_type, tmp_path):
  theirs = {'swin': transformers.SwinForImageClassification, 'convnext': transformers.ConvNextForImageClassification}
  config = {
      'swin': transformers.SwinConfig(embed_dim=8, depths=[1, 1], num_heads=[1, 2], image_size=32),
      'convnext': transformers.ConvNextConfig(hidden_sizes=[4, 8, 8, 8], depths=[1, 1, 1, 1])}[model_type]
  theirs[model_type](config).save_pretrained(tmp_path)
  with pytest.raises(UserError, match=f"of model_type '{model_type}'"):
    uniemox_jax.load_classifier(str(tmp_path))
