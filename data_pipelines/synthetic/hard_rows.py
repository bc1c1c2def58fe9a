"""Makes the rows of the harder world's tables: draws and saves each image, and puts what is known of it into cells."""

from collections.abc import Sequence
import json
import os
import pathlib
from typing import Any, NamedTuple

import numpy as np

from data_pipelines.records.label_sets import EMOTIONS
from data_pipelines.synthetic import hard_annotators, hard_drawing
from data_pipelines.synthetic.hard_world import Scene, sample_scene

_STREAM = {'unlabelled': 10, 'train': 11, 'val': 12, 'test': 13}
"""Independent random streams, other than those of the small world; so a larger train split changes no other image."""
PARTS = tuple(_STREAM)
_VAL_EVERY = 20
_TOLD = 0.85
"""The share of captions that say a thing which is seen."""
_WORDS = {
    'science_fiction': 'science fiction', 'advertising_cover': 'advertising cover', 'open_mouth': 'gasping',
    'neutral': 'calm', 'bent': 'bent over', 'akimbo': 'with fists on the hips', 'arms_up': 'with arms up',
    'reaching': 'reaching out', 'standing': 'standing still', 'mountain': 'mountains', 'lake': 'a lake',
    'landfill': 'a landfill', 'amusement_park': 'a fairground', 'street': 'a street', 'forest': 'a forest',
    'day': 'by day', 'night': 'at night', 'dusk': 'at dusk'}


class PlannedScene(NamedTuple):
  """An image before it is drawn: its scene, the annotators' answers (indices of EMOTIONS), the generator of all that
  varies."""

  scene: Scene
  said: list[int]
  rng: np.random.Generator


def plan_scene(part: str, index: int, seed: int) -> PlannedScene:
  """Plans image `index` of one of `PARTS`, as a function of these arguments."""
  rng = np.random.default_rng((seed, _STREAM[part], index))
  scene = sample_scene(index, rng)
  return PlannedScene(scene, hard_annotators.ask(scene.case.emotion, scene.case.other, rng), rng)


def majority_labels(said: np.ndarray) -> list[str]:
  """The label of each image, by the annotators' answers (images, annotators)."""
  return [EMOTIONS[index] for index in hard_annotators.by_majority(said)]


def draw_rows(folder: str | os.PathLike, part: str, indices: Sequence[int], seed: int) -> list[dict[str, Any]]:
  """Draws and saves these images below `folder`; returns their rows."""
  rows = []
  for index in indices:
    planned = plan_scene(part, index, seed)
    drawn = hard_drawing.draw_scene(planned.scene, planned.rng)
    path = pathlib.PurePosixPath('images', part, f'{index // 1000:02d}', f'{index:05d}.jpg')
    (pathlib.Path(folder) / path).parent.mkdir(parents=True, exist_ok=True)
    drawn.image.save(pathlib.Path(folder) / path, 'JPEG', quality=92)
    rows.append({'image': str(path), 'split': _split(part, index), **_cells(planned, drawn.boxes, part)})
  return rows


def _split(part: str, index: int) -> str:
  if part == 'unlabelled':  # Pretraining reads both.
    return 'val' if index % _VAL_EVERY == _VAL_EVERY - 1 else 'train'
  return part


def _cells(planned: PlannedScene, boxes: list[hard_drawing.Box], part: str) -> dict[str, Any]:
  scene, case = planned.scene, planned.scene.case
  caption = _caption(scene, planned.rng)
  cells: dict[str, Any] = {
      'domain': scene.style, 'box': json.dumps(boxes), 'caption': caption,
      'caption_with_emotion': f'{caption}, evoking {case.emotion}'}
  if part != 'unlabelled':
    said = np.array(planned.said)
    votes = np.bincount(said, minlength=len(EMOTIONS)).tolist()
    cells |= {'label': majority_labels(said[None])[0], 'votes': json.dumps(dict(zip(EMOTIONS, votes)))}
    cells |= {f'annotator_{number}': EMOTIONS[index] for number, index in enumerate(said, start=1)}
  truth = {f'drawn_{name}': value for name, value in (('class', case.emotion), *list(case._asdict().items())[2:])}
  return cells | {'cues': case.cues, **truth} | {
      'drawn_weather': scene.weather, 'drawn_others': scene.others, 'drawn_distractors': scene.distractors}


def _caption(scene: Scene, rng: np.random.Generator) -> str:
  """What can be seen, without the emotion; each thing is said in most captions."""
  case = scene.case
  face, posture, _ = case.figure_seen
  said = (rng.random(7) < _TOLD).tolist()
  seen = scene.style, face, posture, case.place, case.light, scene.weather
  style, face, posture, place, light, weather = (_WORDS.get(name, name) * told for name, told in zip(seen, said))
  figure = ' '.join(filter(None, ('a', face, 'person', posture))) if case.face else ''
  if scene.others and said[6]:
    figure += f' and {scene.others} other{"s" * (scene.others > 1)}'
  parts = [
      f'a {style} image' if style else 'an image', figure and f'of {figure}', place and f'near {place}', light,
      'in the rain' if weather == 'rain' else '']
  return ' '.join(filter(None, parts))
