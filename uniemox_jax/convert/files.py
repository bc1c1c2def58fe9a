"""Weight files: safetensors (whole or sharded) and Flax msgpack, read as one flat dict of PyTorch names."""

import json
import os
from pathlib import Path
from typing import Any

from flax import serialization, traverse_util
import numpy as np
import safetensors
from safetensors.numpy import save_file

from data_pipelines.errors import UserError

SAFETENSORS = 'model.safetensors'
SHARDED = 'model.safetensors.index.json'
MSGPACK = 'flax_model.msgpack'


def read_folder(folder: Path) -> tuple[dict[str, np.ndarray], Path]:
  """All weights of a Hugging Face model folder.

  Returns:
    PyTorch name -> array in PyTorch layout, floating point as float32; and the file that was read.

  Raises:
    UserError: no weights that can be read, or a damaged file.
  """
  for name, read in ((SAFETENSORS, read_safetensors), (SHARDED, _read_sharded), (MSGPACK, read_msgpack)):
    if (folder / name).is_file():
      return read(folder / name), folder / name
  hint = ' (its pytorch_model.bin cannot be read: convert it to safetensors)' if (
      folder / 'pytorch_model.bin').is_file() else ''
  raise UserError(f'{folder} has no weights: looked for {SAFETENSORS}, {SHARDED} and {MSGPACK}{hint}')


def read_safetensors(path: Path) -> dict[str, np.ndarray]:
  """One safetensors file, name -> array; bfloat16 and float16 become float32."""
  try:
    with safetensors.safe_open(path, framework='numpy') as file:
      names = file.keys()
      return {name: _widen(file.get_tensor(name)) for name in names}
  except (safetensors.SafetensorError, OSError) as error:
    raise UserError(_damaged(path, 'safetensors', error)) from error


def _read_sharded(index: Path) -> dict[str, np.ndarray]:
  try:
    names = json.loads(index.read_text())['weight_map']
    shards = sorted(set(names.values()))
  except (ValueError, KeyError, TypeError, AttributeError) as error:
    raise UserError(_damaged(index, 'safetensors index', error)) from error
  missing = [shard for shard in shards if Path(shard).name != shard or not (index.parent / shard).is_file()]
  if missing:
    raise UserError(f'{index} names files that are not beside it: {", ".join(missing)}')
  flat = {}
  for shard in shards:
    flat.update(read_safetensors(index.parent / shard))
  return flat


def read_msgpack(path: Path) -> dict[str, np.ndarray]:
  """A `flax_model.msgpack` as transformers 4 wrote it: nested Flax names and layouts -> PyTorch's."""
  try:
    nested = serialization.msgpack_restore(path.read_bytes())
    leaves = traverse_util.flatten_dict(nested)
    return dict(_from_flax(names, np.asarray(leaf)) for names, leaf in leaves.items())
  except Exception as error:  # msgpack raises a dozen unrelated types on a damaged file, and this is data from outside
    raise UserError(_damaged(path, 'Flax msgpack', error)) from error


def _from_flax(names: tuple[str, ...], array: np.ndarray) -> tuple[str, np.ndarray]:
  *scope, leaf = names
  if leaf == 'kernel':  # (in, out) -> (out, in); convolutions HWIO -> OIHW
    array = array.T if array.ndim == 2 else array.transpose(3, 2, 0, 1)
  leaf = 'weight' if leaf in ('kernel', 'scale', 'embedding') else leaf
  return '.'.join([*scope, leaf]), _widen(array)


def _widen(array: np.ndarray) -> np.ndarray:
  # By exclusion: to numpy bfloat16 is of kind V, not f.
  return array if array.dtype.kind in 'iub' else array.astype(np.float32)


def _damaged(path: Path, kind: str, error: Exception) -> str:
  reason = ' '.join(str(error).split())[:120]
  return f'{path} is not a whole {kind} file ({type(error).__name__}: {reason}): fetch it again'


def write_safetensors(path: Path, flat: dict[str, Any]) -> None:
  """Writes name -> array as safetensors that PyTorch libraries load; whole or not at all."""
  partial = path.with_name(f'.{path.name}.{os.getpid()}')
  # save_file ignores strides: a transposed view would be written scrambled. (ascontiguousarray makes scalars 1-D.)
  save_file({name: np.asarray(array, order='C') for name, array in flat.items()}, partial, metadata={'format': 'pt'})
  os.replace(partial, path)
