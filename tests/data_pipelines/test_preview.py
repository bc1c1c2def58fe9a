"""The contact sheet shows what training sees, says what the records say, and is written whole or not at all."""

import errno
import os
import shutil

import numpy as np
from PIL import Image
import pytest

from data_pipelines import preview
from data_pipelines.batches.pipeline import train_batches
from data_pipelines.errors import UserError
from data_pipelines.records import manifest

SIDE, COUNT, SEED = 64, 6, 3
LABELS = ('amusement', 'awe', 'contentment')


@pytest.fixture(scope='module')
def built(data_dir, tmp_path_factory):
  """The tiny records with the manifest that a build leaves beside them."""
  folder = shutil.copytree(data_dir, tmp_path_factory.mktemp('built'), dirs_exist_ok=True)
  manifest.write_manifest(folder / 'tiny' / '1.0.0', {'distribution': ['anger', 'joy']})
  return folder


def record(**fields):
  """What `features.deserialize_example_np` gives of a record without person and target."""
  nothing = {
      'persons': [], 'boxes': np.zeros((0, 4)), 'box_scores': np.zeros(0), 'label': -1, 'labels': [],
      'distribution': np.zeros(0), 'vad': np.full(3, np.nan), 'attributes': b'{}'}
  return {'id': 'bild/ä.jpg'.encode(), 'image': np.full((60, 120, 3), 128, np.uint8)} | nothing | fields


def holds(sheet_HxWx3, image_SxSx3):
  """Whether the image lies somewhere in the sheet, pixel by pixel."""
  side, first = len(image_SxSx3), image_SxSx3[0].tobytes()
  for top, row in enumerate(sheet_HxWx3):
    left, rest = divmod(row.tobytes().find(first), 3)
    if rest == 0 and (sheet_HxWx3[top:top + side, left:left + side] == image_SxSx3).all():
      return True
  return False


@pytest.mark.filterwarnings("ignore:'data_pipelines:RuntimeWarning")  # runpy, of a module that a test imported
def test_sheet_holds_the_first_views_of_training_and_frames_those_without_a_person(
    built, train, tmp_path, command, capsys):
  out = tmp_path / 'sheet.png'
  assert not command(
      'data_pipelines.preview', f'--data_dir={built}', '--dataset=tiny', f'--out={out}', f'--count={COUNT}',
      f'--seed={SEED}', f'--image_size={SIDE}')
  sheet = np.asarray(Image.open(out))
  # Another batch size on purpose: which examples come first does not depend on it.
  batch = next(train_batches(train, batch_size=9, seed=SEED, image_size=SIDE))
  with_person = batch['example_id'][:COUNT] // 5 % 3 != 0
  for scene, person, shown in zip(batch['scene'], batch['person'], with_person):
    assert holds(sheet, scene)
    assert holds(sheet, person if shown else person[4:-4, 4:-4])
  assert 0 < with_person.sum() < COUNT
  assert list(tmp_path.iterdir()) == [out]
  told = f'{out}: shows 6 of the 27 examples of tiny train, {with_person.sum()} with a person\n'
  assert capsys.readouterr().out == told


def test_full_disk_leaves_the_old_sheet_and_nothing_else(built, tmp_path, monkeypatch):
  out = tmp_path / 'sheet.png'
  out.write_bytes(b'old')

  def fill_up(descriptor):
    raise OSError(errno.ENOSPC, 'No space left on device')

  monkeypatch.setattr(os, 'fsync', fill_up)
  with pytest.raises(UserError, match='No space left'):
    preview.preview(built, 'tiny', out=out, count=1, image_size=SIDE)
  assert [path.read_bytes() for path in tmp_path.iterdir()] == [b'old']


def test_every_example_of_a_small_split_is_shown(built, tmp_path):
  told = preview.preview(built, 'tiny', 'val', tmp_path / 'sheet.png', count=400, image_size=SIDE)
  assert 'shows 11 of the 11' in told


def test_no_person_is_framed_in_red_and_a_person_is_left_alone():
  scene, person = np.zeros((SIDE, SIDE, 3), np.uint8), np.full((SIDE, SIDE, 3), 9, np.uint8)
  *_, framed = preview.panels(record(), scene, scene)
  assert framed.getpixel((0, 0)) == framed.getpixel((SIDE - 1, SIDE - 1)) == (255, 0, 0)
  *_, left_alone = preview.panels(record(persons=[b'jpeg']), scene, person)
  np.testing.assert_array_equal(left_alone, person)


@pytest.mark.parametrize('shape', [(1, 4000), (4000, 1), (2, 60_000)])
def test_a_strip_is_shown_one_pixel_thin(shape):
  scene = np.zeros((SIDE, SIDE, 3), np.uint8)
  stored, *_ = preview.panels(record(image=np.zeros((*shape, 3), np.uint8)), scene, scene)
  assert stored.size == (SIDE, SIDE) and (np.asarray(stored) == 0).all(-1).sum() == SIDE


def test_all_boxes_lie_on_the_stored_image_where_the_record_says():
  boxes_2x4 = np.array([[0.0, 0.0, 0.5, 0.25], [0.5, 0.5, 1.0, 1.0]])
  scene = np.zeros((SIDE, SIDE, 3), np.uint8)
  stored, *_ = preview.panels(record(boxes=boxes_2x4, box_scores=np.array([0.9, 0.3])), scene, scene)
  # 120 x 60 becomes 64 x 32 between 16 grey rows above and below.
  pixels = np.asarray(stored)[16:48]
  sure, unsure = ((pixels == colour).all(-1) for colour in ((0, 255, 0), (255, 255, 0)))
  assert [edge.tolist() for edge in (np.flatnonzero(sure.any(1))[[0, -1]], np.flatnonzero(sure.any(0))[[0, -1]])
         ] == [[0, 16], [0, 16]]
  assert [np.flatnonzero(unsure.any(axis))[0] for axis in (1, 0)] == [16, 32]


def test_text_names_every_target_that_the_record_has_and_no_other():
  attributes = b'{"scene": "forest_path", "object": ["Tree"]}'
  pictured = 'natural caption: a picture', 'original caption: a picture'
  assert preview.description(record(label=1, attributes=attributes), LABELS, []) == [
      'bild/ä.jpg', 'label: awe', 'natural caption: a picture of a forest path, with tree, evoking awe',
      'original caption: The scene type of this photo is forest_path. The main subjects are Tree. The overall emotion '
      'conveyed is awe.']
  assert preview.description(record(labels=[2, 0], vad=np.array([6.0, 4.5, 5.0])), LABELS, []) == [
      'bild/ä.jpg', 'labels: contentment, amusement', 'VAD: valence 6.00, arousal 4.50, dominance 5.00', *pictured]
  shares = record(distribution=np.array([0.75, 0.25]), vad=np.array([2.0, 7.0, np.nan]))
  assert preview.description(shares, LABELS, ['anger', 'joy'])[1:3] == [
      'distribution: anger 0.75, joy 0.25', 'VAD: valence 2.00, arousal 7.00']
  assert preview.description(record(), LABELS, []) == ['bild/ä.jpg', 'no label', *pictured]


def test_long_text_stays_below_its_own_images():
  images = [Image.new('RGB', (SIDE, SIDE))] * 3
  sheet = np.asarray(preview.contact_sheet([(images, 'w' * 300), (images, '')], 'title', 2))
  dark = np.flatnonzero((sheet.min(-1) < 128).any(1))
  # 192 + 16 pixels wide, in letters of 7: eleven lines are needed below the images, and nothing beside them.
  text = sheet[dark[0]:].min(-1)[-11 * 12:]
  columns = np.flatnonzero((text < 128).any(0))
  assert len(columns) > 100
  assert columns.max() < 8 + 3 * SIDE + 2 * 8


@pytest.mark.filterwarnings("ignore:'data_pipelines:RuntimeWarning")
@pytest.mark.parametrize(('arguments', 'thing', 'remedy'), [
    (['--dataset=tiny'], '--data_dir is missing', '--help'),
    (['--data_dir={built}', '--dataset=nosuch'], "no records of 'nosuch'", 'data_pipelines.build'),
    (['--data_dir={built}', '--dataset=tiny', '--split=nosuch'], "no split 'nosuch'", 'choose from'),
    (['--data_dir={built}', '--dataset=tiny', '--count=0'], 'count', '--help'),
    (['--data_dir={built}', '--dataset=tiny', '--out=nowhere/sheet.png'], 'nowhere', 'name one'),
    (['--data_dir={built}', '--dataset=tiny', '--out=.'], '--out=.', 'name one'),])
def test_mistake_ends_in_one_line_and_leaves_nothing(
    built, tmp_path, monkeypatch, command, capsys, arguments, thing, remedy):
  monkeypatch.chdir(tmp_path)
  assert command('data_pipelines.preview', *(argument.format(built=built) for argument in arguments)) == 2
  told = capsys.readouterr().err
  assert told.count('\n') == 1
  assert thing in told
  assert remedy in told
  assert not list(tmp_path.iterdir())
