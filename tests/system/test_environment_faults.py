"""Faults of the machine, such as a full disk: each ends a command with one line, and leaves nothing half-written.

Every command that writes is run under every fault. `pytest -m slow -s` of this file prints how each ended.
"""

import collections
from collections.abc import Iterator
import contextlib
from pathlib import Path
import shutil
import subprocess
import sys
import threading

import pytest

from tests.support import small_runs

pytestmark = pytest.mark.slow
ROOM = 200_000
"""Bytes on the small disk: less than any of the outputs takes."""


@pytest.fixture(scope='module')
def made(tmp_path_factory):
  """Records, a teacher, a pretrained and a fine-tuned run, and configs."""
  folder = tmp_path_factory.mktemp('made')
  data_dir, teacher = small_runs.write_records(folder), small_runs.write_teacher(folder / 'teacher')
  configs = {
      'pretrain': small_runs.pretrain_config(data_dir, teacher, epochs=1),
      'finetune': small_runs.finetune_config(data_dir, epochs=1)}
  for verb, config in configs.items():
    subprocess.run([sys.executable, *small_runs.command(f'uniemox_jax.{verb}', config, folder / verb)],
                   cwd=small_runs.ROOT, check=True, capture_output=True)
  return folder


def commands(made: Path, place: Path) -> dict[str, list[str]]:
  """Every command that writes, with its output in `place` and a name that is not there yet."""

  def config(verb):
    return f'--config={made}/{verb}_config.py'

  data = f'--data_dir={made}/data'
  return {
      'pretrain': ['uniemox_jax.pretrain', config('pretrain'), f'--workdir={place}/run'],
      'finetune': ['uniemox_jax.finetune', config('finetune'), f'--workdir={place}/run'],
      'train_clip': [
          'uniemox_jax.train_clip', '--config=configs/demo.py:clip', f'--config.data_dir={made}/data',
          '--config.epochs=1', '--config.batch_size=8', f'--workdir={place}/run'],
      'probe': [
          'uniemox_jax.probe', '--config=configs/probe.py:emo8', f'--config.init={made}/pretrain',
          f'--config.data_dir={made}/data', '--config.protocol=knn', f'--workdir={place}/run',
          *(f'--config.model.{key}={value}' for key, value in small_runs.ENCODER.items())],
      'zero_shot': [
          'uniemox_jax.zero_shot', f'--teacher={made}/teacher', f'--data_dir={made}/data', '--dataset=emo8',
          f'--workdir={place}/run'],
      'look': ['uniemox_jax.look', f'--checkpoint={made}/pretrain', data, '--dataset=emo8', f'--workdir={place}/run'],
      'predict': [
          'uniemox_jax.predict', f'--checkpoint={made}/finetune', f'--out={place}/run', f'{made}/raw/emo8/test'],
      'export_torch': ['uniemox_jax.export_torch', f'--checkpoint={made}/finetune', '--to=timm', f'--out={place}/run'],
      'import_torch': ['uniemox_jax.import_torch', f'{made}/teacher', f'--out={place}/run'],
      'compare': ['uniemox_jax.compare', '--config=configs/compare.py:demo', f'--workdir={place}/run'],
      'ablate': ['uniemox_jax.ablate', '--config=configs/demo.py', f'--demo_workdir={made}', f'--workdir={place}/run'],
      'demo': ['uniemox_jax.demo', f'--workdir={place}/run'],
      'build': ['data_pipelines.build', '--dataset=emo8', f'--source={made}/raw/emo8', f'--data_dir={place}/run'],
      'preview': ['data_pipelines.preview', data, '--dataset=emo8', f'--out={place}/run'],
      'person_boxes': [
          'data_pipelines.person_boxes', f'--source={made}/raw/emo8', '--detector=hog', f'--out={place}/run'],
      'synthetic': ['data_pipelines.synthetic', f'--out={place}/run'],}


@contextlib.contextmanager
def mounted(folder: Path, room: int) -> Iterator[Path]:
  """A file system of its own with so many bytes left."""
  folder.mkdir()
  size = 2**20
  made = subprocess.run(['mount', '-t', 'tmpfs', '-o', f'size={size}', 'tmpfs', folder], check=False,
                        capture_output=True)
  if made.returncode:
    pytest.skip('a small file system needs the right to mount')
  try:
    with open(folder / 'filler', 'wb', buffering=0) as filler, contextlib.suppress(OSError):
      filler.write(bytes(size - room))
    yield folder
  finally:
    subprocess.run(['umount', '-l', folder], check=True)


@contextlib.contextmanager
def faulty_place(fault: str, folder: Path) -> Iterator[Path]:
  """Where a command is to write, and cannot."""
  if fault == 'full disk':
    with mounted(folder, 0) as place:
      yield place
  elif fault == 'disk that fills up':
    with mounted(folder, ROOM) as place:
      yield place
  elif fault == 'read-only disk':
    with mounted(folder, 2**20) as place:
      subprocess.run(['mount', '-o', 'remount,ro', place], check=True)
      yield place
  elif fault == 'file in the way':
    folder.write_text('')
    yield folder
  else:
    folder.mkdir()
    yield folder


@contextlib.contextmanager
def removed_once_begun(folder: Path) -> Iterator[None]:
  """Removes the folder as soon as something has been put into it."""
  ended = threading.Event()

  def remove() -> None:
    while not ended.wait(0.02) and not any(folder.iterdir()):
      pass
    shutil.rmtree(folder, ignore_errors=True)

  thread = threading.Thread(target=remove)
  thread.start()
  yield
  ended.set()
  thread.join()


LIMITS = {'few descriptors': 'RLIMIT_NOFILE, (48, 48)', 'small files only': 'RLIMIT_FSIZE, (4096, 4096)'}
REMOVED = 'folder removed meanwhile'
FAULTS = ('full disk', 'read-only disk', 'file in the way', 'disk that fills up', *LIMITS, REMOVED)
LONG = ('demo', 'compare', 'ablate')
"""They start many runs: under faults that let these begin, they are left out."""


def ending(fault: str, command: list[str], place: Path) -> tuple[str, str]:
  """How the command ends, and what it says: 'named', 'not met', 'traceback', 'remains'."""
  limit = f'resource.setrlimit(resource.{LIMITS[fault]})' if fault in LIMITS else ''
  process = small_runs.start([
      '-c', f'import resource, runpy, sys\n{limit}\nsys.argv = {command!r}\n'
      'runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)'])
  with removed_once_begun(place) if fault == REMOVED else contextlib.nullcontext():
    said = process.communicate(timeout=400)[0]
  errors = [text for text in said.splitlines() if text.startswith('error: ')]
  if process.returncode == 0:
    return 'not met', ''
  if process.returncode != 2 or len(errors) != 1 or 'Traceback' in said:
    return 'traceback', f'{process.returncode}: {said[-1500:]}'
  # The next run removes a step that was not written whole, and goes on from what `person_boxes` has found.
  left = [
      path for path in place.rglob('*') if path.name.startswith(('.', 'incomplete')) or 'tmp' in path.name
      if '.orbax-checkpoint-tmp' not in str(path) and path.suffix != '.unfinished']
  return ('remains', f'{errors[0]} {" ".join(map(str, left))}') if left else ('named', errors[0])


@pytest.mark.parametrize('fault', [*FAULTS, 'none'])
def test_every_fault_of_the_machine_is_one_line_and_leaves_nothing_half_written(made, tmp_path, fault):
  counts: collections.Counter[str] = collections.Counter()
  bad = []
  for verb in sorted(commands(made, tmp_path).keys() - set(() if fault in FAULTS[:3] else LONG)):
    with faulty_place(fault, tmp_path / verb) as place:
      kind, said = ending(fault, commands(made, place)[verb], place)
    counts[kind] += 1
    print(f'{fault:20} {verb:14} {kind:10} {said}', flush=True)
    if kind in ('traceback', 'remains') or fault == 'none' and kind != 'not met':
      bad.append((verb, said))
  assert not bad, counts
