"""One evaluation view: of records, `predict`, the Python API and the settings of exports, as torchvision makes it."""

from importlib.util import find_spec
import json
import math
from pathlib import Path
import re

import numpy as np
from PIL import Image
import pytest

from data_pipelines import images
from data_pipelines.batches import augment
from data_pipelines.media.read_media import read_media
from tests.support import small_runs
from tests.support.exported import TINY, saved
from tests.support.predictions import student_view, torchvision_view
from uniemox_jax.export_torch import export_torch
from uniemox_jax.models.preprocess import denormalise

SHAPES = [(500, 375), (375, 500), (640, 427), (1000, 301), (97, 96), (256, 341), (439, 384), (120, 80), (40, 60),
          (1, 1), (3, 2), (300, 7), (7, 300), (400, 1), (1, 400)]  # fmt: skip
"""Width and height."""


def noise(width: int, height: int) -> Image.Image:
  """Every value at its furthest from its neighbours': where rounding and clipping matter most."""
  return Image.fromarray(np.random.default_rng(width).choice(np.array([0, 255], np.uint8), (height, width, 3)))


@pytest.mark.parametrize('size', [32, 96, 224, 384])
@pytest.mark.parametrize('shape', SHAPES, ids=str)
def test_every_view_is_torchvisions_to_2_of_255(shape: tuple[int, int], size: int, tmp_path: Path) -> None:
  noise(*shape).save(tmp_path / 'a.jpg', quality=100, subsampling=0)
  image = Image.open(tmp_path / 'a.jpg')
  theirs = torchvision_view(image, size, images.short_side_of(size)).astype(int)
  pixels = np.asarray(image)
  (of_predict,) = read_media([str(tmp_path / 'a.jpg')], size, ahead=1)
  ours = {
      'predict': of_predict.pixels, 'records': augment.evaluation_view((tmp_path / 'a.jpg').read_bytes(), size).numpy(),
      'API': denormalise(np.asarray(student_view(pixels[None], size))[0])}
  assert {name: view.shape for name, view in ours.items()} == dict.fromkeys(ours, (size, size, 3))
  assert {name: levels for name, view in ours.items() if (levels := np.abs(view - theirs).max()) > 2} == {}


@pytest.mark.parametrize('shape', [(500, 375), (640, 427), (1023, 681), (4000, 270)], ids=str)
def test_a_record_that_was_shrunk_shows_the_same_part_of_the_image(shape: tuple[int, int]) -> None:
  """Smooth, so that a JPEG costs little: a shift of half a pixel would be 8 of 255."""
  coarse = np.random.default_rng(1).integers(60, 200, (9, 12, 3), np.uint8)
  image = Image.fromarray(coarse).resize(shape, Image.Resampling.BICUBIC)
  stored = images.encode_jpeg(images.shrink(image, 256))
  for size in (96, 224):
    theirs = torchvision_view(image, size, images.short_side_of(size))
    assert np.abs(augment.evaluation_view(stored, size).numpy() - theirs.astype(int)).max() <= 6


@pytest.mark.parametrize('size', [32, 224, 384, 443, 448])  # 443 / (443 / 506) is 505.99...
def test_exports_tell_timm_and_transformers_the_same_view(size: int, tmp_path: Path) -> None:
  saved(tmp_path / 'run', 'encoder', **TINY | {'image_size': size, 'patch_size': size, 'width': 8, 'heads': 2})
  export_torch(str(tmp_path / 'run'), 'timm', str(tmp_path / 'out'))
  settings = json.loads((tmp_path / 'out' / 'config.json').read_text())['pretrained_cfg']
  shown = settings['input_size'][1]
  short_side = math.floor(shown / settings['crop_pct'])  # timm's rule
  image = noise(341, 229)
  theirs = torchvision_view(image, shown, short_side).astype(int)
  assert settings['interpolation'] == 'bicubic' and settings['crop_mode'] == 'center'
  assert np.abs(images.evaluation_view(image, shown) - theirs).max() <= 2


MEMORY = """
import os
import pathlib
import numpy as np
from PIL import Image
from data_pipelines.light_tensorflow import tf
from data_pipelines import images
from data_pipelines.batches import augment
from data_pipelines.person_boxes import crops, detectors
from data_pipelines.media.read_media import read_media
from tests.support.predictions import person_view, student_view
from uniemox_jax.models.view import View

def status(key):
  return int(next(line for line in open('/proc/self/status') if line.startswith(key)).split()[1]) / 1024

draws = tf.constant(np.random.default_rng(0).random((2, augment.TRIES + 1), np.float32))

def train(path, size):
  jpeg = open(path, 'rb').read()
  height, width, _ = tf.unstack(tf.image.extract_jpeg_shape(jpeg))
  augment.resize(augment.decode_crop(jpeg, augment.random_crop(draws, height, width)), size, size)

def person(path, size):
  with images.open_image(pathlib.Path(path)) as image:
    for box in ([0, 0, 1, 1], [0, 0.4, 1, 0.6], [0.4, 0, 0.6, 1]):
      augment.squashed_view(crops.person_crop(image.original, np.array(box, np.float32)), size)

def pixels(path):
  return np.asarray(Image.open(path).convert('RGB'))[None]

WAYS = {
    'predict': lambda path, size: list(read_media([path], size, ahead=1)),
    'evaluation': lambda path, size: augment.evaluation_view(open(path, 'rb').read(), size),
    'zero-shot': lambda path, size: augment.centre_view(open(path, 'rb').read(), size, size, floor=True),
    'API': lambda path, size: student_view(pixels(path), size),
    'persons': lambda path, size: person_view(pixels(path), size),
    'CLIP': lambda path, size: View(size, size)(pixels(path)), 'training': train, 'person crops': person}
if detect:
  hog = detectors.load_detector('hog')
  WAYS['HOG'] = lambda path, size: hog([Image.open(path).convert('RGB')])
for name, way in WAYS.items():
  way(paths[0], 224)  # What the libraries keep is no part of it.
  for path in paths:
    open('/proc/self/clear_refs', 'w').write('5')
    before = status('VmRSS')
    way(path, 224)
    print(name, os.path.basename(path), round(status('VmHWM') - before))
"""


@pytest.mark.skipif(not Path('/proc/self/clear_refs').exists(), reason='peak memory is reset by Linux alone')
def test_memory_is_bounded_by_the_view_whatever_the_shape_of_the_image(tmp_path: Path) -> None:
  paths = []
  for width, height in ((224, 224), (4000, 1), (1, 4000), (4000, 100), (60_000, 1), (2, 60_000), (60_000, 64)):
    paths.append(str(tmp_path / f'{width}x{height}.jpg'))
    Image.new('RGB', (width, height), 'red').save(paths[-1])
  script = f'paths, detect = {paths!r}, {find_spec("cv2") is not None}\n{MEMORY}'
  [said] = small_runs.finish(small_runs.start(['-c', script]))
  grown = {name: int(mib) for name, mib in re.findall(r'^(.+\.jpg) (-?\d+)$', said, re.MULTILINE)}
  assert len(grown) >= 8 * len(paths) and {name: mib for name, mib in grown.items() if mib > 100} == {}
