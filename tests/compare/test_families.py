"""Curves over few labels and tables over left-out domains say what their runs scored."""

from pathlib import Path

import numpy as np
import pytest

from configs import compare as shipped
from data_pipelines.errors import UserError
from uniemox_jax.compare import families, tables
from uniemox_jax.compare.comparison_results import Comparison, ComparisonJob, ProtocolVariant
from uniemox_jax.compare.study import check, job_config, jobs_of, variants_of

FRACTIONS = (0.5, 0.01, 0.1)
VALUES = {0.01: 0.2, 0.1: 0.3, 0.5: 0.6}


def comparison_of(variants: dict[str, ProtocolVariant], value: dict[tuple[str, str], float]) -> Comparison:
  """Three seeds of two initialisations, `value` by initialisation and protocol, and a little more each seed."""
  jobs = [
      ComparisonJob(name, 'emo8', protocol, seed)
      for seed in range(3)
      for protocol in variants
      for name in ('ours', 'scratch')]
  results = {job: {'top1': value[job.initialisation, job.protocol] + 0.01 * job.seed**2, 'examples': 3} for job in jobs}
  rng = np.random.default_rng(0)
  resampled = {job: {'label': result['top1'] + rng.normal(0, 0.02, 2000)} for job, result in results.items()}
  return Comparison(('ours', 'scratch'), ('emo8',), variants, 'scratch', jobs, results, {}, resampled)


def test_fractions_and_domains_multiply_protocols():
  config = shipped.get_config('demo')
  config.fractions, config.left_out_domains, config.protocols = (0.05, 1), ('cartoon', 'oil on canvas'), ('linear',)
  check(config)
  assert list(variants_of(config).items()) == [
      ('linear_without_cartoon_5_percent', ProtocolVariant('linear', 'cartoon', 0.05)),
      ('linear_without_cartoon_100_percent', ProtocolVariant('linear', 'cartoon', 1)),
      ('linear_without_oil_on_canvas_5_percent', ProtocolVariant('linear', 'oil on canvas', 0.05)),
      ('linear_without_oil_on_canvas_100_percent', ProtocolVariant('linear', 'oil on canvas', 1))]
  assert [family.name for family in families.curves(variants_of(config))
         ] == ['linear without cartoon', 'linear without oil on canvas']
  assert [family.name for family in families.left_out(variants_of(config))] == ['linear at 5 %', 'linear at 100 %']
  assert len(jobs_of(config)) == 3 * 2 * 4 * 3


@pytest.mark.parametrize('fractions', [(0.0, 0.1), (0.1, 1.5), (0.1, 0.1), ('a',)])
def test_a_share_that_cannot_be_is_one_line(fractions):
  config = shipped.get_config('demo')
  config.fractions = fractions
  with pytest.raises(UserError, match="'fractions' is .*above 0 and at most 1, each once"):
    check(config)


def test_area_is_the_mean_height_over_the_logarithm(tmp_path: Path):
  config = shipped.get_config('demo')
  config.fractions, config.protocols = FRACTIONS, ('linear',)
  variants = variants_of(config)
  [family] = families.curves(variants)
  assert list(family.members.values()) == ['1 %', '10 %', '50 %']
  assert sum(*family.summaries.values()) == pytest.approx(1)
  value = {(name, protocol): VALUES[variant.fraction] - (name == 'scratch') * 0.1 for name in ('ours', 'scratch')
           for protocol, variant in variants.items()}
  comparison = comparison_of(variants, value)
  [(column, members)] = families.columns_of(family, comparison).items()
  area = families.weighted_sum(family.summaries['area under the curve'], members)['ours']
  x = np.log(sorted(VALUES))
  assert area[0].value == pytest.approx(np.trapezoid([0.2, 0.3, 0.6], x) / np.ptp(x))
  rows = tables.write(comparison, str(tmp_path))
  [of_area] = [row for row in rows if row['protocol'] == 'linear, area under the curve']
  assert of_area['difference'] == pytest.approx(0.1) and of_area['interval'][0] < 0.1 < of_area['interval'][1]
  page = (tmp_path / 'comparison.md').read_text()
  assert '| initialisation | 1 % | 10 % | 50 % | area under the curve |' in page and '## linear: emo8, top1' in page
  assert (tmp_path / 'comparison_curves.png').read_bytes().startswith(b'\x89PNG')


def test_domains_have_their_mean_the_worst_and_the_gap(tmp_path: Path):
  config = shipped.get_config('demo')
  config.left_out_domains, config.protocols = ('cartoon', 'oil'), ('linear',)
  variants = variants_of(config)
  value = {('ours', 'linear_without_cartoon'): 0.5, ('ours', 'linear_without_oil'): 0.8,
           ('scratch', 'linear_without_cartoon'): 0.4, ('scratch', 'linear_without_oil'): 0.3}
  comparison = comparison_of(variants, value)
  rows = tables.write(comparison, str(tmp_path))
  page = (tmp_path / 'comparison.md').read_text()
  assert '| initialisation | cartoon | oil | mean over domains | worst domain | best minus worst |' in page
  [ours] = [line for line in page.splitlines() if line.startswith('| ours | **0.51')]
  assert '**0.6667' in ours and ours.endswith('| cartoon: 0.5167 | 0.3000 |')
  assert '| oil: 0.3167 | 0.1000 |' in page
  assert [row['difference'] for row in rows if row['protocol'] == 'linear, mean over domains'] == [pytest.approx(0.3)]


def test_a_family_is_shown_before_all_of_its_members_are_there(tmp_path: Path):
  config = shipped.get_config('demo')
  config.fractions, config.protocols = FRACTIONS, ('linear',)
  variants = variants_of(config)
  comparison = comparison_of(variants, {(name, protocol): 0.5 for name in ('ours', 'scratch') for protocol in variants})
  some = {job: result for job, result in comparison.results.items() if not job.protocol.endswith('_1_percent')}
  tables.write(comparison._replace(results=some), str(tmp_path))
  page = (tmp_path / 'comparison.md').read_text()
  assert '| ours | - | **0.5167' in page and '6 runs have no result yet' in page


def test_a_protocol_is_run_only_for_whom_it_is_for():
  config = shipped.get_config('demo')
  config.protocols, config.datasets = ('linear', 'zero_shot'), ('emo8',)
  with pytest.raises(UserError, match="protocol 'zero_shot' is run only for clip, teacher, of which none is compared"):
    check(config)
  config.initialisations = ('uniemox', 'teacher', 'scratch')
  check(config)
  of_teacher = [job for job in jobs_of(config) if job.protocol == 'zero_shot']
  assert of_teacher == [('teacher', 'emo8', 'zero_shot', 0, None)]  # nothing of it depends on the seed
  config.folds = 2
  assert len([job for job in jobs_of(config) if job.protocol == 'zero_shot']) == 6


def test_a_batch_is_no_larger_than_the_images_of_a_fraction(data_dir: str):
  config = shipped.get_config('demo')
  config.change.data_dir, config.datasets, config.fractions = data_dir, ('emo8',), (0.1, 0.5, 1.0)
  config.protocols, config.initialisations, config.seeds = ('finetune', 'linear'), ('scratch',), 1
  found = {job.protocol: job_config(config, job) for job in jobs_of(config)}
  # Of 40 images, 5 of each class: one, two (half of 5, rounded to even) or all of each.
  assert [found[f'finetune_{percent}_percent'].batch_size for percent in (10, 50, 100)] == [8, 16, 32]
  assert found['linear_10_percent'].batch_size == 256 and found['linear_10_percent'].fraction == 0.1
  config.folds, config.fractions = 5, ()
  [first, *_] = jobs_of(config)
  section = job_config(config, first)
  assert (section.folds, section.fold, section.fold_seed, section.fraction) == (5, 0, 0, 1.0)
