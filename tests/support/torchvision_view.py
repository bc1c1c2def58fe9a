"""torchvision's evaluation transform in Pillow calls, since torchvision itself is not installed here.

Source: torchvision 0.21, `transforms/functional.py`: `_compute_resized_output_size`, `resize` and `center_crop` of
images of Pillow. timm's `create_transform` puts them together after `floor(size / crop_pct)`.
"""

import numpy as np
from PIL import Image


def torchvision_view(image: Image.Image, size: int, short_side: int) -> np.ndarray:
  """`CenterCrop(size)(Resize(short_side, InterpolationMode.BICUBIC)(image))`, uint8 (size, size, 3)."""
  short, long = sorted(image.size)
  new_long = int(short_side * long / short)
  width, height = (short_side, new_long) if image.width <= image.height else (new_long, short_side)
  resized = image.resize((width, height), Image.Resampling.BICUBIC)
  top, left = int(round((height - size) / 2.0)), int(round((width - size) / 2.0))
  return np.asarray(resized.crop((left, top, left + size, top + size)))
