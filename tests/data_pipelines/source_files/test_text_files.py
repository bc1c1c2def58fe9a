"""Tables and lists are read as any program saves them, or refused in one line."""

import pathlib
import re

from PIL import Image
import pytest

from data_pipelines.build import build
from data_pipelines.errors import UserError
from data_pipelines.media import find_images
from data_pipelines.person_boxes import box_file
from data_pipelines.person_boxes.person_finder import PersonFinder
from data_pipelines.source_files.file_names import FileNames
from tests.data_pipelines.source_files.table_corpus import (
    BOXES,
    IMAGES,
    read_lists,
    read_tables,
    refused_lists,
    refused_tables,
)
from tests.support import raw_folders


@pytest.fixture
def folder(tmp_path: pathlib.Path) -> pathlib.Path:
  """Holds IMAGES."""
  for image in IMAGES:
    raw_folders.draw_picture(tmp_path / 'raw' / image, (60, 50))
  return tmp_path / 'raw'


def test_the_corpus_is_large() -> None:
  assert sum(map(len, (read_tables(''), refused_tables(), read_lists(), refused_lists()))) >= 60


def _boxes_by_image(folder: pathlib.Path, table: bytes) -> dict[str, list]:
  path = folder / box_file.FILE_NAME
  path.write_bytes(table)
  found = box_file.read_boxes(folder)
  images_of = FileNames(IMAGES, folder).find_all(found, path)
  return {images_of[name]: boxes.tolist() for name, boxes in found.items()}


@pytest.mark.parametrize('kind', read_tables(''))
def test_table_says_the_same_however_it_was_saved(kind: str, folder: pathlib.Path) -> None:
  assert _boxes_by_image(folder, read_tables(str(folder))[kind]) == BOXES


@pytest.mark.parametrize('kind', refused_tables())
def test_table_that_cannot_be_read_is_one_line_with_the_remedy(kind: str, folder: pathlib.Path) -> None:
  table, message = refused_tables()[kind]
  with pytest.raises(UserError, match=message) as error:
    _boxes_by_image(folder, table)
  assert '\n' not in str(error.value) and box_file.FILE_NAME in str(error.value)


@pytest.mark.parametrize('kind', ['backslashes', 'dot and slash', 'UTF-16', 'semicolons and decimal commas'])
def test_build_finds_the_persons_of_any_of_these_tables(kind: str, folder: pathlib.Path) -> None:
  (folder / box_file.FILE_NAME).write_bytes(read_tables('')[kind])
  manifest = build('folder', folder, folder.parent / 'out')
  assert manifest['splits']['train']['with_person'] == 2 and manifest['ignored'] == {}


@pytest.mark.parametrize('kind', read_lists())
def test_list_names_the_same_files_however_it_was_saved(
    kind: str, folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
  (folder / 'list.txt').write_bytes(read_lists()[kind])
  monkeypatch.chdir(folder)
  found = find_images.find(['list.txt'])
  assert [pathlib.Path(path).as_posix() for path in found.paths] == list(IMAGES)
  assert found.duplicates == (2 if kind == 'twice' else 0)


@pytest.mark.parametrize('kind', refused_lists())
def test_list_that_cannot_be_read_is_one_line(kind: str, folder: pathlib.Path) -> None:
  content, message = refused_lists()[kind]
  (folder / 'list.txt').write_bytes(content)
  with pytest.raises(UserError, match=message) as error:
    find_images.find([str(folder / 'list.txt')])
  assert '\n' not in str(error.value)


def test_names_of_no_image_are_counted_and_named(folder: pathlib.Path, capsys: pytest.CaptureFixture) -> None:
  rows = [box_file.COLUMNS, (IMAGES[0], 0, 0, 9, 9, 1), ('gone.jpg', 0, 0, 9, 9, 1), ('gone.jpg', 0, 0, 8, 8, 1)]
  box_file.write_boxes(folder / box_file.FILE_NAME, rows[1:])
  manifest = build('folder', folder, folder.parent / 'out')
  assert manifest['ignored'] == {'person boxes of images not listed': 2}
  assert re.search('1 of its 2 names are of no image here: gone.jpg', capsys.readouterr().err)


def test_build_refuses_boxes_of_which_none_is_of_an_image_here(folder: pathlib.Path) -> None:
  (folder / box_file.FILE_NAME).write_bytes(refused_tables()['of other images'][0])
  with pytest.raises(UserError, match="names no image that is here.*images are named like 'train/"):
    build('folder', folder, folder.parent / 'out')


@pytest.mark.parametrize('kind', read_tables(''))
def test_predict_finds_the_persons_of_any_of_these_tables(
    kind: str, folder: pathlib.Path, capsys: pytest.CaptureFixture) -> None:
  (folder / 'boxes.csv').write_bytes(read_tables(str(folder))[kind])
  finder = PersonFinder(str(folder / 'boxes.csv'), None)
  finder.check_names([str(folder / image) for image in IMAGES])
  for image in IMAGES:
    person = finder(str(folder / image), Image.open(folder / image), 32)
    xmin, ymin, xmax, ymax, _ = BOXES[image][0]
    assert person and person.box == pytest.approx((ymin / 50, xmin / 60, ymax / 50, xmax / 60))
  assert capsys.readouterr().err == ''


def test_predict_tells_which_boxes_are_of_other_images_and_refuses_a_file_of_others_alone(
    folder: pathlib.Path, capsys: pytest.CaptureFixture) -> None:
  box_file.write_boxes(folder / 'boxes.csv', [(image, 0, 0, 9, 9, 1) for image in (*IMAGES, 'clip.mp4#t=3.0')])
  finder = PersonFinder(str(folder / 'boxes.csv'), None)
  finder.check_names([str(folder / IMAGES[0]), str(folder / 'clip.mp4')])
  assert re.search(f'1 of its 3 names are of no image here: .*{IMAGES[1]}', capsys.readouterr().err)
  with pytest.raises(UserError, match='boxes.csv names no image that is here'):
    finder.check_names([str(folder / 'train' / 'joy' / '1.jpg')])


def test_predict_finds_persons_of_a_folder_that_is_reached_by_a_link(
    folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
  (tmp_path / 'link').symlink_to(folder)
  box_file.write_boxes(folder / 'boxes.csv', [(IMAGES[0], 0, 0, 9, 9, 1)])
  finder = PersonFinder(str(tmp_path / 'link' / 'boxes.csv'), None)
  assert finder(str(folder / IMAGES[0]), Image.open(folder / IMAGES[0]), 32)
