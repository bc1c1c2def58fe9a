"""Reads what PyTorch checkpoints hold beside tensors as plain data: names of classes, and a stand-in for each.

A pickle names classes and what to call them with. `torch.load(weights_only=True)` gets a stand-in for each name here,
and refuses every other. So no class that a file names is imported or called.
"""

import argparse
from collections import OrderedDict
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np

_VALUES = 'biufU'
"""The kinds of NumPy's types that stay values: numbers and text."""


class _Dictionary:
  """A dictionary of a class of its own."""

  def __new__(cls, *_: Any) -> OrderedDict[Any, Any]:  # type: ignore[misc]  # torch adds items to its own kinds alone
    return OrderedDict()


class _Thing:
  """A value that is only known to be there."""

  def __init__(self, *_: Any):
    pass

  def __setstate__(self, _: Any) -> None:
    pass


class _DType:
  """A `numpy.dtype`: its code, and by its state the byte order."""

  def __init__(self, code: str, *_: Any):
    self.code, self.order = str(code), '='

  def __setstate__(self, state: tuple[Any, ...]) -> None:
    self.order = str(state[1]).replace('|', '=')


def _scalar(dtype: _DType, data: bytes) -> bool | int | float | str | _Thing:
  found = np.dtype(dtype.code).newbyteorder(dtype.order)  # type: ignore[arg-type]
  return np.frombuffer(data, found)[0].item() if found.kind in _VALUES else _Thing()


def _posix_path(*parts: str) -> str:
  return str(PurePosixPath(*parts))


def _windows_path(*parts: str) -> str:
  return str(PureWindowsPath(*parts))


_NAMES = {
    argparse.Namespace: ('argparse.Namespace', 'types.SimpleNamespace'), _posix_path:
        tuple(f'{home}.{name}' for home in ('pathlib', 'pathlib._local') for name in ('PosixPath', 'PurePosixPath')),
    _windows_path:
        tuple(
            f'{home}.{name}' for home in ('pathlib', 'pathlib._local') for name in ('WindowsPath', 'PureWindowsPath')),
    _scalar: ('numpy.core.multiarray.scalar', 'numpy._core.multiarray.scalar'), _DType: ('numpy.dtype',), _Dictionary: (
        'collections.defaultdict', 'easydict.EasyDict', 'addict.addict.Dict', 'yacs.config.CfgNode',
        'pytorch_lightning.utilities.parsing.AttributeDict', 'lightning_fabric.utilities.data.AttributeDict',
        'lightning.fabric.utilities.data.AttributeDict'), _Thing: (
            'numpy.ndarray', 'numpy.core.multiarray._reconstruct', 'numpy._core.multiarray._reconstruct',
            'datetime.datetime', 'datetime.date', 'datetime.timedelta', 'uuid.UUID', 'decimal.Decimal', 'typing.Any',
            *(f'builtins.{name}' for name in ('frozenset', 'list', 'dict', 'tuple', 'int', 'float', 'str', 'bool')),
            'torch.torch_version.TorchVersion', 'omegaconf.dictconfig.DictConfig', 'omegaconf.listconfig.ListConfig',
            'omegaconf.base.ContainerMetadata', 'omegaconf.base.Metadata',
            *(f'omegaconf.nodes.{kind}Node' for kind in ('Any', 'String', 'Integer', 'Float', 'Boolean')))}
STAND_INS: list[Any] = [(stand_in, name) for stand_in, names in _NAMES.items() for name in names]
"""The stand-ins for `torch.serialization.safe_globals`. Settings become a Namespace, dictionaries dictionaries, paths
text, and NumPy's scalars numbers."""
