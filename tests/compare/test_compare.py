"""A comparison runs every job once, whatever is killed, names what fails and keeps the rest; no key is silent."""

import json
import os
from pathlib import Path
import re
import signal
import time

from ml_collections import ConfigDict
import pytest

from configs import compare as shipped
from configs import hard_world
from data_pipelines.errors import UserError
from tests.support import small_runs
from tests.support.fork_server import ForkedProcess
from uniemox_jax.compare.comparison import read_comparison
from uniemox_jax.compare.comparison_results import ComparisonJob
from uniemox_jax.compare.study import check, job_config, jobs_of, pretraining_config
from uniemox_jax.compare.subprocess_runs import last_error
from uniemox_jax.runtime.preemption import EXIT_CODE
from uniemox_jax.train.config import PretrainConfig
from uniemox_jax.train.schema import parse

VERB = 'uniemox_jax.compare'
JOBS = ['-m', 'tests.compare.jobs']


def small_config(
    data_dir: str, initialisations: dict[str, str], datasets: tuple[str, ...], protocols: tuple[str, ...],
    seeds: int) -> ConfigDict:
  """The demo's comparison with models and sets of the tests' size."""
  config = shipped.get_config('demo')
  config.initialisation = ConfigDict({name: {'init': init, 'change': {}} for name, init in initialisations.items()})
  config.initialisations, config.datasets, config.protocols = tuple(initialisations), datasets, protocols
  config.seeds, config.reference = seeds, 'scratch'
  config.change = ConfigDict({'data_dir': data_dir, 'batch_size': 8, 'model': small_runs.ENCODER})
  config.protocol.finetune.change.update({'epochs': 1, 'eval_every_epochs': 1, 'warmup_epochs': 0})
  return config


@pytest.fixture
def config(data_dir) -> ConfigDict:
  return small_config(data_dir, {'scratch': 'none', 'nowhere': 'runs/nowhere'}, ('emo8',), ('knn',), 1)


@pytest.mark.parametrize('size', ['published', 'vitb16', 'demo'])
def test_shipped_configs_define_every_job(size):
  check_every_job(shipped.get_config(size))


def test_the_study_of_the_harder_world_defines_every_job_and_pretraining():
  config = hard_world.get_config()
  config.initialisations = tuple(config.initialisation)
  check_every_job(config)
  for name in config.initialisations:
    if section := pretraining_config(config, ComparisonJob(name, 'hard_labelled', 'finetune', 1)):
      parse(PretrainConfig, section)


def check_every_job(config: ConfigDict) -> None:
  check(config)
  every = config.copy_and_resolve_references()
  every.protocols = tuple(every.protocol)
  for job in jobs_of(every):
    job_config(every, job)


@pytest.mark.parametrize(('key', 'value', 'said'),
                         [('initialisations', ('uniemox', 'dino'), "'dino' of initialisations is not defined"),
                          ('protocols', ('by_hand',), "'by_hand' of protocols is not defined"),
                          ('reference', 'mae', "reference 'mae' is none of the initialisations"),
                          ('seeds', 0, "'seeds' is 0")])
def test_a_name_that_is_not_defined_is_one_line(key, value, said):
  config = shipped.get_config('demo')
  config[key] = value
  with pytest.raises(UserError, match=re.escape(said)):
    check(config)


@pytest.mark.parametrize(('changes', 'said'), [
    ({'protocols': ()}, "'protocols' is (): give one name or more"), ({'datasets': ('emo8', 'emo8')}, 'each once'),
    ({'protocol.linear': ConfigDict({'verb': 'probe', 'change': {}})}, "'protocol.linear.recipe' is missing"),
    ({'initialisation.scratch': ConfigDict({'change': {}})}, "'initialisation.scratch.init' is missing")], ids=str)
def test_a_config_that_cannot_run_is_one_line(changes, said):
  config = shipped.get_config('demo')
  for key, value in changes.items():
    *section, name = key.split('.')
    target = config[section[0]] if section else config
    del target[name]
    target[name] = value
  with pytest.raises(UserError, match=re.escape(said)):
    check(config)


def test_every_protocol_leaves_out_each_domain(config):
  config.left_out_domains, config.datasets = ('cartoon', 'science fiction'), ('mine',)
  config.protocols = ('linear', 'knn')
  check(config)
  jobs = [job for job in jobs_of(config) if job.initialisation == 'scratch']
  names = [f'{protocol}_without_{domain}' for protocol in config.protocols for domain in ('cartoon', 'science_fiction')]
  assert [job.protocol for job in jobs] == names
  config.protocol.linear.recipe = config.protocol.knn.recipe = 'configs/probe.py:emo8'
  left_out = [job_config(config, job).left_out_domain for job in jobs]
  assert left_out == ['cartoon', 'science fiction'] * 2


def test_a_change_of_another_shape_is_one_line(config):
  config.change = ConfigDict({'model': 5})
  with pytest.raises(UserError, match='change of the config does not fit'):
    job_config(config, ComparisonJob('scratch', 'emo8', 'knn', 0))


@pytest.fixture
def pretraining(config, data_dir) -> ConfigDict:
  """The comparison of scratch with masked image modelling, which it pretrains itself."""
  change = {
      'data_dir': data_dir, 'batch_size': 8, 'epochs': 1, 'warmup_epochs': 0,
      'loss': {'contrastive': 0.0, 'similarity': 0.0},
      'model': {**small_runs.ENCODER, 'decoder_width': 16, 'decoder_depth': 1, 'decoder_heads': 2}}
  config.initialisation = ConfigDict({
      'scratch': {'init': 'none', 'change': {}},
      'mae': {'pretrain': {'recipe': 'configs/demo.py:pretrain', 'change': change}, 'change': {}}})
  config.initialisations = ('mae', 'scratch')
  return config


def test_each_seed_starts_from_a_pretraining_of_its_own(pretraining, tmp_path):
  check(pretraining)
  jobs = [ComparisonJob('mae', 'emo8', 'knn', seed) for seed in (0, 1)]
  inits = [job_config(pretraining, job, str(tmp_path)).init for job in jobs]
  assert inits == [str(tmp_path / 'mae' / 'pretrain' / f'seed{seed}') for seed in (0, 1)]
  assert [pretraining_config(pretraining, job).seed for job in jobs] == [0, 1]
  assert pretraining_config(pretraining, ComparisonJob('scratch', 'emo8', 'knn', 0)) is None


@pytest.mark.parametrize(('changes', 'said'), [
    ({'init': 'runs/mae'}, 'initialisation.mae.init and initialisation.mae.pretrain are both given'),
    ({'pretrain': {'change': {}}}, "'initialisation.mae.pretrain.recipe' is missing"),
    ({'pretrain': {'recipe': 'configs/demo.py:pretrain', 'verb': 'draw'}
     }, "'initialisation.mae.pretrain.verb' is 'draw'")])
def test_a_pretraining_that_cannot_be_is_one_line(pretraining, changes, said):
  pretraining.initialisation.mae = ConfigDict({'change': {}} | changes | (
      {'pretrain': pretraining.initialisation.mae.pretrain} if 'init' in changes else {}))
  with pytest.raises(UserError, match=re.escape(said)):
    check(pretraining)


def test_whoever_starts_jobs_leaves_the_accelerator_to_them():
  code = (
      'from uniemox_jax.compare import comparison\nfrom uniemox_jax.runtime import preemption\n'
      'preemption.watch()\npreemption.raise_if_preempted()\n'
      'from jax._src import xla_bridge\nassert not xla_bridge._backends')
  small_runs.finish(small_runs.start(['-c', code]))


def test_an_unknown_key_is_named():
  config = shipped.get_config('demo')
  config.colour = 'blue'
  with pytest.raises(UserError, match="'colour' is unknown"):
    check(config)


def test_a_change_that_no_recipe_reads_is_named(config):
  config.change.learning_rate = 1.0
  with pytest.raises(UserError, match="'learning_rate' is unknown"):
    job_config(config, ComparisonJob('scratch', 'emo8', 'knn', 0))


def test_initialisations_differ_in_nothing_but_what_they_say_of_themselves():
  config = shipped.get_config()
  ours, clip = (
      job_config(config, ComparisonJob(name, 'emo8', 'finetune', 1)).to_dict() for name in ('uniemox', 'clip'))
  assert clip['init'] != ours['init']
  assert clip['model'] == ours['model'] | config.initialisation.clip.change.model.to_dict()
  assert {key for key in ours if ours[key] != clip[key]} == {'init', 'model'}


def test_jobs_of_other_values_are_neither_shown_nor_gone_on_with(config, tmp_path):
  job = ComparisonJob('scratch', 'emo8', 'knn', 0)
  folder = tmp_path / 'scratch' / 'emo8' / 'knn' / 'seed0'
  folder.mkdir(parents=True)
  (folder / 'config.json').write_text(json.dumps(job_config(config, job).to_dict()))
  assert read_comparison(config, {job: job_config(config, job)}, str(tmp_path)).results == {}
  (folder / 'result.json').write_text(json.dumps({'top1': 0.5}))
  assert list(read_comparison(config, {job: job_config(config, job)}, str(tmp_path)).results) == [job]
  (folder / 'result.json').unlink()
  config.initialisation.scratch.init = 'runs/other'
  with pytest.raises(UserError, match='holds a run with other values of init'):
    read_comparison(config, {job: job_config(config, job)}, str(tmp_path))


def run(config: ConfigDict, workdir: Path, *arguments: str) -> tuple[int, str]:
  process = small_runs.start(small_runs.command(VERB, config, workdir, *arguments))
  said = process.communicate(timeout=3000)[0]
  return process.returncode, said


@pytest.mark.slow
def test_a_job_that_fails_is_in_the_table_and_the_others_go_on(config, tmp_path):
  code, said = run(config, tmp_path / 'compare')
  assert code == 2, said
  assert said.strip().splitlines()[-1].startswith('error: 1 of 2 jobs failed: nowhere/emo8/knn/seed0 (error: '), said
  content = json.loads((tmp_path / 'compare' / 'comparison.json').read_text())
  assert [row['initialisation'] for row in content['summaries']] == ['scratch']
  assert content['failures'][0]['cell'] == ['nowhere', 'emo8', 'knn', 0]
  assert 'runs/nowhere' in content['failures'][0]['said']
  assert 'Traceback' not in said + content['failures'][0]['said']


def test_a_study_is_repeated_with_other_seeds():
  config = shipped.get_config('demo')
  config.seeds, config.first_seed, config.datasets = 2, 10, ('emo8',)
  config.protocols, config.initialisations = ('linear', 'zero_shot'), ('scratch', 'teacher')
  seeds = {(job.protocol, job.initialisation): [] for job in jobs_of(config)}
  for job in jobs_of(config):
    seeds[job.protocol, job.initialisation].append(job.seed)
    assert job_config(config, job).seed == job.seed
  assert seeds == {('linear', 'scratch'): [10, 11], ('linear', 'teacher'): [10, 11], ('zero_shot', 'teacher'): [10]}


@pytest.mark.slow
def test_all_jobs_of_a_seed_share_the_pretraining_that_the_first_of_them_makes(pretraining, tmp_path):
  pretraining.initialisations, pretraining.reference, pretraining.protocols = ('mae',), 'mae', ('knn', 'linear')
  code, said = run(pretraining, tmp_path / 'compare')
  assert code == 0, said
  logs = [tmp_path / 'compare' / 'mae' / 'emo8' / protocol / 'seed0' / 'log.txt' for protocol in ('knn', 'linear')]
  assert [bool(re.search(r'^pretrain \d+/', log.read_text(), re.M)) for log in logs] == [True, False]
  assert json.loads(
      (tmp_path / 'compare' / 'mae' / 'pretrain' / 'seed0' / 'pretrained.json').read_text())['seconds'] > 0
  pretraining.initialisation.mae.pretrain.change.epochs = 2
  jobs = {job: job_config(pretraining, job, str(tmp_path / 'compare')) for job in jobs_of(pretraining)}
  with pytest.raises(UserError, match='holds a run with other values of epochs'):
    read_comparison(pretraining, jobs, str(tmp_path / 'compare'))


def test_a_job_that_fails_is_named_and_the_others_go_on(tmp_path):
  [said] = small_runs.finish(small_runs.start([*JOBS, f'--workdir={tmp_path}', '--first=fails']), code=2)
  assert said.strip().splitlines()[-1].startswith('error: 1 of 2 jobs failed: first (error: as asked: '), said
  assert '== second: done  2/2 jobs' in said and 'Traceback' not in said
  assert last_error(str(tmp_path / 'first')) == 'error: as asked: do not ask'
  assert last_error(str(tmp_path / 'second')) is None


def test_the_error_of_a_job_that_failed_is_read_with_the_results(config, tmp_path):
  job = ComparisonJob('nowhere', 'emo8', 'knn', 0)
  folder = tmp_path / 'nowhere' / 'emo8' / 'knn' / 'seed0'
  folder.mkdir(parents=True)
  (folder / 'error.txt').write_text('error: runs/nowhere is not there\n')
  found = read_comparison(config, {job: job_config(config, job)}, str(tmp_path))
  assert (found.results, found.errors) == ({}, {job: 'error: runs/nowhere is not there'})


def check_that_a_job_ends_with_its_starter(process: ForkedProcess, log: Path, begun: str, number: int) -> None:
  deadline = time.monotonic() + 120
  while not (log.exists() and begun in log.read_text()):
    assert time.monotonic() < deadline
    time.sleep(0.1)
  # A terminal sends Ctrl-C to the whole group.
  (os.killpg if number == signal.SIGINT else os.kill)(process.pid, number)
  process.wait(60)
  assert process.returncode == {signal.SIGKILL: -signal.SIGKILL, signal.SIGTERM: EXIT_CODE, signal.SIGINT: 2}[number]
  while 'is saved in' not in log.read_text():
    assert time.monotonic() < deadline, log.read_text()
    assert number == signal.SIGKILL, 'it ended before its job'
    time.sleep(0.1)
  assert not (log.parent / 'error.txt').exists()


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGKILL, signal.SIGINT])
def test_a_job_ends_with_whoever_started_it(tmp_path, number):
  process = small_runs.start([*JOBS, f'--workdir={tmp_path}'])
  check_that_a_job_ends_with_its_starter(process, tmp_path / 'first' / 'log.txt', 'begun', number)
  assert not (tmp_path / 'second').exists()


@pytest.mark.slow
@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGKILL, signal.SIGINT])
def test_a_run_ends_with_the_comparison_that_started_it(config, tmp_path, number):
  config.protocols, config.initialisations, config.seeds = ('finetune',), ('scratch',), 2
  config.protocol.finetune.change.epochs = 1000
  process = small_runs.start(small_runs.command(VERB, config, tmp_path / 'compare'))
  log = tmp_path / 'compare' / 'scratch' / 'emo8' / 'finetune' / 'seed0' / 'log.txt'
  check_that_a_job_ends_with_its_starter(process, log, 'finetune ', number)
  assert not (log.parents[1] / 'seed1').exists()


@pytest.mark.slow
def test_36_jobs_unattended_and_killed_in_the_middle(data_dir, clip_folder, tmp_path):
  inits = {'scratch': 'none'}
  for name, semantic in (('uniemox', 1.0), ('mae_only', 0.0)):
    pretraining = small_runs.pretrain_config(data_dir, clip_folder, epochs=1)
    pretraining.loss.contrastive = pretraining.loss.similarity = semantic
    small_runs.finish(small_runs.start(small_runs.command('uniemox_jax.pretrain', pretraining, tmp_path / name)))
    inits[name] = str(tmp_path / name)
  config = small_config(data_dir, inits, ('emo8', 'emoset'), ('finetune', 'linear'), 3)
  workdir = tmp_path / 'compare'
  process = small_runs.start(small_runs.command(VERB, config, workdir, '--jobs=2'))
  for line in process.stdout:
    if '14/36 jobs' in line:
      break
  process.send_signal(signal.SIGKILL)
  process.wait()
  before = {path: path.stat().st_mtime_ns for path in workdir.rglob('result.json')}
  code, said = run(config, workdir, '--jobs=2')
  assert code == 0, said
  assert 14 <= len(before) < 36
  assert {path: path.stat().st_mtime_ns for path in before} == before
  content = json.loads((workdir / 'comparison.json').read_text())
  assert content['unfinished'] == 0
  assert [row['runs'] for row in content['summaries']] == [3] * 12
  assert '| - |' not in (workdir / 'comparison.md').read_text().split('Difference')[0]


@pytest.mark.slow
def test_a_study_that_pretrains_ends_with_the_same_table_however_it_was_killed_on_two_workers(pretraining, tmp_path):
  pretraining.protocols, pretraining.seeds = ('finetune', 'linear'), 2
  pretraining.protocol.finetune.change.epochs = 2
  pretraining.initialisation.mae.pretrain.change.epochs = 4
  assert run(pretraining, tmp_path / 'whole', '--jobs=2')[0] == 0
  killed = tmp_path / 'killed'
  # While the first pretrains, while the second does beside jobs, and when some jobs are done.
  for sign in ('mae/pretrain/seed0/checkpoints/*', 'mae/pretrain/seed1/checkpoints/*', '*/*/*/*/result.json'):
    process = small_runs.start(small_runs.command(VERB, pretraining, killed, '--jobs=2'))
    deadline = time.monotonic() + 600
    while not any(killed.glob(sign)):
      assert process.poll() is None and time.monotonic() < deadline
      time.sleep(0.01)
    process.kill()
    process.communicate()
  assert 0 < len(list(killed.glob('*/*/*/*/result.json'))) < 8
  code, said = run(pretraining, killed, '--jobs=2')
  assert code == 0, said
  for name in ('comparison.md', 'comparison.tex'):
    assert (killed / name).read_text() == (tmp_path / 'whole' / name).read_text()
