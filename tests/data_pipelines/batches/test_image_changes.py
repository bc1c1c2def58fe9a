"""Changed test images: each a function of the image and its id alone, of the same size, without what is taken away."""

import dataclasses
import itertools

import numpy as np
import pytest

from data_pipelines.batches.image_changes import (
    COLOUR,
    PERSON_REMOVED,
    SCENE_REMOVED,
    corrupt,
    read_changes,
    take_away,
    take_margin_away,
)
from data_pipelines.batches.pipeline import eval_batches
from data_pipelines.errors import UserError
from data_pipelines.person_boxes import crops
from data_pipelines.synthetic import hard_drawing, hard_rows

KINDS = ('noise', 'blur', 'jpeg', 'contrast', 'brightness', 'pixelate')
SIDE = 32
BOXES, SCORES = np.array([[0.5, 0, 1, 0.25], [0, 0.5, 0.25, 1], [0, 0, 0.1, 0.1]], np.float32), np.array([1, 0.9, 0.2])


@pytest.fixture(scope='module')
def view():
  rng = np.random.default_rng(0)
  return np.clip(60 + 12 * rng.normal(0, 2, (SIDE, SIDE, 3)).cumsum(0) + rng.normal(0, 9, (SIDE, SIDE, 3)), 0,
                 230).astype(np.uint8)


@pytest.mark.parametrize('kind', KINDS)
def test_a_corruption_keeps_the_size_and_grows_with_its_severity(view, kind):
  before = view.copy()
  changed = [corrupt(f'{kind}_{level}', view, (7, 0)) for level in range(1, 6)]
  assert all(one.shape == view.shape and one.dtype == np.uint8 for one in changed)
  apart = [np.abs(one.astype(int) - view).mean() for one in changed]
  assert all(mild < severe for mild, severe in itertools.pairwise(apart)), apart
  np.testing.assert_array_equal(view, before)


def test_noise_is_a_function_of_the_key_and_has_its_deviation(view):
  grey = np.full((224, 224, 3), 128, np.uint8)
  one, again, other = (corrupt('noise_1', grey, key) for key in ((3, 0), (3, 0), (3, 1)))
  np.testing.assert_array_equal(one, again)
  assert (one != other).mean() > 0.9
  assert one.std() == pytest.approx(0.08 * 255, rel=0.02)


def test_brightness_and_contrast_are_those_of_their_definition(view):
  np.testing.assert_allclose(corrupt('brightness_2', view, ()).max(-1), np.minimum(view.max(-1) + 51.0, 255), atol=0.5)
  assert (corrupt('brightness_1', np.zeros_like(view), ()) == 26).all()
  mean_3 = view.mean((0, 1))
  np.testing.assert_allclose(corrupt('contrast_4', view, ()), (view - mean_3) / 10 + mean_3, atol=0.51)


def test_persons_and_scene_are_each_others_rest(view):
  persons, scene = (take_away(change, view, BOXES, SCORES) for change in (SCENE_REMOVED, PERSON_REMOVED))
  is_person = np.zeros((SIDE, SIDE), bool)
  is_person[16:, :8] = is_person[:8, 16:] = True  # The third box is of too low a score to be a person.
  np.testing.assert_array_equal(persons[is_person], view[is_person])
  np.testing.assert_array_equal(scene[~is_person], view[~is_person])
  assert (persons[~is_person] == COLOUR).all() and (scene[is_person] == COLOUR).all()


def test_without_a_person_nothing_goes_with_the_persons_and_all_with_the_scene(view):
  np.testing.assert_array_equal(take_away(PERSON_REMOVED, view, BOXES[:0], SCORES[:0]), view)
  assert (take_away(SCENE_REMOVED, view, BOXES[2:], SCORES[2:]) == COLOUR).all()


def test_without_the_persons_of_a_drawing_no_face_leaves_a_trace():
  """What the oracle of the scene alone is asked is what a model is shown."""
  for index in range(40):
    planned = hard_rows.plan_scene('test', index, seed=1)
    if planned.scene.case.face and planned.scene.case.hidden != 'face':
      state, shown = planned.rng.bit_generator.state, []
      for face in ('laughing', 'frowning'):
        planned.rng.bit_generator.state = state
        case = planned.scene.case._replace(face=face)
        drawn = hard_drawing.draw_scene(dataclasses.replace(planned.scene, case=case), planned.rng)
        boxes_Nx4 = np.array(drawn.boxes)[:, [1, 0, 3, 2]] / drawn.image.width
        shown.append([
            take_away(change, np.asarray(drawn.image), boxes_Nx4, np.ones(len(boxes_Nx4)))
            for change in (PERSON_REMOVED, SCENE_REMOVED)])
      np.testing.assert_array_equal(shown[0][0], shown[1][0])
      assert (shown[0][1] != shown[1][1]).any()


@pytest.mark.parametrize('box', [(0.2, 0.4, 0.7, 0.6), (0.5, 0.0, 1.0, 0.3)], ids=['inside', 'at the edge'])
def test_the_margin_of_a_crop_is_what_is_not_in_its_box(box):
  height, width = 100, 200
  image = np.zeros((height, width, 3), np.uint8)
  ymin, xmin, ymax, xmax = box
  image[round(ymin * height):round(ymax * height), round(xmin * width):round(xmax * width)] = 255
  left, top, right, bottom = crops.with_margin((xmin, ymin, xmax, ymax), 1, 1)
  crop = image[round(top * height):round(bottom * height), round(left * width):round(right * width)]
  other = (0.0, 0.0, 0.9, 0.1)  # larger, and of another shape
  found = take_margin_away(crop, np.array([box, other], np.float32), np.array([1, 0.9]), np.array([height, width]))
  of_box = (crop == 255).all(-1)
  assert (found[of_box] == 255).all()
  assert (found[~of_box] == COLOUR).all(-1).mean() > 0.9  # All but rows and columns that the box touches.


def test_the_crop_of_a_box_without_area_stays():
  crop, box = np.full((1, 40, 3), 7, np.uint8), np.array([[0.3, 0.1, 0.3, 0.3]], np.float32)
  np.testing.assert_array_equal(take_margin_away(crop, box, np.ones(1), np.array([100, 200])), crop)


def batches(split, change, **options):
  return list(eval_batches(split, batch_size=8, image_size=SIDE, person=True, change=change, **options))


@pytest.mark.parametrize('change', ['noise_2', 'blur_1', PERSON_REMOVED, SCENE_REMOVED])
def test_changed_batches_are_the_same_on_any_hosts(train, change):
  whole = batches(train, change)
  hosts = [batches(train, change, process_index=index, process_count=2, parallelism=1) for index in range(2)]
  for batch, *parts in zip(whole, *hosts, strict=True):
    for name in batch:
      np.testing.assert_array_equal(batch[name], np.concatenate([part[name] for part in parts]))


def test_changed_batches_differ_in_the_views_alone(train):
  [plain, noisy_ones, without,
   alone] = (batches(train, change) for change in ('', 'noise_3', PERSON_REMOVED, SCENE_REMOVED))
  for one, noisy, scene, person in zip(plain, noisy_ones, without, alone, strict=True):
    has = (one['example_id'] // 5 % 3 > 0) & (one['mask'] > 0)
    for name in one.keys() - {'image', 'person'}:
      for changed in (noisy, scene, person):
        np.testing.assert_array_equal(one[name], changed[name])
    assert all(
        changed[name].shape == one[name].shape for changed in (noisy, scene, person) for name in ('image', 'person'))
    assert (noisy['image'] != one['image']).any((1, 2, 3))[one['mask'] > 0].all()
    np.testing.assert_array_equal(scene['person'], scene['image'])
    assert (person['image'][has] != one['image'][has]).any((1, 2, 3)).all()


@pytest.mark.parametrize(('text', 'said'), [('blur', "'blur' of the test changes is unknown"),
                                            ('blur_6', "'blur_6' .*unknown"), ('blur_1+blur_1', 'there twice'),
                                            ('blur_1+', "'' of the test changes")])
def test_a_change_that_is_not_known_is_one_line(text, said):
  with pytest.raises(UserError, match=said):
    read_changes(text)
  assert read_changes('') == () and read_changes('blur_1+scene_removed') == ('blur_1', 'scene_removed')
