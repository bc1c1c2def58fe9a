"""Votes and their majority stand side by side: with intervals, differences and curves, from one command."""

import json
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict
import numpy as np
import pytest

from configs import compare as shipped
from data_pipelines.build import build
from data_pipelines.records.label_sets import EMOTIONS
from data_pipelines.storage import write_sealed
from data_pipelines.synthetic import hard_annotators, hard_oracle, hard_rows
from tests.support import tables as drawn_tables
from uniemox_jax.compare import comparison, plots
from uniemox_jax.compare.ambiguity_page import write_ambiguity
from uniemox_jax.compare.comparison_results import Comparison, ComparisonJob, ProtocolVariant
from uniemox_jax.compare.study import check, job_config, jobs_of
from uniemox_jax.compare.tables import write as write_tables
from uniemox_jax.eval.ambiguity import MEASURES, Truths, measure_ambiguity
from uniemox_jax.eval.kept_outputs import keep_outputs, read_answers
from uniemox_jax.objectives.tasks import Task

IMAGES, SEEDS = 300, 3
LEARNERS = {'votes': ('distribution', 'votes', 1.0), 'majority': ('label', 'label', 3.0)}  # the latter is too sure


def run_drawn(folder: Path, job: ComparisonJob) -> dict[str, Any]:
  """Leaves what a run would: the best answers, too sure of the majority, and other noise for every run."""
  name, target, sharpness = LEARNERS[job.protocol]
  planned = [hard_rows.plan_scene('test', index, 0) for index in range(IMAGES)]
  said = np.array([each.said for each in planned])
  votes = (said[:, :, None] == np.arange(len(EMOTIONS))).mean(axis=1).astype(np.float32)
  majority = hard_annotators.by_majority(said).astype(np.int32)
  shares = np.stack([hard_oracle.best_shares(each.scene.case, target) for each in planned])
  noise = np.random.default_rng(job.seed).normal(0, 1 if job.initialisation == 'scratch' else 0.1, shares.shape)
  found = {'outputs': (sharpness * np.log(shares) + noise).astype(np.float32), 'label': majority, 'distribution': votes}
  tasks, truths = [Task(name, EMOTIONS, 'kl')], Truths(EMOTIONS, majority, votes)
  example_N = np.arange(IMAGES, dtype=np.uint64) * np.uint64(0x9e3779b97f4a7c15)
  keep_outputs(str(folder), 'drawn', example_N, tasks, found, truths)
  block = measure_ambiguity(tasks, found['outputs'], truths)[name]
  measured = {'kl': 1.0, 'top1': 0.5, **block}
  result = {'examples': IMAGES, 'split': 'test', 'checkpoint_step': 1, 'config_hash': 'drawn'}
  result |= measured if name == 'label' else {'tasks': {name: measured}}
  write_sealed(str(folder / 'result.json'), result)
  return result


@pytest.fixture(scope='module', name='page')
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
  """A folder with the pages of two initialisations that learned both."""
  workdir = tmp_path_factory.mktemp('compare')
  names = ('ours', 'scratch')
  jobs = [
      ComparisonJob(name, 'hard', protocol, seed) for seed in range(SEEDS) for protocol in LEARNERS for name in names]
  results = {job: run_drawn(Path(job.folder(str(workdir))), job) for job in jobs}
  found = Comparison(
      names, ('hard', 'other'), {name: ProtocolVariant(name) for name in LEARNERS}, 'scratch', jobs, results, {})
  write_ambiguity(found, str(workdir))
  write_tables(found, str(workdir))
  return workdir


def test_every_measure_has_a_cell_with_its_interval(page):
  text = (page / 'ambiguity.md').read_text()
  assert '| measure | truth | better | initialisation | votes | majority |' in text
  for name, measure in MEASURES.items():
    better = 'higher' if measure.direction > 0 else 'lower'
    rows = [line for line in text.splitlines() if line.startswith(f'| {name} | {measure.truth} | {better} |')]
    assert [row.split(' | ')[3] for row in rows] == ['ours', 'scratch']
    assert all(row.count(f'({SEEDS})') == row.count(' to ') == 2 for row in rows)
    assert sum(row.count('**') for row in rows) == 2  # one cell is the best
  summaries = json.loads((page / 'ambiguity.json').read_text())['hard']['summaries']
  assert len(summaries) == len(MEASURES) * 4
  assert all(row['interval'][0] < row['mean'] < row['interval'][1] for row in summaries)
  header = (page / 'comparison.csv').read_text().splitlines()[0].split(',')
  assert {'ambiguity_adaptive_ece', 'distribution_ambiguity_adaptive_ece'} <= set(header)


def test_what_a_run_kept_gives_the_scores_of_its_result(page):
  for protocol, (task, _, _) in LEARNERS.items():
    folder = page / 'ours' / 'hard' / protocol / 'seed0'
    result = json.loads((folder / 'result.json').read_text())
    block = (result['tasks'][task] if 'tasks' in result else result)['ambiguity']
    example_N, answers = read_answers(str(folder), 'drawn', task)
    assert len(example_N) == IMAGES
    for name in MEASURES:
      assert answers.scores(name, np.ones((1, IMAGES)))[0] == pytest.approx(block[name], abs=1e-6)


def test_votes_are_compared_with_the_majority_run_by_run(page):
  rows = json.loads((page / 'ambiguity.json').read_text())['hard']['compared']
  assert len(rows) == 2 * len(MEASURES)
  by_measure = {row['measure']: row for row in rows if row['initialisation'] == 'ours'}
  for name in ('kl', 'brier', 'votes_adaptive_ece'):
    assert by_measure[name]['interval'][1] < 0 and by_measure[name]['p_holm'] < 0.05, name
  assert by_measure['top1']['interval'][0] < 0 < by_measure['top1']['interval'][1]
  assert '| kl | ours | votes | majority | -' in (page / 'ambiguity.md').read_text()


def test_the_curves_of_risk_are_drawn(page):
  assert (page / 'ambiguity.png').read_bytes().startswith(b'\x89PNG')


def test_without_votes_there_is_no_page(tmp_path):
  job = ComparisonJob('ours', 'emo8', 'majority', 0)
  found = Comparison(('ours',), ('emo8',), {'majority': ProtocolVariant('majority')}, 'ours', [job],
                     {job: {'top1': 0.5}}, {})
  write_ambiguity(found, str(tmp_path))
  assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures('one_device')
def test_a_table_with_votes_is_compared_from_the_shipped_protocols(tmp_path):
  build('table', drawn_tables.FORMS['CSV'](tmp_path / 'raw'), tmp_path / 'records', name='mine')
  config = shipped.get_config('demo')
  config.initialisation = ConfigDict({'scratch': {'init': 'none', 'change': {}}})
  config.initialisations, config.datasets, config.protocols = ('scratch',), ('mine',), ('votes', 'majority', 'knn')
  config.seeds = 1
  model = {'image_size': 16, 'patch_size': 8, 'width': 16, 'depth': 1, 'heads': 2}
  config.change = ConfigDict({'data_dir': str(tmp_path / 'records'), 'batch_size': 8, 'model': model})
  for protocol in ('votes', 'majority'):
    config.protocol[protocol].change.update({'epochs': 1, 'eval_every_epochs': 1, 'warmup_epochs': 0})
  config.protocol.knn.recipe = 'configs/probe.py:emo8'
  check(config)
  workdir = str(tmp_path / 'compare')
  sections = {job: job_config(config, job) for job in jobs_of(config)}
  assert [section.get('tasks') for section in sections.values()] == ['distribution', 'label', 'auto']
  for job, section in sections.items():
    verb = comparison.VERBS[config.protocol[job.protocol].verb]
    result = verb.run(section, job.folder(workdir))
    block = result['tasks']['distribution']['ambiguity'] if job.protocol == 'votes' else result['ambiguity']
    assert (block['examples_with_majority'], block['examples_with_votes'], block['classes']) == (6, 6, 3)
    assert block['kl'] == pytest.approx(result['tasks']['distribution']['kl'], abs=1e-5) if job.protocol == 'votes' \
        else block['top1'] == result['top1'] and block['ece'] == pytest.approx(result['ece'])  # fmt: skip
  write_ambiguity(comparison.read_comparison(config, sections, workdir), workdir)
  text = (tmp_path / 'compare' / 'ambiguity.md').read_text()
  assert '| initialisation | votes | majority | knn |' in text and '### Votes minus majority, mine' in text


@pytest.mark.filterwarnings('error')
def test_long_names_leave_the_panels_of_a_figure_their_room() -> None:
  domains = ('cartoon', 'natural', 'realistic', 'science_fiction', 'advertising_cover')
  risks = {('uniemox_plus', f'linear_without_{domain}'): np.linspace(0.1, 0.5, 96) for domain in domains}
  assert plots.risk_figure({'hard_labelled': risks}).startswith(b'\x89PNG')
