"""Makes the `View` in which a published model sees an image, by the settings that lie beside its weights."""

from collections.abc import Sequence
import math
import re
import reprlib
from typing import Any, NamedTuple

from data_pipelines.errors import UserError
from uniemox_jax.convert.formats import hub
from uniemox_jax.models.preprocess import CLIP_MEAN, CLIP_STD, IMAGENET_MEAN, IMAGENET_STD, Statistics, check_statistics
from uniemox_jax.models.view import BICUBIC, BILINEAR, FILTERS, View

MAX_RESIZED = 16
"""How many times the model's input an image may be resized to before its centre is cut out."""


class _Processor(NamedTuple):
  """What one of transformers' image processors does where its file says nothing.

  squash: resize both sides, rather than the shorter one. crop: whether the centre is cut out. resample: by which
  filter. resized: to how many 224ths of the model's input.
  """

  squash: bool
  crop: bool
  mean: Statistics
  std: Statistics
  resample: int = BICUBIC
  resized: int = 224


HALVES = (0.5, 0.5, 0.5)
PROCESSORS = {
    'CLIP': _Processor(False, True, CLIP_MEAN, CLIP_STD), 'SigLIP': _Processor(True, False, HALVES, HALVES),
    'ViT': _Processor(True, False, HALVES, HALVES,
                      BILINEAR), 'DeiT': _Processor(True, True, HALVES, HALVES, resized=256)}
"""The processors by the model's name, which is a part of their classes' names."""
TEACHERS, CLASSIFIERS = ('CLIP', 'SigLIP'), ('ViT', 'DeiT', 'CLIP', 'SigLIP')
"""The processors that such a model may have; the first is that of a file that names none."""
TIMM_CROP = 0.875
"""timm's `crop_pct` for a file that does not say it."""


def view_of_processor(settings: dict[str, Any], image_size: int, kinds: Sequence[str] = TEACHERS) -> View:
  """Makes the view of a `preprocessor_config.json`'s contents; {} gives the settings of the model's publisher.

  Args:
    settings: the contents.
    image_size: the model's input.
    kinds: keys of `PROCESSORS`, the first for settings that name no class.

  Raises:
    UserError: the settings do not lead to the model's `image_size`, or not by bicubic or bilinear resizing.
    ValueError, TypeError, LookupError: a value has another type.
  """
  made_for = str(settings.get('image_processor_type', settings.get('feature_extractor_type', kinds[0])))
  known = next((PROCESSORS[kind] for kind in kinds if kind.lower() in made_for.lower()), None)
  if known is None or re.search('siglip2|hybrid', made_for.lower()):  # siglip2 is NaFlex's
    raise UserError(
        f"it is of a {made_for}, whose defaults are others than {kinds[0]}'s: give {kinds[0]}'s own, or remove it")
  size = settings.get('size', round(image_size * known.resized / 224))
  # A bare number is both sides to some processors, the shorter one to CLIP's.
  size = {'height': size, 'width': size} if known.squash and type(size) is int else size
  short_side, squash = hub.side(size, 'size')
  crops = hub.switch(settings, 'do_center_crop', known.crop)
  crop = hub.side(settings.get('crop_size', image_size), 'crop_size')[0] if crops else short_side
  given = settings.get('resample', known.resample)
  resample = next((number for number, name in FILTERS.items() if given in (number, name)), None)
  resized = hub.switch(settings, 'do_resize') and not settings.get('do_pad')
  oblong = known.squash and not (squash or crops)
  if not resized or oblong or resample is None or crop != image_size or not crop <= short_side <= MAX_RESIZED * crop:
    raise UserError(
        f'do_resize {settings.get("do_resize", True)}, size {reprlib.repr(settings.get("size", short_side))}, '
        f'crop {crop if crops else "none"}, resample {given!r} do not give {image_size} pixels by bicubic (resample '
        '3) or bilinear (2) resizing: correct the file or remove it')
  mean, std = map(tuple, hub.pixel_statistics(settings, known.mean, known.std).values())
  return View(image_size, short_side, squash, mean, std, resample)


def view_of_timm(pretrained: dict[str, Any], image_size: int) -> View:
  """Makes the view of timm's `pretrained_cfg`, as `timm.data.create_transform` prepares images for evaluation.

  Raises:
    UserError: it resizes in a way that is not here.
    ValueError, TypeError: a value has another type.
  """
  mode, share = pretrained.get('crop_mode') or 'center', pretrained.get('crop_pct') or TIMM_CROP
  given = pretrained.get('interpolation') or 'bicubic'
  resample = next((number for number, name in FILTERS.items() if given == name), None)
  whole = isinstance(share, int | float) and 1 / MAX_RESIZED <= share <= 1
  if mode not in ('center', 'squash') or resample is None or not whole:
    raise UserError(
        f'crop_mode {reprlib.repr(mode)}, interpolation {reprlib.repr(given)}, crop_pct {reprlib.repr(share)}: '
        f'wanted center or squash, bicubic or bilinear, and {1 / MAX_RESIZED:g} to 1')
  mean, std = pretrained.get('mean'), pretrained.get('std')
  if mean is None and std is None:
    mean, std = IMAGENET_MEAN, IMAGENET_STD
  mean, std = map(tuple, check_statistics(mean, std).values())
  return View(image_size, math.floor(image_size / share), mode == 'squash', mean, std, resample, floor=False)


def view_of_open_clip(settings: dict[str, Any], image_size: int) -> View:
  """Makes the view of the `preprocess_cfg` in an `open_clip_config.json`; {} gives OpenAI's settings.

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
  return View(image_size, image_size, mode == 'squash', mean, std)


def processor_of_view(view: View) -> dict[str, Any]:
  """Makes the contents of a `preprocessor_config.json` that `view_of_processor` and transformers read."""
  side = {'height': view.short_side, 'width': view.short_side} if view.squash else {'shortest_edge': view.short_side}
  return {
      'image_processor_type': 'CLIPImageProcessor', 'size': side,
      'crop_size': {'height': view.size, 'width': view.size}, 'resample': view.resample, 'do_resize': True,
      'do_center_crop': True, 'do_rescale': True, 'do_normalize': True, 'do_convert_rgb': True,
      'image_mean': list(view.mean), 'image_std': list(view.std)}
