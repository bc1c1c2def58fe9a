"""Layouts of a user's own folder: usual names are known, guesses are told before reading, traps are refused."""

import re

import pytest

from data_pipelines import images
from data_pipelines.build import build
from data_pipelines.building.splits import split_named
from data_pipelines.errors import UserError
from tests.support import raw_folders


@pytest.mark.parametrize(('name', 'split'), [('train', 'train'), ('Training', 'train'), ('TRAIN_SET', 'train'),
                                             ('trainset', 'train'), ('Train', 'train'), ('train_images', 'train'),
                                             ('val', 'val'), ('Valid', 'val'), ('VALIDATION', 'val'),
                                             ('validation set', 'val'), ('dev', 'val'), ('Test', 'test'),
                                             ('testing', 'test'), ('test-data', 'test'), ('val2017', 'val'),
                                             ('extra', None), ('trainer', None), ('set', None), ('contest', None),
                                             ('calm', None), ('', None)])  # fmt: skip
def test_usual_names_of_splits_are_known_in_any_case(name, split):
  assert split_named(name) == split


@pytest.mark.parametrize(
    'names', [('train', 'validation', 'test'), ('Train', 'Val', 'Test'), ('TRAINING', 'dev', 'testing'),
              ('train_set', 'valid_set', 'test_set')])
def test_folders_with_the_usual_names_are_the_splits(names, tmp_path, capsys):
  for name, count in zip(names, (3, 1, 2)):
    raw_folders.draw_classes(tmp_path / 'raw' / name, ('awe', 'joy'), count)
  manifest = build('folder', tmp_path / 'raw', tmp_path / 'out')
  assert {split: summary['examples'] for split, summary in manifest['splits'].items()
         } == {'train': 6, 'val': 2, 'test': 4}
  assert manifest['labels'] == ['awe', 'joy'] and manifest['split_seed'] is None and manifest['ignored'] == {}
  out = capsys.readouterr().out
  assert f'raw: split by its folders {", ".join(f"{name}/" for name in names)}\n' in out
  assert '  train: 6 images (awe 3, joy 3)\n  val: 2 images (awe 1, joy 1)\n  test: 4 images (awe 2, joy 2)\n' in out


def test_published_datasets_know_the_usual_names_too(tmp_path):
  classes = ('Anger', 'Disgust', 'Fear', 'Happy', 'Neutral', 'Sad', 'Surprise')
  for name in ('Train', 'TEST'):
    raw_folders.draw_classes(tmp_path / 'raw' / name, classes, 3, '.png')
  assert build('caers', tmp_path / 'raw', tmp_path / 'out')['splits']['train']['examples'] == 21


def test_layout_is_told_before_any_image_is_read(tmp_path, capsys, monkeypatch):
  raw_folders.draw_classes(tmp_path / 'raw', ('awe', 'joy'), 10)
  raw_folders.draw_picture(tmp_path / 'raw' / 'loose.jpg')
  raw_folders.draw_picture(tmp_path / 'raw' / 'joy' / '2019' / 'deep.jpg')
  (tmp_path / 'raw' / 'joy' / '.DS_Store').write_bytes(b'x')
  monkeypatch.setattr(images, 'open_image', lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
  with pytest.raises(KeyboardInterrupt):
    build('folder', tmp_path / 'raw', tmp_path / 'out')
  told = capsys.readouterr().out
  assert 'raw: a folder a class, split 80/10/10 here\n' in told
  assert re.search(r'  train: 17 images \(awe 8, joy 9\)\n  val: 2 images .*\n  test: 2 images', told)
  assert '  warning: folders inside class folders count as their class: joy/2019/ 1\n' in told
  assert '  warning: in no class folder, and left out: 1 images, loose.jpg\n  passed over: 1 .*\n' in told


def test_one_class_is_a_warning(tmp_path, capsys):
  raw_folders.draw_classes(tmp_path / 'raw', ('awe',), 20)
  assert build('folder', tmp_path / 'raw', tmp_path / 'out')['labels'] == ['awe']
  assert 'warning: awe is the only class, so there is nothing to tell apart' in capsys.readouterr().out


def test_what_is_ignored_beside_splits_is_told(tmp_path, capsys):
  raw_folders.draw_classes(tmp_path / 'raw' / 'train', ('awe', 'joy'), 2)
  raw_folders.draw_classes(tmp_path / 'raw', ('calm',), 2)
  assert build('folder', tmp_path / 'raw', tmp_path / 'out')['ignored'] == {'in calm/': 2}
  assert 'passed over: 2 in calm/' in capsys.readouterr().out


@pytest.mark.parametrize(
    ('paths', 'message'), [
        (['val/awe/0.jpg', 'validation/awe/0.jpg', 'train/awe/0.jpg'
         ], 'holds val/ and validation/, both for val: keep one'),
        (['Train/awe/0.jpg', 'train/awe/0.jpg'], 'holds Train/ and train/, both for train'),
        (['train/awe/0.jpg', 'train/Test/0.jpg'], 'train/Test is a class folder with the name of a split'),
        (['awe/0.jpg', 'joy/0.jpg', 'test/0.jpg'], 'holds test/ beside awe, joy, and no train/'),
        (['awe/0.jpg', 'test/awe/0.jpg'], 'holds test/ beside awe, and no train/'),
        (['test/0.jpg'], 'test holds no class folders: sort its images into them, or rename it if it is a class'),
        (['set/train/awe/0.jpg', 'set/test/awe/0.jpg'
         ], 'raw/set is a class folder and holds test, train.*give .*raw/set as'),
        (['awe/train/0.jpg', 'awe/test/0.jpg', 'joy/train/0.jpg'], r'move them to test/awe/ and so on'),
        (['images/awe/0.jpg', 'images/joy/0.jpg'
         ], 'raw/images is the only class folder and holds nothing but folders, awe, joy'),
        (['train/images/awe/0.jpg', 'train/images/joy/0.jpg'
         ], 'train/images is the only class folder and holds nothing but'),
        (['train/a/0.jpg', 'val/b/0.jpg'], "holds the unknown class 'b'"),
        (['train/0.jpg'], 'train holds no class folders'), (['.hidden/0.jpg'], 'holds no images'),
        (['a/0.jpg', 'a /0.jpg'], "the class 'a ' cannot name a label"), (['a/0.jpg', 'b/0.jpg'], 'too few')])
def test_layout_that_cannot_be_meant_is_refused_in_one_line(paths, message, tmp_path):
  for path in paths:
    raw_folders.draw_picture(tmp_path / 'raw' / path)
  with pytest.raises(UserError, match=message) as error:
    build('folder', tmp_path / 'raw', tmp_path / 'out')
  assert '\n' not in str(error.value)


def test_classes_of_other_splits_may_be_spelled_in_other_case(tmp_path):
  raw_folders.draw_classes(tmp_path / 'raw' / 'train', ('Awe', 'Joy'), 2)
  raw_folders.draw_classes(tmp_path / 'raw' / 'val', ('awe', 'JOY'), 1)
  assert build('folder', tmp_path / 'raw', tmp_path / 'out')['splits']['val']['per_class'] == {'Awe': 1, 'Joy': 1}


def test_missing_splits_are_told_with_what_to_do(tmp_path, capsys):
  raw_folders.draw_classes(tmp_path / 'raw' / 'train', ('awe', 'joy'), 2)
  build('folder', tmp_path / 'raw', tmp_path / 'out')
  assert '  no val: to fine-tune, move some images there\n  no test: to fine-tune, set --config.test_split=val\n' in (
      capsys.readouterr().out)
