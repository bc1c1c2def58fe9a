"""Reads NumPy archives, the form of Google's ViTs, without pickles and under timm's names.

Source: google-research/vision_transformer (augreg) and big_vision, whose blocks are numbered, or stacked along an axis.
"""

from collections.abc import Iterator
from pathlib import Path
import re
from typing import Any
import zipfile

import ml_dtypes
import numpy as np

from data_pipelines import storage
from data_pipelines.errors import UserError

_REMEDY = 'fetch it again'
_EMBEDDING = 'embedding/kernel'
_NAMES = {
    _EMBEDDING: 'patch_embed.proj.weight', 'embedding/bias': 'patch_embed.proj.bias', 'cls': 'cls_token',
    '(?:Transformer/posembed_input/)?pos_embedding': 'pos_embed', 'Transformer/encoder_norm/scale': 'norm.weight',
    'Transformer/encoder_norm/bias': 'norm.bias', 'head/kernel': 'head.weight', 'head/bias': 'head.bias'}
_IN_BLOCK = {
    'LayerNorm_0/scale': 'norm1.weight', 'LayerNorm_0/bias': 'norm1.bias', 'LayerNorm_[12]/scale': 'norm2.weight',
    'LayerNorm_[12]/bias': 'norm2.bias', 'MlpBlock_[03]/Dense_0/kernel': 'mlp.fc1.weight',
    'MlpBlock_[03]/Dense_0/bias': 'mlp.fc1.bias', 'MlpBlock_[03]/Dense_1/kernel': 'mlp.fc2.weight',
    'MlpBlock_[03]/Dense_1/bias': 'mlp.fc2.bias', 'MultiHeadDotProductAttention_[01]/query/kernel': 'attn.qkv.weight',
    'MultiHeadDotProductAttention_[01]/query/bias': 'attn.qkv.bias', 'MultiHeadDotProductAttention_[01]/out/kernel':
        'attn.proj.weight', 'MultiHeadDotProductAttention_[01]/out/bias': 'attn.proj.bias'}
"""A regular expression of Google's name -> timm's. A block's key and value are joined to its query."""
_BLOCK = re.compile(r'Transformer/encoderblock(?:_(\d+))?/(.*)')


def is_npz(path: Path) -> bool:
  """Whether a zip archive holds NumPy's files and nothing else."""
  try:
    with zipfile.ZipFile(path) as archive:
      names = archive.namelist()
  except (zipfile.BadZipFile, ValueError):
    return False
  return bool(names) and all(name.endswith('.npy') for name in names)


def read_npz(path: Path, most: int) -> tuple[dict[str, Any], Iterator[tuple[str, str, np.ndarray]]]:
  """Reads the archive's arrays. Those of Google's ViT get timm's names and layout, any others stay as they are.

  Args:
    path: an archive for which `is_npz` holds.
    most: the most bytes to which it may unpack.

  Returns:
    For Google's ViT what timm's config.json would say: heads, mean and deviation of the pixels; else {}. And the arrays
    one at a time, as '', name and array.

  Raises:
    UserError: the archive is damaged, or holds Python objects. The iterator may raise it too.
  """
  with storage.parsing(path, _REMEDY):
    with zipfile.ZipFile(path) as archive:
      if sum(member.file_size for member in archive.infolist()) > most:
        raise UserError(f'{path} unpacks to more than {most:,} bytes, as no weights do: fetch it again')
    with np.load(path, allow_pickle=False) as arrays:
      embeddings = [name for name in arrays.files if name.endswith(_EMBEDDING)]
      if not embeddings:
        return {}, _tensors(path, None)
      prefix = min(embeddings, key=len).removesuffix(_EMBEDDING)
      queries = [name for name in arrays.files if name.startswith(prefix) and name.endswith('/query/bias')]
      shape: tuple[int, ...] = arrays[queries[0]].shape if queries else ()
  config: dict[str, Any] = {'architecture': 'vit_of_google', 'pretrained_cfg': {'mean': [0.5] * 3, 'std': [0.5] * 3}}
  if len(shape) > 1:  # heads and their width, perhaps after the layers
    config['model_args'] = {'num_heads': shape[-2]}
  return config, _tensors(path, prefix)


def _tensors(path: Path, prefix: str | None) -> Iterator[tuple[str, str, np.ndarray]]:
  """What lies under `prefix` in PyTorch's layout, the rest being the optimizer's; all as it is where that is None."""
  with storage.parsing(path, _REMEDY), np.load(path, allow_pickle=False) as arrays:

    def read(name: str) -> np.ndarray:
      array = arrays[name]
      return array.view(ml_dtypes.bfloat16) if array.dtype == 'V2' else array

    for name in arrays.files:
      if prefix is None:
        yield '', name, read(name)
        continue
      bare = name.removeprefix(prefix)
      if not name.startswith(prefix) or re.search('/MultiHeadDotProductAttention_[01]/(key|value)/', bare):
        continue
      block = _BLOCK.fullmatch(bare)
      if block is None:
        yield '', _renamed(bare, _NAMES), _as_torch(bare, read(name))
        continue
      joined = ('query', 'key', 'value') if '/query/' in bare else ('query',)
      parts = [read(name.replace('/query/', f'/{part}/')) for part in joined]
      for layer in [block[1]] if block[1] else range(len(parts[0])):
        one = parts if block[1] else [part[layer] for part in parts]
        tensor = np.concatenate([_as_torch(bare, part) for part in one])
        yield '', f'blocks.{layer}.{_renamed(block[2], _IN_BLOCK)}', tensor


def _renamed(name: str, table: dict[str, str]) -> str:
  return next((ours for theirs, ours in table.items() if re.fullmatch(theirs, name)), name.replace('/', '.'))


def _as_torch(name: str, array: np.ndarray) -> np.ndarray:
  """Kernels (in, out), or with heads (in, heads, out) and (heads, in, out), to (out, in); of patches HWIO to OIHW."""
  if name.endswith('/kernel') and array.ndim == 4:
    return array.transpose(3, 2, 0, 1)
  if name.endswith('/kernel'):
    return array.reshape((-1, array.shape[-1]) if '/out/' in name else (len(array), -1)).T
  return array.reshape(-1) if name.endswith('/bias') else array
