"""Draws small datasets in the folder layouts of EmoSet-118K, Emo8, EMOTIC and Emotion6."""

from collections.abc import Iterable, Iterator
import csv
import importlib.resources
import json
import os
import pathlib
from typing import Any, NamedTuple

import numpy as np
import tqdm

from data_pipelines import storage
from data_pipelines.building import base_builder
from data_pipelines.building.splits import TRAIN_VAL_TEST
from data_pipelines.emotic import annotations as emotic_annotations
from data_pipelines.emotion6.emotion6_dataset_builder import Builder as Emotion6
from data_pipelines.errors import UserError
from data_pipelines.person_boxes import box_file
from data_pipelines.records.label_sets import EMOTIONS
from data_pipelines.synthetic import annotation_files, drawing, world

EMO8_SPLITS = {'train': 800, 'val': 160, 'test': 480}
EMOSET_RANGE = (2400, 4000)
TASK_SPLITS = {'emotic': {'train': 640, 'val': 96, 'test': 160}, 'emotion6': {'train': 800}}
"""The numbers of planned images. EMOTIC's layout takes those with a figure; Emotion6's builder splits it."""

REVISION = 2
"""The revision, which must be raised whenever the same seed gives other images."""

# Independent random streams for the datasets, and their shares of the five styles.
_STREAM = {'emoset': 0, 'emo8': 1, 'emotic': 2, 'emotion6': 3}
_STYLE_SHARES = {'emoset': (0.12, 0.32, 0.32, 0.12, 0.12)}
_EQUAL_SHARES = (0.2,) * 5

_EXPRESSION = {'laughing': 'happy', 'frowning': 'angry', 'open_mouth': 'surprise'}
_ACTION = {'bent': 'laughing', 'akimbo': 'pumping fist', 'arms_up': 'stretching arm', 'standing': 'waiting in line'}
_MISSING_SHARE = 0.15
_EMOTIC_FOLDER = 'framesdb/images'


class PlannedImage(NamedTuple):
  """An image before it is drawn: its content, split and given label, and the generator of all that varies."""

  content: world.Content
  split: str
  label: str
  rng: np.random.Generator


def draw(out: str | os.PathLike, emoset_examples: int = 2880, seed: int = 0) -> None:
  """Draws `out/emoset` and `out/emo8`, each a raw folder for `data_pipelines.build`.

  Both show one world of 96 x 96 images; 5 % of the labels in train are wrong on purpose. A folder with the same
  settings is kept.

  Args:
    out: the folder of the two.
    emoset_examples: the number of images in emoset, 2,400 to 4,000, a multiple of 8; about 85/5/10 % train/val/test.
      Emo8 always has 800/160/480.
    seed: every image is a function of (seed, dataset, its index).

  Raises:
    UserError: emoset_examples is out of range, or the folder holds something else.
    AssertionError: surroundings or figure alone decide the emotion.
  """
  low, high = EMOSET_RANGE
  if not low <= emoset_examples <= high or emoset_examples % len(EMOTIONS):
    raise UserError(f'--emoset_examples={emoset_examples} is not a multiple of {len(EMOTIONS)} from {low} to {high}')
  val, test = (round(emoset_examples * share / len(EMOTIONS)) * len(EMOTIONS) for share in (0.05, 0.1))
  sizes = {'emoset': {'train': emoset_examples - val - test, 'val': val, 'test': test}, 'emo8': EMO8_SPLITS}
  for dataset, splits in sizes.items():
    planned = plan_images(dataset, splits, seed)
    wrong = sum(item.label != item.content.emotion for item in planned)
    provenance = _provenance(seed, examples=splits, wrong_labels=wrong, oracle=_oracle(planned))
    write_dataset(pathlib.Path(out) / dataset, dataset, planned, provenance)


def draw_tasks(out: str | os.PathLike, seed: int = 0) -> None:
  """Draws `out/emotic` and `out/emotion6`: several labels an image, distributions, valence, arousal, dominance.

  They show the world of `draw`, with annotations that are never wrong (`annotation_files`).

  The arguments and errors are those of `draw`.
  """
  for dataset, splits in TASK_SPLITS.items():
    planned = plan_images(dataset, splits, seed)
    write_dataset(pathlib.Path(out) / dataset, dataset, planned, _provenance(seed, planned=splits))


def draw_cue(out: str | os.PathLike, cue: str, splits: dict[str, int] | None = None, seed: int = 0) -> None:
  """Draws `out/emo8` in Emo8's layout, where only the figure, only the surroundings, or both determine the class.

  Args:
    out, seed: as for `draw`, whose errors are raised too.
    cue: one of `world.CUES`; 'both' is the world of `draw`.
    splits: the number of images by split, multiples of 8; None for Emo8's.
  """
  splits = splits or EMO8_SPLITS
  planned = plan_images('emo8', splits, seed, cue)
  provenance = _provenance(seed, cue=cue, examples=splits, oracle=_oracle(planned, cue))
  write_dataset(pathlib.Path(out) / 'emo8', 'emo8', planned, provenance)


def _provenance(seed: int, **settings: Any) -> dict:
  return {'synthetic': True, 'revision': REVISION, 'seed': seed, **settings}


def _oracle(planned: list[PlannedImage], cue: str = 'both') -> dict[str, float]:
  train, test = ([item.content for item in planned if item.split == split] for split in ('train', 'test'))
  return world.oracle(train, test, cue)


def plan_images(dataset: str, splits: dict[str, int], seed: int, cue: str = 'both') -> list[PlannedImage]:
  """Plans a dataset's images: the first `splits['train']` are train, and so on. Sizes are multiples of 8."""
  planned = []
  shares = _STYLE_SHARES.get(dataset, _EQUAL_SHARES)
  for index, split in enumerate(split for split, size in splits.items() for _ in range(size)):
    rng = np.random.default_rng((seed, _STREAM[dataset], index))
    if cue == 'both':
      content = world.sample_content(index, rng, shares)
    else:
      content = world.sample_cued_content(index, cue, rng, shares)
    label = world.given_label(content) if split == 'train' else content.emotion
    planned.append(PlannedImage(content, split, label, rng))
  return planned


def write_dataset(folder: pathlib.Path, dataset: str, planned: list[PlannedImage], provenance: dict) -> None:
  """Draws the planned images into a raw folder, which appears whole or not at all.

  Args:
    folder: the raw folder to make; kept if it holds the same provenance.
    dataset: 'emoset', 'emo8', 'emotic' or 'emotion6', the layout.
    planned: the result of `plan_images`.
    provenance: the content of its `provenance.json`.

  Raises:
    UserError: `folder` holds something else.
  """
  if is_drawn(folder, provenance):
    return
  unfinished = folder.parent / f'.{folder.name}.unfinished'
  storage.remove_folder(unfinished)
  unfinished.mkdir(parents=True)
  try:
    boxes = _LAYOUTS[dataset](unfinished, tqdm.tqdm(planned, desc=f'drawing {dataset}', unit=' images'))
    box_file.write_boxes(unfinished / box_file.FILE_NAME, boxes)
    storage.write_json(unfinished / base_builder.PROVENANCE, provenance)
    unfinished.rename(folder)
  except BaseException:
    storage.remove_folder(unfinished)
    raise


def is_drawn(folder: pathlib.Path, provenance: dict) -> bool:
  """Whether the folder holds what these settings draw, and says so. Raises UserError if it holds something else."""
  if not folder.exists():
    return False
  written = folder / base_builder.PROVENANCE
  if not written.exists() or storage.read_json(written) != provenance:
    raise UserError(f'{folder} holds something else than these settings draw: remove it, or choose another --out')
  print(f'{folder} is already drawn: left as it is')
  return True


def _write_emo8(folder: pathlib.Path, planned: Iterable[PlannedImage]) -> Iterator[tuple]:
  """Images in {train,val,test}/<class>/. Yields the rows of person_boxes.csv."""
  for item in planned:
    path = f'{item.split}/{item.label}/{item.content.style}_{item.content.index:05d}.jpg'
    yield from _save(folder, path, drawing.draw_image(item.content, item.rng))


def _write_emoset(folder: pathlib.Path, planned: Iterable[PlannedImage]) -> Iterator[tuple]:
  """Images, annotations, split lists and info.json. Yields the rows of person_boxes.csv."""
  entries: dict[str, list[list[str]]] = {}
  for item in planned:
    name = f'{item.label}_{item.content.index:05d}'
    image, annotation = f'image/{item.label}/{name}.jpg', f'annotation/{item.label}/{name}.json'
    drawn = drawing.draw_image(item.content, item.rng)
    yield from _save(folder, image, drawn)
    (folder / annotation).parent.mkdir(parents=True, exist_ok=True)
    annotated = {'image_id': name, 'emotion': item.label, **_attributes(item, drawn)}
    (folder / annotation).write_text(json.dumps(annotated))
    entries.setdefault(item.split, []).append([item.label, image, annotation])
  for split, listed in entries.items():
    (folder / f'{split}.json').write_text(json.dumps(listed))
  info = importlib.resources.files('data_pipelines').joinpath('emoset/info.json')
  (folder / 'info.json').write_bytes(info.read_bytes())


def _write_emotic(folder: pathlib.Path, planned: Iterable[PlannedImage]) -> list[tuple]:
  """Images with a figure, and EMOTIC's CSV tables with their boxes, so no rows for person_boxes.csv."""
  tables: dict[str, list[list]] = {split: [] for split in TRAIN_VAL_TEST}
  for item in planned:
    if item.content.face is None:
      continue
    name, drawn = f'{item.content.index:05d}.jpg', drawing.draw_image(item.content, item.rng)
    _save(folder, f'emotic/{_EMOTIC_FOLDER}/{name}', drawn)
    categories, vad = annotation_files.categories(item.content), list(annotation_files.vad(item.content))
    tables[item.split].append([_EMOTIC_FOLDER, name, list(drawn.box or ()), categories, vad])
  for split, rows in tables.items():
    with storage.open_local(folder / f'{split}.csv', 'w', newline='') as file:
      csv.writer(file).writerows([emotic_annotations.CSV_COLUMNS, *rows])
  return []


def _write_emotion6(folder: pathlib.Path, planned: Iterable[PlannedImage]) -> Iterator[tuple]:
  """Images in images/<class>/, and ground_truth.txt; the builder splits. Yields the rows of person_boxes.csv."""
  shares = [f'[prob. {name}]' for name in Emotion6.DISTRIBUTION]
  lines = ['\t'.join(['[image_filename]', '[valence]', '[arousal]', *shares])]
  for item in planned:
    path = f'{annotation_files.emotion6_label(item.content)}/{item.content.index:05d}.jpg'
    yield from _save(folder, f'images/{path}', drawing.draw_image(item.content, item.rng))
    numbers = [*annotation_files.vad(item.content)[:2], *annotation_files.distribution(item.content)]
    lines.append('\t'.join([path, *(f'{number:.6g}' for number in numbers)]))
  (folder / 'ground_truth.txt').write_text('\n'.join(lines) + '\n')


def _attributes(item: PlannedImage, drawn: drawing.Drawing) -> dict:
  """EmoSet's attributes of the drawn image; each is missing in 15 % of the images."""
  pixels = np.asarray(drawn.image, np.float32)
  annotated = {
      'brightness': round(float(pixels.mean()) / 255,
                          1), 'colorfulness': round(min(1.0,
                                                        _colourfulness(pixels) / 100), 1), 'scene': item.content.place,
      'object': drawn.objects, 'facial_expression': _EXPRESSION.get(item.content.face or ''),
      'human_action': _ACTION.get(item.content.posture or '')}
  kept = item.rng.random(len(annotated)) >= _MISSING_SHARE
  return {name: value for (name, value), keep in zip(annotated.items(), kept) if keep and value not in (None, [])}


def _colourfulness(pixels_HxWx3: np.ndarray) -> float:
  """Colourfulness of RGB pixels in 0-255, from 0 to a little over 100 (Hasler and Suesstrunk, 2003)."""
  red, green, blue = np.moveaxis(pixels_HxWx3, -1, 0)
  red_green, yellow_blue = red - green, (red + green) / 2 - blue
  spread = np.hypot(red_green.std(), yellow_blue.std())
  return float(spread + 0.3 * np.hypot(red_green.mean(), yellow_blue.mean()))


def _save(folder: pathlib.Path, path: str, drawn: drawing.Drawing) -> list[tuple]:
  """Saves the image; returns its row of person_boxes.csv, if it shows a figure."""
  (folder / path).parent.mkdir(parents=True, exist_ok=True)
  drawn.image.save(folder / path, 'JPEG', quality=92)
  return [(path, *drawn.box, 1.0)] if drawn.box else []


_LAYOUTS = {'emoset': _write_emoset, 'emo8': _write_emo8, 'emotic': _write_emotic, 'emotion6': _write_emotion6}
