"""Every initialisation on every dataset under every protocol, over seeds: one table, with its uncertainty.

python -m uniemox_jax.compare --config=configs/compare.py --workdir=runs/compare

Each combination is a job of its own (`subprocess_runs`): a finished one is never run again, an interrupted one
resumes, one that fails is named and the others go on. comparison.md, .csv, .tex, .png and .json are rewritten after
each, and ambiguity.md where there are votes. docs/compare.md says how to read them.
"""

from collections.abc import Iterable, Mapping
import os
import time
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from data_pipelines.errors import UserError
from data_pipelines.ownership import owned
from data_pipelines.records import reader
from data_pipelines.storage import exists, write_json
from uniemox_jax.compare import subprocess_runs, tables
from uniemox_jax.compare.ambiguity_page import PAGE, write_ambiguity
from uniemox_jax.compare.comparison_results import Comparison, ComparisonJob
from uniemox_jax.compare.image_groups import Groups, read_groups
from uniemox_jax.compare.measured_runs import MeasuredRun, measured_runs, measured_variants
from uniemox_jax.compare.study import (
    PRETRAINING,
    VERBS,
    check,
    job_config,
    jobs_of,
    pretraining_config,
    pretraining_folder,
    transfers_of,
    variants_of,
)
from uniemox_jax.compare.summary_statistics import MOST_SEEDS, seeds_needed
from uniemox_jax.eval.transfer import open_transfer

PRETRAINED = 'pretrained.json'
"""The file in the workdir of a finished pretraining that says how long its last try took."""


class Until(NamedTuple):
  """When a comparison has enough seeds. half_width: the most that an interval of a difference may reach to each side.
  most_seeds: the number at which it ends in any case. hours: the time after which no seed is added, None for no limit.
  """

  half_width: float
  most_seeds: int
  hours: float | None = None


def read_comparison(config: ConfigDict, sections: Mapping[ComparisonJob, ConfigDict], workdir: str) -> Comparison:
  """Reads what is finished, and what failed, of the jobs with the configs `sections`.

  Raises:
    UserError: a job was run, or begun, with other values than the config has now; or there are no such groups.
  """
  measured: dict[ComparisonJob, MeasuredRun] = {}
  vad_score, groups = config.get('vad_score', 'ccc'), _groups(config, sections)
  variants = measured_variants(
      variants_of(config).values(), config.get('test_changes', ()),
      sorted({name for of_dataset in groups.values() for name in of_dataset}), transfers_of(config))
  for folder, section in pretrainings_of(config, sections, workdir).items():
    subprocess_runs.check_same_config(folder, section)
  for job, section in sections.items():
    folder = job.folder(workdir)
    # The table names where a run started from.
    subprocess_runs.check_same_config(folder, section, also=('init',))
    measured |= measured_runs(job, folder, variants, groups.get(job.dataset, {}), vad_score)
  wanted = tuple(
      job._replace(protocol=name)
      for job in sections
      for name, variant in variants.items()
      if variant.trained == job.protocol and not variant.group and variant.is_for(job.dataset))
  comparison = Comparison(
      config.initialisations, config.datasets, variants, config.reference, wanted,
      {job: run.result for job, run in measured.items()}, {}, {job: run.resampled for job, run in measured.items()},
      config.get('folds', 0), config.get('detect', 0.02), vad_score)
  last_errors = {job: subprocess_runs.last_error(job.folder(workdir)) for job in sections}
  return comparison._replace(
      errors={job: error for job, error in last_errors.items() if error and job in comparison.unfinished})


def _groups(config: ConfigDict, sections: Mapping[ComparisonJob, ConfigDict]) -> dict[str, Groups]:
  """The groups of the test images, by dataset; {} if none are asked for."""
  if not config.get('group_column'):
    return {}
  data_dirs = {job.dataset: section.data_dir for job, section in sections.items()}
  return {
      dataset: read_groups(data_dir, dataset, config.groups.replace('{dataset}', dataset), config.group_column)
      for dataset, data_dir in data_dirs.items()}


def _check_transfers(config: ConfigDict, sections: Mapping[ComparisonJob, ConfigDict]) -> None:
  """Raises UserError where a dataset to transfer to is missing, or its map does not fit the classes of one compared."""
  if not transfers_of(config):
    return
  for data_dir, dataset in {(section.data_dir, job.dataset) for job, section in sections.items()}:
    classes = reader.open_split(data_dir, dataset, 'train').labels
    for transfer in transfers_of(config, dataset):
      open_transfer(transfer, data_dir, classes)


def pretrainings_of(config: ConfigDict, jobs: Iterable[ComparisonJob], workdir: str) -> dict[str, ConfigDict]:
  """The configs of the runs that these jobs start from and the comparison makes, by folder."""
  found = {}
  for job in jobs:
    folder = pretraining_folder(job, workdir)
    if folder not in found and (section := pretraining_config(config, job)) is not None:
      found[folder] = section
  return found


def _pretrain_once(settings: ConfigDict, section: ConfigDict, folder: str) -> None:
  """Makes the run that a job starts from, unless an earlier job has; another process that makes it is waited for."""
  finished = os.path.join(folder, PRETRAINED)
  with owned(folder, 'job', wait=True):
    if not exists(finished):
      began = time.monotonic()
      PRETRAINING[settings.get('verb', 'pretrain')](section, folder)
      write_json(finished, {'seconds': round(time.monotonic() - began, 1)})


def compare(config: ConfigDict, workdir: str, until: Until | None = None) -> None:
  """Runs the jobs that are not finished, and keeps the tables up to date.

  Seeds are added in whole rounds, so whether one more is needed is a function of finished runs alone.

  Raises:
    UserError: a mistake in the config; or jobs that failed, named, when all others are finished.
  """
  check(config)
  began, seeds = time.monotonic(), config.seeds
  if until:
    seeds = max(seeds, 2)  # one has no spread
    if len(config.initialisations) < 2 or until.most_seeds < seeds:
      raise UserError(
          f'--until needs an initialisation beside the reference, and --most_seeds={until.most_seeds} of at least '
          f'{seeds}: raise it, or leave --until out')
  sections = {job: job_config(config, job, workdir) for job in jobs_of(config, seeds)}
  _check_transfers(config, sections)
  before = tables.differences(read_comparison(config, sections, workdir))
  if planned := describe_plan(config, before, seeds):
    print(planned, flush=True)
  printed = subprocess_runs.printed_at_the_end
  with printed(os.path.join(workdir, 'comparison.md')), printed(os.path.join(workdir, PAGE)):
    while True:
      from_reference = _run_all(config, sections, workdir)
      if until is None or _is_enough(from_reference, until, seeds):
        return
      if until.hours is not None and time.monotonic() - began > 3600 * until.hours:
        print(f'--hours={until.hours:g} are over: the same command goes on', flush=True)
        return
      seeds += 1
      sections |= {job: job_config(config, job, workdir) for job in jobs_of(config, seeds) if job not in sections}


def _run_all(config: ConfigDict, sections: Mapping[ComparisonJob, ConfigDict], workdir: str) -> list[dict[str, Any]]:
  """Runs the jobs that are not finished; the differences from the reference, when all are."""
  found: list[dict[str, Any]] = []

  def tabulate() -> dict[str, str]:
    comparison = read_comparison(config, sections, workdir)
    found[:] = tables.write(comparison, workdir)
    write_ambiguity(comparison, workdir)
    unfinished = comparison.unfinished
    scores = {job.name: comparison.scores(comparison.results[job])[0] for job in sections if job not in unfinished}
    return {
        name: f'{score.metric} undefined' if score.value is None else f'{score.metric} {score.value:.4f}'
        for name, score in scores.items()}

  subprocess_runs.run_unfinished('uniemox_jax.compare', {job.name: job.folder(workdir) for job in sections}, tabulate)
  return found


def describe_plan(config: ConfigDict, from_reference: list[dict[str, Any]], seeds: int) -> str:
  """Says how many seeds the difference needs, by the known or the largest spread, or that none is known."""
  spread, detect, folds = config.get('spread', 0.0), config.get('detect', 0.02), config.get('folds', 0)
  where = 'as config.spread says'
  if not spread:
    row = max(from_reference, key=lambda row: row['spread'] or 0, default=None)
    if row is None or not row['spread']:
      return (
          f'how many seeds a difference of {detect:g} needs follows from a spread that is not known yet: give '
          '--config.spread, or see the table after two seeds') if len(config.initialisations) > 1 else ''
    spread, where = row['spread'], f"of {row['initialisation']} on {row['measured']}, {row['protocol']}"
  needed = seeds_needed(spread, detect, folds)
  return (
      f'a difference of {detect:g} needs {needed or f"more than {MOST_SEEDS}"} seeds for the paired t-test (power 0.8, '
      f'level 0.05, two-sided), where differences spread by {spread:.4f}, {where}; {seeds} are asked for')


def _is_enough(from_reference: list[dict[str, Any]], until: Until, seeds: int) -> bool:
  """Whether the study ends after this round; prints why, or which interval is too wide."""
  widest = max(from_reference, key=lambda row: row.get('half_width', float('inf')), default=None)
  if widest is None or 'half_width' not in widest:
    raise UserError(
        '--until needs what every run predicted, and '
        f"{widest['initialisation'] + ' on ' + widest['measured'] if widest else 'some of them'} kept nothing, as runs "
        'of an earlier version: choose another --workdir')
  said = (
      f"{seeds} seeds: the widest interval is ±{widest['half_width']:.4f}, of {widest['initialisation']} on "
      f"{widest['measured']}, {widest['protocol']}")
  if widest['half_width_of_images']:
    said += f"; the test images alone make it ±{widest['half_width_of_images']:.4f}"
  enough = widest['half_width'] <= until.half_width
  if not enough and seeds >= until.most_seeds:
    said += f'; --most_seeds={until.most_seeds} are reached'
  print(said, flush=True)
  return enough or seeds >= until.most_seeds


def run_job(config: ConfigDict, workdir: str, name: str, until: Until | None = None) -> None:
  """Runs one job, or resumes it.

  Raises:
    UserError: no such job; or what its verb raises.
  """
  check(config)
  job = {job.name: job for job in jobs_of(config, until and until.most_seeds)}.get(name)
  if job is None:
    raise UserError(f"--cell='{name}' is no job of this config: give INITIALISATION/DATASET/PROTOCOL/seedN")
  verb = VERBS[config.protocol[variants_of(config)[job.protocol].protocol].verb]
  section, folder = job_config(config, job, workdir), job.folder(workdir)
  if section.get('features_dir') == '':
    section.features_dir = os.path.join(workdir, 'features')  # extracted once for all probes of an encoder

  def run() -> None:
    if origin := pretraining_config(config, job):
      _pretrain_once(config.initialisation[job.initialisation].pretrain, origin, pretraining_folder(job, workdir))
    verb.run(section, folder)

  subprocess_runs.run_here(folder, run)
