"""The world of the synthetic datasets: what a picture shows, and the rule that gives its emotion.

Emotion depends on the figure *and* the surroundings, neither alone suffices:
  amusement, anger          the figure decides (laughing and bent over; frowning, fists on hips), anywhere
  excitement, fear          the same figure (arms up, open mouth); the light decides: day or night
  awe, disgust              the place decides (mountains; dump); a plain standing figure, or none
  contentment, sadness      the lake, in clear weather or in rain; a plain standing figure, or none

In two simpler worlds, one of them decides alone, whatever the other shows (`cued_look`).
"""

import collections
from collections.abc import Callable, Hashable, Sequence
import dataclasses

import numpy as np

from data_pipelines.records.schema import EMOTIONS

STYLES = ('cartoon', 'natural', 'realistic', 'science_fiction', 'advertising_cover')
PLACES = ('mountain', 'lake', 'landfill', 'amusement_park', 'street', 'forest')
"""Scene names of EmoSet's info.json."""

# The first three places decide emotions. Figures of the other emotions stand there more often, or the place alone
# would tell too much: the best guess from the surroundings is right for 4/8 + 2/8 * (share of the last three).
_PLACE_SHARES = (0.24, 0.24, 0.24, 0.09, 0.09, 0.1)
_NO_FIGURE_SHARE = 0.4
WRONG_LABEL_EVERY = 20

_FIGURES = {
    'amusement': ('laughing', 'bent'), 'anger': ('frowning', 'akimbo'), 'excitement': ('open_mouth', 'arms_up'),
    'fear': ('open_mouth', 'arms_up')
}
_PLACE_OF = {'awe': 'mountain', 'disgust': 'landfill', 'contentment': 'lake', 'sadness': 'lake'}
_WEATHER_OF = {'contentment': 'clear', 'sadness': 'rain'}
_LIGHT_OF = {'excitement': 'day', 'fear': 'night'}

CUES = ('both', 'figure', 'scene')
_FACES = ('laughing', 'frowning', 'open_mouth', 'neutral')
_POSTURES = ('bent', 'akimbo', 'arms_up', 'standing')
_LIGHTS = ('day', 'night')

ORACLE_BOUNDS = {
    'both': {'all': (0.95, 1.0), 'scene_only': (0.0, 0.65),
             'figure_only': (0.0, 0.65)}, 'figure': {'scene_only': (0.0, 0.25), 'figure_only': (0.95, 1.0)},
    'scene': {'scene_only': (0.95, 1.0), 'figure_only': (0.0, 0.25)}
}
"""By cue. In the simpler worlds, few pictures show a pair of figure and surroundings that was seen before."""


@dataclasses.dataclass(frozen=True)
class Look:
  """What one picture shows. `face` and `posture` are None where there is no figure."""

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
    """What a model that ignores the figure can know."""
    return self.place, self.weather, self.light

  @property
  def figure(self) -> tuple[str | None, str | None]:
    """What a model that ignores the surroundings can know."""
    return self.face, self.posture


def look_at(index: int, rng: np.random.Generator, style_shares: Sequence[float]) -> Look:
  """Draws what picture `index` shows; emotions take turns, so any 8 successive pictures hold all of them."""
  emotion = EMOTIONS[index % len(EMOTIONS)]
  if emotion in _FIGURES:
    face, posture = _FIGURES[emotion]
    place = str(rng.choice(PLACES, p=_PLACE_SHARES))
  else:
    face, posture = (None, None) if rng.random() < _NO_FIGURE_SHARE else ('neutral', 'standing')
    place = _PLACE_OF[emotion]
  return Look(
      index=index, emotion=emotion, place=place, weather=_WEATHER_OF.get(emotion) or str(rng.choice(
          ('clear', 'rain'))), light=_LIGHT_OF.get(emotion) or str(rng.choice(('day', 'night'))), face=face,
      posture=posture, style=str(rng.choice(STYLES, p=style_shares)))


def cued_look(index: int, cue: str, rng: np.random.Generator, style_shares: Sequence[float]) -> Look:
  """Draws picture `index` of a world in which the emotion is told by one thing alone; there is always a figure.

  Args:
    index: emotions take turns, as in `look_at`.
    cue: 'figure', a pair of face and posture an emotion; or 'scene', a pair of place and light.
    rng, style_shares: of all that does not tell.
  """
  turn, within = divmod(index % len(EMOTIONS), len(_FACES))
  face, posture, place, light = (str(rng.choice(of)) for of in (_FACES, _POSTURES, PLACES, _LIGHTS))
  if cue == 'figure':
    face, posture = _FACES[within], _POSTURES[(within + turn) % len(_POSTURES)]
  else:
    place, light = PLACES[within], _LIGHTS[turn]
  return Look(
      index, EMOTIONS[index % len(EMOTIONS)], place, str(rng.choice(('clear', 'rain'))), light, face, posture,
      str(rng.choice(STYLES, p=style_shares)))


def given_label(look: Look) -> str:
  """The label a training picture is given: every 20th of a class is wrong, by one shift for all classes at once.

  So the classes keep their sizes.
  """
  turn, emotion_index = divmod(look.index, len(EMOTIONS))
  if turn % WRONG_LABEL_EVERY:
    return look.emotion
  shift = 1 + (turn // WRONG_LABEL_EVERY) % (len(EMOTIONS) - 1)
  return EMOTIONS[(emotion_index + shift) % len(EMOTIONS)]


def oracle(train: Sequence[Look], test: Sequence[Look], cue: str = 'both') -> dict[str, float]:
  """How far the surroundings, the figure and both together can tell the emotion.

  For each, the best table (the most frequent true emotion of what is seen) is fitted on train and scored on test.

  Returns:
    Accuracy by 'all', 'scene_only', 'figure_only', rounded to 4 places.

  Raises:
    AssertionError: one is outside the cue's `ORACLE_BOUNDS`: for 'both', the world no longer needs both.
  """
  scores = {
      'all': _table_accuracy(train, test, lambda look: (look.surroundings, look.figure)),
      'scene_only': _table_accuracy(train, test, lambda look: look.surroundings),
      'figure_only': _table_accuracy(train, test, lambda look: look.figure)
  }
  for name, (low, high) in ORACLE_BOUNDS[cue].items():
    if not low <= scores[name] <= high:
      raise AssertionError(f'synthetic world: {name} tells the emotion in {scores[name]}, not in {low} to {high}')
  return scores


def _table_accuracy(train: Sequence[Look], test: Sequence[Look], seen: Callable[[Look], Hashable]) -> float:
  table = collections.defaultdict(collections.Counter)
  for look in train:
    table[seen(look)][look.emotion] += 1
  right = sum(look.emotion == max(table[seen(look)], key=table[seen(look)].get, default=None) for look in test)
  return round(right / len(test), 4)
