"""What the page is told of an image: the numbers of `predict`, where the model looks, and nothing on the disk."""

import csv
import functools
import sys

import jax
import numpy as np
from PIL import Image
import pytest

from data_pipelines.errors import UserError
from data_pipelines.images import RejectedError
from data_pipelines.person_boxes import detectors
from tests.support.predictions import LABELS
from uniemox_jax.app.answer import Answerer, shown_names
from uniemox_jax.app.tried_models import VOCABULARY, WordModel, open_tried, seen_box, typed_words
from uniemox_jax.models.clip import CLIPConfig, Tower
from uniemox_jax.models.view import View
from uniemox_jax.predict.prediction import predict_images
from uniemox_jax.recognition.recogniser import ModelSource
from uniemox_jax.recognition.words import Words, read_words
from uniemox_jax.teacher.frozen_clip import abstract_clip, load_clip, save_clip

pytestmark = pytest.mark.usefixtures('one_device')
open_model = functools.partial(open_tried, detector=None, words=read_words('mikels+valence', None), shown='mikels')


@pytest.fixture(scope='module')
def trained(checkpoint):
  return open_model(checkpoint)


@pytest.fixture(scope='module')
def clip(clip_folder):
  return open_model(str(clip_folder))


def table(said):
  return list(csv.reader((said['header'] + said['row']).splitlines()))


def assert_same_table(found, file):
  expected = list(csv.reader(file.read_text().splitlines()))
  assert found[0] == expected[0]
  for name, ours, theirs in zip(expected[0], found[1], expected[1], strict=True):
    if name not in ('path', 'label', 'error'):
      assert float(ours) == pytest.approx(float(theirs), abs=3e-6), name
    elif name != 'path':
      assert ours == theirs


def test_row_of_a_trained_model_is_that_of_predict(trained, checkpoint, photo, tmp_path):
  (tmp_path / 'a.png').write_bytes(photo())
  predict_images(checkpoint, [str(tmp_path / 'a.png')], str(tmp_path / 'out.csv'))
  answer = Answerer({'model': trained}, 64).answer(photo(), '=a.png', '')
  said = answer['models'][0]
  assert_same_table(table(said), tmp_path / 'out.csv')
  assert table(said)[1][0] == "'=a.png"  # no spreadsheet runs it
  bars = said['groups'][0]['bars']
  assert sorted(name for name, _ in bars) == LABELS and sum(value for _, value in bars) == pytest.approx(1)
  assert [value for _, value in bars] == sorted((value for _, value in bars), reverse=True)
  assert not said['plane'] and not said['closest'] and said['person'] is None


@pytest.mark.parametrize('typed', ['', 'calm, a lonely place,tense', 'valence', 'mikels+calm,tense+valence'])
def test_row_of_a_clip_is_that_of_predict_in_its_words_or_a_visitors(clip, clip_folder, photo, tmp_path, typed):
  (tmp_path / 'a.png').write_bytes(photo())
  labels = typed.replace(', ', ',') or 'mikels+valence'
  predict_images(ModelSource(str(clip_folder), labels), [str(tmp_path / 'a.png')], str(tmp_path / 'out.csv'))
  answerer = Answerer({'clip': clip}, 64)
  found = table(answerer.answer(photo(), 'a.png', typed)['models'][0])
  if 'calm, ' in typed:  # valence and arousal are asked as before, beside a visitor's words
    assert [name for name in found[0] if name in ('valence', 'arousal')] == ['valence', 'arousal']
    places = [place for place, name in enumerate(found[0]) if name not in ('valence', 'arousal')]
    found = [[row[place] for place in places] for row in found]
  assert_same_table(found, tmp_path / 'out.csv')


def test_closest_words_are_of_the_vocabulary_and_a_visitors_own(clip, photo):
  answerer = Answerer({'clip': clip}, 64)
  said = answerer.answer(photo(), 'a.png', '')['models'][0]
  cosines = [cosine for _, cosine in said['closest']]
  assert len(cosines) == 5 and cosines == sorted(cosines, reverse=True)
  assert {word for word, _ in said['closest']} <= {*VOCABULARY}
  assert set(said['plane']) == {'valence', 'arousal'} and said['plane']['valence']['low'] == -1
  # A word that is asked for is among those that are compared.
  best = said['closest'][0][0]
  words = [f'{best} {number}' for number in range(20)]
  own = answerer.answer(photo(), 'a.png', ','.join(words))['models'][0]
  assert {word for word, _ in own['closest']} & {*words}


def test_a_model_of_scene_and_person_says_which_person_it_saw(person_checkpoint, photo, monkeypatch):
  box = [30, 10, 60, 50, 0.9]
  monkeypatch.setattr(detectors, 'load_detector', lambda name: lambda images: [np.array([box], float)])
  model = open_model(person_checkpoint, detector='hog')
  said = Answerer({'model': model}, 64).answer(photo(), '/etc/passwd', '')['models'][0]
  assert said['person'] == pytest.approx((10 / 60, 30 / 90, 50 / 60, 60 / 90))
  assert said['person_image'].startswith('data:image/jpeg;base64,')
  for name in ('rollout', 'relevance'):
    assert [np.shape(found['levels']) for found in said['maps'][name]] == [(4, 4), (4, 4)]
  row = dict(zip(*table(said)))
  assert float(row['person_xmin']) == pytest.approx(30 / 90, abs=1e-6) and row['path'] == '/etc/passwd'
  valence = said['plane']['valence']
  assert float(row['valence']) == pytest.approx(valence['value'], abs=1e-6)
  # Three deviations about the mean of the training examples, and further if the value lies further.
  reach = max(3, abs(valence['value'] - 5))
  assert (valence['low'], valence['high']) == pytest.approx((5 - reach, 5 + reach))


def test_without_a_detector_the_scene_replaces_the_person(person_checkpoint, photo):
  said = Answerer({'model': open_model(person_checkpoint)}, 64).answer(photo(), 'a', '')['models'][0]
  assert said['person'] is None and said['person_image'] is None and len(said['maps']['rollout']) == 1
  assert dict(zip(*table(said)))['person_xmin'] == ''


@pytest.fixture(scope='module')
def ordinary_clip(tmp_path_factory):
  """A CLIP whose MLPs are four times as wide as it, as all that are published; the other one's are not."""
  config = CLIPConfig(
      vision=Tower(16, 2, 2, 64), text=Tower(16, 2, 2, 64), image_size=32, patch_size=8, projection_dim=12)
  rng = np.random.default_rng(0)
  params = jax.tree.map(lambda x: (0.2 * rng.standard_normal(x.shape)).astype(np.float32), abstract_clip(config)[1])
  save_clip(folder := tmp_path_factory.mktemp('clip'), config, params)
  return WordModel(str(folder), load_clip(folder), Words(('a', 'b'), (), (), ('{}',)), 'a,b')


def test_maps_are_levels_of_the_patches_and_say_where_the_most_is(trained, ordinary_clip, photo):
  both = Answerer({'model': trained, 'clip': ordinary_clip}, 64).answer(photo(), 'a', '')['models']
  assert both[0]['maps'].keys() == {'rollout', 'relevance'} and both[1]['maps'].keys() == {'rollout'}
  for said in both:
    for found, in said['maps'].values():
      levels = np.array(found['levels'])
      assert levels.shape == (4, 4) and levels.min() == 0 and levels.max() == 255
      row, column = np.unravel_index(levels.argmax(), levels.shape)
      vertical, horizontal = ('upper', '', '', 'lower')[row], ('left', '', '', 'right')[column]
      assert all(word in found['where'] for word in (vertical, horizontal) if vertical and horizontal)
      assert found['where'].startswith('most at the ')


def test_a_model_without_maps_says_so(clip, photo):
  answerer = Answerer({'clip': clip}, 64)
  assert 'does not show where it looks' in answerer.describe()[0]['maps']
  assert not answerer.answer(photo(), 'a', '')['models'][0]['maps']


@pytest.mark.parametrize('view', [View(32, 36), View(32, 32), View(32, 40, squash=True), View(32, 32, squash=True)])
@pytest.mark.parametrize('size', [(90, 60), (60, 90), (200, 40)])
def test_seen_box_is_what_the_view_shows(view, size):
  across, down = np.meshgrid(np.linspace(0, 255, size[0]), np.linspace(0, 255, size[1]))
  pixels = view.pixels(Image.fromarray(np.stack([down, across, down], axis=-1).astype(np.uint8))) / 255
  ymin, xmin, ymax, xmax = seen_box(view, size)
  shown = (*pixels[0, 0, :2], *pixels[-1, -1, :2])
  # The pixel in a corner lies half a pixel inside of the box; edges of the image bend the gradient.
  assert shown == pytest.approx((ymin, xmin, ymax, xmax), abs=0.03)


def test_a_broken_file_has_a_row_with_its_reason(trained, clip, photo):
  answerer = Answerer({'model': trained, 'clip': clip}, 0.001)
  with pytest.raises(RejectedError, match='not an image'):
    answerer.answer(b'nothing', 'a', '')
  with pytest.raises(RejectedError, match='megapixels'):
    answerer.answer(photo(), 'a', '')
  found = answerer.refused('a\n.png', '', 'is\nbroken')
  assert found['error'] == 'is broken'
  for said in found['models']:
    header, row = table(said)
    assert (row[0], row[-1]) == (r'a\n.png', 'is broken') and not any(row[1:-1]) and len(row) == len(header)


@pytest.mark.parametrize(('typed', 'said'), [('calm', '1 class'), (', ,', '0 class'), ('calm.txt', '1 class'),
                                             (','.join(f'w{index}' for index in range(40)), '40'), ('a,A', 'twice'),
                                             ('a,' + 'b' * 81, 'too long'), ('ekman,calm', 'join it by'),
                                             ('\x01,\x02', 'letters')])  # fmt: skip
def test_words_that_cannot_be_asked_are_one_line(typed, said):
  with pytest.raises(UserError, match=said):
    typed_words(typed)


@pytest.mark.parametrize(
    'typed', ['a,b', ' Ekman ', 'mikels+valence', 'mikels+calm,tense', 'mikels+ekman+emotic', 'valence'])  # fmt: skip
def test_words_are_those_of_predict_and_never_a_file(tmp_path, monkeypatch, typed):
  asked = read_words(typed, None)
  monkeypatch.chdir(tmp_path)
  for name in (typed, *typed.split('+')):
    (tmp_path / name).write_text('secret\nother')
  assert typed_words(typed) == (asked.classes, asked.dimensions)


def test_a_word_that_is_too_long_for_the_clip_is_one_line(clip, photo):
  with pytest.raises(UserError, match='shorten it'):
    Answerer({'clip': clip}, 64).answer(photo(), 'a', 'calm,' + 'ʘ' * 80)


def test_an_answer_opens_no_file(trained, clip, photo, monkeypatch):
  answerer = Answerer({'model': trained, 'clip': clip}, 64)
  answerer.answer(photo(), 'a', 'x,y')  # what is compiled may be kept on the disk
  names: list[str] = []
  watching = [True]
  sys.addaudithook(lambda event, values: names.append(str(values[0])) if event == 'open' and watching else None)
  try:
    for form in ('PNG', 'JPEG', 'TIFF', 'GIF', 'WEBP'):
      answerer.answer(photo(form=form), '/etc/passwd', 'x,y')
  finally:
    watching.clear()  # a hook stays for ever
  assert not names


def test_names_do_not_tell_where_a_model_lies():
  assert shown_names(['/home/ann/runs/emo8/']) == ['emo8']
  assert shown_names(['a/emo8', 'b/emo8']) == ['emo8 (1)', 'emo8 (2)']
  with pytest.raises(UserError, match='3 checkpoints'):
    shown_names(['a', 'b', 'c'])
