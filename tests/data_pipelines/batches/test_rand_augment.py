"""RandAugment does what Pillow does at the strengths that timm's increasing table names, for the draws it is given."""

import numpy as np
from PIL import Image, ImageEnhance, ImageOps
import pytest

from data_pipelines.batches import rand_augment
from data_pipelines.batches.rand_augment import FILL, OPERATIONS
from data_pipelines.light_tensorflow import tf

NAMES = tuple(OPERATIONS)
SIDE = 64
AFFINE, BICUBIC = Image.Transform.AFFINE, Image.Resampling.BICUBIC
MEDIAN, KEPT, LEFT_OUT = 0.5, 0.25, 0.75


def image():
  """Smooth, with detail, and short of full contrast."""
  rng = np.random.default_rng(5)
  coarse = Image.fromarray(rng.integers(40, 200, (7, 7, 3), dtype=np.uint8)).resize((SIDE, SIDE), BICUBIC)
  return Image.fromarray(np.clip(np.asarray(coarse) + rng.normal(0, 9, (SIDE, SIDE, 3)), 20, 230).astype(np.uint8))


def draw(name, kept=KEPT, spread=MEDIAN, sign=1):
  """The draws that make one layer choose this operation."""
  return [(NAMES.index(name) + 0.5) / len(NAMES), kept, spread, 0.25 if sign < 0 else 0.75]


def augmented(first, second, magnitude=9.0, std=0.5):
  pixels = tf.constant(np.asarray(image()))
  return rand_augment.rand_augment(pixels, tf.constant([first, second]), magnitude, std).numpy()


def solarize_add(image, added):
  pixels = np.asarray(image).astype(int)
  return np.where(pixels < 128, np.minimum(pixels + added, 255), pixels).astype(np.uint8)


def moved(image, *matrix):
  return image.transform(image.size, AFFINE, matrix, BICUBIC, fillcolor=FILL)


# At magnitude 9, by hand from timm's table: 27 degrees; 4 - int(3.6) bits; 256 - int(230.4); 0.3 * 0.9; 0.405 * 64.
AT_NINE = {
    'AutoContrast': lambda image, sign: ImageOps.autocontrast(image),
    'Equalize': lambda image, sign: ImageOps.equalize(image), 'Invert': lambda image, sign: ImageOps.invert(image),
    'Rotate': lambda image, sign: image.rotate(sign * 27, BICUBIC, fillcolor=FILL),
    'Posterize': lambda image, sign: ImageOps.posterize(image, 1),
    'Solarize': lambda image, sign: ImageOps.solarize(image, 26),
    'SolarizeAdd': lambda image, sign: solarize_add(image, 99),
    'Color': lambda image, sign: ImageEnhance.Color(image).enhance(1.81 if sign > 0 else 0.19),
    'Contrast': lambda image, sign: ImageEnhance.Contrast(image).enhance(1.81 if sign > 0 else 0.19),
    'Brightness': lambda image, sign: ImageEnhance.Brightness(image).enhance(1.81 if sign > 0 else 0.19),
    'Sharpness': lambda image, sign: ImageEnhance.Sharpness(image).enhance(1.81 if sign > 0 else 0.19),
    'ShearX': lambda image, sign: moved(image, 1, sign * 0.27, 0, 0, 1, 0),
    'ShearY': lambda image, sign: moved(image, 1, 0, 0, sign * 0.27, 1, 0),
    'TranslateX': lambda image, sign: moved(image, 1, 0, sign * 25.92, 0, 1, 0),
    'TranslateY': lambda image, sign: moved(image, 1, 0, 0, 0, 1, sign * 25.92)}


def test_the_operations_are_timms_fifteen():
  assert len(NAMES) == 15 and set(NAMES) == set(AT_NINE)


@pytest.mark.parametrize('sign', [1, -1])
@pytest.mark.parametrize('name', NAMES)
def test_operation_is_pillows_own_at_the_strength_of_timms_table(name, sign):
  ours = augmented(draw(name, sign=sign), draw('Invert', kept=LEFT_OUT), std=0.0)
  expected = np.asarray(AT_NINE[name](image(), sign))
  # The same code on the same pixels: not one step apart, except where a strength differs in its last digit.
  assert np.abs(ours.astype(int) - expected).max() <= 1
  assert (ours == expected).mean() > 0.999
  assert (ours != np.asarray(image())).any()


@pytest.mark.parametrize(
    'name, matrix', [('ShearX', (1, 0.3, 0, 0, 1, 0)), ('ShearY', (1, 0, 0, 0.3, 1, 0)),
                     ('TranslateX', (1, 0, 0.45, 0, 1, 0)), ('TranslateY', (1, 0, 0, 0, 1, 0.45))])
def test_shears_and_translations_are_pillows_to_one_of_255_at_every_strength(name, matrix):
  pixels = image()
  for strength in (*np.random.default_rng(0).uniform(-1, 1, 20), 0, 1, -1):
    scaled = [strength * value * (SIDE if place % 3 == 2 else 1) for place, value in enumerate(matrix)]
    expected = np.asarray(moved(pixels, 1, scaled[1], scaled[2], scaled[3], 1, scaled[5]))
    amount = OPERATIONS[name].amount(abs(strength), -1 if strength < 0 else 1)
    ours = np.asarray(OPERATIONS[name].change(pixels, amount)).astype(int)
    assert np.abs(ours - expected).max() <= 1 and (ours == expected).mean() > 0.995


def test_two_layers_follow_each_other():
  ours = augmented(draw('Posterize'), draw('Rotate', sign=-1))
  expected = AT_NINE['Rotate'](AT_NINE['Posterize'](image(), 1), -1)
  np.testing.assert_array_equal(ours, np.asarray(expected))


def test_a_layer_left_out_changes_nothing():
  np.testing.assert_array_equal(augmented(draw('Invert', LEFT_OUT), draw('Rotate', LEFT_OUT)), np.asarray(image()))
  only_second = augmented(draw('Rotate', LEFT_OUT), draw('Solarize'))
  np.testing.assert_array_equal(only_second, np.asarray(AT_NINE['Solarize'](image(), 1)))


@pytest.mark.parametrize(
    'spread, magnitude', [(0.158655, 8.5), (MEDIAN, 9.0), (0.841345, 9.5), (0.9999, 10.0), (0.0, 6.3)])
def test_magnitude_is_normal_and_ends_at_ten(spread, magnitude):
  """Solarize-add shows the magnitude: int(11 * magnitude) is added to dark pixels; float32 0 is taken as 2^-24."""
  ours = augmented(draw('SolarizeAdd', spread=spread), draw('Invert', LEFT_OUT)).astype(int)
  before = np.asarray(image()).astype(int)
  dark = before < 128
  assert abs(np.unique((ours - before)[dark]).item() - 11 * magnitude) <= 1


def test_strongest_posterize_is_black_as_in_timm():
  assert not augmented(draw('Posterize'), draw('Invert', LEFT_OUT), magnitude=10.0, std=0.0).any()


def test_every_operation_is_drawn_equally_often_and_applied_half_the_time():
  """Counted through the pixels: each operation leaves an image of its own at a fixed magnitude."""
  outcomes = [(name, np.asarray(AT_NINE[name](image(), sign)).astype(int)) for name in NAMES for sign in (-1, 1)]
  rng = np.random.default_rng(0)
  augment = tf.function(lambda draws: rand_augment.rand_augment(tf.constant(np.asarray(image())), draws, 9.0, 0.0))
  counts = dict.fromkeys([*NAMES, None], 0)
  for _ in range(1500):
    draws = rng.random(rand_augment.DRAWS, np.float32)
    draws[1, 1] = LEFT_OUT
    ours = augment(tf.constant(draws)).numpy()
    counts[next((name for name, outcome in outcomes if np.abs(outcome - ours).max() <= 1), None)] += 1
  assert 670 < counts.pop(None) < 830
  assert all(20 < count < 85 for count in counts.values()), counts


def test_the_given_pixels_are_not_written_to():
  """Pillow may share memory with the array it is given."""
  pixels = tf.constant(np.asarray(image()))
  for name in NAMES:
    rand_augment.rand_augment(pixels, tf.constant([draw(name), draw(name, sign=-1)]), 9.0, 0.5)
  np.testing.assert_array_equal(pixels.numpy(), np.asarray(image()))
