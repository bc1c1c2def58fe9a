"""Small images to label, whose names tell what no annotator may see."""

import numpy as np
from PIL import Image
import pytest


@pytest.fixture
def source(tmp_path):
  """A folder of 50 images; image N is N + 40 pixels wide."""
  folder = tmp_path / 'images'
  (folder / 'awe').mkdir(parents=True)
  for number in range(50):
    pixels = np.full((40, number + 40, 3), (5 * number, 120, 255 - 5 * number), np.uint8)
    Image.fromarray(pixels).save(folder / 'awe' / f'{number:02d}.png')
  return folder
