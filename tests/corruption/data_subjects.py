"""What is read before and beside training: records, raw folders, persons, images."""

import dataclasses
import json
from pathlib import Path
import re
import shutil
import types
from typing import Any

import av
import numpy as np
from PIL import Image
import scipy.io

from data_pipelines import checksums
from data_pipelines.build import builder_class
from data_pipelines.emotic import annotations
from data_pipelines.media import find_images
from data_pipelines.media.read_media import read_media
from data_pipelines.person_boxes import box_file
from data_pipelines.person_boxes.detectors import load_detector
from data_pipelines.person_boxes.progress_file import ProgressFile
from data_pipelines.records import manifest, targets
from data_pipelines.records.reader import open_split
from tests.corruption.subject import Subject, list_files
from tests.corruption.world import World
from tests.support.tiny_onnx import write_yolox


def records(world: World, twin: World, dataset: str) -> Subject:
  return dataclasses.replace(
      _records_in(world.records(dataset), dataset, f'records of {dataset}'), twin=twin.records(dataset))


def _records_in(folder: Path, dataset: str, kind: str) -> Subject:

  def read() -> Any:
    split = open_split(folder.parents[1], dataset, 'train')
    return (
        split.labels, split.contents, split.label_array(), split.read_many(range(split.num_examples)),
        list(split.annotations()), targets.read(split), manifest.read_manifest(split.folder)['splits']['train'])

  skipped = {'rejects.csv', 'duplicates.csv'}
  files = [path for path in list_files(folder, '*') if path.name not in skipped]
  return Subject(kind, folder, [path for path in files if not re.search('-(val|test)', path.name)], read)


def old_records(world: World, twin: World) -> Subject:
  """Records of an earlier version, in whose manifest.json there are no checksums."""
  folder = world.folder / 'old' / 'emo8' / '1.0.0'
  shutil.copytree(world.records('emo8'), folder)
  stored = json.loads((folder / 'manifest.json').read_text())
  stored.pop('seal', None)
  for split in stored['splits'].values():
    split.pop('records_sha256', None)
  (folder / 'manifest.json').write_text(json.dumps(stored, indent=2))
  return dataclasses.replace(_records_in(folder, 'emo8', 'records of an earlier version'), owned=True)


def raw(world: World, twin: World, dataset: str, patterns: tuple[str, ...]) -> Subject:
  source = world.raw(dataset)

  def read() -> Any:
    builder = builder_class(dataset)(data_dir=str(world.folder / 'none'), max_rejects=0.0)
    builder.data_path.parent.mkdir(parents=True, exist_ok=True)
    builder._beam, builder._limit = False, None
    generators = builder._split_generators(types.SimpleNamespace(manual_dir=source))
    found = {split: list(examples) for split, examples in generators.items()}
    if builder._rejects:
      print('rejected:', builder._rejects)
    ignored = builder.take_ignored()
    print('ignored:', ignored)
    return found, ignored, builder._provenance

  return Subject(f'raw {dataset}', source, list_files(source, *patterns), read, owned=True, twin=twin.raw(dataset))


def emotic_mat(world: World, twin: World) -> Subject:
  path = world.folder / 'mat' / 'Annotations.mat'
  path.parent.mkdir(parents=True)
  person = {
      'body_bbox': [1, 2, 30, 40], 'annotations_categories': {'categories': ['Peace']},
      'annotations_continuous': {'valence': 5, 'arousal': 4, 'dominance': 3}}
  image = {'filename': 'a.jpg', 'folder': 'f', 'person': person}
  scipy.io.savemat(path, {split: [image, image] for split in ('train', 'val', 'test')})
  return Subject('EMOTIC .mat', path.parent, [path], lambda: annotations.read_mat(path), owned=True)


def boxes(world: World, twin: World) -> Subject:
  folder = world.folder / 'boxes'
  folder.mkdir(parents=True)
  path = folder / box_file.FILE_NAME
  draws = np.random.default_rng(world.seed)
  box_file.write_boxes(path, ((f'a/{n}.jpg', *draws.uniform(0, 200, 4).round(2), 0.9) for n in range(20)))
  checksums.write_checksums(box_file.checksums_of(path), [path])
  return Subject('person_boxes.csv', folder, list_files(folder, '*'), lambda: box_file.read_boxes(path))


def progress(world: World, twin: World) -> Subject:
  folder = world.folder / 'progress'
  folder.mkdir(parents=True)
  path = folder / '.person_boxes.csv.unfinished'
  items = [{'image': f'{n}.jpg', 'boxes': [[n, 2.5, 30.0, 40.0, 0.5]], 'dropped': 0} for n in range(12)]
  file = ProgressFile(path, 'boxes of hog')
  file.add(items)
  file.close()

  def read() -> Any:
    again = ProgressFile(path, 'boxes of hog')
    try:
      done = {item['image']: item['boxes'] for item in again.items}
    finally:
      again.close()
    return {item['image']: done.get(item['image'], item['boxes']) for item in items}

  return Subject('progress of person_boxes', folder, [path], read)


def detector(world: World, twin: World) -> Subject:
  folder = world.folder / 'detector'
  folder.mkdir(parents=True)
  path = folder / 'tiny.onnx'
  write_yolox(path, 64, 96, 1.0, [np.array([0, 0, 9.0]), np.array([0, 0, 9.0])])
  image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 90, 3), np.uint8))
  return Subject('detector .onnx', folder, [path], lambda: load_detector(str(path))([image]), owned=True)


def images(world: World, twin: World) -> Subject:
  folder = world.folder / 'photos'
  folder.mkdir(parents=True)
  pixels = np.random.default_rng(0).integers(0, 256, (60, 90, 3), np.uint8)
  for ending in ('jpg', 'png', 'webp', 'bmp', 'gif', 'tiff'):
    Image.fromarray(pixels).save(folder / f'photo.{ending}')
  files = list_files(folder, '*')

  def read() -> Any:
    found = list(read_media([str(path) for path in files], 32, ahead=4))
    print([f'{view.name}: {view.error}' for view in found if view.error])
    return [(view.name, view.pixels, view.error) for view in found]

  return Subject('images of predict', folder, files, read, owned=True)


def video(world: World, twin: World) -> Subject:
  folder = world.folder / 'video'
  folder.mkdir(parents=True)
  path = folder / 'clip.mp4'
  with av.open(str(path), 'w') as container:
    stream = container.add_stream('mpeg4', 5)
    stream.width = stream.height = 32
    pixels = np.random.default_rng(0).integers(0, 256, (15, 32, 32, 3), np.uint8)
    for packet in (packet for frame in pixels for packet in stream.encode(av.VideoFrame.from_ndarray(frame))):
      container.mux(packet)
    for packet in stream.encode():
      container.mux(packet)

  def read() -> Any:
    found = list(read_media([str(path)], 32, ahead=4, per_second=5))
    print([f'{view.name}: {view.error}' for view in found if view.error])
    return [(view.name, view.pixels, view.error) for view in found]

  return Subject('video', folder, [path], read, owned=True)


def paths_list(world: World, twin: World) -> Subject:
  folder = world.folder / 'list'
  folder.mkdir(parents=True)
  path = folder / 'images.txt'
  path.write_text('\n'.join(f'/photos/{n}.jpg' for n in range(5)) + '\n')
  return Subject('list of images', folder, [path], lambda: find_images.find([str(path)]), owned=True)
