"""A tiny dataset in real TFRecord shards, in the real schema, drawn once for all tests of the reading side."""

import io
import json

import numpy as np
from PIL import Image
import pytest
import tensorflow_datasets as tfds

from data_pipelines.records import schema
from data_pipelines.records.reader import open_split

LABELS = ('amusement', 'awe', 'contentment')
SIZES = ((96, 96), (80, 120), (130, 64))


def jpeg(height: int, width: int, blue: int) -> bytes:
  """Red grows to the right and green downwards, so that an image shows how it was flipped and cut."""
  pixels = np.empty((height, width, 3), np.uint8)
  pixels[..., 0] = np.linspace(0, 255, width)[None, :]
  pixels[..., 1] = np.linspace(0, 255, height)[:, None]
  pixels[..., 2] = blue
  file = io.BytesIO()
  Image.fromarray(pixels).save(file, 'JPEG', quality=95)
  return file.getvalue()


class Tiny(tfds.core.GeneratorBasedBuilder):
  """27 + 11 images of three sizes; every third has no person, every seventh no label, ids have gaps."""

  VERSION = tfds.core.Version('1.0.0')

  def _info(self):
    return tfds.core.DatasetInfo(builder=self, features=schema.record_features(LABELS))

  def _split_generators(self, dl_manager):
    return {'train': self._generate_examples(0, 27), 'val': self._generate_examples(27, 11)}

  def _generate_examples(self, start, count):
    for n in range(start, start + count):
      height, width = SIZES[n % 3]
      boxes = np.zeros((0 if n % 3 == 0 else 1, 4), np.float32)
      yield n, {
          'id': f'bild/{n:02d} ä.jpg', 'example_id': 5 * n, 'image': jpeg(height, width, 6 * n),
          'persons': [jpeg(60, 40, 6 * n)] * len(boxes), 'boxes': boxes, 'box_scores': np.ones(len(boxes), np.float32),
          'label': -1 if n % 7 == 6 else n % 3, 'labels': [], 'distribution': [], 'vad': [float('nan')] * 3,
          'attributes': json.dumps({'object': ['Alarm clock'], 'brightness': 0.5} if n % 2 else {})}


@pytest.fixture(scope='session')
def data_dir(tmp_path_factory):
  """Folder that holds tiny/1.0.0 in several shards a split; read only."""
  folder = tmp_path_factory.mktemp('records')
  builder = Tiny(data_dir=folder)
  builder.download_and_prepare(download_config=tfds.download.DownloadConfig(num_shards=3))
  return folder


@pytest.fixture(scope='session')
def train(data_dir):
  """The 27 records of 'train'."""
  return open_split(data_dir, 'tiny', 'train')
