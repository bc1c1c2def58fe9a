"""Reads TorchScript archives, the form of OpenAI's CLIP files, as data.

`torch.load(weights_only=True)` refuses them, and `torch.jit.load` runs the program inside. Here the pickle's opcodes
are read as a description of what it would build: nothing that the file names is imported or called. It needs no torch.
"""

from collections.abc import Iterator
import dataclasses
import itertools
import math
from pathlib import Path
import pickletools
import re
from typing import Any
import zipfile

import ml_dtypes
import numpy as np

from data_pipelines.errors import UserError

MAX_SCOPE, MAX_MODULES = 500, 100_000
"""The most characters of a module's name, and the most modules of a tree; a module that holds itself passes both."""
STORAGES = {
    'Float': '<f4', 'Double': '<f8', 'Half': '<f2', 'BFloat16': ml_dtypes.bfloat16, 'Long': '<i8', 'Int': '<i4',
    'Short': '<i2', 'Char': '<i1', 'Byte': '<u1', 'Bool': '?', 'ComplexFloat': '<c8', 'ComplexDouble': '<c16'}
CONSTANTS = {'NONE': None, 'NEWTRUE': True, 'NEWFALSE': False, 'EMPTY_TUPLE': ()}
VALUES = ('BINUNICODE', 'BININT', 'BININT1', 'BININT2', 'LONG1', 'BINFLOAT')


def read_torchscript(path: Path) -> Iterator[tuple[str, np.ndarray]]:
  """Yields parameters and buffers by name, one at a time, as `torch.jit.load(...).state_dict()` has them.

  Args:
    path: an archive of `torch.jit.save`, its members checked.

  Raises:
    UserError: the archive is damaged, or not as torch writes it.
  """
  with zipfile.ZipFile(path) as archive:
    root = archive.namelist()[0].split('/')[0]
    try:
      if f'{root}/byteorder' in archive.namelist() and archive.read(f'{root}/byteorder') != b'little':
        raise ValueError('its numbers are big-endian')
      yield from _tensors(archive, root, _parse(archive.read(f'{root}/data.pkl')), '', itertools.count())
    except (ValueError, LookupError, TypeError, AttributeError) as error:
      raise UserError(
          f'{path} is not a TorchScript archive as torch writes it '
          f'({type(error).__name__}: {error}): fetch it again') from error


@dataclasses.dataclass(eq=False)
class _Built:
  """What unpickling would make by calling `maker` with `args`, then giving it `state`."""

  maker: str
  args: Any = None
  state: Any = None


def _parse(pickled: bytes) -> Any:
  """The pickle's object as plain data and `_Built`s; other opcodes than TorchScript's are an error."""
  stack: list[Any] = []
  marks: list[int] = []
  memo: dict[Any, Any] = {}

  def cut(start: int) -> list[Any]:
    items = stack[start:]
    del stack[start:]
    return items

  for opcode, argument, _ in pickletools.genops(pickled):
    match opcode.name:
      case 'PROTO' | 'STOP':
        pass
      case name if name in VALUES:
        stack.append(argument)
      case name if name in CONSTANTS:
        stack.append(CONSTANTS[name])
      case 'GLOBAL':
        stack.append(_Built(str(argument).replace(' ', '.')))
      case 'EMPTY_LIST':
        stack.append([])
      case 'EMPTY_DICT':
        stack.append({})
      case 'MARK':
        marks.append(len(stack))
      case 'TUPLE':
        stack.append(tuple(cut(marks.pop())))
      case 'TUPLE1' | 'TUPLE2' | 'TUPLE3' as name:
        stack.append(tuple(cut(len(stack) - int(name[-1]))))
      case 'APPEND' | 'APPENDS' as name:
        items = cut(marks.pop() if name == 'APPENDS' else len(stack) - 1)
        stack[-1].extend(items)
      case 'SETITEM' | 'SETITEMS' as name:
        items = cut(marks.pop() if name == 'SETITEMS' else len(stack) - 2)
        stack[-1].update(zip(items[::2], items[1::2], strict=True))
      case 'BINPUT' | 'LONG_BINPUT':
        memo[argument] = stack[-1]
      case 'BINGET' | 'LONG_BINGET':
        stack.append(memo[argument])
      case 'BINPERSID':
        stack.append(_Built('storage', stack.pop()))
      case 'NEWOBJ' | 'REDUCE':
        maker, args = cut(len(stack) - 2)
        stack.append(_Built(maker.maker, args))
      case 'BUILD':
        state = stack.pop()
        stack[-1].state = state
      case name:
        raise ValueError(f'pickle opcode {name}')
  return stack.pop()


def _tensors(archive: zipfile.ZipFile, root: str, module: _Built, scope: str,
             visits: Iterator[int]) -> Iterator[tuple[str, np.ndarray]]:
  if len(scope) > MAX_SCOPE or next(visits) > MAX_MODULES:
    raise ValueError('its modules nest without end')
  for name in _declared(archive, root, module.maker):
    if module.state[name] is not None:  # an optional parameter, such as the bias of a layer that has none
      yield scope + name, _array(archive, root, module.state[name])
  for name, value in module.state.items():
    if isinstance(value, _Built) and value.maker.startswith('__torch__.') and isinstance(value.state, dict):
      yield from _tensors(archive, root, value, f'{scope}{name}.', visits)


def _declared(archive: zipfile.ZipFile, root: str, qualified: str) -> list[str]:
  """Reads the names of a class's parameters and buffers from its source in the archive."""
  path, _, name = qualified.rpartition('.')
  source = archive.read(f'{root}/code/{path.replace(".", "/")}.py').decode()
  found = re.search(
      rf'^class {re.escape(name)}\(Module\):\n'
      r'  __parameters__ = \[(.*)\]\n(?:  __buffers__ = \[(.*)\]\n)?', source, re.MULTILINE)
  return re.findall(r'"([^"]*)"', ','.join(found.groups(''))) if found else []


def _array(archive: zipfile.ZipFile, root: str, tensor: _Built) -> np.ndarray:
  """A tensor of any strides; read-only."""
  if tensor.maker != 'torch._utils._rebuild_tensor_v2':
    raise ValueError(f'a tensor made by {tensor.maker}')
  storage, offset, shape, strides, *_ = tensor.args
  _, kind, key, *_ = storage.args
  data = np.frombuffer(
      archive.read(f'{root}/data/{key}'), STORAGES[kind.maker.removeprefix('torch.').removesuffix('Storage')])
  if 0 in shape:
    return np.empty(shape, data.dtype)
  last = offset + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
  if min((offset, *shape, *strides)) < 0 or last >= data.size or math.prod(shape) > data.size:
    raise ValueError(f'a tensor of shape {shape} over {data.size} numbers')
  return np.lib.stride_tricks.as_strided(
      data[offset:], shape, [stride * data.itemsize for stride in strides], writeable=False)
