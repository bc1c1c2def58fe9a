"""What lies beside a teacher's weights: its configuration and how it sees images."""

from collections.abc import Sequence
import functools
from pathlib import Path
from typing import NamedTuple

from data_pipelines import storage
from data_pipelines.errors import UserError
from uniemox_jax.convert import clip_weights, published_views, siglip_weights, weight_families
from uniemox_jax.convert.formats import hub
from uniemox_jax.convert.formats.weight_files import Weights
from uniemox_jax.convert.name_table import NOTHING, NameRule
from uniemox_jax.models.clip import CLIPConfig
from uniemox_jax.models.siglip import SiglipConfig, check_siglip_type
from uniemox_jax.models.view import View

CONFIG_FILES = ('config.json', 'preprocessor_config.json', 'processor_config.json')
OPEN_CLIP_CONFIG = 'open_clip_config.json'
_REMEDY = 'correct it, or fetch it again'


class Description(NamedTuple):
  """What is needed to read a teacher's weights.

  rules, ignored: as in `name_table.import_params`. left: a regular expression of the ignored names that are printed.
  """

  config: CLIPConfig | SiglipConfig
  view: View
  rules: Sequence[NameRule]
  ignored: str
  left: str


def describe(weights: Weights, folder: Path | None, activation: str | None) -> Description:
  """Describes the CLIP or SigLIP in `weights`.

  Args:
    weights: the weights, whose tensors are renamed to the names of their family.
    folder: where configuration files lie, None if there is none.
    activation: 'gelu' or 'quick_gelu', for weights in OpenAI's form that do not say it.

  Raises:
    UserError: weights of another family, a configuration that is missing or not covered, or one that contradicts
      `activation`.
  """
  name, settings = str(weights.path), hub.read_config(folder, CONFIG_FILES[0])
  if folder and settings:  # Names of the tensors cannot tell what some of these are.
    with storage.parsing(folder / CONFIG_FILES[0], _REMEDY):
      check_siglip_type(settings.get('model_type'))
  family = weight_families.recognise(weights)
  if family in (weight_families.CLIP, weight_families.SIGLIP):
    found = _of_transformers(family, folder, name)
  elif family == weight_families.OPENAI_CLIP:
    found = _of_openai(weights, folder, activation)
  else:
    raise UserError(f'{name} holds {weight_families.TITLES[family]}, not a CLIP: it can be a student (--config.init=)')
  if activation not in (None, found.config.text.activation):
    raise UserError(f'{name} was trained with {found.config.text.activation}, not {activation}: leave activation out')
  return found


def _of_transformers(family: str, folder: Path | None, name: str) -> Description:
  title = 'CLIP' if family == weight_families.CLIP else 'SigLIP'
  if folder is None or not (folder / CONFIG_FILES[0]).is_file():
    raise UserError(f'{name} has no config.json beside it: give the folder of a {title} in Hugging Face form')
  settings = hub.read_config(folder, CONFIG_FILES[0])
  with storage.parsing(folder / CONFIG_FILES[0], _REMEDY):
    if others := [kind for kind in settings.get('architectures') or () if kind.endswith('ForImageClassification')]:
      raise UserError(f'it is a {others[0]}, which has no text side: give the {title} that it was made from')
    config = (CLIPConfig if family == weight_families.CLIP else SiglipConfig).from_dict(settings)
  file = next(filter(functools.partial(hub.read_config, folder), CONFIG_FILES[1:]), CONFIG_FILES[1])
  settings = hub.read_config(folder, file)
  with storage.parsing(folder / file, _REMEDY):
    view = published_views.view_of_processor(
        settings.get('image_processor', settings), config.image_size, (title, *published_views.TEACHERS))
  if family == weight_families.SIGLIP:
    return Description(config, view, siglip_weights.RULES, siglip_weights.IGNORED, NOTHING)
  return Description(config, view, clip_weights.RULES, clip_weights.IGNORED, clip_weights.LEFT)


def _of_openai(weights: Weights, folder: Path | None, activation: str | None) -> Description:
  settings = hub.read_config(folder, OPEN_CLIP_CONFIG)
  with storage.parsing(folder / OPEN_CLIP_CONFIG if folder and settings else weights.path, _REMEDY):
    if settings:
      config = clip_weights.open_clip_config(settings)
    else:
      shapes = {key: array.shape for key, array in weights.flat.items()}
      config = clip_weights.openai_config(shapes, source=str(weights.path), activation=activation)
    view = published_views.view_of_open_clip(settings.get('preprocess_cfg') or {}, config.image_size)
  return Description(config, view, clip_weights.OPENAI_RULES, clip_weights.IGNORED, clip_weights.LEFT)
