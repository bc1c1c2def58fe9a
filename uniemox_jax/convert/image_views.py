"""How the classifiers of other libraries want their images: the preparation that is published beside their weights.

Both functions return {'view', 'statistics'}: the arguments of `teacher.frozen_clip.View` beside its size, and the mean
and standard deviation of pixels in 0..1.
"""

from collections.abc import Mapping
import math
import reprlib
from typing import Any, NamedTuple

from data_pipelines.errors import UserError
from uniemox_jax.convert.formats import hub
from uniemox_jax.models.preprocess import IMAGENET_MEAN, IMAGENET_STD, check_statistics

RESAMPLES = {'bilinear': 2, 'bicubic': 3}
"""PIL's numbers for the filters that are supported."""
MAX_RESIZED = 16
"""Times the model's input that an image may be resized to before its centre is cut out."""
TIMM_CROP = 0.875
"""timm's `crop_pct` where a file does not say it."""
HALVES = (0.5, 0.5, 0.5)


class _Defaults(NamedTuple):
  """What a processor of transformers does where its file says nothing; `resized` to, in 224ths of the model's input."""

  resample: int
  crops: bool
  resized: int


PROCESSORS = {'ViT': _Defaults(2, False, 224), 'DeiT': _Defaults(3, True, 256)}
"""By what the name of an image processor starts with."""


def transformers_view(processor: Mapping[str, Any], image_size: int) -> dict[str, Any]:
  """From the contents of a classifier's `preprocessor_config.json`; {} gives `ViTImageProcessor`'s settings.

  Raises:
    UserError: another model's processor, or steps that do not lead to `image_size` pixels.
    ValueError, TypeError: a value of another type.
  """
  made_for = str(processor.get('image_processor_type', processor.get('feature_extractor_type', 'ViT')))
  kind = next((name for name in PROCESSORS if made_for.startswith(name)), None)
  if kind is None or made_for.startswith('ViTHybrid'):
    raise UserError(f'it is of a {made_for}, and only {", ".join(PROCESSORS)} are known for classifiers')
  defaults = PROCESSORS[kind]
  size = processor.get('size', round(image_size * defaults.resized / 224))
  # A bare number is both sides to these processors; to CLIP's it is the shorter one.
  short_side, squash = hub.side({'height': size, 'width': size} if type(size) is int else size, 'size')
  crop = short_side
  if processor.get('do_center_crop', defaults.crops):
    crop, _ = hub.side(processor.get('crop_size', image_size), 'crop_size')
  resample = processor.get('resample', defaults.resample)
  if not hub.switch(dict(processor), 'do_resize') or not squash and crop == short_side:
    raise UserError('its images keep their own proportions, and are not cut to the square that the model reads')
  _check(short_side, crop, image_size, resample)
  return {
      'view': {'short_side': short_side, 'squash': squash, 'resample': resample, 'floor': True},
      'statistics': hub.pixel_statistics(dict(processor), HALVES, HALVES)}


def timm_view(pretrained: Mapping[str, Any], image_size: int) -> dict[str, Any]:
  """From timm's `pretrained_cfg`, as `timm.data.create_transform` prepares images for evaluation.

  Raises:
    UserError: a way of resizing that is not here.
    ValueError, TypeError: a value of another type.
  """
  mode, share = pretrained.get('crop_mode') or 'center', pretrained.get('crop_pct') or TIMM_CROP
  resample = RESAMPLES.get(str(pretrained.get('interpolation') or 'bicubic'))
  if mode not in ('center', 'squash') or resample is None or not isinstance(share, int | float) or not 0 < share <= 1:
    raise UserError(
        f"crop_mode {reprlib.repr(mode)}, interpolation {reprlib.repr(pretrained.get('interpolation'))}, crop_pct "
        f'{reprlib.repr(share)}: wanted center or squash, bicubic or bilinear, and above 0 to 1')
  short_side = math.floor(image_size / share)
  _check(short_side, image_size, image_size, resample)
  mean, std = pretrained.get('mean'), pretrained.get('std')
  if mean is None and std is None:
    mean, std = IMAGENET_MEAN, IMAGENET_STD
  return {
      'view': {'short_side': short_side, 'squash': mode == 'squash', 'resample': resample, 'floor': False},
      'statistics': check_statistics(mean, std)}


def _check(short_side: int, crop: int, image_size: int, resample: Any) -> None:
  if resample not in RESAMPLES.values() or crop != image_size or not crop <= short_side <= MAX_RESIZED * crop:
    raise UserError(
        f'size {short_side}, crop {crop}, resample {reprlib.repr(resample)} do not give {image_size} pixels by '
        'bilinear or bicubic resizing (resample 2 or 3)')
