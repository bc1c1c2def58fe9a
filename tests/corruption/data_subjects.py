"""What `build` and `synthetic` read: raw folders, tables, lists; and the records that a build writes."""

import csv
import dataclasses
import json
from pathlib import Path
import re
import shutil
import types
from typing import Any

import numpy as np
import scipy.io

from data_pipelines.build import builder_class
from data_pipelines.building.raw_source import table_source
from data_pipelines.emotic import annotations
from data_pipelines.records import manifest, targets
from data_pipelines.records.label_sets import EMOTIC
from data_pipelines.records.reader import open_split
from data_pipelines.synthetic import datasets
from tests.corruption.subject import Subject, list_files
from tests.corruption.world import World
from tests.support import tables


def listed(builder: Any, source: Path) -> Any:
  """All that a builder makes of a raw folder or table; it says what it leaves out."""
  builder.data_path.parent.mkdir(parents=True, exist_ok=True)
  builder._beam, builder._limit = False, None
  generators = builder._split_generators(types.SimpleNamespace(manual_dir=source))
  found = {split: list(examples) for split, examples in generators.items()}
  if builder._rejects:
    print('rejected:', builder._rejects)
  ignored = builder.take_ignored()
  print('ignored:', ignored)
  return found, ignored, builder._provenance, builder.facts


def records(world: World, twin: World, dataset: str) -> Subject:
  return dataclasses.replace(_records_in(world.records(dataset), dataset), twin=twin.records(dataset))


def _records_in(folder: Path, dataset: str) -> Subject:

  def read() -> Any:
    split = open_split(folder.parents[1], dataset, 'train')
    return (
        split.labels, split.contents, split.label_array(), split.read_many(range(split.num_examples)),
        list(split.annotations()), targets.read(split), manifest.read_manifest(split.folder)['splits']['train'])

  skipped = {'rejects.csv', 'duplicates.csv'}
  files = [path for path in list_files(folder, '*') if path.name not in skipped]
  return Subject(folder, [path for path in files if not re.search('-(val|test)', path.name)], read)


def old_records(world: World, twin: World) -> Subject:
  """Records of an earlier version, in whose manifest.json there are no checksums."""
  folder = world.folder / 'old' / 'emo8' / '1.0.0'
  shutil.copytree(world.records('emo8'), folder)
  stored = json.loads((folder / 'manifest.json').read_text())
  stored.pop('seal', None)
  for split in stored['splits'].values():
    split.pop('records_sha256', None)
  (folder / 'manifest.json').write_text(json.dumps(stored, indent=2))
  return dataclasses.replace(_records_in(folder, 'emo8'), owned=True)


def raw(world: World, twin: World, dataset: str, patterns: tuple[str, ...]) -> Subject:
  source = world.raw(dataset)

  def read() -> Any:
    return listed(builder_class(dataset)(data_dir=str(world.folder / 'none'), max_rejects=0.0), source)

  return Subject(source, list_files(source, *patterns), read, owned=True, twin=twin.raw(dataset))


def image_arrays(world: World, twin: World) -> Subject:
  """EMOTIC in tables and arrays."""
  source = world.new_folder('arrays')
  (source / 'annots_arrs').mkdir()
  (source / 'img_arrs').mkdir()
  draws = np.random.default_rng(0)
  for split in ('train', 'val', 'test'):
    rows = [[
        '', 'Folder', 'Filename', *annotations.ARRAY_SIZE, *annotations.ARRAY_BOX, *EMOTIC, 'Valence', 'Arousal',
        'Dominance', annotations.ARRAY_NAME]]
    for number in range(3):
      marks = [float(place % 5 == number) for place in range(len(EMOTIC))]
      name = f'{split}_{number}.npy'
      rows.append([number, 'mscoco/images', f'{split}{number}.jpg', 32, 24, 2, 3, 20, 22, *marks, 5, 6, 7, name])
      np.save(source / 'img_arrs' / name, draws.integers(0, 256, (24, 32, 3), np.uint8))
    with (source / 'annots_arrs' / f'annot_arrs_{split}.csv').open('w', newline='') as file:
      csv.writer(file).writerows(rows)

  def read() -> Any:
    return listed(builder_class('emotic')(data_dir=str(world.folder / 'none'), max_rejects=0.0), source)

  return Subject(source, list_files(source, '*/*'), read, owned=True)


def emotic_mat(world: World, twin: World) -> Subject:
  path = world.folder / 'mat' / 'Annotations.mat'
  path.parent.mkdir(parents=True)
  person = {
      'body_bbox': [1, 2, 30, 40], 'annotations_categories': {'categories': ['Peace']},
      'annotations_continuous': {'valence': 5, 'arousal': 4, 'dominance': 3}}
  image = {'filename': 'a.jpg', 'folder': 'f', 'person': person}
  scipy.io.savemat(path, {split: [image, image] for split in ('train', 'val', 'test')})
  return Subject(path.parent, [path], lambda: annotations.read_mat(path), owned=True)


def table(world: World, twin: World, form: str) -> Subject:
  """A table of `build`, with its images as files, or in it."""
  given = tables.FORMS[form](world.new_folder(f'table of {form}') / 'table')
  folder = given.parent if given.is_file() else given
  files = [given] if given.is_file() else list_files(given, '**/*.parquet', '**/*.arrow')

  def read() -> Any:
    return listed(
        builder_class('table')(data_dir=str(world.folder / 'none'), max_rejects=0.0, source=table_source(given)),
        folder)

  return Subject(folder, files, read, owned=True)


def list_of_build(world: World, twin: World, which: str) -> Subject:
  """The images that a build leaves out, or the groups that no split cuts."""
  path, source = world.new_folder(which) / f'{which}.csv', world.raw('emo8')
  names = [image.relative_to(source).as_posix() for image in list_files(source, 'train/*/*.jpg')]
  rows = [f'{name},group{number // 2}\n' for number, name in enumerate(names[::2])]
  path.write_text('image,group\n' + ''.join(rows))

  def read() -> Any:
    builder = builder_class('folder')(
        data_dir=str(world.folder / 'none'), max_rejects=0.0, **{f'{which}_file': path})  # yapf: disable
    return listed(builder, source)

  return Subject(path.parent, [path], read, owned=True)


def provenance(world: World, twin: World) -> Subject:
  folder = world.new_folder('drawn')
  path = folder / 'provenance.json'
  path.write_bytes((world.raw('emo8') / path.name).read_bytes())
  facts = json.loads(path.read_text())
  return Subject(folder, [path], lambda: datasets.is_drawn(folder, facts))
