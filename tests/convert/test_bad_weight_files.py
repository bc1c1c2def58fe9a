"""Bad weight files: each ends in one line that names the cause; nothing is executed, nothing written."""

import io
import os
from pathlib import Path
import pickle
import re
import sys
import tarfile
import zipfile

import pytest

from data_pipelines import storage
from data_pipelines.errors import UserError
from tests.support.weight_files import FORMS, STATE, index, msgpack, safe, saved, scripted, torch, written
from uniemox_jax.convert.formats import weight_files
from uniemox_jax.convert.formats.weight_files import read_weights

STARTS = {
    'gzip': (b'\x1f\x8b\x08' + bytes(99), 'packed archive: unpack'),
    '7z': (b'7z\xbc\xaf' + bytes(99), 'packed archive'), 'RAR': (b'Rar!' + bytes(99), 'packed archive'), 'bzip2':
        (b'BZh9' + bytes(99), 'packed archive'), 'xz': (b'\xfd7zXZ' + bytes(99), 'packed archive'),
    'a single array': (b'\x93NUMPY\1\0' + bytes(99), 'single NumPy array'), 'Keras':
        (b'\x89HDF\r\n\x1a\n' + bytes(99), 'is HDF5, as Keras saves'), 'GGUF': (b'GGUF' + bytes(99), 'of llama.cpp'),
    'ONNX': (b'\x08\x08\x12\x07pytorch' + bytes(99), 'is ONNX, which only predict'), 'PDF':
        (b'%PDF-1.7' + bytes(99), 'starts with'), 'ELF': (b'\x7fELF' + bytes(99), 'starts with'), 'zeros':
            (bytes(512), 'starts with'), 'a proxy page': (b'\n <html>', 'web page'), 'text':
                (b'epoch 1 loss 2.0', 'starts with')}
HTML = b'<!DOCTYPE html><html><body>404 Not Found</body></html>'


class Evil:
  """Unpickled by Python, it would make a file."""

  def __reduce__(self) -> tuple:
    return os.system, ('touch executed',)


def repacked(path: Path, changed: dict[str, bytes], packed: str = '/code/') -> Path:
  """The archive with some members changed or added; those whose name holds `packed` are compressed."""
  with zipfile.ZipFile(path) as archive:
    members = {name: archive.read(name) for name in archive.namelist()} | changed
  with zipfile.ZipFile(path, 'w') as archive:
    for name, contents in members.items():
      archive.writestr(name, contents, zipfile.ZIP_DEFLATED if packed in name else zipfile.ZIP_STORED)
  return path


def holding_itself(path: Path) -> Path:
  """The archive with a module that is its own child. torch names classes by what it has scripted in this process."""
  with zipfile.ZipFile(path) as archive:
    code = next(name for name in archive.namelist() if re.search(r'modules/container.*\.py$', name))
  module = code.removeprefix('w/code/').removesuffix('.py').replace('/', '.').encode()
  return repacked(path, {'w/data.pkl': b'\x80\2c' + module + b'\nSequential\n)\x81q\0}(X\1\0\0\0ah\0ub.'})


def half(path: Path) -> Path:
  return written(path, path.read_bytes()[:path.stat().st_size // 2])


def flipped(path: Path) -> Path:
  contents = path.read_bytes()
  at = contents.index(STATE['a.weight'].numpy().tobytes()) + 9
  return written(path, contents[:at] + bytes([contents[at] ^ 1]) + contents[at + 1:])


def claiming(path: Path) -> Path:
  """The archive's directory gives one member a size of a gigabyte."""
  contents = bytearray(path.read_bytes())
  at = contents.index(b'PK\1\2')
  contents[at + 20:at + 28] = (1 << 30).to_bytes(4, 'little') * 2
  return written(path, bytes(contents))


def tar(path: Path) -> Path:
  with tarfile.open(path, 'w') as archive:
    archive.addfile(tarfile.TarInfo('storages'), io.BytesIO())
  return path


def sibling(folder: Path) -> str:
  safe(folder.parent / f'outside-{folder.name}', STATE)
  return f'../outside-{folder.name}'


def link_to_itself(path: Path) -> Path:
  path.symlink_to(path)
  return path


def fifo(path: Path) -> Path:
  os.mkfifo(path)
  return path


def with_weight(folder: Path, tensor: torch.Tensor) -> Path:
  return saved(folder / 'w.pth', {'model': STATE | {'a.weight': tensor}})


def twice(path: Path) -> Path:
  with zipfile.ZipFile(path, 'a') as archive, pytest.warns(UserWarning, match='Duplicate'):
    archive.writestr('w/data.pkl', b'')
  return path


def other_archive(path: Path) -> Path:
  with zipfile.ZipFile(path, 'w') as archive:
    archive.writestr('readme.txt', 'hello')
  return path


def stretched(path: Path) -> Path:
  """A program whose weight, 2 by 3, claims to be 65535 by 3."""
  torch.jit.save(torch.jit.script(torch.nn.Linear(3, 2)), path)
  with zipfile.ZipFile(path) as archive:
    described = archive.read('w/data.pkl')
  shape, larger = b'(K\2K\3t', b'(M\xff\xffK\3t'
  assert shape in described
  return repacked(path, {'w/data.pkl': described.replace(shape, larger)})


NAN = torch.tensor([1, torch.nan])
BAD = {
    'truncated safetensors': (lambda d: half(safe(d / 'w.safetensors', STATE)), 'not a whole safetensors'),
    'safetensors with an absurd header': (lambda d: written(d / 'w', b'\xff' * 8 + b'{"a": 1}'), 'starts with'),
    'safetensors with a broken header': (lambda d: written(d / 'w', b'\5' + b'\0' * 7 + b'{"a"}'), 'not a whole safe'),
    'truncated archive': (lambda d: half(saved(d / 'w.pth', STATE)), 'not a whole archive'), 'truncated msgpack':
        (lambda d: half(FORMS['msgpack'](d)), 'not a whole Flax msgpack'), 'truncated old pickle':
            (lambda d: half(FORMS['torch before 1.6'](d)), 'not a whole PyTorch file'), 'flipped bit':
                (lambda d: flipped(saved(d / 'w.pth', STATE)), r'checksum of w/data/\d'), 'web page':
                    (lambda d: written(d / 'w.pth', HTML), 'web page'),
    'web page as index': (lambda d: written(d / weight_files.SHARDED, HTML), 'not a whole index'), 'git-lfs pointer': (
        lambda d: written(d / 'w.bin', b'version https://git-lfs.github.com/spec/v1\noid sha256:0'), 'git-lfs pointer'
    ), 'empty file': (lambda d: written(d / 'w.pth', b''), 'is empty'), 'tar':
        (lambda d: tar(d / 'w.pth'), 'tar archive'), 'picture':
            (lambda d: written(d / 'w.pth', b'\x89PNG\r\n\x1a\n' + bytes(99)), r'starts with .*PNG'), 'JSON':
                (lambda d: written(d / 'config.json', b'{"model_type": "vit_mae"}'), 'is JSON'), 'code in an archive':
                    (lambda d: saved(d / 'w.pth', {'model': STATE, 'x': Evil()}), r'posix\.system .*refused'),
    'code in an old pickle':
        (lambda d: saved(d / 'w.pth', Evil(), _use_new_zipfile_serialization=False), r'posix\.system .*refused'
        ), 'code in a plain pickle':
            (lambda d: written(d / 'w.bin', pickle.dumps(Evil(), 4)), r'PyTorch file .*: Unsupp'), 'code in protocol 0':
                (lambda d: written(d / 'w.bin', pickle.dumps(Evil(), 0)), 'starts with'),
    'code in TorchScript':
        (lambda d: repacked(scripted(d / 'w.pt'), {'w/data.pkl': pickle.dumps(Evil(), 2)}), 'not a TorchScript'
        ), 'whole module': (lambda d: saved(d / 'w.pth', torch.nn.Linear(2, 2)), r'torch\.nn\.modules\.linear\.Linear'),
    'module that holds itself': (lambda d: holding_itself(scripted(d / 'w.pt')), 'without end'), 'big-endian':
        (lambda d: repacked(scripted(d / 'w.pt'), {'w/byteorder': b'big'}), 'big-endian'), 'member outside':
            (lambda d: repacked(saved(d / 'w.pth', STATE), {'../../x': b''}), 'outside of it'), 'twice one member':
                (lambda d: twice(saved(d / 'w.pth', STATE)), 'two of its members'), 'archive of something else':
                    (lambda d: other_archive(d / 'w.pth'), 'not a whole PyTorch file'),
    'compressed tensors': (lambda d: repacked(saved(d / 'w.pth', STATE), {}, '/data/'), 'compressed'), 'zip bomb':
        (lambda d: repacked(scripted(d / 'w.pt'), {'w/code/x.py': bytes(65 << 20)}), 'unpacks to'), 'absurd size':
            (lambda d: claiming(saved(d / 'w.pth', STATE)), 'claim more than'), 'stretched tensor':
                (lambda d: with_weight(d,
                                       torch.ones(1).expand(10**6, 10**6)), 'not all in the file'),
    'stretched buffer of a program':
        (lambda d: stretched(d / 'w.pt'), r'over 6 numbers'), 'one tensor a thousand times': (
            lambda d: saved(d / 'w.pth', dict.fromkeys(map(str, range(1000)), torch.ones(5000, dtype=torch.float16))),
            'declares more numbers'), 'sparse tensor':
                (lambda d: with_weight(d,
                                       torch.eye(3).to_sparse()), 'torch.sparse_coo'),
    'tensor without data': (lambda d: with_weight(d, torch.empty(2, device='meta')), 'not all in the file'), 'NaN':
        (lambda d: with_weight(d, NAN), r'1 with NaN or infinity \(first: a.weight\)'), 'infinity':
            (lambda d: safe(d / 'w.safetensors', {'x': NAN / 0, 'y': STATE['a.bias'] / 0}), r'2 with NaN or inf'),
    'beyond float32': (lambda d: with_weight(d, torch.tensor([1e300], dtype=torch.float64)), 'infinity'), 'integers':
        (lambda d: with_weight(d, torch.ones(3, dtype=torch.int8)), 'int8 instead of floating point'), 'complex':
            (lambda d: with_weight(d, torch.ones(3, dtype=torch.complex64)), 'complex64 instead'), 'text':
                (lambda d: msgpack(d / 'w', {'a': 'text'}), '<U4 instead'), 'no elements':
                    (lambda d: with_weight(d, torch.ones(0, 3)), r'no elements, shape \(0, 3\)'), 'one name twice':
                        (lambda d: saved(d / 'w.pth', STATE | {'module.a.bias': NAN}), '1 named like another'
                        ), 'float8 safetensors':
                            (lambda d: safe(d / 'w', {'a': torch.ones(2).to(torch.float8_e4m3fn)}), 'numpy lacks'
                            ), 'list of tensors': (lambda d: saved(d / 'w.pth', list(STATE.values())), 'holds a list'),
    'one tensor': (lambda d: saved(d / 'w.pth', STATE['a.bias']), 'holds a Tensor'), 'no tensors':
        (lambda d: saved(d / 'w.pth', {'epoch': 3}), "no tensors by name, but 'epoch'"), 'index of a missing shard':
            (lambda d: index(d, {'a': 'x.safetensors'}), r'not beside it: x\.safetensors'
            ), 'index of a shard elsewhere':
                (lambda d: index(d, {'a': sibling(d)}), r'not beside it: \.\./outside'
                ), 'index of no shards': (lambda d: index(d, {}), 'none at all'), 'index of numbers':
                    (lambda d: index(d, {'a': 3}), 'not a whole index'), 'index of itself':
                        (lambda d: index(d, {'a': weight_files.SHARDED}), 'is JSON'), 'shard without its tensors': (
                            lambda d: index(safe(d / 'x', STATE).parent, {'a.bias': 'x', 'b': 'x'}),
                            r'lacks 1 tensors .*first: b\)'), 'folder without weights':
                                (lambda d: d, 'folder without weights: looked for model.safetensors, '), 'no such file':
                                    (lambda d: d / 'w.pth', 'No such file'), 'link to itself':
                                        (lambda d: link_to_itself(d / 'w.pth'), 'symbolic links'), 'pipe':
                                            (lambda d: fifo(d / 'w.pth'), 'is not a file')}


@pytest.mark.parametrize('name', ['w.pth', 'pytorch_model.bin', 'model.safetensors'])
@pytest.mark.parametrize('kind', STARTS)
def test_file_of_something_else_is_one_line_whatever_its_name(kind: str, name: str, tmp_path: Path) -> None:
  content, cause = STARTS[kind]
  with pytest.raises(UserError, match=cause) as error:
    read_weights(written(tmp_path / name, content))
  assert name in str(error.value) and len(str(error.value).splitlines()) == 1


@pytest.mark.filterwarnings('ignore:.*torch.jit:DeprecationWarning', 'ignore:.*[Ss]parse', 'ignore:.*TypedStorage')
@pytest.mark.parametrize('kind', BAD)
def test_bad_file_ends_in_one_line_and_runs_and_writes_nothing(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
  make, cause = BAD[kind]
  path = make(tmp_path)
  monkeypatch.chdir(tmp_path)
  before = sorted(tmp_path.iterdir())
  with pytest.raises(UserError, match=cause) as error:
    read_weights(path)
  assert str(tmp_path) in str(error.value)
  assert len(str(error.value).splitlines()) == 1
  assert len(str(error.value)) < 500
  assert 'weights_only' not in str(error.value)  # torch's advice to go without
  assert sorted(tmp_path.iterdir()) == before


def test_unreadable_file_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:

  def refuse(path: Path, *_: object) -> None:
    raise PermissionError(13, 'Permission denied', str(path))

  path = saved(tmp_path / 'w.pth', STATE)
  monkeypatch.setattr(storage, 'open_local', refuse)  # the tests may run as root, to whom every file is open
  with pytest.raises(UserError, match=r'w\.pth cannot be read \(Permission denied\)'):
    read_weights(path)


@pytest.mark.parametrize(('version', 'cause'), [(None, r"not installed: pip install 'uniemox_jax\[torch\]'"),
                                                ('2.5.1+cu121', r'torch 2\.5\.1\+cu121 reads such files unsafely')])
def test_missing_or_old_torch_is_explained(
    version: str | None, cause: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
  path = saved(tmp_path / 'w.pth', STATE)
  if version:
    monkeypatch.setattr(torch, '__version__', version)
  else:
    monkeypatch.setitem(sys.modules, 'torch', None)
  with pytest.raises(UserError, match=cause):
    read_weights(path)
