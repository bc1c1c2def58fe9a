"""Draws small datasets in the folder layouts of EmoSet-118K and Emo8, so that every command can be tried out.

python -m data_pipelines.synthetic --out=DIR
python -m data_pipelines.synthetic --out=DIR --tasks    # EMOTIC and Emotion6 instead: every kind of target
"""

from collections.abc import Iterator
import csv
import dataclasses
import importlib.resources
import json
import os
import pathlib
import shutil

from absl import flags
import numpy as np
import tqdm

from data_pipelines.building import builder
from data_pipelines.emotic import annotations as emotic_annotations
from data_pipelines.emotion6.emotion6_dataset_builder import Builder as Emotion6
from data_pipelines.errors import UserError
from data_pipelines.person_boxes import box_file
from data_pipelines.records.schema import EMOTIONS
from data_pipelines.synthetic import annotation_files, drawing, world

flags.disclaim_key_flags()  # `--help` shows flags that are defined here as the verb's own

EMO8_SPLITS = {'train': 800, 'val': 160, 'test': 480}
EMOSET_RANGE = (2400, 4000)
TASK_SPLITS = {'emotic': {'train': 640, 'val': 96, 'test': 160}, 'emotion6': {'train': 800}}
"""Pictures planned: EMOTIC's layout takes those with a figure; Emotion6's is split by its builder."""

REVISION = 2
"""Raised whenever the same seed gives other pictures."""

# Independent random streams for the datasets, and their shares of the five styles.
_STREAM = {'emoset': 0, 'emo8': 1, 'emotic': 2, 'emotion6': 3}
_EQUAL_SHARES = (0.2, 0.2, 0.2, 0.2, 0.2)
_STYLE_SHARES = {'emoset': (0.12, 0.32, 0.32, 0.12, 0.12)}

_EXPRESSION = {'laughing': 'happy', 'frowning': 'angry', 'open_mouth': 'surprise'}
_ACTION = {'bent': 'laughing', 'akimbo': 'pumping fist', 'arms_up': 'stretching arm', 'standing': 'waiting in line'}
_MISSING_SHARE = 0.15
_EMOTIC_FOLDER = 'framesdb/images'


@dataclasses.dataclass(frozen=True)
class Plan:
  """One picture before it is drawn: what it shows, the label it is given, and where it goes."""

  look: world.Look
  split: str
  label: str
  rng: np.random.Generator


def draw(out: str | os.PathLike, emoset_examples: int = 2880, seed: int = 0) -> None:
  """Draws `out/emoset` and `out/emo8`, each a raw folder for `data_pipelines.build`.

  Both show one world of 96 x 96 pictures; 5 % of the labels in train are wrong on purpose. A folder that was drawn
  before with the same settings is left as it is.

  Args:
    out: folder that holds the two.
    emoset_examples: pictures in emoset, 2,400 to 4,000, a multiple of 8; about 85/5/10 % train/val/test. Emo8 always
      has 800/160/480.
    seed: every picture is a function of (seed, dataset, its index).

  Raises:
    UserError: emoset_examples is out of range, or the folder holds something else.
    AssertionError: the world has become decidable from surroundings or figure alone.
  """
  low, high = EMOSET_RANGE
  if not low <= emoset_examples <= high or emoset_examples % len(EMOTIONS):
    raise UserError(f'--emoset_examples={emoset_examples} is not a multiple of {len(EMOTIONS)} from {low} to {high}')
  val, test = (round(emoset_examples * share / len(EMOTIONS)) * len(EMOTIONS) for share in (0.05, 0.1))
  sizes = {'emoset': {'train': emoset_examples - val - test, 'val': val, 'test': test}, 'emo8': EMO8_SPLITS}
  for dataset, splits in sizes.items():
    plans = plan(dataset, splits, seed)
    looks = {split: [item.look for item in plans if item.split == split] for split in splits}
    write(
        pathlib.Path(out) / dataset, dataset, plans, {
            'synthetic': True, 'revision': REVISION, 'seed': seed, 'examples': splits, 'wrong_labels':
                sum(item.label != item.look.emotion for item in plans), 'oracle':
                    world.oracle(looks['train'], looks['test'])
        })  # fmt: skip


def draw_tasks(out: str | os.PathLike, seed: int = 0) -> None:
  """Draws `out/emotic` and `out/emotion6`: labels that go together, distributions, valence, arousal, dominance.

  They show the world of `draw`, and its annotators are never wrong (`synthetic_annotations`).

  Args:
    out: folder that holds the two.
    seed: every picture is a function of (seed, dataset, its index).

  Raises:
    UserError: the folder holds something else.
  """
  for dataset, splits in TASK_SPLITS.items():
    provenance = {'synthetic': True, 'revision': REVISION, 'seed': seed, 'planned': splits}
    write(pathlib.Path(out) / dataset, dataset, plan(dataset, splits, seed), provenance)


def draw_cue(out: str | os.PathLike, cue: str, splits: dict[str, int] | None = None, seed: int = 0) -> None:
  """Draws `out/emo8` in Emo8's layout, in a world where only the figure, only the surroundings, or both tell the class.

  Args:
    out: folder that holds it.
    cue: one of `synthetic_world.CUES`; 'both' is the world of `draw`.
    splits: pictures by split, multiples of 8; None for Emo8's.
    seed: every picture is a function of (seed, cue, its index).

  Raises:
    UserError: the folder holds something else.
    AssertionError: the world is decided by something else than its cue.
  """
  splits = splits or EMO8_SPLITS
  plans = plan('emo8', splits, seed, cue)
  looks = {split: [item.look for item in plans if item.split == split] for split in splits}
  oracle = world.oracle(looks['train'], looks['test'], cue)
  provenance = {'synthetic': True, 'revision': REVISION, 'seed': seed, 'cue': cue, 'examples': splits, 'oracle': oracle}
  write(pathlib.Path(out) / 'emo8', 'emo8', plans, provenance)


def plan(dataset: str, splits: dict[str, int], seed: int, cue: str = 'both') -> list[Plan]:
  """What each picture of a dataset shows; the first `splits['train']` are train, and so on. Sizes: multiples of 8."""
  plans = []
  names = [split for split, size in splits.items() for _ in range(size)]
  for index, split in enumerate(names):
    rng = np.random.default_rng((seed, _STREAM[dataset], index))
    shares = _STYLE_SHARES.get(dataset, _EQUAL_SHARES)
    look = (world.look_at(index, rng, shares) if cue == 'both' else world.cued_look(index, cue, rng, shares))
    label = world.given_label(look) if split == 'train' else look.emotion
    plans.append(Plan(look, split, label, rng))
  return plans


def write(folder: pathlib.Path, dataset: str, plans: list[Plan], provenance: dict) -> None:
  """Draws the planned pictures into a raw folder, which appears whole or not at all.

  Args:
    folder: the raw folder to make; left as it is when it holds the same provenance.
    dataset: 'emoset', 'emo8', 'emotic' or 'emotion6', the layout.
    plans: from `plan`.
    provenance: content of its `provenance.json`.

  Raises:
    UserError: `folder` holds something else.
  """
  if folder.exists():
    written = folder / builder.PROVENANCE
    if not written.exists() or json.loads(written.read_text()) != provenance:
      raise UserError(f'{folder} holds something else than these settings draw: remove it, or choose another --out')
    print(f'{folder} is already drawn: left as it is')
    return
  unfinished = folder.parent / f'.{folder.name}.unfinished'
  shutil.rmtree(unfinished, ignore_errors=True)
  unfinished.mkdir(parents=True)
  boxes = _LAYOUTS[dataset](unfinished, tqdm.tqdm(plans, desc=f'drawing {dataset}', unit=' pictures'))
  with (unfinished / box_file.FILE_NAME).open('w', newline='') as file:
    csv.writer(file).writerows([box_file.COLUMNS, *boxes])
  (unfinished / builder.PROVENANCE).write_text(json.dumps(provenance, indent=2) + '\n')
  unfinished.rename(folder)


def _write_emo8(folder: pathlib.Path, plans: Iterator[Plan]) -> list[tuple]:
  """Pictures in {train,val,test}/<class>/. Returns the rows of person_boxes.csv."""
  boxes = []
  for item in plans:
    path = f'{item.split}/{item.label}/{item.look.style}_{item.look.index:05d}.jpg'
    boxes += _save(folder, path, drawing.draw(item.look, item.rng))
  return boxes


def _write_emoset(folder: pathlib.Path, plans: Iterator[Plan]) -> list[tuple]:
  """Pictures, annotations, split lists and info.json. Returns the rows of person_boxes.csv."""
  boxes = []
  entries: dict[str, list[list[str]]] = {}
  for item in plans:
    name = f'{item.label}_{item.look.index:05d}'
    image, annotation = f'image/{item.label}/{name}.jpg', f'annotation/{item.label}/{name}.json'
    drawn = drawing.draw(item.look, item.rng)
    boxes += _save(folder, image, drawn)
    (folder / annotation).parent.mkdir(parents=True, exist_ok=True)
    content = {'image_id': name, 'emotion': item.label, **_attributes(item, drawn)}
    (folder / annotation).write_text(json.dumps(content))
    entries.setdefault(item.split, []).append([item.label, image, annotation])
  for split, listed in entries.items():
    (folder / f'{split}.json').write_text(json.dumps(listed))
  info = importlib.resources.files('data_pipelines').joinpath('emoset/info.json')
  (folder / 'info.json').write_bytes(info.read_bytes())
  return boxes


def _write_emotic(folder: pathlib.Path, plans: Iterator[Plan]) -> list[tuple]:
  """Pictures with a figure, and EMOTIC's CSV tables, which hold the persons: no rows for person_boxes.csv."""
  tables: dict[str, list[list]] = {split: [] for split in emotic_annotations.SPLITS}
  for item in plans:
    if item.look.face is None:
      continue
    name, drawn = f'{item.look.index:05d}.jpg', drawing.draw(item.look, item.rng)
    _save(folder, f'emotic/{_EMOTIC_FOLDER}/{name}', drawn)
    tables[item.split].append([
        _EMOTIC_FOLDER, name,
        list(drawn.box),
        annotation_files.categories(item.look),
        list(annotation_files.vad(item.look))
    ])  # fmt: skip
  for split, rows in tables.items():
    with (folder / f'{split}.csv').open('w', newline='') as file:
      csv.writer(file).writerows([emotic_annotations.CSV_COLUMNS, *rows])
  return []


def _write_emotion6(folder: pathlib.Path, plans: Iterator[Plan]) -> list[tuple]:
  """Pictures in images/<class>/, and ground_truth.txt; the builder splits. Returns the rows of person_boxes.csv."""
  boxes = []
  lines = ['\t'.join(['[image_filename]', '[valence]', '[arousal]', *map('[prob. {}]'.format, Emotion6.DISTRIBUTION)])]
  for item in plans:
    path = f'{annotation_files.emotion6_label(item.look)}/{item.look.index:05d}.jpg'
    boxes += _save(folder, f'images/{path}', drawing.draw(item.look, item.rng))
    numbers = [*annotation_files.vad(item.look)[:2], *annotation_files.distribution(item.look)]
    lines.append('\t'.join([path, *(f'{number:.6g}' for number in numbers)]))
  (folder / 'ground_truth.txt').write_text('\n'.join(lines) + '\n')
  return boxes


def _attributes(item: Plan, drawn: drawing.Drawing) -> dict:
  """EmoSet's attributes of the picture, true to what is drawn; each is missing in 15 %."""
  pixels = np.asarray(drawn.picture, np.float32)
  annotated = {
      'brightness': round(float(pixels.mean()) / 255, 1),
      'colorfulness': round(min(1.0,
                                colourfulness(pixels) / 100), 1), 'scene': item.look.place, 'object': drawn.objects,
      'facial_expression': _EXPRESSION.get(item.look.face), 'human_action': _ACTION.get(item.look.posture)
  }
  kept = item.rng.random(len(annotated)) >= _MISSING_SHARE
  return {name: value for (name, value), keep in zip(annotated.items(), kept) if keep and value not in (None, [])}


def colourfulness(pixels_HxWx3: np.ndarray) -> float:
  """Colourfulness of RGB pixels in 0-255, from 0 to a little over 100 (Hasler and Suesstrunk, 2003)."""
  red, green, blue = np.moveaxis(pixels_HxWx3, -1, 0)
  red_green, yellow_blue = red - green, (red + green) / 2 - blue
  spread = np.hypot(red_green.std(), yellow_blue.std())
  return float(spread + 0.3 * np.hypot(red_green.mean(), yellow_blue.mean()))


def _save(folder: pathlib.Path, path: str, drawn: drawing.Drawing) -> list[tuple]:
  """Saves the picture; returns its row of person_boxes.csv, if it shows a figure."""
  (folder / path).parent.mkdir(parents=True, exist_ok=True)
  drawn.picture.save(folder / path, 'JPEG', quality=92)
  return [(path, *drawn.box, 1.0)] if drawn.box else []


_LAYOUTS = {'emoset': _write_emoset, 'emo8': _write_emo8, 'emotic': _write_emotic, 'emotion6': _write_emotion6}


def define_flags() -> None:
  """Declares the command's flags; not on import, where they could clash with those of a caller of `draw`."""
  flags.DEFINE_string('out', None, 'Where emoset/ and emo8/ are written.')
  flags.DEFINE_bool('tasks', False, 'Draw emotic/ and emotion6/ instead, which hold every kind of target.')
  flags.DEFINE_integer('emoset_examples', 2880, 'Pictures in emoset/, 2400 to 4000, a multiple of 8.')
  flags.DEFINE_integer('seed', 0, 'The same seed gives the same files.', 0)
