"""Defines the world of the synthetic datasets: what an image shows, and the rule for its emotion.

Emotion depends on the figure *and* the surroundings; neither alone suffices:
  amusement, anger          the figure decides (laughing and bent over; frowning, fists on hips), anywhere
  excitement, fear          the same figure (arms up, open mouth); the light decides: day or night
  awe, disgust              the place decides (mountains; dump); a plain standing figure, or none
  contentment, sadness      the lake, in clear weather or in rain; a plain standing figure, or none

In two simpler worlds, one of them alone decides (`sample_cued_content`).
"""

import collections
from collections.abc import Callable, Hashable, Sequence
import dataclasses

import numpy as np

from data_pipelines.records.label_sets import EMOTIONS

STYLES = ('cartoon', 'natural', 'realistic', 'science_fiction', 'advertising_cover')
PLACES = ('mountain', 'lake', 'landfill', 'amusement_park', 'street', 'forest')
"""The places, by scene names of EmoSet's info.json."""

# The first three places decide emotions. Figures of the other emotions are more frequent there, or the place alone
# would say too much: the best guess from the surroundings is right for 4/8 + 2/8 * (share of the last three).
_PLACE_SHARES = (0.24, 0.24, 0.24, 0.09, 0.09, 0.1)
_NO_FIGURE_SHARE = 0.4
WRONG_LABEL_EVERY = 20

_FIGURES: dict[str, tuple[str | None, str | None]] = {
    'amusement': ('laughing', 'bent'), 'anger': ('frowning', 'akimbo'), 'excitement': ('open_mouth', 'arms_up'),
    'fear': ('open_mouth', 'arms_up')}
_PLACE_OF = {'awe': 'mountain', 'disgust': 'landfill', 'contentment': 'lake', 'sadness': 'lake'}
_WEATHER_OF = {'contentment': 'clear', 'sadness': 'rain'}
_LIGHT_OF = {'excitement': 'day', 'fear': 'night'}

CUES = ('both', 'figure', 'scene')
_FACES = ('laughing', 'frowning', 'open_mouth', 'neutral')
_POSTURES = ('bent', 'akimbo', 'arms_up', 'standing')
_LIGHTS = ('day', 'night')
_WEATHERS = ('clear', 'rain')

ORACLE_BOUNDS = {
    'both': {'all': (0.95, 1.0), 'scene_only': (0.0, 0.65), 'figure_only': (0.0, 0.65)},
    'figure': {'scene_only': (0.0, 0.25), 'figure_only': (0.95, 1.0)},
    'scene': {'scene_only': (0.95, 1.0), 'figure_only': (0.0, 0.25)},}
"""The bounds of the oracle's accuracy by cue; the simpler worlds have no 'all', since in test most pairs of figure and
surroundings are new there."""


@dataclasses.dataclass(frozen=True)
class Content:
  """What an image shows. `face` and `posture` are None without a figure."""

  index: int
  emotion: str
  place: str
  weather: str
  light: str
  face: str | None
  posture: str | None
  style: str

  @property
  def surroundings(self) -> tuple[str, str, str]:
    """All that a model without the person sees."""
    return self.place, self.weather, self.light

  @property
  def figure(self) -> tuple[str | None, str | None]:
    """All that a model of the person alone sees."""
    return self.face, self.posture


def sample_content(index: int, rng: np.random.Generator, style_shares: Sequence[float]) -> Content:
  """Samples the content of image `index`; emotions take turns, so any 8 successive images hold all of them."""
  emotion = EMOTIONS[index % len(EMOTIONS)]
  if emotion in _FIGURES:
    face, posture = _FIGURES[emotion]
    place = str(rng.choice(PLACES, p=_PLACE_SHARES))
  else:
    face, posture = ('neutral', 'standing') if rng.random() >= _NO_FIGURE_SHARE else (None, None)
    place = _PLACE_OF[emotion]
  weather = _WEATHER_OF.get(emotion) or str(rng.choice(_WEATHERS))
  light = _LIGHT_OF.get(emotion) or str(rng.choice(_LIGHTS))
  style = str(rng.choice(STYLES, p=style_shares))
  return Content(index, emotion, place, weather, light, face, posture, style)


def sample_cued_content(index: int, cue: str, rng: np.random.Generator, style_shares: Sequence[float]) -> Content:
  """Samples the content of image `index` in a world where one cue alone decides; there is always a figure.

  Args:
    index: emotions take turns, as in `sample_content`.
    cue: 'figure', where each emotion has a pair of face and posture; or 'scene', where it has one of place and light.
    rng, style_shares: the source of everything else, and the shares of the styles.
  """
  turn, within = divmod(index % len(EMOTIONS), len(_FACES))
  face, posture, place, light = (str(rng.choice(of)) for of in (_FACES, _POSTURES, PLACES, _LIGHTS))
  if cue == 'figure':
    face, posture = _FACES[within], _POSTURES[(within + turn) % len(_POSTURES)]
  else:
    place, light = PLACES[within], _LIGHTS[turn]
  weather = str(rng.choice(_WEATHERS))
  style = str(rng.choice(STYLES, p=style_shares))
  return Content(index, EMOTIONS[index % len(EMOTIONS)], place, weather, light, face, posture, style)


def given_label(content: Content) -> str:
  """Gives a training label: every 20th of a class is wrong, by the same shift for all classes, which keeps sizes."""
  turn, emotion_index = divmod(content.index, len(EMOTIONS))
  if turn % WRONG_LABEL_EVERY:
    return content.emotion
  shift = 1 + (turn // WRONG_LABEL_EVERY) % (len(EMOTIONS) - 1)
  return EMOTIONS[(emotion_index + shift) % len(EMOTIONS)]


def oracle(train: Sequence[Content], test: Sequence[Content], cue: str = 'both') -> dict[str, float]:
  """Measures how well the surroundings, the figure and both together determine the emotion.

  For each, a table of the most frequent true emotion is fitted on train and scored on test.

  Returns:
    The accuracy by 'all', 'scene_only', 'figure_only', rounded to 4 places.

  Raises:
    AssertionError: one is not within the cue's `ORACLE_BOUNDS`.
  """
  scores = {
      'all': _table_accuracy(train, test, lambda content: (content.surroundings, content.figure)),
      'scene_only': _table_accuracy(train, test, lambda content: content.surroundings),
      'figure_only': _table_accuracy(train, test, lambda content: content.figure)}
  for name, (low, high) in ORACLE_BOUNDS[cue].items():
    if not low <= scores[name] <= high:
      raise AssertionError(f'synthetic world: {name} determines {scores[name]} of the emotions, not {low} to {high}')
  return scores


def _table_accuracy(train: Sequence[Content], test: Sequence[Content], seen: Callable[[Content], Hashable]) -> float:
  table: dict[Hashable, collections.Counter[str]] = collections.defaultdict(collections.Counter)
  for content in train:
    table[seen(content)][content.emotion] += 1
  best = {key: max(counts, key=counts.__getitem__) for key, counts in table.items()}
  right = sum(content.emotion == best.get(seen(content)) for content in test)
  return round(right / len(test), 4)
