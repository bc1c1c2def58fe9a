"""Finds the place of weights: a file, a folder in Hugging Face's form, or the hub's copy of one."""

from collections.abc import Sequence
import os
from pathlib import Path
import re
import reprlib
from typing import Any

from data_pipelines import checksums, storage
from data_pipelines.errors import UserError
from data_pipelines.host_copies import host_copy
from uniemox_jax.models.layers import check_sizes
from uniemox_jax.models.preprocess import check_statistics

WEIGHTS = (
    ('model.safetensors', 'model.safetensors.index.json', 'model-*.safetensors'),
    ('flax_model.msgpack',),
    ('pytorch_model*.bin', 'pytorch_model.bin.index.json'),
    ('open_clip_model.safetensors',),
    ('open_clip_pytorch_model.bin',),
)
"""The names of weights on the hub, the preferred first; the others are fetched only if those are missing."""
ID = r'[\w-][\w.-]*(/[\w-][\w.-]*)?'
"""The pattern of a hub id."""


def locate(source: str | os.PathLike, wanted: Sequence[str]) -> Path:
  """Finds the file or folder itself, or the local cache of a hub id's files, which are downloaded if necessary.

  Args:
    source: a path, or an id such as openai/clip-vit-base-patch16.
    wanted: the names of the files needed beside the weights.

  Raises:
    UserError: there is no such path, and no such model could be fetched; or files that this package wrote are damaged.
  """
  name = str(source)
  if storage.exists(storage.absolute(name)):
    path = host_copy(name) if storage.is_remote(name) else Path(name).expanduser()
    checksums.compare_checksums((path if path.is_dir() else path.parent) / checksums.FOLDER)
    return path
  if not re.fullmatch(ID, name):
    raise UserError(
        f"'{name}' does not exist: give a weight file, a folder, or a hub id such as "
        'openai/clip-vit-base-patch16')
  import huggingface_hub
  try:
    for weights in WEIGHTS:
      path = Path(huggingface_hub.snapshot_download(name, allow_patterns=[*wanted, *weights]))
      if any(any(path.glob(pattern)) for pattern in weights):
        break
  except (OSError, ValueError, huggingface_hub.errors.HfHubHTTPError) as error:
    copy = Path(huggingface_hub.constants.HF_HUB_CACHE, 'models--' + name.replace('/', '--'))
    damaged = f', or remove {copy}, if that is damaged' if copy.is_dir() else ''
    raise UserError(
        f"'{name}' is neither a path here nor a model that could be fetched from the Hugging Face hub "
        f'({type(error).__name__}): check the name and the connection, or give a folder{damaged}') from error
  return path


def config_folder(source: Path, weights: Path) -> Path | None:
  """The folder whose configuration describes these weights; None for a file under a name of its own."""
  named = any(weights.match(pattern) for patterns in WEIGHTS for pattern in patterns)
  return weights.parent if source.is_dir() or named else None


def read_config(folder: Path | None, name: str) -> dict[str, Any]:
  """Reads the JSON object in `folder`/`name`; {} if there is no such file.

  Raises:
    UserError: the file holds something else, or cannot be read.
  """
  if folder is None or not (folder / name).is_file():
    return {}
  path = folder / name
  return storage.read_json_object(path)


def pixel_statistics(processor: dict[str, Any], mean: Any, std: Any) -> dict[str, list[float]]:
  """Finds {'mean', 'std'} of pixels in 0..1 in the contents of a `preprocessor_config.json`.

  Args:
    processor: the contents.
    mean, std: the statistics if the contents have none.

  Raises:
    UserError: the processor scales pixels in another way.
    ValueError, TypeError: a value has another type.
  """
  factor = processor.get('rescale_factor', 1 / 255)
  if not switch(processor, 'do_rescale') or type(factor) not in (int, float) or not abs(255 * factor - 1) < 1e-3:
    raise UserError(
        f'do_rescale {processor.get("do_rescale", True)}, rescale_factor {factor!r} do not scale pixels to 0..1')
  if not switch(processor, 'do_normalize'):
    return {'mean': [0.0] * 3, 'std': [1.0] * 3}
  given = processor.get('image_mean', mean), processor.get('image_std', std)
  return check_statistics(*([value] * 3 if type(value) in (int, float) else value for value in given))


def switch(processor: dict[str, Any], name: str, default: bool = True) -> bool:
  """Whether a step of the preparation is done; `default` if nothing is said. Raises UserError unless it is true or
  false."""
  value = processor.get(name, default)
  if type(value) is not bool:
    raise UserError(f'{name} is {reprlib.repr(value)}, not true or false')
  return value


def side(value: Any, name: str) -> tuple[int, bool]:
  """The pixels of a size in a `preprocessor_config.json`, and whether both height and width get them, or the shorter.

  Raises:
    UserError: the size is given by other keys, or is not square.
    ValueError: the size is no integer.
  """
  given = value if isinstance(value, dict) else {'shortest_edge': value}
  given = {key: pixels for key, pixels in given.items() if pixels is not None}
  keys, pixels = set(given), next(iter(given.values()), None)
  if keys not in ({'shortest_edge'}, {'height', 'width'}) or any(other != pixels for other in given.values()):
    raise UserError(
        f'{name} is {reprlib.repr(value)}: only a number, shortest_edge, or height and width of one size are supported')
  check_sizes(**{name: pixels})
  return given[min(keys)], 'height' in keys
