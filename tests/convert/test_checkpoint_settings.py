"""What checkpoints hold beside tensors: plain values are read without their classes, what could run code is not."""

import argparse
import collections
from collections.abc import Iterator
import datetime
import decimal
import enum
import fractions
from pathlib import Path, PosixPath, PurePosixPath, PureWindowsPath
import subprocess
import sys
import types
from typing import Any
import uuid

import numpy as np
import pytest

from data_pipelines.errors import UserError
from tests.support.weight_files import STATE, saved, torch
from uniemox_jax.convert.formats.weight_files import read_weights


class Colour(enum.Enum):
  RED = 1


class Called:
  """Unpickled by Python, it would call a function with arguments."""

  def __init__(self, function: Any, *arguments: Any):
    self._made = function, arguments

  def __reduce__(self) -> tuple:
    return self._made


def instance_of(qualified: str, base: type = object, state: dict[str, Any] | None = None) -> Any:
  """An object of a class whose module is not installed here; pickling looks for it in `sys.modules`."""
  module, _, name = qualified.rpartition('.')
  parts = module.split('.')
  for length in range(1, len(parts) + 1):
    sys.modules.setdefault('.'.join(parts[:length]), types.ModuleType(module))
  instance = vars(sys.modules[module]).setdefault(name, type(name, (base,), {'__module__': module}))()
  vars(instance).update(state or {})
  return instance


@pytest.fixture
def modules() -> Iterator[None]:
  """Takes out again what `instance_of` put there."""
  before = set(sys.modules)
  yield
  for name in set(sys.modules) - before:
    del sys.modules[name]


RUNS = '/runs/mae'
SETTINGS = {
    'a path': (PosixPath(RUNS), RUNS), 'a pure path': (PurePosixPath(RUNS), RUNS),
    'a NumPy float': (np.float64(0.75), 0.75), 'a NumPy float of 32 bits': (np.float32(0.75), 0.75),
    'a NumPy integer': (np.int64(7), 7), 'a NumPy bool': (np.bool_(True), True), 'a NumPy float of another byte order':
        (np.array(0.75, '>f8')[()], 0.75), 'text': ('ViT-L', 'ViT-L'), 'a NumPy text': (np.str_('ViT-L'), 'ViT-L')}


def test_paths_of_other_systems_and_versions_are_read(tmp_path: Path, modules: None) -> None:
  sys.modules['pathlib._local'] = types.ModuleType('pathlib._local')
  sys.modules['pathlib._local'].PosixPath = moved = type('PosixPath', (Called,), {'__module__': 'pathlib._local'})
  args = argparse.Namespace(local=Called(moved, '/', 'runs'), windows=PureWindowsPath('C:\\runs'))
  weights = read_weights(saved(tmp_path / 'w.pth', {'model': STATE, 'args': args}))
  assert weights.metadata['args'] == {'local': '/runs', 'windows': 'C:\\runs'}


@pytest.mark.parametrize('zipped', [True, False])
@pytest.mark.parametrize('kind', SETTINGS)
def test_plain_value_in_the_settings_is_read(kind: str, zipped: bool, tmp_path: Path) -> None:
  given, expected = SETTINGS[kind]
  contents = {'model': STATE, 'args': argparse.Namespace(value=given, lr=1e-3), 'value': given}
  weights = read_weights(saved(tmp_path / 'w.pth', contents, _use_new_zipfile_serialization=zipped))
  assert weights.flat.keys() == STATE.keys()
  assert weights.metadata['args'] == {'value': expected, 'lr': 1e-3}
  assert weights.metadata['value'] == expected and type(weights.metadata['value']) is type(expected)


THINGS = {
    'a NumPy array': lambda: np.arange(3.0), 'an array of another order': lambda: np.ones((2, 3), order='F'),
    'the state of NumPy': lambda: np.random.RandomState(0).get_state(), 'a complex number': lambda: 1j,
    'a NumPy complex number': lambda: np.complex64(1), 'a NumPy time': lambda: np.datetime64('2026-01-01'),
    'NumPy objects': lambda: np.array([None]), 'an ordered dictionary': lambda: collections.OrderedDict(a=1),
    'a dictionary with a default': lambda: collections.defaultdict(list, a=[1]),
    'a counter': lambda: collections.Counter('ab'), 'a shape': lambda: torch.Size([2, 3]),
    'a dtype': lambda: torch.bfloat16, 'a device': lambda: torch.device('cuda:0'), 'a set': lambda: {1, 2},
    'a frozen set': lambda: frozenset({1, 2}), 'a date': lambda: datetime.date(2026, 1, 1),
    'a time': lambda: datetime.datetime(2026, 1, 1), 'a duration': lambda: datetime.timedelta(3),
    'a UUID': lambda: uuid.UUID(int=3), 'a decimal number': lambda: decimal.Decimal('0.1'), 'a class': lambda: int,
    'bytes': lambda: b'abc', 'a large integer': lambda: 2**70, 'a simple namespace': lambda: types.SimpleNamespace(a=1),
    'a version': lambda: torch.__version__,
    'settings of EasyDict': lambda: instance_of('easydict.EasyDict', dict, {'lr': 1}),
    'settings of yacs': lambda: instance_of('yacs.config.CfgNode', dict, {'lr': 1}),
    'settings of Lightning': lambda: instance_of('lightning_fabric.utilities.data.AttributeDict', dict),
    'settings of OmegaConf':
        lambda: instance_of(
            'omegaconf.dictconfig.DictConfig', state={
                '_content': {'lr': instance_of('omegaconf.nodes.AnyNode', state={'_val': 1})}, '_metadata':
                    instance_of('omegaconf.base.ContainerMetadata', state={'ref_type': Any})})}


@pytest.mark.parametrize('kind', THINGS)
def test_harmless_thing_beside_the_tensors_is_passed_over(kind: str, tmp_path: Path, modules: None) -> None:
  path = saved(
      tmp_path / 'w.pth', {'model': STATE, 'thing': THINGS[kind](), 'args': argparse.Namespace(x=THINGS[kind](), y=1)})
  weights = read_weights(path)
  assert weights.flat.keys() == STATE.keys()
  assert weights.metadata['args']['y'] == 1


CODE = {
    'a function of Python': (lambda: Called(print, 'executed'), 'needs print to be called'),
    'a process': (lambda: Called(subprocess.Popen, ['touch', 'executed']), r'needs \w+\.Popen'),
    'an attribute': (lambda: Called(getattr, 'abc', 'upper'), 'needs getattr'), 'an evaluation':
        (lambda: Called(eval, '1'), 'needs eval'), 'an enumeration':
            (lambda: Colour.RED, r'needs \S*test_checkpoint_settings\.Colour'), 'a fraction':
                (lambda: fractions.Fraction(1, 3), r'needs fractions\.Fraction'), 'a file':
                    (lambda: Called(open, 'executed', 'w'), 'needs'), "a path's method":
                        (lambda: Called(Path.touch, Path('executed')), r'needs'), 'a NumPy file':
                            (lambda: Called(np.load, 'x.npy'), r'needs numpy')}


@pytest.mark.parametrize('kind', CODE)
def test_nothing_that_a_file_names_is_called(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
  make, cause = CODE[kind]
  path = saved(tmp_path / 'w.pth', {'model': STATE, 'x': make()})
  monkeypatch.chdir(tmp_path)
  with pytest.raises(UserError, match=cause) as error:
    read_weights(path)
  assert len(str(error.value).splitlines()) == 1
  assert [entry.name for entry in tmp_path.iterdir()] == ['w.pth']
  assert 'executed' not in capsys.readouterr().out
