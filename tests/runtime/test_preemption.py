"""SIGTERM in every phase, in one process and two: saved once, at the same step, exit code 75, resumed to the bit.

The fast test of one of two processes is in tests/system/test_runs.py, beside the run that it is compared with.
"""

import json
from pathlib import Path
import re
import signal
import time

import jax
from ml_collections import ConfigDict
import numpy as np
import pytest

from configs import demo
from data_pipelines import build
from data_pipelines.synthetic import datasets
from tests.support import small_runs
from tests.support.fork_server import ForkedProcess
from uniemox_jax.demo import DATASETS
from uniemox_jax.runtime.preemption import EXIT_CODE
from uniemox_jax.teacher.frozen_clip import abstract_clip, save_clip
from uniemox_jax.train.checkpoint import FOLDER
from uniemox_jax.train.settings import TeacherShape
from uniemox_jax.train.setup import clip_of_shape

SECONDS = 10
"""Within which a run of the demo's size must have saved and ended, on a machine that does nothing else."""
PATIENT_SECONDS = 60
"""The same for small runs, of which one runs beside other tests."""
EMOSET_EXAMPLES = 2400
PHASES = ('compile', 'train', 'evaluate', 'save')
ONE_OF_TWO = ('pretrain', 'train', 2, 1)
# Verb, phase, how many processes there are, how many of them get the signal.
CASES = [(verb, phase, processes, processes)
         for verb in ('pretrain', 'finetune')
         for phase in PHASES
         for processes in (1, 2)] + [('pretrain', 'compile', 2, 1), ('finetune', 'train', 2, 1),
                                     ('finetune', 'evaluate', 2, 1), ('pretrain', 'save', 2, 1)]


@pytest.fixture(scope='module')
def configs(data_dir: str, clip_folder: Path) -> dict[str, ConfigDict]:
  return {
      'pretrain': small_runs.pretrain_config(data_dir, clip_folder),
      'finetune': small_runs.finetune_config(data_dir, epochs=3)}


@pytest.fixture(scope='module')
def demo_configs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ConfigDict]:
  """The demo's configs, models and images, but for fewer epochs and a teacher with random weights."""
  folder = tmp_path_factory.mktemp('demo')
  config = demo.get_config()
  datasets.draw(folder / 'raw', EMOSET_EXAMPLES)
  for dataset in DATASETS:
    build.build(dataset, folder / 'raw' / dataset, folder / 'data')
  clip = clip_of_shape(TeacherShape(**config.pretrain.teacher_shape)).config
  params = jax.tree.map(
      lambda leaf: np.random.default_rng(0).normal(0, 0.05, leaf.shape).astype(np.float32),
      abstract_clip(clip)[1])
  save_clip(folder / 'teacher', clip, params)
  configs = {verb: config[verb] for verb in ('pretrain', 'finetune')}
  for section in configs.values():
    section.data_dir = str(folder / 'data')
  configs['pretrain'].update({'teacher': str(folder / 'teacher'), 'epochs': 1, 'save_every': 6, 'images_every': 12})
  configs['finetune'].update({'epochs': 2, 'eval_every_epochs': 1})
  return configs


class WholeRuns(dict):
  """Runs that nobody ended, made when first asked for by (verb, processes), all in one environment."""

  def __init__(self, folder: Path, configs: dict[str, ConfigDict], **environment: str):
    super().__init__()
    self._folder, self._configs, self.environment = folder, configs, environment

  def __missing__(self, asked: tuple[str, int]) -> Path:
    verb, processes = asked
    workdir = self._folder / f'{verb}_{processes}'
    command = small_runs.command(f'uniemox_jax.{verb}', self._configs[verb], workdir)
    small_runs.finish(*small_runs.start_group(command, processes, **self.environment))
    self[asked] = workdir
    return workdir


@pytest.fixture(scope='module')
def whole_runs(configs: dict[str, ConfigDict], tmp_path_factory: pytest.TempPathFactory) -> WholeRuns:
  return WholeRuns(tmp_path_factory.mktemp('whole'), configs)


@pytest.fixture(scope='module')
def whole_demo_runs(demo_configs: dict[str, ConfigDict], tmp_path_factory: pytest.TempPathFactory) -> WholeRuns:
  as_a_user = f'{small_runs.DEVICE_COUNT}1'  # without the quick compilation of the tests, which makes slow programs
  return WholeRuns(tmp_path_factory.mktemp('whole_demo'), demo_configs, XLA_FLAGS=as_a_user)


def end_in_phase(group: list[ForkedProcess], phase: str, signalled: int, seconds: float) -> list[str]:
  """Sends SIGTERM to the last processes when the first says that the phase begins; what each then said."""
  for line in group[0].stdout:
    if line.startswith(f'PHASE {phase}'):
      break
  for process in group[-signalled:]:
    process.send_signal(signal.SIGTERM)
  began = time.monotonic()
  said = small_runs.finish(*group, code=EXIT_CODE)
  took = time.monotonic() - began
  print(f'{phase}, {signalled} of {len(group)} signalled: ended in {took:.1f} s')
  assert took < seconds
  return said


def announcing(command: list[str], verb: str) -> list[str]:
  """The same by `tests.support.phases`."""
  return ['-m', 'tests.support.phases', verb, *command[2:]]


def check_ends(
    command: list[str], workdir: Path, case: tuple[str, str, int, int], seconds: float, devices: int = 1,
    **environment: str) -> None:
  """Starts a command and signals it; all its processes end in time, and have saved the same step."""
  verb, phase, processes, signalled = case
  group = small_runs.start_group(announcing(command, verb), processes, devices, **environment)
  said = end_in_phase(group, phase, signalled, seconds)
  saved = [re.search(r'pre-empted: step (\d+) is saved', text) for text in said]
  assert len({match and match[1] for match in saved}) == 1, said
  if saved[0]:
    assert (workdir / FOLDER / saved[0][1]).is_dir()
  else:
    assert 'nothing is unsaved' in said[0] or 'no step was done yet' in said[0], said


def check_ends_and_resumes(
    configs: dict[str, ConfigDict], whole_runs: WholeRuns, workdir: Path, case: tuple[str, str, int, int],
    seconds: float) -> None:
  verb, _, processes, _ = case
  command = small_runs.command(f'uniemox_jax.{verb}', configs[verb], workdir)
  check_ends(command, workdir, case, seconds, **whole_runs.environment)
  small_runs.finish(*small_runs.start_group(command, processes, **whole_runs.environment))
  assert small_runs.same_weights(whole_runs[verb, processes], workdir)
  assert [path.read_bytes() for path in whole_runs[verb, processes].glob('result.json')
         ] == [path.read_bytes() for path in workdir.glob('result.json')]


@pytest.mark.slow
@pytest.mark.parametrize('case', [('finetune', 'evaluate', 1, 1), ONE_OF_TWO], ids=str)
def test_sigterm_saves_and_the_run_ends_bit_equal(configs, whole_runs, tmp_path, case):
  check_ends_and_resumes(configs, whole_runs, tmp_path / 'run', case, PATIENT_SECONDS)


@pytest.mark.slow
@pytest.mark.parametrize('processes', [1, 2])
def test_sigterm_while_a_resumed_run_saves_the_step_that_was_unevaluated(configs, whole_runs, tmp_path, processes):
  workdir = tmp_path / 'run'
  command = small_runs.command('uniemox_jax.finetune', configs['finetune'], workdir)
  for phase, unevaluated in (('evaluate', True), ('replace', False)):
    end_in_phase(small_runs.start_group(announcing(command, 'finetune'), processes), phase, processes, PATIENT_SECONDS)
    assert [path.name for path in (workdir / FOLDER).iterdir()] == ['5']
    assert json.loads((workdir / FOLDER / '5' / 'record' / 'metadata').read_text())['unevaluated'] == unevaluated
  small_runs.finish(*small_runs.start_group(command, processes))
  assert small_runs.same_weights(whole_runs['finetune', processes], workdir)


@pytest.mark.slow
@pytest.mark.parametrize('case', CASES, ids=str)
def test_sigterm_in_every_phase_at_demo_size(demo_configs, whole_demo_runs, tmp_path, case):
  check_ends_and_resumes(demo_configs, whole_demo_runs, tmp_path / 'run', case, SECONDS)
