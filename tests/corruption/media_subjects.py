"""Images as people have them, in files, archives and videos, and the persons in them."""

import io
from pathlib import Path
import tarfile
from typing import Any
import zipfile

import av
import numpy as np
from PIL import Image

from data_pipelines import checksums
from data_pipelines.media import find_images
from data_pipelines.media.read_media import read_media
from data_pipelines.person_boxes import box_file
from data_pipelines.person_boxes.detectors import load_detector
from data_pipelines.person_boxes.progress_file import ProgressFile
from tests.corruption.subject import Subject, list_files
from tests.corruption.world import World
from tests.support import image_corpus, phone_images, tables
from tests.support.tiny_onnx import write_yolox


def _views(folder: Path) -> Subject:
  files = list_files(folder, '*')

  def read() -> Any:
    found = find_images.find([str(path) for path in files])
    print(found.passed_over)
    views = list(read_media(found.paths, 32, ahead=4, per_second=5))
    print([f'{view.name}: {view.error or view.repair}' for view in views if view.error or view.repair])
    return [(view.name, view.pixels, view.error) for view in views]

  return Subject(folder, files, read, owned=True)


def images(world: World, twin: World) -> Subject:
  folder = world.new_folder('photos')
  pixels = np.random.default_rng(0).integers(0, 256, (60, 90, 3), np.uint8)
  for ending in ('jpg', 'png', 'webp', 'bmp', 'gif', 'tiff'):
    Image.fromarray(pixels).save(folder / f'photo.{ending}')
  return _views(folder)


def phones(world: World, twin: World) -> Subject:
  """HEIC, AVIF, two images in a JPEG, and 16 bits a colour."""
  folder = world.new_folder('phones')
  photo = image_corpus.photo()
  for name in ('upright', 'alpha'):
    (folder / f'{name}.heic').write_bytes(phone_images.stored_heic(name))
  (folder / 'turned.avif').write_bytes(phone_images.saved_avif(photo, 6))
  photo.save(folder / 'two.mpo', save_all=True, append_images=[photo])
  (folder / 'deep.png').write_bytes(image_corpus._deep_png(16))
  (folder / 'deep.tiff').write_bytes(image_corpus._deep_tiff(16, '<'))
  return _views(folder)


def animations(world: World, twin: World) -> Subject:
  folder = world.new_folder('animations')
  draws = np.random.default_rng(0)
  frames = [Image.fromarray(draws.integers(0, 256, (24, 32, 3), np.uint8)) for _ in range(3)]
  for ending in ('gif', 'webp', 'png', 'avif', 'tiff'):
    frames[0].save(folder / f'moving.{ending}', save_all=True, append_images=frames[1:], duration=200)
  return _views(folder)


def video(world: World, twin: World) -> Subject:
  folder = world.new_folder('video')
  path = folder / 'clip.mp4'
  with av.open(str(path), 'w') as container:
    stream = container.add_stream('mpeg4', 5)
    stream.width = stream.height = 32
    pixels = np.random.default_rng(0).integers(0, 256, (15, 32, 32, 3), np.uint8)
    for packet in (packet for frame in pixels for packet in stream.encode(av.VideoFrame.from_ndarray(frame))):
      container.mux(packet)
    for packet in stream.encode():
      container.mux(packet)
  return _views(folder)


def archives(world: World, twin: World) -> Subject:
  folder = world.new_folder('archives')
  files = {f'photos/{number}.jpg': tables.image_bytes(number) for number in range(5)} | {'read me.txt': b'photos'}
  for name, packing in (('stored.zip', zipfile.ZIP_STORED), ('packed.zip', zipfile.ZIP_DEFLATED)):
    with zipfile.ZipFile(folder / name, 'w', packing) as archive:
      for member, content in files.items():
        archive.writestr(member, content)
  for name, mode in (('photos.tar', 'w'), ('photos.tar.gz', 'w:gz')):
    with tarfile.open(folder / name, mode) as archive:
      for member, content in files.items():
        info = tarfile.TarInfo(member)
        info.size = len(content)
        archive.addfile(info, io.BytesIO(content))
  return _views(folder)


def paths_list(world: World, twin: World) -> Subject:
  folder = world.new_folder('list')
  path = folder / 'images.txt'
  path.write_text('\n'.join(f'/photos/{n}.jpg' for n in range(5)) + '\n')
  return Subject(folder, [path], lambda: find_images.find([str(path)]), owned=True)


def boxes(world: World, twin: World) -> Subject:
  folder = world.new_folder('boxes')
  path = folder / box_file.FILE_NAME
  draws = np.random.default_rng(world.seed)
  box_file.write_boxes(path, ((f'a/{n}.jpg', *draws.uniform(0, 200, 4).round(2), 0.9) for n in range(20)))
  checksums.write_checksums(box_file.checksums_of(path), [path])
  return Subject(folder, list_files(folder, '*'), lambda: box_file.read_boxes(path))


def progress(world: World, twin: World) -> Subject:
  folder = world.new_folder('progress')
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

  return Subject(folder, [path], read)


def detector(world: World, twin: World) -> Subject:
  folder = world.new_folder('detector')
  path = folder / 'tiny.onnx'
  write_yolox(path, 64, 96, 1.0, [np.array([0, 0, 9.0]), np.array([0, 0, 9.0])])
  image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 90, 3), np.uint8))
  return Subject(folder, [path], lambda: load_detector(str(path))([image]), owned=True)
