"""Writes a small YOLOX-like ONNX file by hand: the `onnx` package, which PyTorch's exporter needs, is not installed."""

from collections.abc import Sequence
import pathlib

import numpy as np

STRIDES = (8, 16, 32)


def write_yolox(path: pathlib.Path, height: int, width: int, log_side: float, weights: Sequence[np.ndarray]) -> None:
  """One convolution per stride, of kernel and stride 8, 16 and 32, laid out as YOLOX's export lays out its head.

  Args:
    path: the file to write.
    height, width: of the input (1, 3, height, width), multiples of 32.
    log_side: logarithm of both sides of every box, in cells.
    weights: (3,) each: how a cell's mean colour / 255 (blue, green, red) becomes, in this order, how sure it is of an
      object, and the classes; only at stride 16, elsewhere they are 0.

  The offset of every box's centre is half a cell, so that it is the cell's own.
  """
  nodes, tensors, heads = [], [], []
  for stride in STRIDES:
    rows = 4 + len(weights)
    kernel = np.zeros((rows, 3, stride, stride), np.float32)
    if stride == 16:
      kernel[4:] = np.asarray(weights)[:, :, None, None] / (255 * stride * stride)
    bias = np.array([0.5, 0.5, log_side, log_side] + [0] * len(weights), np.float32)
    tensors += [_tensor(f'w{stride}', kernel), _tensor(f'b{stride}', bias)]
    nodes.append(_node('Conv', ['images', f'w{stride}', f'b{stride}'], f'c{stride}', strides=[stride, stride]))
    nodes.append(_node('Reshape', [f'c{stride}', 'flat'], f'r{stride}'))
    heads.append(f'r{stride}')
  tensors.append(_tensor('flat', np.array([1, rows, -1], np.int64)))
  nodes.append(_node('Concat', heads, 'rows', axis=2))
  nodes.append(_node('Transpose', ['rows'], 'output', perm=[0, 2, 1]))
  cells = sum((height // stride) * (width // stride) for stride in STRIDES)
  graph = b''.join([
      *(_field(1, node) for node in nodes),
      _field(2, b'yolox'), *(_field(5, tensor) for tensor in tensors),
      _field(11, _value('images', (1, 3, height, width))),
      _field(12, _value('output', (1, cells, rows)))])
  path.write_bytes(_field(1, 8) + _field(8, _field(2, 13)) + _field(7, graph))  # IR version 8, operator set 13.


def _varint(value: int) -> bytes:
  value %= 1 << 64
  data = bytearray()
  while value > 127:
    data.append(value & 127 | 128)
    value >>= 7
  return bytes([*data, value])


def _field(number: int, value: int | bytes) -> bytes:
  """One protobuf field; the numbers below are those of onnx.proto."""
  if isinstance(value, int):
    return _varint(number << 3) + _varint(value)
  return _varint(number << 3 | 2) + _varint(len(value)) + value


def _tensor(name: str, array: np.ndarray) -> bytes:
  kind = {'float32': 1, 'int64': 7}[array.dtype.name]
  dims = b''.join(_field(1, side) for side in array.shape)
  return dims + _field(2, kind) + _field(8, name.encode()) + _field(9, array.tobytes())


def _node(kind: str, inputs: list[str], output: str, **attributes: int | list[int]) -> bytes:
  data = b''.join(_field(1, name.encode()) for name in inputs) + _field(2, output.encode()) + _field(4, kind.encode())
  for name, value in attributes.items():
    if isinstance(value, int):
      content = _field(3, value) + _field(20, 2)
    else:
      content = b''.join(_field(8, item) for item in value) + _field(20, 7)
    data += _field(5, _field(1, name.encode()) + content)
  return data


def _value(name: str, shape: tuple[int, ...]) -> bytes:
  dims = b''.join(_field(1, _field(1, side)) for side in shape)
  return _field(1, name.encode()) + _field(2, _field(1, _field(1, 1) + _field(2, dims)))
