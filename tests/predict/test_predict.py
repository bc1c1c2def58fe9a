"""`predict`: a row for everything it is given, in order, the same after a kill; and one line for mistakes."""

from collections.abc import Callable
import io
import json
import os
from pathlib import Path
import re
import subprocess
import sys
import time

import jax
import numpy as np
from PIL import Image
import pytest

from data_pipelines import images, storage
from data_pipelines.errors import UserError
from tests.support import small_runs
from tests.support.image_corpus import coloured, colourless, unusable
from tests.support.predictions import LABELS, SMALL, assert_refused, draw, rows_of, save_random
import uniemox_jax
from uniemox_jax.models.classifier import Classifier
from uniemox_jax.models.registry import Encoder
from uniemox_jax.predict import prediction
from uniemox_jax.predict.prediction import predict_images
from uniemox_jax.recognition import predictor as inference
from uniemox_jax.recognition.predictor import Predictor, fastest_batch
from uniemox_jax.recognition.recogniser import open_recogniser
from uniemox_jax.train.checkpoint import save_weights
from uniemox_jax.train.state import builder, initial_params

ROOT = Path(__file__).parents[2]
COLUMNS = ['path', 'label', 'probability', 'p_amusement', 'p_awe', 'p_sadness', 'error']


@pytest.fixture(scope='session')
def other_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
  return save_random(tmp_path_factory.mktemp('other'), seed=1)


@pytest.fixture(scope='session')
def encoder(tmp_path_factory: pytest.TempPathFactory) -> str:
  folder = str(tmp_path_factory.mktemp('encoder'))
  params = jax.device_get(initial_params(builder(Encoder, **SMALL), 0))
  save_weights(folder, params, {'kind': 'encoder', 'model': SMALL})
  return folder


def probabilities(rows: list[dict[str, str]]) -> np.ndarray:
  return np.array([[float(row[f'p_{label}']) for label in LABELS] for row in rows])


def test_every_file_of_the_corpus_has_its_row(checkpoint: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
  readable, broken = coloured() | colourless(), unusable()
  folder = tmp_path / 'corpus'
  folder.mkdir()
  for name, data in (readable | {name: data for name, (data, _) in broken.items()}).items():
    (folder / name).write_bytes(data)
  (folder / 'gone.jpg').symlink_to('nowhere')
  os.mkfifo(folder / 'pipe.jpg')
  os.mkfifo(folder / 'another pipe')
  summary = predict_images(checkpoint, [str(folder)], str(tmp_path / 'out.csv'))
  rows = {Path(row['path']).name.removesuffix('#t=0.0'): row for row in rows_of(tmp_path / 'out.csv')}
  reasons = {name: reason for name, (_, reason) in broken.items()} | {'gone.jpg': 'No such file', 'pipe.jpg': 'a pipe'}
  passed_over = {'paper.pdf', 'drawing.svg'}
  assert rows.keys() == readable.keys() | reasons.keys() - passed_over
  assert list(rows) == sorted(rows)
  for name, row in rows.items():
    if name in readable:
      assert not row['error'] and abs(probabilities([row]).sum() - 1) < 1e-5
    else:
      assert re.search(reasons[name], row['error']), row
      assert not any(row[column] for column in COLUMNS if column not in ('path', 'error'))
  assert (summary.predicted, summary.unreadable) == (len(readable), len(reasons) - len(passed_over))
  assert summary.repaired[images.MISSING_END] == 2 and summary.repaired[images.UNREADABLE_METADATA] >= 14
  assert f'2 {images.MISSING_END}' in capsys.readouterr().err.splitlines()


def test_probabilities_are_those_of_the_python_api(checkpoint: str, tmp_path: Path) -> None:
  """To 0.01 here, where differences of 1 in a pixel meet a head of large weights; docs/predict.md measures more."""
  paths = draw(tmp_path / 'images', 20)
  predict_images(checkpoint, paths, str(tmp_path / 'out.csv'))
  rows = rows_of(tmp_path / 'out.csv')
  classifier = uniemox_jax.load_classifier(checkpoint)
  theirs = classifier.predict_proba(np.stack([np.asarray(Image.open(path)) for path in paths]))
  np.testing.assert_allclose(probabilities(rows), theirs, atol=0.01)
  assert [row['label'] for row in rows] == [LABELS[index] for index in theirs.argmax(1)]
  assert all(float(row['probability']) == float(row[f"p_{row['label']}"]) for row in rows)
  assert len({row['label'] for row in rows}) > 1


@pytest.mark.parametrize('size', [(500, 375), (64, 130), (97, 96), (1000, 300), (40, 60), (256, 341)])
def test_view_is_that_of_evaluation(size: tuple[int, int]) -> None:
  from data_pipelines.batches import augment

  small = np.random.default_rng(0).integers(0, 256, (size[1] // 6, size[0] // 6, 3), np.uint8)
  buffer = io.BytesIO()
  Image.fromarray(small).resize(size, Image.Resampling.BICUBIC).save(buffer, 'JPEG', quality=95)
  for side in (96, 224):
    ours = images.evaluation_view(Image.open(buffer), side).astype(int)
    theirs = augment.evaluation_view(buffer.getvalue(), side).numpy().astype(int)
    assert np.abs(ours - theirs).max() <= 2 and np.abs(ours - theirs).mean() < 0.3


def test_files_folders_globs_and_lists_keep_their_order_and_are_predicted_once(
    checkpoint: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
  first, second = draw(tmp_path / 'b', 2), draw(tmp_path / 'a' / 'deep [1]', 2, seed=1)
  (tmp_path / 'a' / 'notes.md').write_text('no image')
  (tmp_path / 'a' / '.hidden.png').write_bytes(b'')
  listed = draw(tmp_path / 'c', 3, seed=2)
  (tmp_path / 'list.txt').write_text(f'{listed[2]}\r\n\n{listed[0]}\n{tmp_path}/missing, "now".png\n{first[0]}\n')
  predict_images(
      checkpoint,
      [first[1], str(tmp_path / 'list.txt'),
       str(tmp_path / 'a'),
       str(tmp_path / '[b-c]' / '*1.png')], str(tmp_path / 'out.csv'))
  paths = [row['path'] for row in rows_of(tmp_path / 'out.csv')]
  assert paths == [first[1], listed[2], listed[0], f'{tmp_path}/missing, "now".png', first[0], *second, listed[1]]
  said = capsys.readouterr().err
  assert '7 predicted, 1 unreadable' in said and 'No such file' in said
  assert '1 named again' in said and '1 *.md' in said and '1 .*' in said


def test_names_that_are_no_text_stay_on_one_line(checkpoint: str, tmp_path: Path) -> None:
  path = draw(tmp_path / 'images', 1)[0]
  os.rename(path, os.fsencode(tmp_path / 'images') + b'/a\nb\xff.png')
  for _ in range(2):
    predict_images(checkpoint, [str(tmp_path / 'images')], str(tmp_path / 'out.csv'), append=True)
  lines = (tmp_path / 'out.csv').read_text(encoding='utf-8').splitlines()
  assert len(lines) == 2 and r'a\nb\xff.png,' in lines[1]


def test_json_lines_hold_what_csv_holds(checkpoint: str, tmp_path: Path) -> None:
  draw(tmp_path / 'images', 3)
  (tmp_path / 'images' / 'broken.jpg').write_bytes(b'')
  for name in ('out.csv', 'out.jsonl'):
    predict_images(checkpoint, [str(tmp_path / 'images')], str(tmp_path / name))
  objects = [json.loads(line) for line in (tmp_path / 'out.jsonl').read_text().splitlines()]
  for row, found in zip(rows_of(tmp_path / 'out.csv'), objects, strict=True):
    assert list(found) == list(row) == COLUMNS
    assert {
        key: '' if value is None else f'{value:.6f}' if isinstance(value, float) else value
        for key, value in found.items()} == row


def test_what_is_said_of_a_model_is_not_in_the_table(checkpoint, tmp_path, monkeypatch, capfd):
  draw(tmp_path / 'images', 2)
  loaded = prediction.open_predictor
  monkeypatch.setattr(prediction, 'open_predictor', lambda model: print('a ViT') or loaded(model))
  predict_images(checkpoint, [str(tmp_path / 'images')])
  said = capfd.readouterr()
  assert said.out.startswith('path,label') and 'a ViT' not in said.out and 'a ViT' in said.err


def test_a_batch_is_no_larger_than_there_are_images(checkpoint, tmp_path):
  draw(tmp_path / 'images', 3)
  predict_images(checkpoint, [str(tmp_path / 'images')], str(tmp_path / 'out.csv'), batch_size=16_384)
  made_by = storage.read_json_object(tmp_path / 'out.csv.made_by.json')
  assert made_by['batch_size'] == inference.round_up(3, jax.device_count())


def test_without_out_the_table_is_standard_output(checkpoint: str, tmp_path: Path) -> None:
  draw(tmp_path / 'images', 3)
  predict_images(checkpoint, [str(tmp_path / 'images')], str(tmp_path / 'out.csv'))
  done = subprocess.run(
      [sys.executable, '-m', 'uniemox_jax.predict', f'--checkpoint={checkpoint}',
       str(tmp_path / 'images')], cwd=ROOT, capture_output=True, text=True, check=True)
  assert done.stdout == (tmp_path / 'out.csv').read_text()
  assert done.stderr.endswith('standard output: 3 predicted, 0 unreadable\n')


@pytest.mark.parametrize('name', ['out.csv', 'out.jsonl'])
@pytest.mark.parametrize('cut', [1, 40, 700, 1500])
def test_cut_table_is_completed_to_the_same_bytes(checkpoint: str, tmp_path: Path, name: str, cut: int) -> None:
  draw(tmp_path / 'images', 30)
  (tmp_path / 'images' / '0013x.png').write_bytes(b'')
  whole, resumed = tmp_path / f'whole_{name}', tmp_path / name
  for out in (whole, resumed):
    predict_images(checkpoint, [str(tmp_path / 'images')], str(out), batch_size=8)
  resumed.write_bytes(whole.read_bytes()[:cut])
  predict_images(checkpoint, [str(tmp_path / 'images')], str(resumed), append=True)
  assert resumed.read_bytes() == whole.read_bytes()


def test_killed_run_is_completed_to_the_same_bytes(checkpoint: str, tmp_path: Path) -> None:
  draw(tmp_path / 'images', 1200)
  predict_images(checkpoint, [str(tmp_path / 'images')], str(tmp_path / 'whole.csv'), batch_size=8)
  out = tmp_path / 'out.csv'
  arguments = [
      '-m', 'uniemox_jax.predict', f'--checkpoint={checkpoint}', f'--out={out}', '--append', '--batch_size=8',
      tmp_path / 'images']
  process = small_runs.start(arguments, devices=8)
  deadline = time.monotonic() + 120
  while not (out.exists() and out.stat().st_size > 5000):
    assert process.poll() is None and time.monotonic() < deadline
    time.sleep(0.005)
  process.kill()
  process.wait()
  written = out.read_bytes()
  assert written.count(b'\n') < 1100
  assert (tmp_path / 'whole.csv').read_bytes().startswith(written[:written.rfind(b'\n') + 1])
  small_runs.finish(small_runs.start(arguments, devices=8))
  assert out.read_bytes() == (tmp_path / 'whole.csv').read_bytes()


def test_other_images_are_appended(checkpoint: str, tmp_path: Path) -> None:
  first, second = draw(tmp_path / 'a', 3), draw(tmp_path / 'b', 3, seed=1)
  predict_images(checkpoint, first, str(tmp_path / 'out.csv'))
  before = (tmp_path / 'out.csv').read_bytes()
  predict_images(checkpoint, [*second, *first], str(tmp_path / 'out.csv'), append=True)
  assert (tmp_path / 'out.csv').read_bytes().startswith(before)
  assert [row['path'] for row in rows_of(tmp_path / 'out.csv')] == first + second


def test_larger_images_are_rejected_by_a_flag_that_their_rows_name(checkpoint: str, tmp_path: Path) -> None:
  paths, out = draw(tmp_path / 'images', 2), tmp_path / 'out.csv'
  Image.new('RGB', (200, 100)).save(paths[1])
  predict_images(checkpoint, paths, str(out), max_megapixels=0.01)
  assert [row['error'] for row in rows_of(out)
         ] == ['', '200 x 100 pixels: over 0.01 megapixels (build and predict take --max_megapixels)']
  assert_refused(
      lambda: predict_images(checkpoint, paths, str(out), append=True), r'another max megapixels \(0.01, now 64\)')


def test_table_of_a_version_without_the_flag_goes_on(checkpoint: str, tmp_path: Path) -> None:
  paths, out = draw(tmp_path / 'images', 4), tmp_path / 'out.csv'
  predict_images(checkpoint, paths[:2], str(out))
  description = Path(f'{out}.made_by.json')
  made_by = storage.read_json_object(description)
  del made_by['max_megapixels'], made_by['shard']
  storage.write_sealed(description, made_by)
  predict_images(checkpoint, paths, str(out), append=True)
  assert [row['path'] for row in rows_of(out)] == paths


def test_a_refused_run_leaves_nothing_and_the_mended_one_writes_the_table(checkpoint: str, tmp_path: Path) -> None:
  path, out = tmp_path / 'a.jpg', tmp_path / 'tables' / 'out.csv'
  out.parent.mkdir()
  path.write_bytes(b'no image')
  assert_refused(lambda: predict_images(checkpoint, [str(path)], str(out)), 'give images that can')
  assert not list(out.parent.iterdir())
  Image.new('RGB', (40, 40)).save(path)
  predict_images(checkpoint, [str(path)], str(out))
  assert [row['error'] for row in rows_of(out)] == ['']


def test_batch_size_changes_no_probability(checkpoint: str, tmp_path: Path) -> None:
  paths = draw(tmp_path / 'images', 11)
  for size in (8, 16):
    predict_images(checkpoint, paths, str(tmp_path / f'{size}.csv'), batch_size=size)
  one, other = (probabilities(rows_of(tmp_path / f'{size}.csv')) for size in (8, 16))
  np.testing.assert_allclose(one, other, atol=2e-6)


class TestBatchSize:
  """What is chosen by the time that each size takes, in seconds."""

  @staticmethod
  def simulated(largest: int, fixed: float = 1.0) -> Callable[[int], float]:
    """Time that a device takes which holds `largest` rows: the same up to 256, where it is fully at work."""

    def seconds(rows: int) -> float:
      if rows > largest:
        raise jax.errors.JaxRuntimeError('RESOURCE_EXHAUSTED: out of memory')
      return fixed * max(1, rows / 256)

    return seconds

  @pytest.mark.parametrize(('largest', 'most', 'devices', 'chosen'), [(10_000, 10_000, 1, 256), (100, 10_000, 1, 64),
                                                                      (20, 10_000, 1, 16), (10_000, 5, 1, 5),
                                                                      (10_000, 10_000, 8, 256), (10_000, 3, 8, 8)])
  def test_doubles_until_no_longer_faster_or_out_of_memory(self, largest, most, devices, chosen):
    assert fastest_batch(self.simulated(largest), most, devices) == chosen

  def test_model_that_does_not_fit_is_a_line(self):
    with pytest.raises(UserError, match='does not fit into the memory'):
      fastest_batch(self.simulated(0), 100, 1)

  def test_another_error_is_not_taken_for_memory(self):

    def seconds(rows: int) -> float:
      raise jax.errors.JaxRuntimeError('INTERNAL: broken')

    with pytest.raises(jax.errors.JaxRuntimeError):
      fastest_batch(seconds, 100, 1)

  def test_few_images_make_a_small_batch(self, checkpoint: str) -> None:
    predictor = Predictor(open_recogniser(checkpoint))
    assert inference.find_batch_size(predictor, 1) == predictor.devices
    assert inference.find_batch_size(predictor, 10**6) == inference.CPU_BATCH * predictor.devices


MISTAKES: list[tuple[str, list[str], str, str]] = [
    ('nothing given', [], 'IMAGE_OR_FOLDER', 'give it'),
    ('missing path', ['{tmp}/nope.jpg'], 'nope.jpg', 'give image files'),
    ('glob without a match', ['{tmp}/*.gif'], '*.gif', 'give image files'),
    ('folder without images', ['{tmp}/texts'], '1 *.md', 'give image files'),
    ('empty list', ['{tmp}/empty.txt'], 'empty.txt', 'a path a line'),
    ('nothing that can be read', ['{tmp}/broken.jpg'], 'empty file', 'give images that can'),
    ('append to standard output', ['{tmp}/images', '--append'], '--append', 'add --out='),
    ('table that is there', ['{tmp}/images', '--out={tmp}/made.csv'], 'made.csv', '--append'),
    (
        'table of another program', ['{tmp}/images', '--out={tmp}/foreign.csv',
                                     '--append'], 'foreign.csv', 'another --out'),
    (
        'table in another format', ['{tmp}/images', '--out={tmp}/made.csv', '--format=jsonl',
                                    '--append'], 'format', 'another --out'),
    ('table where none can be', ['{tmp}/images', '--out={tmp}/broken.jpg/out.csv'], 'out.csv', 'another --out'),
    ('unknown format', ['{tmp}/images', '--format=xml'], 'xml', '--help'),
    ('batch of none', ['{tmp}/images', '--batch_size=0'], 'batch_size', '--help'),
    ('batch beyond memory', ['{tmp}/images', '--batch_size=1000000000'], 'batch_size', '--help'),
    ('empty argument', ['{tmp}/images', ''], 'empty', 'name files'),
    *((f'empty --{name}', ['{tmp}/images', f'--{name}='], f'--{name} is empty', 'leave it out')
      for name in ('out', 'shard', 'sort', 'contact_sheet', 'boxes', 'detector', 'beam_runner', 'labels', 'prompts')),
    ('table of a spreadsheet', ['{tmp}/images', '--out={tmp}/out.xlsx'], 'out.xlsx', 'name it .csv'),
    ('endless rate', ['{tmp}/images', '--fps=inf'], '--fps', 'finite'),
    ('rate that is no number', ['{tmp}/images', '--fps=nan'], '--fps', 'finite'),
    ('limit that is no number', ['{tmp}/images', '--max_megapixels=nan'], '--max_megapixels', 'finite'),
    ('rows of no sheet', ['{tmp}/images', '--top=3'], '--top', '--contact_sheet'),
    ('archive of another kind', ['{tmp}/a.tar.xz'], 'a.tar.xz', 'tar.gz'),
    ('unknown runner', ['{tmp}/images', '--out={tmp}/o.csv', '--beam_runner=Nope'], 'Nope', 'Valid values'),
    ('unknown option of Beam', ['{tmp}/images', '--out={tmp}/o.csv', '--beam_options=foo=1'], 'foo', 'correct it'),
    (
        'wrong value for Beam', ['{tmp}/images', '--out={tmp}/o.csv',
                                 '--beam_options=direct_num_workers=x'], "'x'", 'int')]


@pytest.fixture(scope='module')
def folder(checkpoint: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
  """What the mistakes are made with."""
  folder = tmp_path_factory.mktemp('mistakes')
  draw(folder / 'images', 2)
  (folder / 'texts').mkdir()
  (folder / 'texts' / 'notes.md').write_text('no image')
  for name in ('broken.jpg', 'empty.txt', 'foreign.csv', 'a.tar.xz'):
    (folder / name).write_text('')
  predict_images(checkpoint, [str(folder / 'images')], str(folder / 'made.csv'))
  return folder


@pytest.mark.filterwarnings("ignore:'uniemox_jax:RuntimeWarning")
@pytest.mark.parametrize(('arguments', 'thing', 'remedy'), [mistake[1:] for mistake in MISTAKES],
                         ids=[mistake[0] for mistake in MISTAKES])
def test_mistake_is_one_line(
    command: Callable[..., int], assert_one_line: Callable[..., None], folder: Path, capsys: pytest.CaptureFixture,
    checkpoint: str, arguments: list[str], thing: str, remedy: str) -> None:
  made = (folder / 'made.csv').read_bytes()
  code = command(
      'uniemox_jax.predict', f'--checkpoint={checkpoint}', *(argument.format(tmp=folder) for argument in arguments))
  assert_one_line(code, capsys.readouterr().err, thing, remedy)
  assert (folder / 'made.csv').read_bytes() == made


@pytest.mark.filterwarnings("ignore:'uniemox_jax:RuntimeWarning")
@pytest.mark.parametrize(
    ('weights', 'thing', 'remedy'), [('encoder', "kind 'encoder'", 'fine-tuning'),
                                     ('folder', 'no checkpoint', 'give the --workdir'),
                                     ('other_checkpoint', 'other weights, words or prompts', 'another --out')])
def test_other_weights_are_one_line(
    command: Callable[..., int], assert_one_line: Callable[..., None], folder: Path, capsys: pytest.CaptureFixture,
    request: pytest.FixtureRequest, weights: str, thing: str, remedy: str) -> None:
  code = command(
      'uniemox_jax.predict', f'--checkpoint={request.getfixturevalue(weights)}', folder / 'images',
      f'--out={folder}/made.csv', '--append')
  assert_one_line(code, capsys.readouterr().err, thing, remedy)


def test_reader_that_goes_away_is_one_line(checkpoint: str, tmp_path: Path) -> None:
  draw(tmp_path / 'images', 400)
  done = subprocess.run(
      f'{sys.executable} -m uniemox_jax.predict --checkpoint={checkpoint} {tmp_path}/images '
      '--batch_size=1 | true', shell=True, cwd=ROOT, capture_output=True, text=True, check=False)
  errors = [line for line in done.stderr.replace('\r', '\n').splitlines() if line and not line.startswith('predicting')]
  assert len(errors) == 1 and errors[0].startswith('error: nobody reads'), done.stderr


def test_full_standard_output_is_not_sent_to_append(checkpoint: str, tmp_path: Path, monkeypatch) -> None:
  with open('/dev/full', 'wb') as full:
    monkeypatch.setattr(sys, 'stdout', io.TextIOWrapper(full, write_through=True))
    assert_refused(lambda: predict_images(checkpoint, draw(tmp_path / 'a', 1)), 'give a file, --out=FILE')
    monkeypatch.undo()


def test_weights_that_are_broken_are_named(checkpoint: str, tmp_path: Path) -> None:
  model = SMALL | {'classes': 3}
  params = jax.device_get(initial_params(builder(Classifier, **model), 0))
  params['head']['bias'] = np.full(3, np.nan, np.float32)
  save_weights(str(tmp_path / 'run'), params, {'kind': 'classifier', 'model': model, 'labels': LABELS})
  draw(tmp_path / 'images', 2)
  assert_refused(
      lambda: predict_images(str(tmp_path / 'run'), [str(tmp_path / 'images')], str(tmp_path / 'out.csv')),
      'weights are broken')
