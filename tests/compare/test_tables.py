"""What tables of repeated runs say is what scipy and statistics say; LaTeX and Markdown survive any name."""

import csv
import io
import json
import statistics

import pytest
from scipy import stats

from uniemox_jax.compare import summary_statistics, table_text, tables
from uniemox_jax.compare.comparison_results import Comparison, ComparisonJob, ProtocolVariant, scores_of

OURS, THEIRS = {0: 0.61, 1: 0.66, 2: 0.70, 3: 0.65}, {0: 0.55, 1: 0.63, 2: 0.58, 4: 0.9}


def result(top1: float) -> dict:
  return {'top1': top1, 'top3': 0.9, 'macro_f1': 0.5, 'examples': 24, 'checkpoint_step': 7, 'config_hash': 'abc'}


def comparison_of(
    initialisations: tuple[str, ...], datasets: tuple[str, ...], protocols: tuple[str, ...], seeds: int, reference: str,
    results: dict, errors: dict) -> Comparison:
  jobs = [
      ComparisonJob(name, dataset, protocol, seed)
      for seed in range(seeds)
      for dataset in datasets
      for protocol in protocols
      for name in initialisations]
  variants = {protocol: ProtocolVariant(protocol) for protocol in protocols}
  return Comparison(initialisations, datasets, variants, reference, jobs, results, errors)


@pytest.fixture
def comparison() -> Comparison:
  """Two of three initialisations are finished; one run of scratch failed."""
  results = {ComparisonJob('ours', 'emo8', 'linear', seed): result(value) for seed, value in OURS.items()}
  results |= {
      ComparisonJob('scratch', 'emo8', 'linear', seed): result(value) for seed, value in THEIRS.items() if seed < 4}
  return comparison_of(('ours', 'mae_only', 'scratch'), ('emo8', 'fi'), ('linear',), 4, 'scratch', results,
                       {ComparisonJob('scratch', 'emo8', 'linear', 3): 'error: no space left, "really"'})


def test_summary_is_mean_and_sample_deviation():
  found = summary_statistics.over_seeds(OURS)
  assert found.mean == pytest.approx(statistics.mean(OURS.values()))
  assert found.spread == pytest.approx(statistics.stdev(OURS.values()))
  assert found.runs == 4
  assert summary_statistics.over_seeds({7: 0.5}) == (0.5, None, 1)


def test_pairs_are_the_shared_seeds_and_p_is_scipys():
  pair = summary_statistics.paired_difference(OURS, THEIRS)
  expected = stats.ttest_rel([OURS[seed] for seed in range(3)], [THEIRS[seed] for seed in range(3)])
  assert pair.runs == 3
  assert pair.p == pytest.approx(expected.pvalue)
  assert pair.difference == pytest.approx((0.06 + 0.03 + 0.12) / 3)


@pytest.mark.parametrize(('ours', 'theirs'), [({0: 0.5}, {0: 0.4}), ({0: 0.5, 1: 0.6}, {0: 0.4, 1: 0.5})])
def test_no_p_where_nothing_varies(ours, theirs):
  assert summary_statistics.paired_difference(ours, theirs).p is None


def test_no_pair_without_a_shared_seed():
  assert summary_statistics.paired_difference({0: 0.5}, {1: 0.5}) is None


def test_holm_is_the_step_down_procedure():
  assert summary_statistics.holm([0.01, None, 0.04, 0.03]) == pytest.approx([0.03, None, 0.06, 0.06])


def test_text_of_any_name_survives():
  assert r'\|' in table_text.markdown([['a|b'], ['c']])
  assert r'fusion\_none \& 50\%' in table_text.latex([['row'], ['fusion_none & 50%']], 'x')
  assert r'\textbf{0.5 $\pm$ 0.1}' in table_text.latex([['row'], ['**0.5 ± 0.1**']], 'x')


def test_comparison_shows_every_run_and_what_is_missing(comparison, tmp_path):
  tables.write(comparison, str(tmp_path))
  page = (tmp_path / 'comparison.md').read_text()
  assert '| ours | **0.6550 ± 0.0370 (4)** | - |' in page
  assert '| mae_only | - | - |' in page
  assert '17 runs have no result yet:' in page
  assert '- scratch/emo8/linear/seed3 failed: error: no space left, "really"' in page
  rows = list(csv.DictReader(io.StringIO((tmp_path / 'comparison.csv').read_text())))
  assert len(rows) == 8
  assert [row['error'] for row in rows if not row['value']] == ['error: no space left, "really"']
  assert (rows[0]['top1'], rows[0]['metric'], rows[0]['config_hash']) == ('0.61', 'top1', 'abc')
  content = json.loads((tmp_path / 'comparison.json').read_text())
  assert content['unfinished'] == 17
  assert content['compared'][0]['runs'] == 3
  assert (tmp_path / 'comparison.png').read_bytes().startswith(b'\x89PNG')
  assert r'\toprule' in (tmp_path / 'comparison.tex').read_text()


def test_a_difference_beyond_chance_is_marked_and_only_then(comparison, tmp_path):
  surely = {ComparisonJob('ours', 'emo8', 'linear', seed): result(0.9 + seed / 1000) for seed in range(4)}
  surely |= {ComparisonJob('scratch', 'emo8', 'linear', seed): result(0.5 + seed / 500) for seed in range(4)}
  tables.write(comparison._replace(results=surely, errors={}), str(tmp_path))
  assert '(4) †' in (tmp_path / 'comparison.md').read_text()
  tables.write(comparison, str(tmp_path))
  assert '(4) †' not in (tmp_path / 'comparison.md').read_text()


def test_two_questions_of_one_table_are_corrected_for(comparison, tmp_path):
  likely = {ComparisonJob('scratch', 'emo8', 'linear', seed): result(0.5) for seed in range(4)}
  for name in ('ours', 'mae_only'):
    likely |= {
        ComparisonJob(name, 'emo8', 'linear', seed): result(0.5 + gain)
        for seed, gain in enumerate((0.01, 0.02, 0.03, 0.05))}
  one = {job: value for job, value in likely.items() if job.initialisation != 'mae_only'}
  marked = []
  for results in (one, likely):
    tables.write(comparison._replace(results=results, errors={}), str(tmp_path))
    marked.append('†**' in (tmp_path / 'comparison.md').read_text())
  assert marked == [True, False]  # p = 0.049 of one question, 0.098 of each of two


def test_metric_and_its_direction_belong_to_dataset_and_protocol():
  results = {
      ComparisonJob(name, 'emotion6', 'finetune', 0): {'tasks': {'distribution': {'kl': value}}}
      for name, value in (('a', 0.2), ('b', 0.1))}
  results |= {ComparisonJob(name, 'emotion6', 'linear', 0): result(value) for name, value in (('a', 0.2), ('b', 0.1))}
  comparison = comparison_of(('a', 'b'), ('emotion6',), ('finetune', 'linear'), 1, 'a', results, {})
  assert [column.measured for column in comparison.columns('finetune')] == ['emotion6, distribution kl']
  assert [column.measured for column in comparison.columns('linear')] == ['emotion6, top1']
  assert tables._table(comparison, 'linear', set())[1] == ['a', '**0.2000 (1)**']


def test_every_task_has_its_column_its_questions_and_its_metrics_in_the_csv(tmp_path):

  def measured(top1: float, kl: float) -> dict:
    return {
        'loss': 1.0,
        'tasks': {'label': {'top1': top1, 'macro_f1': 0.4, 'per_class': []},
                  'distribution': {'kl': kl, 'cosine': 0.9}}, 'examples': 3, 'checkpoint_step': 2}

  results = {
      ComparisonJob(name, 'emotion6', 'finetune', seed): measured(0.5 + gain + seed / 100, 0.3 - gain)
      for name, gain in (('ours', 0.1), ('scratch', 0.0)) for seed in range(2)}
  tables.write(
      comparison_of(('ours', 'scratch'), ('emotion6',), ('finetune',), 2, 'scratch', results, {}), str(tmp_path))
  page = (tmp_path / 'comparison.md').read_text()
  assert '| initialisation | emotion6, label top1 | emotion6, distribution kl |' in page
  assert '| ours | **0.6050 ± 0.0071 (2)** | **0.2000 ± 0.0000 (2)** |' in page
  assert '| ours | emotion6, distribution kl | finetune | -0.1000 |' in page
  rows = list(csv.DictReader(io.StringIO((tmp_path / 'comparison.csv').read_text())))
  assert len(rows) == 4
  names = ('metric', 'value', 'loss', 'label_macro_f1', 'distribution_cosine', 'examples')
  assert [rows[0][name] for name in names] == ['label top1', '0.6', '1.0', '0.4', '0.9', '3']


def test_an_undefined_metric_is_named_and_not_taken_for_zero(tmp_path):
  results = {ComparisonJob('a', 'emotic', 'finetune', 0): {'tasks': {'labels': {'map': None}}}}
  tables.write(comparison_of(('a',), ('emotic',), ('finetune',), 1, 'a', results, {}), str(tmp_path))
  page = (tmp_path / 'comparison.md').read_text()
  assert '| a | - |' in page and '- a/emotic/finetune/seed0: labels map' in page


def test_the_best_of_a_metric_of_which_less_is_better_is_the_least():

  def measured(kl: float) -> dict:
    return {'tasks': {'distribution': {'kl': kl}}, 'examples': 3}

  results = {ComparisonJob(name, 'emotion6', 'finetune', 0): measured(kl) for name, kl in (('a', 0.2), ('b', 0.1))}
  comparison = comparison_of(('a', 'b'), ('emotion6',), ('finetune',), 1, 'a', results, {})
  assert scores_of(results[ComparisonJob('a', 'emotion6', 'finetune',
                                         0)]) == [('distribution', 'kl', 'distribution kl', 0.2)]
  rows = tables._table(comparison, 'finetune', set())[1:]
  assert rows == [['a', '0.2000 (1)'], ['b', '**0.1000 (1)**']]


def test_column_says_where_val_took_the_place_of_test(comparison, tmp_path):
  of_val = {job: found | {'split': 'val'} for job, found in comparison.results.items()}
  tables.write(comparison._replace(results=of_val), str(tmp_path))
  assert 'emo8 val, top1' in (tmp_path / 'comparison.md').read_text()
  tables.write(comparison, str(tmp_path))
  assert 'emo8, top1' in (tmp_path / 'comparison.md').read_text()


def test_valence_and_arousal_may_be_compared_by_pearsons_r():
  job = ComparisonJob('scratch', 'rated', 'linear', 0)
  result_of_vad = {'tasks': {'vad': {'ccc': 0.4, 'pearson': 0.6, 'mae': 0.1}}}
  comparison = comparison_of(('scratch',), ('rated',), ('linear',), 1, 'scratch', {job: result_of_vad}, {})
  for vad_score, value in (('ccc', 0.4), ('pearson', 0.6)):
    ((column, scores),) = comparison._replace(vad_score=vad_score).columns('linear').items()
    assert column.measured == f'rated, vad {vad_score}' and scores['scratch'][0].value == value
