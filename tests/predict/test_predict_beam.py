"""`--beam_runner`: the bytes of one run, made by workers."""

from collections.abc import Callable
from pathlib import Path
import sys

import pytest

from data_pipelines.errors import UserError
from data_pipelines.storage import read_json_object
from tests.support.predictions import assert_refused, draw, rows_of
from uniemox_jax.predict import beam_shards, prediction
from uniemox_jax.predict.beam_shards import predict_by_beam
from uniemox_jax.predict.prediction import predict_images
from uniemox_jax.predict.ranking import Ranking
from uniemox_jax.predict.table_writer import DESCRIPTION


@pytest.fixture(scope='module')
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
  folder = tmp_path_factory.mktemp('images')
  draw(folder, 30)
  (folder / '0017x.png').write_bytes(b'')
  return str(folder)


@pytest.fixture(scope='module')
def whole(checkpoint: str, folder: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
  """The table of one run."""
  out = tmp_path_factory.mktemp('whole') / 'out.csv'
  predict_images(checkpoint, [folder], str(out), batch_size=8)
  return out


def assert_same(out: Path, whole: Path) -> None:
  assert out.read_bytes() == whole.read_bytes()
  assert read_json_object(f'{out}{DESCRIPTION}') == read_json_object(f'{whole}{DESCRIPTION}')
  assert not list(out.parent.glob('*.parts'))


def test_workers_make_the_table_of_one_run_and_load_the_model_once(
    checkpoint, folder, whole, tmp_path, monkeypatch, capsys):
  pytest.importorskip('apache_beam')
  loads = []
  loaded = beam_shards.open_predictor
  for module in (prediction, beam_shards):
    monkeypatch.setattr(module, 'open_predictor', lambda model: loads.append(model) or loaded(model))
  beam_shards._loaded.cache_clear()
  out = tmp_path / 'out.csv'
  predict_by_beam(
      checkpoint, [folder], str(out), runner='DirectRunner', options=[], batch_size=8, ranking=Ranking('awe'))
  assert_same(out, whole)
  assert len(loads) == 2  # By the driver, which needs the columns, and by a worker with four parts.
  assert len(rows_of(tmp_path / 'out.sorted_by_awe.csv')) == 31
  assert f'{out}: 30 predicted, 1 unreadable' in capsys.readouterr().err


def test_stopped_run_goes_on(checkpoint, folder, whole, tmp_path, monkeypatch):
  pytest.importorskip('apache_beam')
  out = tmp_path / 'out.csv'

  def predict(stop: Callable[..., None] | None = None) -> None:
    with monkeypatch.context() as patch:
      if stop:
        patch.setattr(beam_shards, '_join', stop)
      predict_by_beam(checkpoint, [folder], str(out), runner='DirectRunner', options=[], batch_size=8)

  def stop(*arguments: object) -> None:
    raise KeyboardInterrupt

  with pytest.raises(KeyboardInterrupt):
    predict(stop)
  parts = sorted((tmp_path / 'out.csv.parts').glob('0000?'))
  assert len(parts) == 4 and not out.exists()
  parts[2].write_bytes(parts[2].read_bytes()[:300])
  predict()
  assert_same(out, whole)


@pytest.mark.slow
def test_other_processes_make_the_same(checkpoint, folder, whole, tmp_path):
  pytest.importorskip('apache_beam')
  options = ['runner=DirectRunner', 'direct_running_mode=multi_processing', 'direct_num_workers=2']
  predict_by_beam(checkpoint, [folder], str(tmp_path / 'out.csv'), runner=None, options=options, batch_size=8)
  assert_same(tmp_path / 'out.csv', whole)


def test_mistake_of_a_worker_is_a_line(checkpoint, folder, tmp_path, monkeypatch):
  pytest.importorskip('apache_beam')

  def broken(checkpoint: str, weights_sha256: str) -> None:
    raise UserError('no such weights: fetch them')

  monkeypatch.setattr(beam_shards, '_loaded', broken)
  with pytest.raises(UserError) as caught:
    predict_by_beam(checkpoint, [folder], str(tmp_path / 'out.csv'), runner='DirectRunner', options=[], batch_size=8)
  assert str(caught.value) == 'no such weights: fetch them'


def test_standard_output_and_a_table_that_is_there_are_refused(checkpoint, folder, whole):
  pytest.importorskip('apache_beam')
  for out, reason in ((None, 'add --out=FILE'), (str(whole), 'exists already')):
    assert_refused(
        lambda out=out: predict_by_beam(checkpoint, [folder], out, runner='DirectRunner', options=[]), reason)


def test_without_beam_a_line_says_how_to_get_it(checkpoint, folder, tmp_path, monkeypatch):
  monkeypatch.setitem(sys.modules, 'apache_beam.options.pipeline_options', None)
  assert_refused(
      lambda: predict_by_beam(checkpoint, [folder], str(tmp_path / 'out.csv'), runner='DirectRunner', options=[]),
      r"pip install 'uniemox_jax\[beam\]'")


@pytest.mark.filterwarnings("ignore:'uniemox_jax:RuntimeWarning")
@pytest.mark.parametrize('flag', ['--append', '--shard=1/2'])
def test_flags_that_do_not_go_with_workers_are_a_line(
    command: Callable[..., int], assert_one_line: Callable[..., None], capsys, checkpoint, folder, tmp_path, flag):
  code = command(
      'uniemox_jax.predict', f'--checkpoint={checkpoint}', f'--out={tmp_path}/out.csv', '--beam_runner=DirectRunner',
      flag, folder)
  assert_one_line(code, capsys.readouterr().err, 'Beam', 'leave --append and --shard out')
