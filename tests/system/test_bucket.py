"""Everything in a bucket: the bits of a disk, hardly more bytes than the records have, and one line if it refuses."""

import json
from pathlib import Path
import re
import shutil
import signal

import pytest

from tests.support import exported, small_runs
from tests.support.servers import bucket as buckets
from uniemox_jax.convert.formats import onnx_files
from uniemox_jax.export_torch import export_torch
from uniemox_jax.recognition.recogniser import open_recogniser

KINDS = ('write', 'look up', 'list', 'read', 'delete', 'copy', 'bucket')
"""Of requests, as `bucket_server` counts them."""
READ_ALL = """
import hashlib, sys
from data_pipelines.records.reader import open_split
split = open_split(sys.argv[1], 'emo8', 'train')
positions = list(range(split.num_examples))
print(hashlib.sha256(b''.join(split.read_many(positions))).hexdigest(), len(list(split.annotations())))
"""

READ_VIEWS = """
import hashlib, sys
import numpy as np
from data_pipelines.records.reader import open_split
from uniemox_jax.train.teacher_views import view_embeddings
from uniemox_jax.runtime.cli import load_config
from uniemox_jax.teacher.frozen_clip import load_clip
from uniemox_jax.teacher.step_teacher import make_teacher
from uniemox_jax.train.config import PretrainConfig
from uniemox_jax.train.schema import parse
config = parse(PretrainConfig, load_config(sys.argv[1]))
split = open_split(config.data_dir, config.dataset, config.split)
clip = load_clip(config.teacher)
teacher, frozen = make_teacher(clip, np.float32)
kept, computed = view_embeddings(config, split, clip.digest, teacher, frozen, None)
embedded = [kept.at(view, np.arange(split.num_examples)) for view in (0, 1, 0)]
print(computed, np.stack(embedded).shape, hashlib.sha256(np.stack(embedded).tobytes()).hexdigest())
"""

SAVE = """
import sys
import jax.numpy as jnp
from uniemox_jax.train.checkpoint import Checkpoints
from uniemox_jax.train.state import TrainState
layers = {f'layer{number}': {'kernel': jnp.ones((4, 4)), 'bias': jnp.ones(4)} for number in range(75)}
checkpoints = Checkpoints(sys.argv[1], {'kind': 'a student'}, 'a device')
checkpoints.save(TrainState(jnp.asarray(1), layers, {'mu': layers}))
checkpoints.close()
"""

READ_ONNX = """
import sys
from uniemox_jax.recognition.recogniser import open_recogniser
print([open_recogniser(source).weights_sha256 for source in sys.argv[1:]])
"""


@pytest.fixture(scope='module')
def bucket(tmp_path_factory, data_dir):
  """A bucket with records and a teacher."""
  folder = tmp_path_factory.mktemp('bucket')
  with buckets.running(folder) as running:
    running.upload(Path(data_dir), 'data')
    running.upload(small_runs.write_teacher(folder / 'teacher'), 'teacher')
    yield running


@pytest.fixture(autouse=True)
def calm(bucket):
  """Every test begins with a bucket that answers at once, and with counts of zero."""
  bucket.set()


def run(bucket, *arguments, code=0):
  """A command to its end, where every library takes the emulator for Google's storage.

  Returns:
    The lines that it says, without those of TensorFlow's search for credentials.
  """
  [said] = small_runs.finish(small_runs.start(arguments, **bucket.environment), code=code)
  return [line for line in said.splitlines() if 'google_auth_provider' not in line]


def train(bucket, arguments, processes, kill_at=None):
  """Trains in this many processes to the end, or until one of them is killed; what the first one says."""
  group = small_runs.start_group(arguments, processes, **bucket.environment)
  told = []
  for line in group[0].stdout:
    told.append(line)
    if kill_at and re.search(kill_at, line):
      group[-1].kill()
  codes = [process.wait(60) for process in group]
  assert codes == ([75] * (processes - 1) + [-signal.SIGKILL] if kill_at else [0] * processes), ''.join(told)
  return ''.join(told)


def test_all_records_cost_little_more_than_their_bytes(bucket, data_dir):
  shards = Path(data_dir).glob('emo8/*/emo8-train.tfrecord*')
  size = sum(path.stat().st_size for path in shards)
  bucket.set(latency=0.03)
  told = run(bucket, '-c', READ_ALL, f'{bucket.url}/data')
  assert bucket.counts()['bytes'] < 1.1 * size + 100_000  # the JSON files and the index beside them
  assert told == run(bucket, '-c', READ_ALL, data_dir)


@pytest.mark.slow
def test_an_onnx_file_brings_the_weights_beside_it(bucket, tmp_path, monkeypatch):
  monkeypatch.setattr(onnx_files, 'MAX_INLINE', 1000)
  exported.saved(tmp_path / 'run', 'classifier', **exported.TINY, classes=8)
  export_torch(str(tmp_path / 'run'), 'onnx', str(tmp_path / 'onnx'))
  assert (tmp_path / 'onnx' / 'model.onnx.data').is_file()
  bucket.upload(tmp_path / 'onnx', 'onnx')
  [told] = run(bucket, '-c', READ_ONNX, f'{bucket.url}/onnx', f'{bucket.url}/onnx/model.onnx')[-1:]
  assert told == str([open_recogniser(str(tmp_path / 'onnx')).weights_sha256] * 2)


def test_a_save_of_300_arrays_takes_some_two_hundred_requests(bucket):
  run(bucket, '-c', SAVE, f'{bucket.url}/save')
  counts = bucket.counts()
  kinds = {kind: counts.get(kind, 0) for kind in KINDS}
  print(kinds)
  assert sum(kinds.values()) == counts['requests'] < 250


def test_views_embedded_into_a_bucket_are_those_of_a_disk(bucket, data_dir, tmp_path, monkeypatch):
  monkeypatch.setenv('TMPDIR', str(tmp_path))
  shutil.copytree(data_dir, tmp_path / 'data')
  told = []
  for place, data, teacher in (('disk', str(tmp_path / 'data'), small_runs.write_teacher(tmp_path / 'teacher')),
                               ('bucket', f'{bucket.url}/data', f'{bucket.url}/teacher')):
    config = small_runs.pretrain_config(data, teacher)
    config.teacher_views = 2
    embedding = small_runs.command('uniemox_jax.embed', config, tmp_path / place)[:-1]
    assert '112 views embedded' in run(bucket, *embedding)[-1]
    told.append(run(bucket, '-c', READ_VIEWS, tmp_path / f'{place}_config.py')[-1])
  assert told[0] == told[1] and told[0].startswith('0 (3, 56, 12) ')
  assert len(bucket.names('data/view_cache/')) >= 2
  [copies] = tmp_path.glob('uniemox_jax-*')
  assert not list(copies.iterdir())


@pytest.mark.parametrize(
    'fault', [
        pytest.param({'unavailable': 0.05, 'cut': 0.01}, id='unsteady'),
        pytest.param({'hold': 8}, id='storm of 429', marks=pytest.mark.slow)])
def test_an_unsteady_bucket_is_asked_again(bucket, data_dir, fault):
  bucket.set(**fault)
  assert run(bucket, '-c', READ_ALL, f'{bucket.url}/data') == run(bucket, '-c', READ_ALL, data_dir)


@pytest.mark.parametrize('verb', ['evaluate', 'data_pipelines.preview'])
def test_an_expired_token_is_one_line(bucket, verb):
  bucket.set(status=401)
  arguments = [f'--workdir={bucket.url}/runs/pre'] if verb == 'evaluate' else [
      f'--data_dir={bucket.url}/data', '--dataset=emo8', f'--out={bucket.url}/sheet.png']
  module = verb if '.' in verb else f'uniemox_jax.{verb}'
  errors = run(bucket, '-m', module, *arguments, code=2)
  assert len(errors) == 1 and errors[0].startswith('error: ') and 'gcloud auth' in errors[0], errors


@pytest.mark.parametrize(
    'line', [('uniemox_jax.demo', '--workdir=gs://bucket/demo'),
             ('uniemox_jax.compare', '--config=configs/compare.py', '--workdir=gs://bucket/compare'),
             ('uniemox_jax.predict', '--checkpoint=x', '--out=gs://bucket/table.csv', 'x.jpg'),
             ('uniemox_jax.import_torch', 'x', '--out=gs://bucket/imported'),
             ('data_pipelines.build', '--dataset=emo8', '--source=gs://bucket/raw', '--data_dir=data'),
             ('data_pipelines.synthetic', '--out=gs://bucket/raw'),
             ('data_pipelines.person_boxes', '--source=gs://bucket/raw', '--detector=hog')], ids=lambda line: line[0])
def test_a_command_that_needs_a_disk_says_so_before_any_work(capsys, command, line, assert_one_line):
  module, *arguments = line
  assert_one_line(command(module, *arguments), capsys.readouterr().err, 'gs://bucket/', 'must be a local path')


@pytest.mark.parametrize('flag', ['--workdir=s3://bucket/run', '--config.data_dir=s3://bucket/data'])
def test_a_bucket_of_another_kind_is_one_line(capsys, command, tmp_path, flag, assert_one_line):
  code = command(
      'uniemox_jax.pretrain', f'--config={small_runs.ROOT}/configs/demo.py:pretrain', f'--workdir={tmp_path}', flag)
  assert_one_line(code, capsys.readouterr().err, 's3://bucket/', 'only a local path or gs://BUCKET/PATH')


def test_records_built_into_a_bucket_are_those_of_a_disk(bucket, data_dir):
  source = Path(data_dir).parent / 'raw' / 'emo8'
  run(bucket, '-m', 'data_pipelines.build', '--dataset=emo8', f'--source={source}', f'--data_dir={bucket.url}/built')
  local = next(Path(data_dir).glob('emo8/*/manifest.json')).parent
  names = {Path(name).name for name in bucket.names(f'built/emo8/{local.name}/')}
  assert names >= {path.name for path in local.iterdir()}
  for name in ('manifest.json', 'emo8-train.annotations.jsonl'):
    assert bucket.read(f'built/emo8/{local.name}/{name}') == (local / name).read_bytes()


def download(bucket, prefix, folder):
  for name in bucket.names(prefix):
    if not name.endswith('/'):
      path = folder / name
      path.parent.mkdir(parents=True, exist_ok=True)
      path.write_bytes(bucket.read(name))
  return folder / prefix


@pytest.mark.slow
@pytest.mark.parametrize('processes', [1, 2])
def test_the_whole_way_in_an_unsteady_bucket_gives_the_bits_of_a_disk(bucket, data_dir, tmp_path, processes):
  """Pretraining that is killed and resumed, fine-tuning, evaluation, prediction and export."""
  made = {}
  runs = f'runs{processes}'
  for place, data, teacher in (('disk', data_dir, tmp_path / 'teacher'), ('bucket', f'{bucket.url}/data', None)):
    root = str(tmp_path / 'disk') if place == 'disk' else bucket.url
    teacher = small_runs.write_teacher(teacher) if teacher else f'{bucket.url}/teacher'
    config = small_runs.pretrain_config(data, teacher)
    config.teacher_views = 2
    pretraining = small_runs.command('uniemox_jax.pretrain', config, tmp_path / f'{place}_pre')[:-1]
    pretraining.append(f'--workdir={root}/{runs}/pre')
    if place == 'bucket':
      bucket.set(unavailable=0.05, cut=0.01)
      train(bucket, pretraining, processes, kill_at='pretrain 8/')
    assert ('resumes' in train(bucket, pretraining, processes)) == (place == 'bucket')
    config = small_runs.finetune_config(data)
    config.init = f'{root}/{runs}/pre'
    finetuning = small_runs.command('uniemox_jax.finetune', config, tmp_path / f'{place}_fine')[:-1]
    train(bucket, [*finetuning, f'--workdir={root}/{runs}/fine'], processes)
    run(bucket, '-m', 'uniemox_jax.evaluate', f'--workdir={root}/{runs}/fine', '--split=val')
    table = tmp_path / f'{place}.csv'
    run(
        bucket, '-m', 'uniemox_jax.predict', f'--checkpoint={root}/{runs}/fine', f'--out={table}',
        Path(data_dir).parent / 'raw' / 'emo8' / 'test')
    run(
        bucket, '-m', 'uniemox_jax.export_torch', f'--checkpoint={root}/{runs}/fine', '--to=timm',
        f'--out={root}/{runs}/exported')
    bucket.set()
    folder = tmp_path / 'disk' if place == 'disk' else download(bucket, runs, tmp_path / 'fetched').parent
    made[place] = folder, table.read_bytes()
  (disk, disk_table), (fetched, bucket_table) = made['disk'], made['bucket']
  assert disk_table == bucket_table
  for name in ('result.json', 'result_val.json'):
    ours, theirs = (json.loads((folder / runs / 'fine' / name).read_text()) for folder in (disk, fetched))
    for key in ('init', 'config_hash', 'seal'):  # they hold the paths
      del ours[key], theirs[key]
    assert ours == theirs
  weights = 'exported/model.safetensors'
  assert (disk / runs / weights).read_bytes() == (fetched / runs / weights).read_bytes()
  steps = [len(re.findall('"loss"', (folder / runs / 'pre/metrics.jsonl').read_text())) for folder in (disk, fetched)]
  assert steps[0] == steps[1] > 0
  events = bucket.names(f'{runs}/pre/tensorboard/')
  assert events and sum(len(bucket.read(name)) for name in events) < 1_000_000
