"""TFDS's own test case for every builder, on a raw folder in the true layout."""

from collections.abc import Callable
import importlib
import pathlib
import tempfile

import tensorflow_datasets as tfds

from data_pipelines.records.label_sets import EMOTIONS
from data_pipelines.synthetic import datasets
from tests.data_pipelines.datasets import test_emotic, test_emotion6
from tests.support import raw_folders

SPLITS = ('train', 'val', 'test')
FINE = {'train': 16, 'val': 8, 'test': 8}


def _emoset(folder: pathlib.Path) -> None:
  datasets.write_dataset(folder, 'emoset', datasets.plan_images('emoset', FINE, seed=1), {'seed': 1})


def _emo8(folder: pathlib.Path) -> None:
  datasets.write_dataset(folder, 'emo8', datasets.plan_images('emo8', FINE, seed=1), {'seed': 1})


def _fi(folder: pathlib.Path) -> None:
  raw_folders.draw_classes(folder, EMOTIONS, 10)


def _unbiasedemo(folder: pathlib.Path) -> None:
  for emotion in ('anger', 'fear', 'joy', 'love', 'sadness', 'surprise'):
    raw_folders.draw_classes(folder / emotion, (f'{emotion} cat', f'{emotion} street'), 10)


def _caers(folder: pathlib.Path) -> None:
  classes = ('Anger', 'Disgust', 'Fear', 'Happy', 'Neutral', 'Sad', 'Surprise')
  raw_folders.draw_classes(folder / 'train', classes, 4, '.png')
  raw_folders.draw_classes(folder / 'test', classes, 3, '.png')


def _heco(folder: pathlib.Path) -> None:
  classes = ('Surprise', 'Excitement', 'Happiness', 'Peace', 'Disgust', 'Anger', 'Fear', 'Sadness')
  raw_folders.draw_classes(folder, classes, 10)


def _folder(folder: pathlib.Path) -> None:
  for split, count in zip(SPLITS, (3, 1, 2)):
    raw_folders.draw_classes(folder / split, ('cosy', 'eerie'), count)


CASES = {
    'emoset': (_emoset, (16, 8, 8)), 'emo8': (_emo8, (16, 8, 8)), 'fi': (_fi, (64, 8, 8)), 'emotion6':
        (test_emotion6.draw, (42, 6, 12)), 'unbiasedemo': (_unbiasedemo, (84, 12, 24)), 'caers': (_caers, (28, 7, 14)),
    'heco': (_heco, (56, 8, 16)), 'emotic': (test_emotic.draw, (4, 1, 2)), 'folder': (_folder, (6, 2, 4))}


def _case(dataset: str, draw: Callable[[pathlib.Path], None], sizes: tuple[int, int, int]) -> type:

  def set_up_class(cls):
    cls.raw = tempfile.TemporaryDirectory()
    cls.EXAMPLE_DIR = pathlib.Path(cls.raw.name, dataset)
    draw(cls.EXAMPLE_DIR)
    super(case, cls).setUpClass()

  def tear_down_class(cls):
    super(case, cls).tearDownClass()
    cls.raw.cleanup()

  case = type(
      f'Test_{dataset}', (tfds.testing.DatasetBuilderTestCase,), {
          'DATASET_CLASS': importlib.import_module(f'data_pipelines.{dataset}.{dataset}_dataset_builder').Builder,
          'SPLITS': dict(zip(SPLITS, sizes)), 'setUpClass': classmethod(set_up_class), 'tearDownClass':
              classmethod(tear_down_class)})  # fmt: skip
  return case


globals().update({f'Test_{dataset}': _case(dataset, *drawn) for dataset, drawn in CASES.items()})
