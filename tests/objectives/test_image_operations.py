"""An operation on a device gives the pixels of the host's, which are Pillow's, to 1 of 255 at every strength."""

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image
import pytest

from data_pipelines.batches import rand_augment
from uniemox_jax.objectives import image_operations

SIDE = 56
EXACT = {'Equalize', 'Invert', 'Posterize', 'Solarize', 'SolarizeAdd', 'Brightness'}
"""Operations of integers alone, or of one product."""


def images():
  """Smooth with detail, short of full contrast or not; noise; two values; and one colour."""
  rng = np.random.default_rng(5)
  made = [rng.integers(0, 256, (SIDE, SIDE, 3)), 255 * rng.integers(0, 2, (SIDE, SIDE, 3))]
  for low, high in ((40, 200), (0, 256), (90, 130)):
    coarse = Image.fromarray(rng.integers(low, high, (7, 7, 3), dtype=np.uint8))
    detail = rng.normal(0, (high - low) / 20, (SIDE, SIDE, 3))
    made.append(np.clip(np.asarray(coarse.resize((SIDE, SIDE), Image.Resampling.BICUBIC)) + detail, 0, 255))
    made[-1][:SIDE // 4] = made[-1][0, 0]  # An even area: what is lost to rounding there would be seen.
  return [np.asarray(image, np.uint8) for image in (*made, np.full((SIDE, SIDE, 3), (9, 200, 77)))]


def on_device(name, pixels, amount):
  planes = jnp.moveaxis(jnp.asarray(pixels, jnp.int32), -1, 0)
  return np.moveaxis(np.asarray(jax.jit(image_operations.OPERATIONS[name])(planes, jnp.float32(amount))), 0, -1)


def test_operations_and_the_colour_of_uncovered_areas_are_the_hosts():
  assert list(image_operations.OPERATIONS) == list(rand_augment.OPERATIONS)
  assert image_operations.FILL == rand_augment.FILL


@pytest.mark.parametrize('name', image_operations.OPERATIONS)
def test_operation_gives_the_hosts_pixels(name):
  host, apart, count = rand_augment.OPERATIONS[name], 0, 0
  for pixels in images():
    for level in (0, 0.37, 0.5, 0.9, 1):
      for sign in (1, -1):
        amount = host.amount(level, sign)
        expected = np.asarray(host.change(Image.fromarray(pixels), amount))
        difference = np.abs(on_device(name, pixels, amount).astype(int) - expected)
        assert difference.max() <= 1, (level, sign)
        apart, count = apart + (difference > 0).sum(), count + difference.size
  # A stretch to full contrast is the only one whose own last digit decides pixels of many equal values.
  assert apart <= (0 if name in EXACT else 0.03 if name == 'AutoContrast' else 0.005) * count
