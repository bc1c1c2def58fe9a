"""PyTorch's own files (.pth, .pt, .bin), read without running what they hold."""

import argparse
from collections.abc import Iterator
from pathlib import Path
import re
from typing import Any
import warnings
import zipfile
import zlib

import numpy as np

from data_pipelines import storage
from data_pipelines.errors import UserError
from uniemox_jax.convert.formats.torchscript import read_torchscript

ZIP = b'PK\x03\x04'
OLDEST_TORCH = (2, 6)
"""Below it, `weights_only=True` can be made to run code."""
OWN_NAMES = ('model', 'state_dict')
"""Keys of a checkpoint under which tensors keep their own names; any other key becomes their prefix."""
MAX_UNPACKED = 64 << 20
"""Bytes of a TorchScript archive's program, which alone is compressed."""
INERT: list[Any] = [argparse.Namespace]
"""Classes that checkpoints of MAE and of the original hold beside tensors (`args`). Loading a Namespace only sets its
attributes: it has no constructor or hook that acts on them."""
Simple = bool | int | float | str | None


def read_torch(path: Path) -> tuple[str, dict[str, Any], Iterator[tuple[str, str, np.ndarray]]]:
  """A file of `torch.save`, zipped or older, or of `torch.jit.save`.

  Returns:
    The form and the metadata, see `weight_files.Weights`; and the tensors one at a time, as prefix (an entry's key with
    a dot, '' for `OWN_NAMES` and for the file itself), name, and array, floating point as float32.

  Raises:
    UserError: damaged, more than tensors and plain values, or torch is missing or too old. Also from the iterator.
  """
  with storage.open_local(path) as file:
    zipped = file.read(len(ZIP)) == ZIP
  if zipped and _is_torchscript(path):
    return 'torchscript', {}, (('', name, array) for name, array in read_torchscript(path))
  return 'torch', *_read_checkpoint(path, _load(path))


def _is_torchscript(path: Path) -> bool:
  """Whether the archive holds a program; raises `UserError` for one that torch did not write, or that is damaged."""
  try:
    with zipfile.ZipFile(path) as archive:
      problem = _archive_problem(archive.infolist(), path.stat().st_size)
      if problem:
        raise UserError(f'{path} is not an archive that torch wrote: {problem}')
      damaged = archive.testzip()  # torch itself does not compare the checksums
      if damaged:
        raise UserError(f'{path} is damaged: the checksum of {damaged} in it is wrong: fetch it again')
      return any(name.endswith('/constants.pkl') for name in archive.namelist())
  except UserError:
    raise
  except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, ValueError) as error:
    raise UserError(f'{path} is not a whole archive ({error}): fetch it again') from error


def _archive_problem(members: list[zipfile.ZipInfo], size: int) -> str:
  """What is wrong with the directory of an archive of `size` bytes; '' if nothing."""
  names = [member.filename for member in members]
  outside = [name for name in names if name.startswith('/') or '\\' in name or '..' in name.split('/')]
  stored = [member for member in members if member.compress_type == zipfile.ZIP_STORED]
  packed = [member for member in members if member.compress_type != zipfile.ZIP_STORED]
  if outside:
    return f'it has a member {outside[0]!r}, a path outside of it'
  if len(set(names)) < len(names):
    return 'two of its members have one name'
  if any('/code/' not in member.filename for member in packed):
    return 'its tensors are compressed, which may hide any amount of data'
  if sum(member.file_size for member in packed) > MAX_UNPACKED:
    return f'its program unpacks to more than {MAX_UNPACKED >> 20} MiB'
  if sum(member.file_size for member in stored) > size:
    return f'its members claim more than the {size} bytes of the file'
  return ''


def _load(path: Path) -> Any:
  try:
    import torch
  except ImportError as error:
    raise UserError(
        f"{path} is a PyTorch file, and torch is not installed: pip install 'uniemox_jax[torch]', or give "
        'safetensors') from error
  if tuple(int(part) for part in torch.__version__.split('.')[:2]) < OLDEST_TORCH:
    raise UserError(
        f'{path} is a PyTorch file, and torch {torch.__version__} reads such files unsafely: '
        "pip install 'uniemox_jax[torch]' brings 2.6 or later")
  try:
    # Opened here, since torch would go by the path's suffix. Not memory-mapped, so that each tensor has memory of its
    # own, which importers free one by one.
    with storage.open_local(path) as file, torch.serialization.safe_globals(INERT), warnings.catch_warnings():
      warnings.simplefilter('ignore')  # an unusual pickle either loads or is an error below
      return torch.load(file, map_location='cpu', weights_only=True)
  except Exception as error:  # on a damaged file torch raises a dozen unrelated types
    wanted = re.search(r'GLOBAL (\S+)', str(error))
    if wanted:
      raise UserError(
          f'{path} needs {wanted[1]} to be called, which could run any code, and is refused: ask for a '
          'file of tensors alone (a state_dict, better safetensors)') from error
    # Before it, torch advises to load without this protection.
    reason = ' '.join(str(error).split()).rpartition('WeightsUnpickler error: ')[2][:120]
    raise UserError(f'{path} is not a whole PyTorch file ({type(error).__name__}: {reason}): fetch it again') from error


def _read_checkpoint(path: Path, contents: Any) -> tuple[dict[str, Any], Iterator[tuple[str, str, np.ndarray]]]:
  from torch import Tensor
  if not isinstance(contents, dict):
    raise UserError(f'{path} holds a {type(contents).__name__}, not tensors by name: save model.state_dict()')

  def holds_tensors(value: Any) -> bool:
    return isinstance(value, dict) and any(isinstance(entry, Tensor) for entry in value.values())

  # Copies, since they are emptied: one dict may lie under two keys.
  parts = {key: dict(value) for key, value in contents.items() if holds_tensors(value)}
  if not parts and not holds_tensors(contents):
    raise UserError(
        f'{path} holds no tensors by name, but {", ".join(map(repr, list(contents)[:8])) or "nothing"}: '
        'save model.state_dict()')
  parts = parts or {'': dict(contents)}
  rest = {} if '' in parts else {key: value for key, value in contents.items() if key not in parts}
  rest |= {
      f'{key}.{name}'.removeprefix('.'): entry
      for key, part in parts.items() for name, entry in part.items() if not isinstance(entry, Tensor)}
  return _metadata(rest) | {'keys': [key for key in parts if key]}, _arrays(path, parts)


def _metadata(rest: dict[str, Any]) -> dict[str, Any]:
  """One level of simple values, so that no crafted nesting can grow without end; 'left_out' names the others."""
  kept: dict[str, Any] = {}
  left_out = []
  for key, value in rest.items():
    value = vars(value) if isinstance(value, argparse.Namespace) else value
    if isinstance(value, dict):
      kept[str(key)] = {name: entry for name, entry in value.items() if isinstance(entry, Simple)}
      left_out += [f'{key}.{name}' for name, entry in value.items() if not isinstance(entry, Simple)]
    elif isinstance(value, Simple):
      kept[str(key)] = value
    else:
      left_out.append(str(key))
  return kept | {'left_out': left_out}


def _arrays(path: Path, parts: dict[str, dict[str, Any]]) -> Iterator[tuple[str, str, np.ndarray]]:
  import torch
  for key, part in parts.items():
    for name in list(part):
      tensor = part.pop(name)
      if not isinstance(tensor, torch.Tensor):
        continue
      odd = tensor.is_nested or tensor.is_quantized or tensor.layout != torch.strided or tensor.device.type != 'cpu'
      # A view may be stretched: a trillion elements over four bytes.
      if odd or tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        raise UserError(
            f'{path}: {name} is a {tensor.layout} {tensor.dtype} tensor of shape {tuple(tensor.shape)} '
            'whose elements are not all in the file: save dense tensors')
      tensor = tensor.detach()
      array = (tensor.float() if tensor.is_floating_point() else tensor).numpy()
      yield '' if key in ('', *OWN_NAMES) else f'{key}.', name, array
