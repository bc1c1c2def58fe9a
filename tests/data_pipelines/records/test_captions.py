import importlib.resources
import json

import pytest

from data_pipelines.records import caption_text

INFO = json.loads(importlib.resources.files('data_pipelines').joinpath('emoset/info.json').read_text())
FULL = {
    'brightness': 0.2, 'colorfulness': 0.8, 'scene': 'forest_path', 'object': ['Tree', 'Alarm clock', 'Bird'],
    'facial_expression': 'happy', 'human_action': 'laughing'}


def _values(attribute: str) -> list[str]:
  return list(INFO[attribute]['label2idx'])


def test_the_whole_caption():
  assert caption_text.caption(FULL, 'amusement') == (
      'a dark picture with vivid colours of a forest path, with tree, alarm clock and bird, a happy face, laughing, '
      'evoking amusement')


def test_a_class_is_said_in_lower_case():
  assert caption_text.caption(FULL, 'Anger').endswith('evoking anger')
  assert caption_text.caption({}, 'Anger') == 'a picture that evokes anger'


@pytest.mark.parametrize('missing', FULL)
def test_a_missing_attribute_leaves_no_trace(missing):
  present = {name: value for name, value in FULL.items() if name != missing}
  text = caption_text.caption(present)
  words = {
      'brightness': 'dark', 'colorfulness': 'colours', 'scene': ' of ', 'object': 'tree', 'facial_expression': 'face',
      'human_action': 'laughing'}  # fmt: skip
  for name, word in words.items():
    assert (word in text) == (name != missing)
  assert 'None' not in text and ',,' not in text and '  ' not in text


def test_every_scene_reads_without_underscores():
  assert len(_values('scene')) == 254
  for scene in _values('scene'):
    text = caption_text.caption({'scene': scene})
    assert text.endswith(f' {scene.replace("_", " ")}') and '_' not in text


def test_every_object_stays_whole():
  assert len(_values('object')) == 409
  for name in _values('object'):
    assert caption_text.caption({'object': [name]}) == f'a picture, with {name.lower()}'


def test_every_action_and_expression_is_said():
  assert len(_values('human_action')) == 264
  for action in _values('human_action'):
    assert caption_text.caption({'human_action': action}) == f'a picture, {action.strip()}'
  for expression in _values('facial_expression'):
    assert f' {expression} face' in caption_text.caption({'facial_expression': expression})


@pytest.mark.parametrize('attribute', ['brightness', 'colorfulness'])
def test_every_step_of_light_and_colour_has_its_own_words(attribute):
  texts = {caption_text.caption({attribute: float(step)}) for step in _values(attribute)}
  assert len(texts) == 11 and not any(character.isdigit() for text in texts for character in text)


def test_a_list_reads_a_b_and_c():
  assert caption_text.caption({'object': ['A', 'B', 'C']}).endswith('with a, b and c')
  assert caption_text.caption({'object': ['A', 'B']}).endswith('with a and b')


def test_without_attributes_the_class_name_or_nothing_is_said():
  assert caption_text.caption({}, 'fear') == 'a picture that evokes fear'
  assert caption_text.caption({}) == 'a picture'


def test_original_style_is_what_the_originals_code_writes():
  assert caption_text.caption(FULL, 'amusement', 'original') == (
      'The scene type of this photo is forest_path. The main subjects are Tree, Alarm, clock and Bird. The image has a '
      'brightness of 0.2 and color saturation of 0.8. Human facial expression is happy. The action being performed is '
      'laughing. The overall emotion conveyed is amusement.')
  assert caption_text.caption(
      {'object': ['Tree', 'Car']}, 'awe',
      'original') == ('The main subjects are Tree and Car. The overall emotion conveyed is awe.')
  assert caption_text.caption({'brightness': 0.0}, None, 'original') == 'The image has a brightness of 0.0'
  assert caption_text.caption({}, None, 'original') == caption_text.NEUTRAL


@pytest.mark.parametrize('attribute', [name for name in INFO if name != 'emotion'])
def test_original_style_says_every_value_of_the_label_file_as_it_stands_there(attribute):
  for value in _values(attribute):
    given = float(value) if attribute in ('brightness', 'colorfulness') else [value] if attribute == 'object' else value
    text = caption_text.caption({attribute: given}, None, 'original')
    words = value.split() if attribute == 'object' else [value]
    assert all(word in text for word in words) and text.count('.') >= ('.' in value), text


def _count(text: str) -> int:
  return len(text.split()) + 2


def test_a_long_caption_loses_objects_from_the_end_until_it_fits():
  objects = _values('object')
  text = caption_text.fitting_caption({**FULL, 'object': objects}, 'awe', _count)
  assert 70 < _count(text) <= 77
  assert objects[0].lower() in text and objects[-1].lower() not in text
  assert text.endswith('a happy face, laughing, evoking awe')


def test_a_caption_that_fits_keeps_everything():
  assert caption_text.fitting_caption(FULL, None, _count) == caption_text.caption(FULL)
