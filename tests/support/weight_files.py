"""Small weight files of every published form."""

from collections.abc import Callable
import json
from pathlib import Path

from flax import serialization
import pytest

from uniemox_jax.convert.formats import weight_files

# Here, so that tests which import this are skipped where torch is not installed.
torch = pytest.importorskip('torch')
nn, save_file = torch.nn, pytest.importorskip('safetensors.torch').save_file

STATE = {'a.weight': torch.arange(6, dtype=torch.float32).reshape(2, 3), 'a.bias': torch.tensor([-1.5, 2.0])}


def saved(path: Path, contents: object, **options: object) -> Path:
  torch.save(contents, path, **options)
  return path


def written(path: Path, contents: bytes) -> Path:
  path.write_bytes(contents)
  return path


def safe(path: Path, tensors: dict[str, torch.Tensor]) -> Path:
  save_file(tensors, path)
  return path


def msgpack(path: Path, tree: object) -> Path:
  return written(path, serialization.msgpack_serialize(tree))


def index(folder: Path, weight_map: object, name: str = weight_files.SHARDED) -> Path:
  (folder / name).write_text(json.dumps({'metadata': {'total_size': 32}, 'weight_map': weight_map}))
  return folder


def shards(folder: Path, name: str, save: Callable[[Path, dict], Path]) -> Path:
  weight_map = {key: f'shard-{key}' for key in STATE}
  for key, tensor in STATE.items():
    save(folder / f'shard-{key}', {key: tensor})
  return index(folder, weight_map, name)


FORMS = {
    'safetensors': lambda folder: safe(folder / 'w.safetensors', STATE),
    'safetensors folder': lambda folder: safe(folder / weight_files.SAFETENSORS, STATE).parent,
    'sharded safetensors': lambda folder: shards(folder, weight_files.SHARDED, safe), 'msgpack':
        lambda folder: msgpack(
            folder / weight_files.MSGPACK, {
                'a': {'kernel': STATE['a.weight'].numpy().T, 'bias': STATE['a.bias'].numpy()}}),
    'torch': lambda folder: saved(folder / 'w.pth', STATE),
    'torch before 1.6': lambda folder: saved(folder / 'w.pth', STATE, _use_new_zipfile_serialization=False),
    'bin folder': lambda folder: saved(folder / weight_files.BIN, STATE).parent,
    'sharded bin': lambda folder: shards(folder, weight_files.SHARDED_BIN, saved),
    'safetensors named .bin': lambda folder: safe(folder / 'w.bin', STATE),
    'torch named .safetensors': lambda folder: saved(folder / 'w.safetensors', STATE)}


class Net(nn.Module):
  """All that a TorchScript module may hold: parameters, buffers, submodules of one class, other attributes."""

  def __init__(self) -> None:
    super().__init__()
    self.blocks = nn.Sequential(*[nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4)) for _ in range(3)])
    self.conv = nn.Conv2d(3, 4, 2, bias=False)
    self.scale = nn.Parameter(torch.randn(4, 2).T)
    self.register_buffer('input_resolution', torch.tensor(224))
    self.mask = torch.full((2, 2), -torch.inf)
    self.sizes = [1, 2]

  def forward(self, x: torch.Tensor) -> torch.Tensor:
    return self.blocks(self.conv(x).mean((-2, -1)) + self.scale.sum() + self.mask[0, 0].exp() + self.sizes[0])


def scripted(path: Path, dtype: torch.dtype = torch.float32, trace: bool = False) -> Path:
  torch.manual_seed(0)
  net = Net().to(dtype)
  program = torch.jit.trace(net, torch.randn(1, 3, 4, 4, dtype=dtype)) if trace else torch.jit.script(net)
  torch.jit.save(program, path)
  return path
