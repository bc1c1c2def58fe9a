"""Seeds are added until intervals are narrow, by finished runs alone: a killed study ends with the same table."""

from collections.abc import Callable, Iterator
from pathlib import Path
import zlib

from ml_collections import ConfigDict
import numpy as np
import pytest

from configs import compare as shipped
from data_pipelines.errors import UserError
from data_pipelines.storage import write_sealed
from tests.support import small_runs
from uniemox_jax.compare import plots, subprocess_runs
from uniemox_jax.compare.comparison import Until, compare, run_job
from uniemox_jax.compare.summary_statistics import seeds_needed
from uniemox_jax.eval.kept_outputs import keep_outputs
from uniemox_jax.objectives.tasks import single_label_task

IMAGES = np.arange(400, dtype=np.uint64) * np.uint64(0x9e3779b97f4a7c15)
GAIN = {'ours': 0.1, 'other': 0.02, 'scratch': 0.0}


class Killed(Exception):
  pass


def run_drawn(folder: str, name: str) -> None:
  """Leaves what a run would: outputs that are right by a chance that depends on the initialisation and the seed."""
  initialisation, _, _, seed = name.split('/')
  rng = np.random.default_rng(zlib.crc32(name.encode()))
  ease_N = np.random.default_rng(0).normal(0.5, 0.1, len(IMAGES))
  chance_N = np.clip(ease_N + GAIN[initialisation] + rng.normal(0, 0.02), 0, 1)
  right_N = rng.random(len(IMAGES)) < chance_N
  logits_NxC = np.stack([right_N, ~right_N], axis=1).astype(np.float32)
  keep_outputs(
      folder, 'drawn', IMAGES, [single_label_task('ab')],
      {'outputs': logits_NxC, 'label': np.zeros(len(IMAGES), np.int32)})
  write_sealed(
      str(Path(folder, 'result.json')), {
          'top1': float(right_N.mean()), 'split': 'test', 'examples': len(IMAGES), 'checkpoint_step': None,
          'config_hash': 'drawn'})


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., list[str]]]:
  """Jobs that draw their results; `drawn(kill_after, order)` gives the list of names that were run."""

  def use(kill_after: int | None = None, order: int = 1) -> list[str]:
    ran: list[str] = []

    def run_jobs(module, folders, after):
      for name in list(folders)[::order]:
        if len(ran) == kill_after:
          raise Killed
        run_drawn(folders[name], name)
        ran.append(name)
        assert after(name) is not None

    monkeypatch.setattr(subprocess_runs, 'run_jobs', run_jobs)
    monkeypatch.setattr(plots, 'runs_figure', lambda comparison: b'')  # which takes most of the time
    return ran

  yield use


@pytest.fixture
def config() -> ConfigDict:
  config = shipped.get_config('demo')
  config.initialisation = ConfigDict({name: {'init': f'runs/{name}', 'change': {}} for name in GAIN})
  config.initialisations, config.datasets, config.protocols = tuple(GAIN), ('emo8',), ('linear',)
  config.seeds = 2
  return config


def files_of(folder: Path) -> dict[str, bytes]:
  return {name: (folder / f'comparison.{name}').read_bytes() for name in ('md', 'csv', 'json', 'tex', 'png')}


def test_seeds_are_added_until_every_interval_is_narrow(config, drawn, tmp_path, capsys):
  ran = drawn()
  compare(config, str(tmp_path), Until(0.07, 20))
  said = capsys.readouterr().out
  seeds = len(ran) // 3
  assert 2 < seeds < 20 and len(ran) == 3 * seeds
  widths = [float(line.split('±')[1].split(',')[0]) for line in said.splitlines() if 'the widest interval is' in line]
  assert len(widths) == seeds - 1 and widths[-1] <= 0.07 < min(widths[:-1])


@pytest.mark.parametrize('kill_after', [1, 10])
def test_killed_and_in_another_order_it_ends_with_the_same_table(config, drawn, tmp_path, kill_after):
  whole = drawn()
  compare(config, str(tmp_path / 'whole'), Until(0.07, 20))
  before = drawn(kill_after, order=-1)
  with pytest.raises(Killed):
    compare(config, str(tmp_path / 'killed'), Until(0.07, 20))
  after = drawn(order=-1)
  compare(config, str(tmp_path / 'killed'), Until(0.07, 20))
  assert len(whole) > 10 and len(before) == kill_after and sorted(before + after) == sorted(whole)
  assert files_of(tmp_path / 'killed') == files_of(tmp_path / 'whole')


def test_a_budget_ends_it_and_says_so(config, drawn, tmp_path, capsys):
  ran = drawn()
  compare(config, str(tmp_path), Until(0.001, 4))
  assert len(ran) == 12 and '--most_seeds=4 are reached' in capsys.readouterr().out
  compare(config, str(tmp_path), Until(0.001, 9, hours=0))
  assert len(ran) == 12 and '--hours=0 are over' in capsys.readouterr().out


def test_a_finished_study_says_how_many_seeds_the_next_one_needs(config, drawn, tmp_path, capsys):
  drawn()
  compare(config, str(tmp_path))
  assert 'a difference of 0.02 needs follows from a spread that is not known yet' in capsys.readouterr().out
  page = (tmp_path / 'comparison.md').read_text()
  assert '| seeds for 0.02 |' in page and '95 % interval' in page
  ran = drawn()
  compare(config, str(tmp_path))
  said = capsys.readouterr().out
  assert not ran and 'not known yet' not in said and 'a difference of 0.02 needs' in said
  assert 'on emo8, top1, linear; 2 are asked for' in said
  config.spread, config.detect = 0.03, 0.05
  compare(config, str(tmp_path))
  assert f'a difference of 0.05 needs {seeds_needed(0.03, 0.05)} seeds' in capsys.readouterr().out


def test_what_an_earlier_version_ran_has_a_table_and_no_interval(config, drawn, tmp_path):
  drawn()
  compare(config, str(tmp_path))
  for path in tmp_path.rglob('outputs.npz'):
    path.unlink()
  compare(config, f'{tmp_path}/.')  # another name of the folder: what was read is remembered
  page = (tmp_path / 'comparison.md').read_text()
  assert ' to ' not in page.split('Mean ±')[0] and '± 0.' in page
  assert '6 runs kept no outputs, as those of an earlier version, and so have no interval' in page
  with pytest.raises(UserError, match='--until needs what every run predicted.*choose another --workdir'):
    compare(config, f'{tmp_path}/.', Until(0.05, 5))


@pytest.mark.parametrize('until', [Until(0.05, 2)])
def test_until_without_room_is_one_line(config, tmp_path, until):
  config.seeds = 3
  with pytest.raises(UserError, match='--most_seeds=2 of at least 3'):
    compare(config, str(tmp_path), until)


def test_a_job_of_a_later_round_is_known(config, tmp_path, monkeypatch):
  monkeypatch.setattr(subprocess_runs, 'run_here', lambda folder, work: None)
  run_job(config, str(tmp_path), 'ours/emo8/linear/seed7', Until(0.05, 20))
  with pytest.raises(UserError, match='is no job of this config'):
    run_job(config, str(tmp_path), 'ours/emo8/linear/seed7')


@pytest.mark.slow
def test_real_runs_killed_on_two_workers(data_dir, tmp_path):
  config = shipped.get_config('demo')
  config.initialisations, config.datasets, config.protocols, config.seeds = ('scratch', 'wide'), ('emo8',), ('knn',), 2
  config.initialisation.wide = ConfigDict({'init': 'none', 'change': {'model': {'width': 32}}})
  config.change = ConfigDict({'data_dir': data_dir, 'batch_size': 8, 'model': small_runs.ENCODER})
  options = ('--jobs=2', '--until=0.001', '--most_seeds=4')
  whole = small_runs.start(small_runs.command('uniemox_jax.compare', config, tmp_path / 'whole', *options))
  small_runs.finish(whole)
  killed = small_runs.start(small_runs.command('uniemox_jax.compare', config, tmp_path / 'killed', *options))
  for line in killed.stdout:
    if '1/2 jobs' in line:  # of the third round
      break
  killed.kill()
  killed.wait()
  small_runs.finish(small_runs.start(small_runs.command('uniemox_jax.compare', config, tmp_path / 'killed', *options)))
  ours, of_whole = files_of(tmp_path / 'killed'), files_of(tmp_path / 'whole')
  del ours['csv'], of_whole['csv']  # which names the hash of the config, and so of the folder of features
  assert ours == of_whole
