"""Reads PyTorch's own files (.pth, .pt, .bin) without running what they hold."""

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
from uniemox_jax.convert.formats.inert_classes import STAND_INS
from uniemox_jax.convert.formats.torchscript import read_torchscript

ZIP = b'PK\x03\x04'
OLDEST_TORCH = (2, 6)
"""The oldest version that is used: before it, `weights_only=True` can be made to run code."""
OWN_NAMES = ('model', 'state_dict')
"""The keys of the state dict that is taken if a checkpoint holds several; without them the largest is taken."""
OF_TRAINING = '(?i).*(optim|sched|scaler|callback|rng_state)'
"""The keys under which tensors are not a model's."""
_WRAPPERS = re.compile(r'(^|\.)(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module|_forward_module)\.')
_DISTRIBUTED = re.compile(r'^(?:module\.)+')
MAX_UNPACKED = 64 << 20
"""The most bytes of a TorchScript archive's program, which alone is compressed."""
Simple = bool | int | float | str | None


def bare_name(name: str) -> tuple[str, set[str]]:
  """A tensor's name without those of wrappers (DistributedDataParallel, torch.compile, FSDP), and what was removed."""
  bare = name
  while (shorter := _WRAPPERS.sub(r'\1', bare)) != bare:
    bare = shorter
  bare = _DISTRIBUTED.sub('', bare)
  return bare, set() if bare == name else set(name.split('.')) - set(bare.split('.'))


def read_torch(path: Path, key: str = '') -> tuple[str, dict[str, Any], Iterator[tuple[str, str, np.ndarray]]]:
  """Reads a file of `torch.save`, zipped or older, or of `torch.jit.save`.

  Args:
    path: the file.
    key: the key of the state dict to take if there are several; it counts only if the file has it.

  Returns:
    The form and the metadata, see `weight_files.Weights`; and the tensors one at a time, as prefix (an entry's key with
    a dot, '' for `OWN_NAMES`, `key` and the file itself), name, and array, floating point as float32.

  Raises:
    UserError: the file is damaged, or holds more than tensors and plain values; or torch is missing or too old. The
      iterator may raise it too.
  """
  with storage.open_local(path) as file:
    zipped = file.read(len(ZIP)) == ZIP
  if zipped and _is_torchscript(path):
    return 'torchscript', {}, (('', name, array) for name, array in read_torchscript(path))
  return 'torch', *_read_checkpoint(path, _load(path), key)


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
    with storage.open_local(path) as file, torch.serialization.safe_globals(STAND_INS), warnings.catch_warnings():
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


def _read_checkpoint(path: Path, contents: Any,
                     key: str) -> tuple[dict[str, Any], Iterator[tuple[str, str, np.ndarray]]]:
  from torch import Tensor
  if not isinstance(contents, dict):
    raise UserError(f'{path} holds a {type(contents).__name__}, not tensors by name: save model.state_dict()')
  # Copies, since they are emptied: one dict may lie under two keys.
  parts = {name: dict(part) for name, part in _find_parts(contents).items()}
  bare = {name: entry for name, entry in contents.items() if isinstance(entry, Tensor)}
  if not parts and not bare:
    raise UserError(
        f'{path} holds no tensors by name, but {", ".join(map(repr, list(contents)[:8])) or "nothing"}: '
        'save model.state_dict()')
  if len(bare) > max(map(len, parts.values()), default=0):
    parts = {'': dict(contents)} | parts
  rest = {} if '' in parts else {name: value for name, value in contents.items() if name not in parts}
  rest |= {
      f'{prefix}.{name}'.removeprefix('.'): entry
      for prefix, part in parts.items() for name, entry in part.items() if not isinstance(entry, Tensor)}
  largest = max(parts, key=lambda name: len(parts[name]))
  chosen = key if key in parts else next((name for name in OWN_NAMES if name in parts), largest)
  others = [name for name in parts if name != chosen and _are_alike(parts[name], parts[chosen])]
  found = {
      'keys': [name for name in parts if name], 'chosen': chosen, 'others': {name: len(parts[name]) for name in others}}
  kept = {name: part for name, part in parts.items() if name not in others}
  bare_names = {'', chosen} if chosen in (key, *OWN_NAMES) else {''}
  return _metadata(rest) | found, _arrays(path, kept, bare_names)


def _find_parts(contents: dict[Any, Any], prefix: str = '') -> dict[str, dict[Any, Any]]:
  """The state dicts in a checkpoint, by their keys, joined by a dot where one lies in another dict."""
  from torch import Tensor
  parts: dict[str, dict[Any, Any]] = {}
  for key, value in contents.items():
    if not isinstance(value, dict) or not isinstance(key, str) or re.match(OF_TRAINING, key):
      continue
    if any(isinstance(entry, Tensor) for entry in value.values()):
      parts[prefix + key] = value
    elif not prefix:
      parts |= _find_parts(value, f'{key}.')
  return parts


def _are_alike(part: dict[Any, Any], chosen: dict[Any, Any]) -> bool:
  """Whether two state dicts are of one model, as weights and their moving averages are."""
  names, others = ({bare_name(str(name))[0] for name in names} for names in (part, chosen))
  return 2 * len(names & others) >= min(len(names), len(others))


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


def _arrays(path: Path, parts: dict[str, dict[Any, Any]],
            bare_names: set[str]) -> Iterator[tuple[str, str, np.ndarray]]:
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
      yield '' if key in bare_names else f'{key}.', name, array
