"""`person_boxes.csv` as a detector writes it for a folder: which images, which boxes, and after a kill."""

import csv
import signal
import textwrap
import time

import numpy as np
from PIL import Image
import pytest

from data_pipelines.errors import UserError
from data_pipelines.person_boxes import box_file, crops, detection, detectors
from tests.support import small_runs


def _red_side(image: Image.Image) -> str:
  red = np.asarray(image)[..., 0].astype(float)
  return 'left' if red[:, :red.shape[1] // 2].mean() > red[:, red.shape[1] // 2:].mean() else 'right'


class Fake:
  """Finds the red half of each image, and keeps the sizes that it was shown."""

  def __init__(self):
    self.shown: list[tuple[int, int]] = []

  def __call__(self, images):
    self.shown += [image.size for image in images]
    return [self._find(image) for image in images]

  @staticmethod
  def _find(image):
    width, height = image.size
    middle = width / 2
    left, right = (0, middle) if _red_side(image) == 'left' else (middle, width)
    return np.array([[left, 0, right, height, 0.9], [0, 0, 8, 8, 0.2]])


@pytest.fixture
def fake(monkeypatch):
  detector = Fake()
  monkeypatch.setattr(detectors, 'load_detector', lambda name: detector)
  return detector


def _half_red(width=80, height=40):
  pixels = np.zeros((height, width, 3), np.uint8)
  pixels[:, :width // 2, 0] = 255
  return Image.fromarray(pixels)


def _folder(tmp_path, count=20):
  source = tmp_path / 'raw'
  for index in range(count):
    (source / f'class {index % 2}').mkdir(parents=True, exist_ok=True)
    _half_red().save(source / f'class {index % 2}' / f'bild {index:02d} ä.jpg')
  return source


def _rows(path):
  with path.open(newline='', encoding='utf-8') as file:
    return list(csv.reader(file))


def test_every_image_is_looked_at_and_what_is_none_is_counted_by_kind(tmp_path, fake):
  source = _folder(tmp_path, 4)
  _half_red().save(source / 'NO SUFFIX', 'PNG')
  _half_red().save(source / 'UPPER.JPEG')
  for name in ('info.json', 'list.csv', '.DS_Store', 'Thumbs.db', 'old.jpg~'):
    (source / name).write_text('{}')
  (source / 'broken.jpg').write_bytes(b'\xff\xd8\xff')
  (source / 'empty.png').write_bytes(b'')
  path = source / 'person_boxes.csv'
  found = detection.detect_folder(source, 'fake', path)
  assert found.images == found.with_person == 6
  assert found.boxes == 12
  assert found.ignored == {'*.csv': 1, '*.json': 1, '*~': 1, '.*': 1, 'Thumbs.db': 1}
  assert list(found.unreadable) == ['broken.jpg', 'empty.png'] and found.unreadable['empty.png'] == 'empty file'
  rejects = _rows(source / 'person_boxes_rejects.csv')
  assert [row[0] for row in rejects] == ['path', 'broken.jpg', 'empty.png']
  boxes = box_file.read_boxes(source)
  assert list(boxes) == ['NO SUFFIX', 'UPPER.JPEG', *sorted(f'class {n % 2}/bild {n:02d} ä.jpg' for n in range(4))]
  np.testing.assert_array_equal(boxes['NO SUFFIX'], [[0, 0, 40, 40, 0.9], [0, 0, 8, 8, 0.2]])
  assert {file.name for file in source.iterdir() if 'boxes' in file.name
         } == {path.name, 'person_boxes.csv.sha256', 'person_boxes_rejects.csv'}
  summary = str(found).splitlines()
  assert '6 images (100.0%)' in summary[0] and 'broken.jpg' in summary[1] and '1 *.json' in summary[2]


def test_boxes_are_in_pixels_of_the_image_as_displayed_and_at_its_own_size(tmp_path, fake):
  source = tmp_path / 'raw'
  source.mkdir()
  _half_red(4000, 2000).save(source / 'large.png')
  exif = Image.Exif()
  exif[0x0112] = 6  # Displayed turned by 90 degrees to the right: left becomes top.
  _half_red(40, 80).transpose(Image.Transpose.ROTATE_90).save(source / 'turned.jpg', exif=exif, quality=95)
  detection.detect_folder(source, 'fake', source / 'person_boxes.csv')
  boxes = box_file.read_boxes(source)
  np.testing.assert_array_equal(boxes['large.png'][0], [0, 0, 2000, 2000, 0.9])
  np.testing.assert_array_equal(boxes['turned.jpg'][0], [0, 0, 20, 80, 0.9])
  assert min(fake.shown[0]) == 800


def test_boxes_that_are_broken_outside_or_flat_are_dropped_and_counted(tmp_path, monkeypatch):
  source = _folder(tmp_path, 1)
  given = np.array([
      [10, 10, 30, 30, 0.3],
      [-5, -5, 500, 20, 0.8],
      [np.nan, 0, 10, 10, 0.9],
      [0, 0, np.inf, 10, 0.9],
      [0, 0, 10, 10, np.nan],
      [90, 0, 120, 40, 0.9],
      [5, 5, 5, 20, 0.9],
      [20, 20, 10, 10, 0.9],])
  monkeypatch.setattr(detectors, 'load_detector', lambda name: lambda images: [given for _ in images])
  found = detection.detect_folder(source, 'fake', tmp_path / 'boxes.csv')
  assert (found.boxes, found.dropped, found.with_person) == (2, 6, 1)
  assert [list(map(float, row[1:])) for row in _rows(tmp_path / 'boxes.csv')[1:]] == [[0, 0, 80, 20, 0.8],
                                                                                      [10, 10, 30, 30,
                                                                                       0.3]]  # fmt: skip
  assert '6 boxes dropped' in str(found)


def test_images_without_a_person_are_looked_at_once_even_across_a_stop(tmp_path, monkeypatch):
  source, path = _folder(tmp_path), tmp_path / 'boxes.csv'
  shown = []

  def detect(images):
    if len(shown) == 16:
      raise KeyboardInterrupt
    shown.extend(images)
    return [np.zeros((0, 5)) for _ in images]

  monkeypatch.setattr(detectors, 'load_detector', lambda name: detect)
  with pytest.raises(KeyboardInterrupt):
    detection.detect_folder(source, 'fake', path)
  assert not path.exists()
  progress, = tmp_path.glob('.*')
  with progress.open('ab') as file:
    file.write(b'{"image": "class 0/bi')  # Half a line, as a kill leaves it.
  fake = Fake()
  monkeypatch.setattr(detectors, 'load_detector', lambda name: fake)
  found = detection.detect_folder(source, 'fake', path)
  assert len(fake.shown) == 4
  assert (found.images, found.with_person, found.boxes) == (20, 4, 8)
  assert not list(tmp_path.glob('.*'))


def test_another_detector_starts_over(tmp_path, fake, monkeypatch):
  source, path = _folder(tmp_path), tmp_path / 'boxes.csv'
  monkeypatch.setattr(box_file, 'write_boxes', lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
  with pytest.raises(KeyboardInterrupt):
    detection.detect_folder(source, 'one', path)
  monkeypatch.undo()
  other = Fake()
  monkeypatch.setattr(detectors, 'load_detector', lambda name: other)
  detection.detect_folder(source, 'other', path)
  assert len(other.shown) == 20


def test_killed_run_goes_on_and_ends_with_the_same_file(tmp_path, fake):
  source = _folder(tmp_path, 64)
  detection.detect_folder(source, 'fake', tmp_path / 'whole.csv')
  program = textwrap.dedent(
      """
    import sys, time, pathlib
    from data_pipelines.person_boxes import detection, detectors
    from tests.data_pipelines.person_boxes.test_person_boxes import Fake
    slow = Fake()
    def detect(images):
      time.sleep(0.2)
      return slow(images)
    detectors.load_detector = lambda name: detect
    detection.detect_folder(pathlib.Path(sys.argv[1]), 'fake', pathlib.Path(sys.argv[2]))
  """)
  path = tmp_path / 'killed.csv'
  progress = tmp_path / '.killed.csv.unfinished'
  run = small_runs.start(['-c', program, source, path])
  deadline = time.monotonic() + 60
  while not progress.exists() or progress.read_bytes().count(b'\n') < 9:
    assert run.poll() is None and time.monotonic() < deadline
    time.sleep(0.02)
  run.send_signal(signal.SIGKILL)
  run.wait()
  assert not path.exists()
  fake.shown.clear()
  detection.detect_folder(source, 'fake', path)
  assert 0 < len(fake.shown) <= 56
  assert path.read_bytes() == (tmp_path / 'whole.csv').read_bytes()


def test_a_finished_file_is_never_overwritten(tmp_path, fake):
  source = _folder(tmp_path, 1)
  path = source / 'person_boxes.csv'
  path.write_text('mine')
  with pytest.raises(UserError, match='is there already: remove it'):
    detection.detect_folder(source, 'fake', path)
  assert path.read_text() == 'mine' and not fake.shown


def test_folder_without_images_is_a_users_mistake(tmp_path, fake):
  (tmp_path / 'list.json').write_text('{}')
  with pytest.raises(UserError, match='holds no image'):
    detection.detect_folder(tmp_path, 'fake', tmp_path / 'boxes.csv')


def test_boxes_are_read_from_a_file_of_ones_own_which_must_exist(tmp_path):
  path = tmp_path / 'mine.csv'
  with pytest.raises(UserError, match='mine.csv is not there'):
    box_file.read_boxes(path)
  path.write_text('image,xmin,ymin,xmax,ymax,score\na.jpg,1,2,3,4,1\n')
  np.testing.assert_array_equal(box_file.read_boxes(path)['a.jpg'], [[1, 2, 3, 4, 1]])


def test_persons_are_the_confident_boxes_largest_first():
  boxes_Nx4 = np.array([[0, 0, 0.2, 0.2], [0, 0, 0.8, 0.8], [0, 0, 1, 1]], np.float32)
  persons_Mx4 = crops.largest_persons(boxes_Nx4, np.array([0.9, 0.5, 0.4], np.float32))
  np.testing.assert_array_equal(persons_Mx4, boxes_Nx4[[1, 0]])


@pytest.mark.parametrize('arguments', [['--source=x'], ['--source=.', '--detector=hog']], ids=str)
def test_command_ends_in_one_line_and_code_2(arguments, tmp_path, monkeypatch, command, capsys, assert_one_line):
  monkeypatch.chdir(tmp_path)
  assert_one_line(command('data_pipelines.person_boxes', *arguments), capsys.readouterr().err, '', '')


def test_boxes_in_another_encoding_are_one_line(tmp_path):
  path = tmp_path / 'boxes.csv'
  path.write_bytes(b'image,xmin,ymin,xmax,ymax,score\ncaf\xe9.jpg,0,0,1,1,1\n')
  with pytest.raises(UserError, match='save it as CSV in UTF-8'):
    box_file.read_boxes(path)
