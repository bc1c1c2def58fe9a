"""What a build and a prediction make of one file for each kind of trouble that real folders hold."""

import csv
import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds

from data_pipelines import images as image_files
from data_pipelines.batches import augment
from data_pipelines.light_tensorflow import tf
from data_pipelines.media.read_media import read_media
from data_pipelines.records import reader
from tests.support.image_corpus import BLUE, RED, coloured, colourless, unusable

PEAK = 2**30  # Bytes, TensorFlow included.


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  """All of them, and what only a file system can do."""
  source = tmp_path_factory.mktemp('corpus')
  images = source / 'train' / 'trouble'
  images.mkdir(parents=True)
  for name, data in (coloured() | colourless()).items():
    (images / name).write_bytes(data)
  for name, (data, _) in unusable().items():
    (images / name).write_bytes(data)
  (images / 'link.jpg').symlink_to('baseline.jpg')
  (images / 'broken link.jpg').symlink_to('gone.jpg')
  return source


@pytest.fixture(scope='module')
def built(folder, tmp_path_factory):
  """(folder of the shards, manifest, peak memory in bytes) of a build in a process of its own."""
  out = tmp_path_factory.mktemp('out')
  script = (
      'import json, pathlib, re; from data_pipelines.build import build\n'
      f'manifest = build("folder", {os.fspath(folder)!r}, {os.fspath(out)!r}, max_rejects=1)\n'
      # ru_maxrss would count what the process that started this one holds.
      'peak = re.search(r"VmHWM:\\s+(\\d+) kB", pathlib.Path("/proc/self/status").read_text())[1]\n'
      'print(json.dumps([manifest, int(peak) * 1024]))')
  done = subprocess.run([sys.executable, '-c', script], capture_output=True, text=True, check=True)
  manifest, peak = json.loads(done.stdout.splitlines()[-1])
  return out / 'folder' / '1.0.0', manifest, peak


def test_every_file_is_read_or_rejected_by_name_with_its_reason(built):
  shards, manifest, _ = built
  with (shards / 'rejects.csv').open(newline='') as file:
    rejects = {row['path'].removeprefix('train/trouble/'): row['reason'] for row in csv.DictReader(file)}
  expected = {name: reason for name, (_, reason) in unusable().items()} | {'broken link.jpg': 'No such file'}
  assert rejects.keys() == expected.keys()
  assert not {name: reason for name, reason in rejects.items() if not re.search(expected[name], reason)}
  readable = coloured().keys() | colourless().keys() | {'link.jpg'}
  assert manifest['found'] == len(readable) + len(rejects)
  assert (manifest['read'], manifest['rejected']) == (len(readable), len(rejects))
  assert len(expected) >= 40 and len(readable) >= 130


def test_images_that_are_read_without_a_part_of_the_file_are_counted(built):
  ignored = built[1]['ignored']
  assert ignored[image_files.MISSING_END] == 2
  assert ignored[image_files.UNREADABLE_METADATA] >= 14


@pytest.mark.parametrize('size', [96, *(pytest.param(size, marks=pytest.mark.slow) for size in (32, 224))])
def test_prediction_sees_what_the_record_shows_or_gives_the_same_reason(folder, built, size, tmp_path):
  """To 2 of 255, and what a JPEG of quality 95 costs where the record holds one that is encoded again: here up to 6."""
  shards, _, _ = built
  split = reader.open_split(os.fspath(shards.parent.parent), 'folder', 'train')
  fields = {name: tf.io.FixedLenFeature([], tf.string) for name in ('id', 'image')}
  stored = {}
  for position in range(split.num_examples):
    record = tf.io.parse_single_example(split.read(position), fields)
    stored[record['id'].numpy().decode()] = record['image'].numpy()
  with (shards / 'rejects.csv').open(newline='') as file:
    reasons = {row['path']: ' '.join(row['reason'].split()) for row in csv.DictReader(file)}
  copies = [tmp_path / f'{position}.jpg' for position in range(len(stored))]
  for copy, jpeg in zip(copies, stored.values(), strict=True):
    copy.write_bytes(jpeg)
  of_copies = dict(zip(stored, read_media(list(map(str, copies)), size, ahead=8), strict=True))
  names = sorted(stored.keys() | reasons.keys())
  apart = {}
  for name, view in zip(names, read_media([str(folder / name) for name in names], size, ahead=8), strict=True):
    assert view.error == reasons.get(name, '')
    if name in stored:
      seen = augment.evaluation_view(stored[name], size).numpy().astype(int)
      kept = stored[name] == (folder / name).read_bytes()
      apart[name] = np.abs(of_copies[name].pixels - seen).max(), np.abs(view.pixels - seen).max() - 4 * (not kept)
  assert len(apart) == len(stored) and {name: levels for name, levels in apart.items() if max(levels) > 2} == {}


def test_every_image_that_is_read_shows_what_the_file_shows(built):
  colours = {}
  for record in tfds.builder_from_directory(built[0]).as_dataset(split='train').as_numpy_iterator():
    image = record['image'].astype(int)
    height, width, channels = image.shape
    assert channels == 3 and min(height, width) <= 256
    name = record['id'].decode().removeprefix('train/trouble/')
    colours[name] = image[height // 2, width // 4], image[height // 2, width * 3 // 4]
  assert colours.keys() == coloured().keys() | colourless().keys() | {'link.jpg'}
  for name in coloured():
    left, right = colours[name]
    assert np.abs(left - RED).max() <= 24 and np.abs(right - BLUE).max() <= 24, (name, left, right)
  assert colours['grey sixteen bits.png'][0].tolist() == [128] * 3
  assert min(colours['all clear.png'][0]) >= 253


def test_peak_memory_stays_under_one_gibibyte(built):
  assert built[2] < PEAK
