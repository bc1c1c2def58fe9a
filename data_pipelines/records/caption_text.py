"""Makes captions for the teacher from the attributes of a record (docs/method.md, Captions)."""

import bisect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

STYLES = ('natural', 'original')
NEUTRAL = 'a picture'
LABEL = '{label}'
"""The mark that stands for the emotion in a record's own text."""

_ORIGINAL = {
    'scene': 'The scene type of this photo is {}.', 'object': 'The main subjects are {}.',
    'brightness': 'The image has a brightness of {}', 'colorfulness': 'and color saturation of {}.',
    'facial_expression': 'Human facial expression is {}.', 'human_action': 'The action being performed is {}.',
    'emotion': 'The overall emotion conveyed is {}.'}
"""The sentences of the original's code, in its order and punctuation."""

_BRIGHTNESS = (
    'pitch dark', 'very dark', 'dark', 'rather dark', 'dim', 'evenly lit', 'lit', 'rather bright', 'bright',
    'very bright', 'glaring')  # fmt: skip
_COLOURFULNESS = (
    'no colours', 'hardly any colours', 'faint colours', 'muted colours', 'soft colours', 'moderate colours',
    'clear colours', 'rich colours', 'vivid colours', 'very vivid colours', 'blazing colours')  # fmt: skip


def caption(attributes: Mapping, emotion: str | None = None, style: str = 'natural') -> str:
  """Makes the caption: the record's own text, or one from its attributes, of which missing ones leave no trace.

  Args:
    attributes: any of EmoSet's scene, object (list), brightness and colorfulness (0.0-1.0), facial_expression,
      human_action; or `caption`, a text that takes their place, in which {label} stands for the emotion.
    emotion: the class name, or None to keep the label out of the text.
    style: 'natural', one sentence; 'original', the sentences of the original's code, word for word.

  Returns:
    For example "a dark picture with muted colours of a forest path, with tree and street light, a happy face,
    laughing, evoking amusement"; "a picture" for a record without anything.
  """
  emotion = emotion and emotion.lower()  # Some datasets capitalise their classes.
  if attributes.get('caption'):
    return _own(attributes['caption'], emotion)
  return _original(attributes, emotion) if style == 'original' else _natural(attributes, emotion)


def is_own(attributes: Mapping) -> bool:
  """Whether the record has a text of its own that is no template for its class."""
  return bool(attributes.get('caption')) and LABEL not in attributes['caption']


def fitting_caption(
    attributes: Mapping, emotion: str | None, count_tokens: Callable[[str], int], style: str = 'natural',
    limit: int = 77) -> str:
  """Makes the caption with as many objects, or words of the record's own text, as `limit` tokens hold.

  Args:
    attributes, emotion, style: as for `caption`.
    count_tokens: a function that counts a text's tokens for the teacher, start and end tokens included.
    limit: the most tokens that the teacher reads.

  Returns:
    The caption, cut after the last object or word that fits; without any object, whatever its length.
  """
  if attributes.get('caption'):
    words = caption(attributes, emotion, style).split(' ')
    if count_tokens(' '.join(words)) > limit:
      fitting = bisect.bisect_right(
          range(1, len(words)), limit, key=lambda count: count_tokens(' '.join(words[:count])))
      words = words[:max(fitting, 1)]
    return ' '.join(words)
  objects = attributes.get('object', ())
  for kept in range(len(objects), -1, -1):
    text = caption({**attributes, 'object': objects[:kept]}, emotion, style)
    if not kept or count_tokens(text) <= limit:
      break
  return text


def _natural(attributes: Mapping, emotion: str | None) -> str:
  parts = [_look(attributes)]
  if attributes.get('object'):
    parts.append('with ' + _listed([name.lower() for name in attributes['object']]))
  if attributes.get('facial_expression'):
    parts.append(f'{_article(attributes["facial_expression"])} face')
  if attributes.get('human_action'):
    parts.append(attributes['human_action'].strip())
  if emotion:
    if parts == [NEUTRAL]:
      return f'{NEUTRAL} that evokes {emotion}'
    parts.append(f'evoking {emotion}')
  return ', '.join(parts)


def _own(text: str, emotion: str | None) -> str:
  if LABEL not in text:
    return text
  return text.replace(LABEL, emotion) if emotion else NEUTRAL


def _original(attributes: Mapping, emotion: str | None) -> str:
  """Scenes keep their underscores, and an object of two words counts as two, as in the original."""
  values: dict[str, Any] = {name: attributes.get(name) for name in _ORIGINAL} | {'emotion': emotion}
  if values['object']:
    values['object'] = _listed(' '.join(values['object']).split())
  for name in ('brightness', 'colorfulness'):
    if values[name] is not None:
      values[name] = f'{float(values[name]):.1f}'
  return ' '.join(sentence.format(values[name]) for name, sentence in _ORIGINAL.items() if values[name]) or NEUTRAL


def _look(attributes: Mapping) -> str:
  """Brightness, colourfulness and scene in one phrase."""
  text = NEUTRAL
  if 'brightness' in attributes:
    text = f'{_article(_step(_BRIGHTNESS, attributes["brightness"]))} picture'
  if 'colorfulness' in attributes:
    text += f' with {_step(_COLOURFULNESS, attributes["colorfulness"])}'
  if attributes.get('scene'):
    text += f' of {_article(attributes["scene"].replace("_", " "))}'
  return text


def _step(words: Sequence[str], value: float) -> str:
  return words[round(float(value) * (len(words) - 1))]


def _article(noun: str) -> str:
  return f'{"an" if noun[0] in "aeiou" else "a"} {noun}'


def _listed(names: Sequence[str]) -> str:
  """'a', 'a and b', 'a, b and c'."""
  return ' and '.join(filter(None, [', '.join(names[:-1]), names[-1]]))
