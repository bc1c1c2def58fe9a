"""Defines the harder world: what figure and scene each say of the emotion, and how often.

Figure and scene are two cues. One of them, both, or neither alone decides:
  figure        the figure shows the emotion; the scene is a street or a forest, which says nothing
  scene         the scene shows it; the figure is neutral, or there is none
  both          both show it
  conflicting   they show two; the figure's counts if it is near, the scene's if it is far away

Each cue may be weak. A figure shows a face, a posture, or both; either alone fits two emotions, and may be hidden. A
place fits two emotions; day or night decides, dusk does not. `CASES` has every combination with its probability: images
are drawn by it, and the oracle sums over it.
"""

from collections.abc import Iterator
import dataclasses
import functools
from typing import NamedTuple

import numpy as np

from data_pipelines.records.label_sets import EMOTIONS
from data_pipelines.synthetic.world import STYLES

CUE_SHARES = {'figure': 0.25, 'scene': 0.25, 'both': 0.3, 'conflicting': 0.2}
HIDDEN_SHARES = {'': 0.7, 'face': 0.15, 'posture': 0.15}
NO_FIGURE_SHARE = 0.4
"""The share that has no figure, of the images that the scene alone decides."""
OTHERS_SHARES = (0.5, 0.3, 0.2)
"""The shares of images with a figure that have 0, 1, 2 further persons, small, of any look."""
MOST_DISTRACTORS = 4

# Each face, posture and place belongs to two emotions.
FIGURE_OF = {
    'amusement': ('laughing', 'bent'), 'contentment': ('laughing', 'akimbo'), 'awe': ('open_mouth', 'reaching'),
    'excitement': ('open_mouth', 'arms_up'), 'anger': ('frowning', 'akimbo'), 'disgust': ('frowning', 'reaching'),
    'fear': ('crying', 'arms_up'), 'sadness': ('crying', 'bent')}
SCENE_OF = {
    'amusement': ('amusement_park', 'day'), 'excitement': ('amusement_park', 'night'), 'awe': ('mountain', 'day'),
    'fear': ('mountain', 'night'), 'contentment': ('lake', 'day'), 'sadness': ('lake', 'night'),
    'disgust': ('landfill', 'day'), 'anger': ('landfill', 'night')}
NEUTRAL_FIGURE = ('neutral', 'standing')
_NEUTRAL_PLACES, _LIGHTS = ('street', 'forest'), ('day', 'night', 'dusk')
_WHOLE_FIGURE, _PART_OF_FIGURE, _CLEAR_LIGHT = 0.5, 0.25, 0.6


class Case(NamedTuple):
  """A combination of all that bears on the emotion; `face` and `posture` are '' without a figure."""

  emotion: str
  cues: str
  figure_cue: str
  scene_cue: str
  face: str
  posture: str
  near: bool
  hidden: str
  place: str
  light: str

  @property
  def other(self) -> str:
    """The emotion of the cue that does not count; '' unless the two conflict."""
    if self.cues != 'conflicting':
      return ''
    return self.scene_cue if self.near else self.figure_cue

  @property
  def figure_seen(self) -> tuple[str, str, bool]:
    """What can be seen of the figure: face and posture ('' if hidden or absent), and whether it is near."""
    return self.face * (self.hidden != 'face'), self.posture * (self.hidden != 'posture'), self.near

  @property
  def scene_seen(self) -> tuple[str, str]:
    """What the scene says: place and light."""
    return self.place, self.light


@dataclasses.dataclass(frozen=True)
class Scene:
  """What one image shows: its case, and what has nothing to do with the emotion."""

  index: int
  case: Case
  style: str
  weather: str
  others: int
  distractors: int


def figure_looks(cue: str) -> dict[tuple[str, str], float]:
  """The faces and postures of a figure with this cue ('' for none), with their probabilities."""
  if not cue:
    return {NEUTRAL_FIGURE: 1.0}
  (face, posture), (calm, standing) = FIGURE_OF[cue], NEUTRAL_FIGURE
  return {(face, posture): _WHOLE_FIGURE, (face, standing): _PART_OF_FIGURE, (calm, posture): _PART_OF_FIGURE}


def scene_looks(cue: str) -> dict[tuple[str, str], float]:
  """The places and lights of a scene with this cue ('' for none), with their probabilities."""
  if not cue:
    looks = [(place, light) for place in _NEUTRAL_PLACES for light in _LIGHTS]
    return dict.fromkeys(looks, 1 / len(looks))
  place, light = SCENE_OF[cue]
  return {(place, light): _CLEAR_LIGHT, (place, 'dusk'): 1 - _CLEAR_LIGHT}


def _cues_of(emotion: str) -> Iterator[tuple[str, str, str, bool, float]]:
  """Kind, figure's cue, scene's cue, whether the figure is near, probability."""
  for near in (True, False):
    yield 'figure', emotion, '', near, CUE_SHARES['figure'] / 2
    yield 'both', emotion, emotion, near, CUE_SHARES['both'] / 2
    yield 'scene', '', emotion, near, CUE_SHARES['scene'] * (1 - NO_FIGURE_SHARE) / 2
    for other in EMOTIONS:
      if other != emotion:
        figure, scene = (emotion, other) if near else (other, emotion)
        yield 'conflicting', figure, scene, near, CUE_SHARES['conflicting'] / 2 / (len(EMOTIONS) - 1)


@functools.cache
def cases(emotion: str) -> tuple[tuple[Case, ...], np.ndarray]:
  """All cases of an emotion, and their probabilities, (cases,), which sum to 1."""
  found = {}
  for kind, figure_cue, scene_cue, near, share in _cues_of(emotion):
    for (face, posture), of_figure in figure_looks(figure_cue).items():
      for hidden, of_hidden in HIDDEN_SHARES.items():
        for (place, light), of_scene in scene_looks(scene_cue).items():
          case = Case(emotion, kind, figure_cue, scene_cue, face, posture, near, hidden, place, light)
          found[case] = share * of_figure * of_hidden * of_scene
  for (place, light), of_scene in scene_looks(emotion).items():
    case = Case(emotion, 'scene', '', emotion, '', '', False, '', place, light)
    found[case] = CUE_SHARES['scene'] * NO_FIGURE_SHARE * of_scene
  return tuple(found), np.array(list(found.values()))


def sample_scene(index: int, rng: np.random.Generator) -> Scene:
  """Samples what image `index` shows; emotions take turns, so any 8 successive images hold all of them."""
  of_emotion, shares = cases(EMOTIONS[index % len(EMOTIONS)])
  case = of_emotion[rng.choice(len(of_emotion), p=shares)]
  style, weather = str(rng.choice(STYLES)), 'rain' if rng.random() < 0.3 else 'clear'
  others, distractors = rng.choice(len(OTHERS_SHARES), p=OTHERS_SHARES), rng.integers(MOST_DISTRACTORS + 1)
  return Scene(index, case, style, weather, int(others) if case.face else 0, int(distractors))
