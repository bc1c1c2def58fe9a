"""Where weights lie: a file, a folder in Hugging Face's form, or the hub's copy of one."""

from collections.abc import Sequence
import os
from pathlib import Path
import re
from typing import Any

from data_pipelines import checksums, storage
from data_pipelines.errors import UserError

WEIGHTS = (
    ('model.safetensors', 'model.safetensors.index.json', 'model-*.safetensors'),
    ('flax_model.msgpack',),
    ('pytorch_model*.bin', 'pytorch_model.bin.index.json'),
    ('open_clip_model.safetensors',),
    ('open_clip_pytorch_model.bin',),
)
"""Names of weights on the hub, the preferred first: the others are fetched only if those are missing."""


def locate(source: str | os.PathLike, wanted: Sequence[str]) -> Path:
  """The file or folder itself, or the local cache of a hub id's files, downloaded if necessary.

  Args:
    source: a path, or an id such as openai/clip-vit-base-patch16.
    wanted: names of the files needed beside the weights.

  Raises:
    UserError: neither a path here, nor a model that could be fetched; or files that this package wrote were damaged.
  """
  name = str(source)
  if storage.exists(storage.absolute(name)):
    path = storage.fetched(name if storage.is_remote(name) else os.fspath(Path(name).expanduser()))
    checksums.compare_checksums((path if path.is_dir() else path.parent) / checksums.FOLDER)
    return path
  if not re.fullmatch(r'[\w-][\w.-]*(/[\w-][\w.-]*)?', name):
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
    raise UserError(
        f"'{name}' is neither a path here nor a model that could be fetched from the Hugging Face hub "
        f'({type(error).__name__}): check the name and the connection, or give a folder') from error
  return path


def config_folder(source: Path, weights: Path) -> Path | None:
  """The folder whose configuration describes these weights; None for a file under a name of its own."""
  named = any(weights.match(pattern) for patterns in WEIGHTS for pattern in patterns)
  return weights.parent if source.is_dir() or named else None


def read_config(folder: Path | None, name: str) -> dict[str, Any]:
  """The JSON object in `folder`/`name`, {} if there is no such file.

  Raises:
    UserError: it is something else, or cannot be read.
  """
  if folder is None or not (folder / name).is_file():
    return {}
  path = folder / name
  return storage.read_json_object(path)
