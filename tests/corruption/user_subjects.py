"""The small files that a user gives, and those of annotators."""

import contextlib
import json
from pathlib import Path
import shutil
from typing import Any

from data_pipelines.annotate import image_list, session
from data_pipelines.annotate.questions import Questions
from data_pipelines.annotate.votes import FILE_NAME as VOTES
from data_pipelines.duplicates.duplicate_tables import read_copies, write_tables
from data_pipelines.duplicates.near_duplicates import Copy, Found
from data_pipelines.images import RejectedError
from data_pipelines.report.rater_agreement import read_votes
from data_pipelines.report.target_topics import _token_counter
from tests.corruption.subject import Subject, list_files
from tests.corruption.world import World
from tests.support import tables
from uniemox_jax.compare.image_groups import read_groups
from uniemox_jax.eval import label_maps
from uniemox_jax.recognition.words import read_words
from uniemox_jax.runtime.cli import load_config
from uniemox_jax.teacher.prompts import fill, read_templates
from uniemox_jax.teacher.tokenizer import TOKENIZER_FILES


def label_map(world: World, twin: World) -> Subject:
  folder = world.new_folder('maps')
  path = folder / 'mine.json'
  path.write_text(json.dumps({
      'source': {'joy': 'good', 'awe': 'good', 'fear': 'bad', 'odd': None}, 'target': {'happy': 'good', 'sad': 'bad'},
      'why': {'odd': 'no such class'}}, indent=2))  # yapf: disable

  def read() -> Any:
    return label_maps.resolve(label_maps.load_label_map(str(path)), ['joy', 'awe', 'fear', 'odd'], ['happy', 'sad'])

  return Subject(folder, [path], read, owned=True)


def words(world: World, twin: World) -> Subject:
  path = world.new_folder('words') / 'classes.txt'
  path.write_text('calm\nlonely\nproud\nhopeful\n')
  return Subject(path.parent, [path], lambda: read_words(str(path), None), owned=True)


def prompts(world: World, twin: World) -> Subject:
  folder = world.new_folder('prompts')
  path = folder / 'prompts.txt'
  path.write_text('a photo of {}.\nthe mood is {}.\n\nan image about {}\n')
  return Subject(
      folder, [path], lambda: [fill(template, ['joy', 'awe']) for template in read_templates(str(path))], owned=True)


def config_file(world: World, twin: World) -> Subject:
  folder = world.new_folder('config_file')
  path = folder / 'mine.py'
  path.write_text('from ml_collections import ConfigDict\n\n\ndef get_config():\n  return ConfigDict({"seed": 3})\n')
  return Subject(folder, [path], lambda: load_config(str(path)).to_dict(), owned=True)


QUESTIONS = Questions(labels=('awe', 'fear', 'joy'), ratings=('valence', 'arousal'))


def _annotated(world: World) -> tuple[Path, Path]:
  """A folder of images, and one of votes."""
  source, out = world.new_folder('to_label'), world.new_folder('votes')
  for number in range(4):
    (source / f'{number}.jpg').write_bytes(tables.image_bytes(number))
  with session.begun(str(source), str(out), QUESTIONS, print) as opened:
    for annotator in ('Ana', 'Ben'):
      for number, image in enumerate(opened.images):
        answer = {'label': QUESTIONS.labels[(number + world.seed) % 3], 'valence': 5, 'arousal': number + 1}
        opened.act({
            'key': f'{annotator}{number}', 'annotator': annotator, 'kind': 'vote', 'answer': answer,
            'image': image_list.image_key(image)})  # fmt: skip
    opened.write_tables()
  return source, out


def votes(world: World, twin: World) -> Subject:
  """What `annotate` goes on with: its settings and votes."""
  _, out = _annotated(world)
  _, other = _annotated(twin)

  def read() -> Any:
    with session.reopened(str(out), print) as opened:
      opened.write_tables()
    return [(out / name).read_bytes() for name in ('table.csv', 'votes.csv')]

  return Subject(out, [out / session.SETTINGS, out / VOTES], read, twin=other)


def images_to_label(world: World, twin: World) -> Subject:
  """The table that names the images of `annotate`, and the images."""
  folder = world.new_folder('label_table')
  for number in range(4):
    (folder / f'{number}.jpg').write_bytes(tables.image_bytes(number))
  path = folder / 'images.csv'
  path.write_text('image,note\n' + ''.join(f'{number}.jpg,x\n' for number in range(4)))

  def read() -> Any:
    found = image_list.list_images(path)
    checked = image_list.check_images(found, {})
    print(image_list.problem_lines(checked))
    shown = {}
    for name in checked:
      with contextlib.suppress(RejectedError):
        shown[name] = image_list.shown_jpeg(folder / name)
    return shown, [bool(file.problem) for file in checked.values()]

  return Subject(folder, list_files(folder, '*'), read, owned=True)


def near_duplicates(world: World, twin: World) -> Subject:
  folder = world.new_folder('near')
  copies = [Copy(f'a/{n}.jpg', 'val', f'b/{n}.jpg', 'train', 'emo8', n, n % 2 == 0) for n in range(6)]
  groups = [(name, copy.same_as) for copy in copies for name in (copy.image, copy.same_as)]
  found = Found(copies, groups, [copy.image for copy in copies], (20, 0), 0)
  write_tables(folder / 'near.csv', found)
  return Subject(folder, [folder / 'near.csv'], lambda: list(read_copies(folder / 'near.csv')), owned=True)


def votes_of_report(world: World, twin: World) -> Subject:
  path = world.new_folder('cast') / 'votes.csv'
  rows = [f'{image}.jpg,{person},{label}\n' for image in range(4) for person, label in (('Ana', 'awe'), ('Ben', 'joy'))]
  path.write_text('image,annotator,label\n' + ''.join(rows))
  return Subject(path.parent, [path], lambda: read_votes(path)[1:], owned=True)


def tokenizer_of_report(world: World, twin: World) -> Subject:
  folder = world.folder / 'tokenizer'
  shutil.copytree(world.teacher, folder)

  def read() -> Any:
    count, limit = _token_counter(folder)
    return [count(text) for text in ('a picture of a forest, evoking awe', 'É, ok 12!')], limit

  files = [path for path in list_files(folder, '*') if path.name in TOKENIZER_FILES]
  return Subject(folder, files, read)


def groups_of_compare(world: World, twin: World) -> Subject:
  folder, raw = world.new_folder('compare_groups'), world.raw('emo8')
  path, records = folder / 'styles.csv', world.records('emo8')
  names = [path.relative_to(raw).as_posix() for path in list_files(raw, '*/*/*.jpg')]
  path.write_text('image,style\n' + ''.join(f'{name},style {number % 3}\n' for number, name in enumerate(names)))

  def read() -> Any:
    found = read_groups.__wrapped__(str(records.parents[1]), 'emo8', str(path), 'style')
    return {name: sorted(keys) for name, keys in found.items()}

  return Subject(folder, [path], read, owned=True)
