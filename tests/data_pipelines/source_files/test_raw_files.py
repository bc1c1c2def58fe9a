"""Symbolic links: followed once, by all verbs alike; what leads back is refused."""

import collections
import os
import pathlib

import pytest

from data_pipelines.build import build
from data_pipelines.errors import UserError
from data_pipelines.media import find_images
from data_pipelines.person_boxes import detection, detectors
from data_pipelines.records.reader import open_split
from data_pipelines.source_files.raw_files import Listing, list_files
from tests.support import raw_folders

AGAIN = 'linked folder, read by another name'


@pytest.fixture
def linked(tmp_path: pathlib.Path) -> pathlib.Path:
  """A class folder that is a link to elsewhere, one that holds such a link, and an image that is a link."""
  source = tmp_path / 'raw'
  raw_folders.draw_classes(source / 'train', ['calm'], 2)
  raw_folders.draw_classes(tmp_path / 'elsewhere', ['joy', 'more'], 3)
  (source / 'train' / 'joy').symlink_to(tmp_path / 'elsewhere' / 'joy')
  (source / 'train' / 'calm' / 'later').symlink_to(tmp_path / 'elsewhere' / 'more')
  (source / 'train' / 'calm' / 'same.jpg').symlink_to('0000.jpg')
  return source


EXPECTED = {
    *(f'train/calm/{number:04d}.jpg' for number in range(2)), 'train/calm/same.jpg',
    *(f'train/{folder}/{number:04d}.jpg' for folder in ('joy', 'calm/later') for number in range(3))}


def test_build_person_boxes_and_predict_find_the_same_images_behind_links(
    linked: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
  monkeypatch.setattr(detectors, 'load_detector', lambda name: lambda images: [[]] * len(images))
  monkeypatch.setattr(detection, '_item', lambda name, shown, found: {'image': name, 'boxes': [], 'dropped': 0})
  manifest = build('folder', linked, tmp_path / 'out')
  built = {found.id for found in open_split(tmp_path / 'out', 'folder', 'train').annotations()}
  predicted = {os.path.relpath(path, linked) for path in find_images.find([str(linked)]).paths}
  assert built == predicted == EXPECTED and manifest['ignored'] == {}
  assert detection.detect_folder(linked, 'none', tmp_path / 'boxes.csv').images == len(EXPECTED)


@pytest.mark.parametrize('target', ['.', '..', '../..', 'other'])
def test_link_that_leads_back_is_refused_by_every_verb(
    target: str, linked: pathlib.Path, tmp_path: pathlib.Path) -> None:
  if target == 'other':  # Round two corners.
    outside = tmp_path / 'outside'
    outside.mkdir()
    (outside / 'back').symlink_to(linked / 'train')
    target = str(outside)
  (linked / 'train' / 'calm' / 'loop').symlink_to(target)
  for verb in (lambda: build('folder', linked, tmp_path / 'out'), lambda: find_images.find([str(linked)]),
               lambda: detection.detect_folder(linked, 'hog', tmp_path / 'boxes.csv')):
    with pytest.raises(UserError, match='leads back to .*, which holds it: remove the link') as error:
      verb()
    assert '\n' not in str(error.value)
  assert not (tmp_path / 'out' / 'folder' / '1.0.0').exists()


def test_folder_is_entered_once_by_its_own_name_and_other_ways_to_it_are_counted(tmp_path: pathlib.Path) -> None:
  raw_folders.draw_classes(tmp_path / 'raw', ['m', 'z'], 2)
  raw_folders.draw_classes(tmp_path / 'far', ['x'], 1)
  for link, target in {'a': 'z', 'm/z': '../z', 'far1': '../far', 'far2': '../far', 'x': '../far/x'}.items():
    (tmp_path / 'raw' / link).symlink_to(target)
  ignored: collections.Counter[str] = collections.Counter()
  files = list_files(tmp_path / 'raw', lambda kind: ignored.update([kind]))
  names = [path.relative_to(tmp_path / 'raw').as_posix() for path in files]
  assert names == ['far1/x/0000.jpg', 'm/0000.jpg', 'm/0001.jpg', 'z/0000.jpg', 'z/0001.jpg']
  assert ignored == {AGAIN: 4}


def test_class_that_is_a_link_to_another_is_refused_by_name(tmp_path: pathlib.Path) -> None:
  raw_folders.draw_classes(tmp_path / 'raw', ['calm', 'joy'], 10)
  (tmp_path / 'raw' / 'serene').symlink_to('calm')
  with pytest.raises(UserError, match='raw/serene leads to a folder whose images have another name here'):
    build('folder', tmp_path / 'raw', tmp_path / 'out')


def test_predict_takes_a_folder_that_is_a_link_and_globs_through_loops_once(
    linked: pathlib.Path, tmp_path: pathlib.Path) -> None:
  (tmp_path / 'holiday').symlink_to(linked)
  assert len(find_images.find([str(tmp_path / 'holiday')]).paths) == len(EXPECTED)
  (linked / 'train' / 'loop').symlink_to('.')
  found = find_images.find([f'{linked}/**/*.jpg'])
  assert len(found.paths) == len(EXPECTED) and found.duplicates >= len(EXPECTED)


def test_link_to_nothing_is_rejected_by_name(linked: pathlib.Path, tmp_path: pathlib.Path) -> None:
  (linked / 'train' / 'calm' / 'gone.jpg').symlink_to('nowhere')
  (linked / 'train' / 'calm' / 'itself.jpg').symlink_to('itself.jpg')
  manifest = build('folder', linked, tmp_path / 'out', max_rejects=0.5)
  assert (manifest['found'], manifest['read'], manifest['rejected']) == (len(EXPECTED) + 2, len(EXPECTED), 2)
  assert len(find_images.find([str(linked)]).paths) == len(EXPECTED) + 2


def test_fingerprint_changes_with_a_file_and_not_with_litter(linked: pathlib.Path) -> None:
  first = Listing(linked).fingerprint()
  (linked / '.DS_Store').write_bytes(b'x')
  assert Listing(linked).fingerprint() == first and first['files'] == len(EXPECTED)
  path = linked / 'train' / 'calm' / '0000.jpg'
  content = path.read_bytes()
  path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
  assert Listing(linked).fingerprint() != first
  path.write_bytes(content)
  assert Listing(linked).fingerprint() == first
  os.mkfifo(linked / 'train' / 'calm' / 'pipe.jpg')
  (linked / 'train' / 'calm' / 'gone.jpg').symlink_to('nowhere')
  assert Listing(linked).fingerprint()['files'] == len(EXPECTED) + 2


def test_hidden_link_is_counted_and_leads_nowhere(linked: pathlib.Path) -> None:
  for place in (linked / '.cache', linked / 'train' / '.git' / 'back'):
    place.parent.mkdir(exist_ok=True)
    place.symlink_to(linked)
  ignored: collections.Counter[str] = collections.Counter()
  assert len(list_files(linked, lambda kind: ignored.update([kind]))) == len(EXPECTED)
  assert ignored == {'.*': 2}
