"""The view in which a model that is not training sees an image: resized, its centre cut out, normalised."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from data_pipelines import images as image_files
from uniemox_jax.models.image_arguments import image_views
from uniemox_jax.models.preprocess import CLIP_MEAN, CLIP_STD, normalise

BILINEAR, BICUBIC = int(Image.Resampling.BILINEAR), int(Image.Resampling.BICUBIC)
FILTERS = {BILINEAR: 'bilinear', BICUBIC: 'bicubic'}
"""The filters by PIL's numbers, as preprocessor_config.json gives them."""


@dataclasses.dataclass(frozen=True)
class View:
  """How a model expects its images: resized (the short side, or `squash` both), centre-cropped, normalised.

  size: the side of the model's input. short_side: that of the image before the crop. mean, std: the statistics of
  pixels in 0..1. resample: a key of `FILTERS`. floor: see `images.centre_view`. The last two are not in the repr, from
  which digests of teachers were made before they existed.
  """

  size: int
  short_side: int
  squash: bool = False
  mean: tuple[float, ...] = CLIP_MEAN
  std: tuple[float, ...] = CLIP_STD
  resample: int = dataclasses.field(default=BICUBIC, repr=False)
  floor: bool = dataclasses.field(default=True, repr=False)

  @property
  def centre(self) -> dict[str, Any]:
    """The arguments of both `centre_view`s, Pillow's and tensorflow's."""
    return {
        'size': self.size, 'short_side': self.short_side, 'squash': self.squash, 'floor': self.floor,
        'resample': self.resample}

  @property
  def geometry(self) -> dict[str, Any]:
    """The arguments of the view that a checkpoint's description keeps beside the statistics and the image size."""
    return {name: value for name, value in self.centre.items() if name != 'size'}

  @property
  def statistics(self) -> dict[str, list[float]]:
    """The 'mean' and 'std', as a checkpoint's description holds them."""
    return {'mean': list(self.mean), 'std': list(self.std)}

  def __call__(self, images: Any) -> jax.Array:
    """Makes normalised views, float32 (B, size, size, 3), of images, see `image_arguments`."""
    views = self.views(images)
    return normalise(jnp.asarray(views), self.mean, self.std) if views.dtype == np.uint8 else jnp.asarray(views)

  def views(self, images: Any, name: str = 'images') -> np.ndarray:
    """Makes views before normalisation, uint8 (B, size, size, 3), unless images are normalised; see `image_views`."""
    return image_views(images, self.size, self.pixels, self.mean, self.std, name)

  def pixels(self, image: Image.Image) -> np.ndarray:
    """The view of one RGB image before it is normalised, uint8 (size, size, 3)."""
    return image_files.centre_view(image, **self.centre)
