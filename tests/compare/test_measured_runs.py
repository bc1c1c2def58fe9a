"""One run is measured on changed test images and by group, and the tables say of an oracle what the oracle reaches."""

import csv
import json
from pathlib import Path

from ml_collections import ConfigDict
import numpy as np
import pytest

from data_pipelines.batches.image_changes import PERSON_REMOVED, SCENE_REMOVED
from data_pipelines.build import build
from data_pipelines.errors import UserError
from data_pipelines.records.reader import open_split
from data_pipelines.storage import write_json
from data_pipelines.synthetic import hard_oracle, hard_rows, hard_tables
from data_pipelines.synthetic.world import STYLES
from tests.compare.test_compare import run, small_config
from tests.compare.test_families import comparison_of
from uniemox_jax.compare import tables
from uniemox_jax.compare.comparison import read_comparison
from uniemox_jax.compare.image_groups import read_groups
from uniemox_jax.compare.measured_runs import measured_variants
from uniemox_jax.compare.study import check, job_config, jobs_of, variants_of
from uniemox_jax.eval.kept_outputs import example_keys, keep_outputs
from uniemox_jax.eval.result_file import read_result, result_path, write_result
from uniemox_jax.objectives.tasks import measure, single_label_task
from uniemox_jax.train.config import ProbeConfig
from uniemox_jax.train.data_splits import open_splits
from uniemox_jax.train.run_folder import config_hash
from uniemox_jax.train.schema import parse

TEST = 96
SEES = {'': 'both', SCENE_REMOVED: 'figure', PERSON_REMOVED: 'scene'}
SUMMARIES = ('linear', 'linear, area under the curve', 'linear, mean over domains')
QUESTIONS = {'': 'label', SCENE_REMOVED: 'figure_alone', PERSON_REMOVED: 'scene_alone'}


@pytest.fixture(scope='module')
def hard(tmp_path_factory) -> tuple[Path, Path]:
  """The harder world's labelled table, and the records of it."""
  root = tmp_path_factory.mktemp('hard')
  hard_tables.draw_hard(root, {'unlabelled': 2, 'train': 24, 'val': 8, 'test': TEST}, seed=2, workers=1)
  build('table', root / 'labelled', root / 'data', name='hard')
  return root / 'labelled' / 'table.csv', root / 'data'


def config_of(data_dir: Path, **values) -> ConfigDict:
  config = small_config(str(data_dir), {'oracle': 'runs/oracle', 'scratch': 'none'}, ('hard',), ('linear',), 1)
  config.protocol.linear.recipe = 'configs/probe.py:emo8'
  config.update(values)
  return config


def place_of(record: str) -> tuple[str, int]:
  """The part of the world, and the number in it, of an image: images/test/00/00003.jpg."""
  _, part, _, name = Path(record).parts
  return part, int(Path(name).stem)


def leave_run_of_the_oracle(folder: Path, section: ConfigDict, changes: tuple[str, ...], blind: bool) -> None:
  """What a run would leave whose model sees all that is drawn, or nothing."""
  config = section.to_dict()
  write_json(folder / 'config.json', config)
  split = open_splits(parse(ProbeConfig, section))[2]
  scenes = [hard_rows.plan_scene(*place_of(one.id), seed=2).scene for one in split.annotations()]
  task, label_N = single_label_task(split.labels), split.label_array()
  for change in changes:
    said = [split.labels.index(hard_oracle.best_answer(scene.case, 'label', SEES[change])) for scene in scenes]
    logits_NxC = 9.0 * np.eye(len(split.labels))[said] * (not blind)
    keep_outputs(
        str(folder), config_hash(config), example_keys(split), [task], {'outputs': logits_NxC, 'label': label_N},
        tested_on=change)
    write_result(
        result_path(str(folder), 'test', change=change), dataset='hard', split='test', init='', checkpoint_step=None,
        config_hash=config_hash(config), **measure(task, logits_NxC.astype(np.float32), label_N))


def test_tables_by_change_and_by_kind_of_cues_say_what_the_oracle_reaches(hard, tmp_path):
  table, data_dir = hard
  config = config_of(data_dir, group_column='cues', groups=str(table), test_changes=(SCENE_REMOVED, PERSON_REMOVED))
  check(config)
  sections = {job: job_config(config, job) for job in jobs_of(config)}
  for job, section in sections.items():
    leave_run_of_the_oracle(
        Path(job.folder(str(tmp_path))), section, tuple(SEES), blind=job.initialisation == 'scratch')
  comparison = read_comparison(config, sections, str(tmp_path))
  assert not comparison.unfinished
  rows = tables.write(comparison, str(tmp_path))
  oracle = json.loads((table.parent / 'provenance.json').read_text())['oracle']
  content = json.loads((tmp_path / 'comparison.json').read_text())
  found = {row['protocol']: row for row in content['summaries'] if row['initialisation'] == 'oracle'}
  for change, question in QUESTIONS.items():
    name = ', '.join(filter(None, ('linear', change)))
    assert found[name]['mean'] == pytest.approx(oracle[question], abs=1e-4)
    for kind, reached in oracle['by_cues'].items():
      of_kind = found[f'{name}, cues: {kind}']
      assert of_kind['mean'] == pytest.approx(reached[question], abs=1e-4), (name, kind)
      low, high = of_kind['interval']
      assert low <= of_kind['mean'] <= high and (low < high or of_kind['mean'] == 1)
  apart = (oracle['figure_alone'] + oracle['scene_alone']) / 2 - oracle['label']
  assert found['linear, changed minus unchanged']['mean'] == pytest.approx(apart, abs=1e-4)
  assert found['linear, changed minus unchanged']['interval'][1] < 0
  page = (tmp_path / 'comparison.md').read_text()
  assert '## linear by group: hard, top1' in page and '## linear, person_removed by group: hard, top1' in page
  assert '| worst group | best minus worst |' in page
  with (tmp_path / 'comparison.csv').open(newline='') as file:
    examples = {row['protocol']: int(row['examples']) for row in csv.DictReader(file)}
  assert sum(count for name, count in examples.items() if name.startswith('linear, cues')) == TEST
  groups, changes = [f'cues: {kind}' for kind in oracle['by_cues']], [SCENE_REMOVED, PERSON_REMOVED]
  sums = ['mean over changes', 'changed minus unchanged', 'mean over groups']
  asked = ['linear', *(f'linear, {name}' for name in (*groups, *changes, *sums))]
  assert sorted(row['protocol'] for row in rows) == sorted(asked)  # Not of groups of changed images.


@pytest.mark.parametrize(
    'values', [{'left_out_domains': STYLES}, {'fractions': (0.5, 1.0)}, {'folds': 3}],
    ids=['domains', 'few labels', 'folds'])
def test_domains_few_labels_and_folds_say_what_the_oracle_reaches(hard, tmp_path, values):
  table, data_dir = hard
  config = config_of(data_dir, **values)
  check(config)
  sections = {job: job_config(config, job) for job in jobs_of(config)}
  for job, section in sections.items():
    leave_run_of_the_oracle(Path(job.folder(str(tmp_path))), section, ('',), blind=job.initialisation == 'scratch')
  comparison = read_comparison(config, sections, str(tmp_path))
  assert not comparison.unfinished
  tables.write(comparison, str(tmp_path))
  results = {job: result for job, result in comparison.results.items() if job.initialisation == 'oracle'}
  examples = [result['examples'] for result in results.values()]
  right = [round(result['top1'] * result['examples']) for result in results.values()]
  oracle = json.loads((table.parent / 'provenance.json').read_text())['oracle']['label']
  [summary] = [
      row for row in json.loads((tmp_path / 'comparison.json').read_text())['summaries']
      if row['initialisation'] == 'oracle' and row['protocol'] in SUMMARIES]
  assert summary['interval'][0] <= summary['mean'] <= summary['interval'][1]
  if 'folds' in values:  # of all labelled images, of every split
    rows = list(csv.DictReader(table.open(newline='', encoding='utf-8')))
    said = [
        hard_oracle.best_answer(hard_rows.plan_scene(*place_of(row['image']), seed=2).scene.case, 'label')
        for row in rows]
    assert sum(examples) == len(rows) and sum(right) == sum(answer == row['label'] for answer, row in zip(said, rows))
  elif 'fractions' in values:  # which change nothing for who learns nothing
    assert [count / TEST for count in right] == pytest.approx([oracle, oracle], abs=1e-4)
    assert summary['mean'] == pytest.approx(oracle, abs=1e-4)
  else:
    assert sum(examples) == TEST and sum(right) / TEST == pytest.approx(oracle, abs=1e-4)
    assert summary['mean'] == pytest.approx(np.mean([result['top1'] for result in results.values()]))


def test_a_run_that_lacks_a_change_is_not_finished_and_is_shown(hard, tmp_path):
  config = config_of(hard[1])
  [job, _] = jobs_of(config)
  section = job_config(config, job)
  leave_run_of_the_oracle(Path(job.folder(str(tmp_path))), section, ('', SCENE_REMOVED), blind=False)
  assert not read_comparison(config, {job: section}, str(tmp_path)).unfinished
  config.test_changes = (SCENE_REMOVED, PERSON_REMOVED)
  asked = job_config(config, job)
  assert asked.test_changes == 'scene_removed+person_removed'
  found = read_comparison(config, {job: asked}, str(tmp_path))  # The run's config.json names no change.
  assert found.unfinished == {job} and [done.protocol for done in found.results] == ['linear', 'linear, scene_removed']
  tables.write(found, str(tmp_path))
  assert '1 runs have no result yet' in (tmp_path / 'comparison.md').read_text()


def test_changes_have_their_mean_the_distance_from_unchanged_and_the_worst(tmp_path):
  variants = measured_variants(variants_of(config_of(tmp_path)).values(), ('blur_3', 'noise_3'), ())
  value = {'linear': (0.7, 0.5), 'linear, blur_3': (0.6, 0.45), 'linear, noise_3': (0.3, 0.25)}
  comparison = comparison_of(
      variants, {(name, protocol): both[name == 'scratch'] for protocol, both in value.items()
                 for name in ('ours', 'scratch')})
  rows = tables.write(comparison, str(tmp_path))
  page = (tmp_path / 'comparison.md').read_text()
  assert '| unchanged | blur_3 | noise_3 | mean over changes | changed minus unchanged | worst change |' in page
  [ours] = [line for line in page.splitlines() if line.startswith('| ours') and 'noise_3: ' in line]
  assert ours.endswith('| noise_3: 0.3167 | 0.3000 |') and ' -0.2500' in ours
  of_summary = {row['protocol']: row['difference'] for row in rows}
  assert of_summary['linear, mean over changes'] == pytest.approx(0.1)
  assert of_summary['linear, changed minus unchanged'] == pytest.approx(-0.25 + 0.15)


def test_nothing_more_is_run_for_changes_and_groups(hard):
  plain = config_of(hard[1])
  config = config_of(hard[1], test_changes=('blur_3', 'noise_3'), group_column='domain')
  assert jobs_of(config) == jobs_of(plain)
  [job, _] = jobs_of(config)
  assert job_config(config, job).test_changes == 'blur_3+noise_3' and job_config(plain, job).test_changes == ''


@pytest.mark.parametrize(('values', 'said'), [
    ({'test_changes': ('blur',)}, "'blur' of the test changes is unknown"),
    ({'test_changes': ('blur_1', 'blur_1')}, 'there twice'),
    ({'groups': 'table.csv'}, "'groups' is table.csv: say which of its columns with --config.group_column")], ids=str)
def test_changes_and_groups_that_cannot_be_are_one_line(tmp_path, values, said):
  with pytest.raises(UserError, match=said):
    check(config_of(tmp_path, **values))


def test_groups_are_of_the_table_or_of_the_records(hard, tmp_path, capsys):
  table, data_dir = hard
  read_groups.cache_clear()
  by_table = read_groups(str(data_dir), 'hard', str(table), 'cues')
  assert list(by_table) == ['cues: both', 'cues: conflicting', 'cues: figure', 'cues: scene']
  assert '0 in none' in capsys.readouterr().out
  by_record = read_groups(str(data_dir), 'hard', '', 'domain')
  every = frozenset(example_keys(open_split(data_dir, 'hard', 'train+val+test')).tolist())
  assert frozenset().union(*by_table.values()) == frozenset().union(*by_record.values()) == every
  some = tmp_path / 'some.csv'
  some.write_text('file name,kind\nimages/test/00/00003.jpg,a\n00090.jpg,b\nimages/test/00/00007.jpg,\n')
  found = read_groups(str(data_dir), 'hard', str(some), 'kind')
  assert f'kind: a 1, kind: b 1; {len(every) - 2} in none' in capsys.readouterr().out and len(found) == 2


@pytest.mark.parametrize(('content', 'column', 'said'), [
    ('image,kind\nx.jpg,a\n', 'kind', 'names no image that is here'), ('image,kind\n', 'sort', "no column 'sort'"),
    ('thing,kind\nx.jpg,a\n', 'kind', 'no column of images'),
    ('image,kind\nimages/test/00/00003.jpg,a\nimages/test/00/00003.jpg,b\n', 'kind', "says 'b' of .*'a' before"),
    (None, 'caption', 'makes [0-9]+ groups'), (None, 'nothing', 'makes 0 groups')])
def test_groups_that_cannot_be_are_one_line(hard, tmp_path, content, column, said):
  table = tmp_path / 'table.csv'
  table.write_text(content or '')
  with pytest.raises(UserError, match=said):
    read_groups(str(hard[1]), 'hard', str(table) if content else '', column)


def run_and_measure_more(config: ConfigDict, workdir: Path, jobs: int, **more: tuple[str, ...]) -> tuple[Path, str]:
  """Runs a comparison, then with more that is asked for, and again. Nothing is trained twice, nor measured twice.

  Returns the folder of a fine-tuning run, and the comparison's page.
  """
  code, said = run(config, workdir)
  assert code == 0, said
  folder = workdir / 'scratch' / 'emo8' / 'finetune' / 'seed0'
  before = {folder / name: (folder / name).read_bytes() for name in ('result.json', 'config.json', 'outputs.npz')}
  config.update(more)
  code, said = run(config, workdir)
  assert code == 0 and f'{jobs} jobs, 0 of them finished before' in said, said
  assert {path: path.read_bytes() for path in before} == before
  code, said = run(config, workdir)
  assert code == 0 and f'{jobs} jobs, {jobs} of them finished before' in said, said
  return folder, (workdir / 'comparison.md').read_text()


@pytest.mark.slow
def test_a_finished_comparison_is_measured_on_more_without_being_trained_again(data_dir, tmp_path):
  config = small_config(data_dir, {'scratch': 'none'}, ('emo8',), ('finetune', 'knn'), 1)
  folder, page = run_and_measure_more(config, tmp_path / 'compare', 2, test_changes=('person_removed', 'jpeg_5'))
  assert read_result(str(folder), 'jpeg_5')['test_change'] == 'jpeg_5'
  assert 'worst change' in page
