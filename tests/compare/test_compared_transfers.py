"""Transfer to other datasets is in the tables of `compare`, with its mean, its intervals and its questions."""

import csv
import json
from pathlib import Path

from ml_collections import ConfigDict
import numpy as np
import pytest

from data_pipelines.errors import UserError
from data_pipelines.storage import write_json
from tests.compare.test_compare import small_config
from tests.compare.test_families import comparison_of
from tests.compare.test_measured_runs import run_and_measure_more
from uniemox_jax.compare import tables
from uniemox_jax.compare.comparison import compare, read_comparison
from uniemox_jax.compare.measured_runs import measured_variants
from uniemox_jax.compare.study import check, job_config, jobs_of, variants_of
from uniemox_jax.eval.kept_outputs import keep_outputs
from uniemox_jax.eval.result_file import read_result, result_path, write_result
from uniemox_jax.eval.transfer import read_transfers
from uniemox_jax.objectives.tasks import measure, single_label_task
from uniemox_jax.train.run_folder import config_hash

IMAGES = 400


def config_of(data_dir: str, *transfers: str, datasets: tuple[str, ...] = ('emo8', 'emoset')) -> ConfigDict:
  config = small_config(data_dir, {'ours': 'runs/ours', 'scratch': 'none'}, datasets, ('linear',), 2)
  config.transfers = transfers
  return config


def leave_result(folder: Path, section: ConfigDict, dataset: str, label_map: str, right: float) -> None:
  """What a run would leave that answers this share of a dataset's images rightly."""
  config, task = section.to_dict(), single_label_task(['a', 'b', 'c'])
  write_json(folder / 'config.json', config)
  label_N = np.arange(IMAGES) % 3
  said_N = np.where(np.arange(IMAGES) < right * IMAGES, label_N, (label_N + 1) % 3)
  tested_on = '' if dataset == section.dataset else '_'.join(filter(None, (dataset, label_map)))
  found = {'outputs': 9.0 * np.eye(3)[said_N], 'label': label_N}
  keep_outputs(str(folder), config_hash(config), np.arange(IMAGES, dtype=np.uint64), [task], found, tested_on=tested_on)
  write_result(
      result_path(str(folder), 'test', change=tested_on), dataset=dataset, split='test', init='', checkpoint_step=None,
      config_hash=config_hash(config), **measure(task, found['outputs'].astype(np.float32), label_N))


def test_a_table_has_the_own_dataset_the_others_and_their_mean(data_dir, tmp_path):
  config = config_of(data_dir, 'emo8', 'emoset', 'emotion6:mikels_to_emotion6')
  check(config)
  sections = {job: job_config(config, job) for job in jobs_of(config)}
  right = {'emo8': 0.8, 'emoset': 0.6, 'emotion6': 0.3}
  for job, section in sections.items():
    others = [name for name in right if name != job.dataset]
    assert section.transfers == '+'.join(others).replace('emotion6', 'emotion6:mikels_to_emotion6')
    for name in (job.dataset, *others):
      share = right[name] - 0.1 * (job.initialisation == 'scratch') - 0.02 * job.seed * (name == 'emoset')
      leave_result(
          Path(job.folder(str(tmp_path))), section, name, 'mikels_to_emotion6' if name == 'emotion6' else '', share)
  comparison = read_comparison(config, sections, str(tmp_path))
  assert not comparison.unfinished
  rows = tables.write(comparison, str(tmp_path))
  page = (tmp_path / 'comparison.md').read_text()
  header = '| initialisation | itself | emoset | emotion6 by mikels_to_emotion6 | mean over other datasets |'
  assert '## linear on other datasets: emo8, top1' in page and header in page
  assert header.replace('emoset', 'emo8') in page
  content = json.loads((tmp_path / 'comparison.json').read_text())
  found = {(row['dataset'], row['protocol']): row for row in content['summaries'] if row['initialisation'] == 'ours'}
  of_mean = found['emo8', 'linear, mean over other datasets']
  assert of_mean['mean'] == pytest.approx((0.59 + 0.3) / 2)
  assert of_mean['interval'][0] < of_mean['mean'] < of_mean['interval'][1]
  assert found['emoset', 'linear, on emo8']['mean'] == pytest.approx(0.8)
  assert ('emo8', 'linear, on emo8') not in found
  names = ('linear', 'linear, on emotion6 by mikels_to_emotion6', 'linear, mean over other datasets')
  asked = {(dataset, name) for dataset in ('emo8', 'emoset') for name in names}
  asked |= {('emo8', 'linear, on emoset'), ('emoset', 'linear, on emo8')}
  assert {(row['dataset'], row['protocol']) for row in rows} == asked
  assert all(row['difference'] == pytest.approx(0.1) for row in rows)
  with (tmp_path / 'comparison.csv').open(newline='') as file:
    assert len(list(csv.DictReader(file))) == 2 * 2 * 2 * 3


def test_a_run_that_lacks_a_transfer_is_not_finished(data_dir, tmp_path):
  config = config_of(data_dir, datasets=('emo8',))
  [job, *_] = jobs_of(config)
  section = job_config(config, job)
  leave_result(Path(job.folder(str(tmp_path))), section, 'emo8', '', 0.5)
  assert not read_comparison(config, {job: section}, str(tmp_path)).unfinished
  config.transfers = ('emoset',)
  found = read_comparison(config, {job: job_config(config, job)}, str(tmp_path))  # Its config.json names none.
  assert found.unfinished == {job} and len(found.results) == 1


def test_a_difference_on_another_dataset_is_marked_in_its_table(data_dir, tmp_path):
  variants = measured_variants(variants_of(config_of(data_dir)).values(), (), (), read_transfers('emoset+fi'))
  value = {'linear': (0.7, 0.7), 'linear, on emoset': (0.6, 0.2), 'linear, on fi': (0.5, 0.5)}
  comparison = comparison_of(
      variants, {(name, protocol): both[name == 'scratch'] for protocol, both in value.items()
                 for name in ('ours', 'scratch')})
  exact = {
      job:
          result | {
              'top1':
                  value[job.protocol][job.initialisation == 'scratch'] + 0.001 * job.seed *
                  (job.initialisation == 'ours')} for job, result in comparison.results.items()}
  tables.write(comparison._replace(results=exact), str(tmp_path))
  [ours] = [
      line for line in (tmp_path / 'comparison.md').read_text().splitlines()
      if line.startswith('| ours') and line.count('|') == 6 and '0.60' in line]
  itself, emoset, fi, mean = ours.split('|')[2:6]
  assert '†' in emoset and '†' in mean and '†' not in itself + fi


@pytest.mark.parametrize(('transfers', 'folds', 'said'), [(('emoset', 'emoset'), 0, 'there twice'),
                                                          (('emoset',), 2, 'leave folds or transfers out')])
def test_transfers_that_cannot_be_are_one_line(data_dir, transfers, folds, said):
  config = config_of(data_dir, *transfers)
  config.folds = folds
  with pytest.raises(UserError, match=said):
    check(config)


@pytest.mark.parametrize(('transfer', 'said'), [('fi', "'fi'"), ('emoset:polarities', "'polarities' does not exist")])
def test_a_dataset_or_map_that_is_not_there_is_named_before_anything_runs(data_dir, tmp_path, transfer, said):
  with pytest.raises(UserError, match=said):
    compare(config_of(data_dir, transfer), str(tmp_path))
  assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_finished_comparison_is_measured_on_another_dataset_without_being_trained_again(data_dir, tmp_path):
  config = small_config(data_dir, {'scratch': 'none'}, ('emo8', 'emoset'), ('finetune', 'knn'), 1)
  folder, page = run_and_measure_more(config, tmp_path / 'compare', 4, transfers=('emo8', 'emoset'))
  assert read_result(str(folder), 'emoset')['trained_on'] == 'emo8'
  assert '## finetune on other datasets: emoset, top1' in page
