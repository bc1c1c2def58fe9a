"""How a teacher sees an image: the evaluation view, and the scene within a train step."""

import dataclasses
import functools
import reprlib
from typing import Any, NamedTuple

import jax
from PIL import Image

from data_pipelines import images as image_files
from data_pipelines.errors import UserError
from uniemox_jax.convert.formats import hub
from uniemox_jax.models.preprocess import Statistics, as_model_input, check_statistics, normalise, resize

CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
BILINEAR, BICUBIC = int(Image.Resampling.BILINEAR), int(Image.Resampling.BICUBIC)
FILTERS = {BILINEAR: 'bilinear', BICUBIC: 'bicubic'}
"""By PIL's numbers, as preprocessor_config.json gives them."""
MAX_RESIZED = 16
"""Times the model's input that an image may be resized to before its centre is cut out."""


class _Processor(NamedTuple):
  """What one of transformers' image processors does where its file says nothing.

  squash: resize both sides, rather than the shorter one. crop: whether the centre is cut out.
  """

  squash: bool
  crop: bool
  mean: Statistics
  std: Statistics


PROCESSORS = {
    'CLIP': _Processor(False, True, CLIP_MEAN, CLIP_STD), 'SigLIP': _Processor(True, False, (0.5,) * 3, (0.5,) * 3)}
"""By the model, whose name is in that of their classes."""


@dataclasses.dataclass(frozen=True)
class View:
  """How a teacher expects its images: resized (the short side, or `squash` both), centre-cropped, normalised.

  size: the model's input. short_side: before the crop. mean, std: of pixels in 0..1. resample: a key of `FILTERS`; it
  is not in the repr, of which the digests of teachers from before it existed are made.
  """

  size: int
  short_side: int
  squash: bool = False
  mean: tuple[float, ...] = CLIP_MEAN
  std: tuple[float, ...] = CLIP_STD
  resample: int = dataclasses.field(default=BICUBIC, repr=False)

  @classmethod
  def from_dict(cls, settings: dict[str, Any], image_size: int, kind: str = 'CLIP') -> 'View':
    """From the contents of a `preprocessor_config.json`; {} gives the settings of the model's publisher.

    Args:
      settings: the contents.
      image_size: the model's input.
      kind: a key of `PROCESSORS`, for settings that name no class.

    Raises:
      UserError: it does not lead to the model's `image_size`, or not by bicubic or bilinear resizing.
      ValueError, TypeError, LookupError: a value of another type.
    """
    made_for = str(settings.get('image_processor_type', settings.get('feature_extractor_type', kind)))
    known = next((defaults for name, defaults in PROCESSORS.items() if name.lower() in made_for.lower()), None)
    if known is None or 'siglip2' in made_for.lower():  # NaFlex's
      raise UserError(
          f"it is of a {made_for}, whose defaults are others than {kind}'s: give {kind}'s own, or remove it")
    both = {'height': image_size, 'width': image_size}
    short_side, squash = hub.side(settings.get('size', both if known.squash else image_size), 'size')
    crops = hub.switch(settings, 'do_center_crop', known.crop)
    crop = hub.side(settings.get('crop_size', image_size), 'crop_size')[0] if crops else short_side
    given = settings.get('resample', BICUBIC)
    resample = next((number for number, name in FILTERS.items() if given in (number, name)), None)
    resized = hub.switch(settings, 'do_resize') and not settings.get('do_pad')
    oblong = known.squash and not (squash or crops)
    if not resized or oblong or resample is None or crop != image_size or not crop <= short_side <= MAX_RESIZED * crop:
      raise UserError(
          f'do_resize {settings.get("do_resize", True)}, size {reprlib.repr(settings.get("size", short_side))}, '
          f'crop {crop if crops else "none"}, resample {given!r} do not give {image_size} pixels by bicubic (resample '
          '3) or bilinear (2) resizing: correct the file or remove it')
    mean, std = map(tuple, hub.pixel_statistics(settings, known.mean, known.std).values())
    return cls(image_size, short_side, squash, mean, std, resample)

  @classmethod
  def from_open_clip(cls, settings: dict[str, Any], image_size: int) -> 'View':
    """From `preprocess_cfg` of an `open_clip_config.json`; {} gives OpenAI's settings.

    Raises:
      UserError: it resizes in a way that is not here.
    """
    mode, filter_name = settings.get('resize_mode', 'shortest'), settings.get('interpolation', 'bicubic')
    if mode not in ('shortest', 'squash') or filter_name != 'bicubic':
      raise UserError(
          f'preprocess_cfg resizes by {mode}, {filter_name}: only bicubic, shortest or '
          'squash, is supported')
    size = settings.get('size', image_size)
    if size != image_size and size != [image_size] * 2:
      raise UserError(f'preprocess_cfg makes images of {reprlib.repr(size)} pixels, the model reads {image_size}')
    mean, std = map(tuple, check_statistics(settings.get('mean', CLIP_MEAN), settings.get('std', CLIP_STD)).values())
    return cls(image_size, image_size, mode == 'squash', mean, std)

  @property
  def centre(self) -> dict[str, Any]:
    """The arguments of `centre_view`, of Pillow's and of tensorflow's."""
    return {
        'size': self.size, 'short_side': self.short_side, 'squash': self.squash, 'floor': True,
        'resample': self.resample}

  @property
  def statistics(self) -> dict[str, list[float]]:
    """'mean' and 'std', as a checkpoint's description holds them."""
    return {'mean': list(self.mean), 'std': list(self.std)}

  def to_dict(self) -> dict[str, Any]:
    """The contents of a `preprocessor_config.json` that `from_dict` and transformers read."""
    side = {'height': self.short_side, 'width': self.short_side} if self.squash else {'shortest_edge': self.short_side}
    return {
        'image_processor_type': 'CLIPImageProcessor', 'size': side,
        'crop_size': {'height': self.size, 'width': self.size}, 'resample': self.resample, 'do_resize': True,
        'do_center_crop': True, 'do_rescale': True, 'do_normalize': True, 'do_convert_rgb': True,
        'image_mean': list(self.mean), 'image_std': list(self.std)}

  def __call__(self, images: Any) -> jax.Array:
    """uint8 images of any size, or normalised ones, as float32 (B, size, size, 3); see `as_model_input`."""
    view = functools.partial(image_files.centre_view, **self.centre)
    return as_model_input(images, self.size, view, self.mean, self.std)


def clip_normalise(
    images_BxHxWx3: jax.Array, size: int, mean: Statistics = CLIP_MEAN, std: Statistics = CLIP_STD,
    resample: int = BICUBIC) -> jax.Array:
  """The scene view as the teacher sees it inside a train step (docs/method.md, One pretraining step).

  Args:
    images_BxHxWx3: square pixels 0..255, uint8 or float; resized (antialiased) where they differ from `size`.
    size: the teacher's input size.
    mean, std: the teacher's own statistics, never ImageNet's.
    resample: a key of `FILTERS`.

  Returns:
    float32 (B, size, size, 3).
  """
  if images_BxHxWx3.shape[1:3] != (size, size):
    images_BxHxWx3 = resize(images_BxHxWx3, size, size, FILTERS[resample])
  return normalise(images_BxHxWx3, mean, std)
