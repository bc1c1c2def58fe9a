"""Every initialisation on every dataset under every protocol, over seeds: one table, with its uncertainty.

python -m uniemox_jax.compare --config=configs/compare.py --workdir=runs/compare

Each combination is a job of its own (`subprocess_runs`): a finished one is never run again, an interrupted one
resumes, one that fails is named and the others go on. comparison.md, .csv, .tex, .png and .json are rewritten after
each. docs/compare.md says how to read them.
"""

from collections.abc import Mapping
import copy
from dataclasses import dataclass
import itertools
import os
import re

from ml_collections import ConfigDict

from data_pipelines.errors import UserError
from data_pipelines.storage import parsing
from uniemox_jax.compare import subprocess_runs, tables
from uniemox_jax.compare.tables import Comparison, ComparisonJob
from uniemox_jax.eval.result_file import read_result, result_path
from uniemox_jax.finetune import finetune
from uniemox_jax.probe import probe
from uniemox_jax.runtime import cli
from uniemox_jax.train import schema
from uniemox_jax.train.config import CONFIGS

VERBS = {'finetune': finetune, 'probe': probe}
"""By the name a protocol gives: what runs a job."""


@dataclass(frozen=True, kw_only=True)
class CompareConfig:
  """Keys of `compare`."""

  initialisations: tuple = schema.key((), 'names of those to compare, defined in initialisation')
  datasets: tuple = schema.key((), 'names of the datasets, as built')
  protocols: tuple = schema.key((), 'names of the protocols, defined in protocol')
  seeds: int = schema.key(3, 'repetitions of every run', least=1)
  left_out_domains: tuple = schema.key(
      (), 'domains, each of which every protocol leaves out of training, and is tested on alone')
  reference: str = schema.key('scratch', 'the initialisation that the others are compared with')
  initialisation: ConfigDict = schema.section(ConfigDict)
  protocol: ConfigDict = schema.section(ConfigDict)
  change: ConfigDict = schema.section(ConfigDict)


@dataclass(frozen=True, kw_only=True)
class InitialisationSettings:
  """Keys of one initialisation."""

  init: str = schema.key('', 'checkpoint, file, folder or hub id; none is a random initialisation')
  change: ConfigDict = schema.section(ConfigDict)


@dataclass(frozen=True, kw_only=True)
class ProtocolSettings:
  """Keys of one protocol."""

  verb: str = schema.key('finetune', 'what runs it', choices=tuple(VERBS))
  recipe: str = schema.key('', 'its config')
  change: ConfigDict = schema.section(ConfigDict)


def check(config: ConfigDict) -> None:
  """Raises UserError for a key that is unknown, missing or of another type, and for a name that is not defined."""
  schema.parse(CompareConfig, config)
  for names in ('initialisations', 'datasets', 'protocols'):
    if not config[names] or len(set(config[names])) < len(config[names]):
      raise UserError(f"config key '{names}' is {config[names]}: give one name or more, each once")
  for section, kind in (('initialisation', InitialisationSettings), ('protocol', ProtocolSettings)):
    for name in config[f'{section}s']:
      if name not in config[section]:
        raise UserError(
            f"'{name}' of {section}s is not defined: add {section}.{name} to the config, or choose from "
            f"{', '.join(config[section])}")
    for name in config[section]:
      for key, value in vars(schema.parse(kind, config[section][name], f'{section}.{name}.')).items():
        if value == '':
          raise UserError(f"config key '{section}.{name}.{key}' is missing: add it to the config file")
  if config.reference not in config.initialisations:
    raise UserError(
        f"reference '{config.reference}' is none of the initialisations: choose from "
        f"{', '.join(config.initialisations)}")


def with_domains(config: ConfigDict) -> ConfigDict:
  """The config with a protocol for each domain that is left out, in the place of each that it names."""
  if not config.get('left_out_domains'):
    return config
  config, named = copy.deepcopy(config), config.protocols
  domains = {domain: re.sub(r'\W+', '_', domain) for domain in config.left_out_domains}
  config.protocols = tuple(f'{name}_without_{short}' for name in named for short in domains.values())
  for name in named:
    for domain, short in domains.items():
      protocol = copy.deepcopy(config.protocol[name])
      protocol.change = ConfigDict({**protocol.change, 'left_out_domain': domain})
      config.protocol[f'{name}_without_{short}'] = protocol
  return config


def jobs_of(config: ConfigDict) -> list[ComparisonJob]:
  """All jobs, seed by seed, so that every row of the table soon has a first result."""
  return [
      ComparisonJob(initialisation, dataset, protocol, seed)
      for seed, dataset, protocol, initialisation in itertools.product(
          range(config.seeds), config.datasets, config.protocols, config.initialisations)]


def job_config(config: ConfigDict, job: ComparisonJob) -> ConfigDict:
  """The config of a job's run: the protocol's recipe with the changes that `config` makes to it.

  It is the same for all initialisations but for `init` and the changes of an initialisation itself.

  Raises:
    UserError: no such recipe, or a change that does not fit it.
  """
  protocol, initialisation = config.protocol[job.protocol], config.initialisation[job.initialisation]
  section = cli.load_config(protocol.recipe.replace('{dataset}', job.dataset))
  for origin, change in (('change', config.change), (f'protocol.{job.protocol}', protocol.change),
                         (f'initialisation.{job.initialisation}', initialisation.change)):
    try:
      section.update(change)
    except (TypeError, ValueError, KeyError, AttributeError) as error:
      raise UserError(
          f'{origin} of the config does not fit {protocol.recipe}: {" ".join(str(error).split())}') from error
  section.dataset, section.seed, section.init = job.dataset, job.seed, initialisation.init
  schema.parse(CONFIGS[protocol.verb], section)
  return section


def read_comparison(config: ConfigDict, sections: Mapping[ComparisonJob, ConfigDict], workdir: str) -> Comparison:
  """What is finished, and what failed, of the jobs with the configs `sections`.

  Raises:
    UserError: a job was run, or begun, with other values than the config has now.
  """
  results, errors = {}, {}
  for job, section in sections.items():
    folder = job.folder(workdir)
    # The table names where a run started from.
    subprocess_runs.check_same_config(folder, section, also=('init',))
    if (result := read_result(folder)) is not None:
      with parsing(result_path(folder, 'test')):
        tables.scores_of(result)
      results[job] = result
    elif error := subprocess_runs.last_error(folder):
      errors[job] = error
  return Comparison(
      config.initialisations, config.datasets, config.protocols, config.seeds, config.reference, results, errors)


def compare(config: ConfigDict, workdir: str) -> None:
  """Runs what is not finished, and keeps the tables up to date.

  Raises:
    UserError: a mistake in the config; or jobs that failed, named, when all others are finished.
  """
  check(config)
  config = with_domains(config)
  sections = {job: job_config(config, job) for job in jobs_of(config)}

  def tabulate() -> dict[str, str]:
    comparison = read_comparison(config, sections, workdir)
    tables.write(comparison, workdir)
    scores = {job.name: tables.scores_of(result)[0] for job, result in comparison.results.items()}
    return {
        name: f'{score.metric} undefined' if score.value is None else f'{score.metric} {score.value:.4f}'
        for name, score in scores.items()}

  folders = {job.name: job.folder(workdir) for job in sections}
  subprocess_runs.run_unfinished('uniemox_jax.compare', folders, tabulate, os.path.join(workdir, 'comparison.md'))


def run_job(config: ConfigDict, workdir: str, name: str) -> None:
  """Runs one job, or resumes it.

  Raises:
    UserError: no such job; or what its verb raises.
  """
  check(config)
  config = with_domains(config)
  job = {job.name: job for job in jobs_of(config)}.get(name)
  if job is None:
    raise UserError(f"--cell='{name}' is no job of this config: give INITIALISATION/DATASET/PROTOCOL/seedN")
  verb, section, folder = VERBS[config.protocol[job.protocol].verb], job_config(config, job), job.folder(workdir)
  if section.get('features_dir') == '':
    section.features_dir = os.path.join(workdir, 'features')  # extracted once for all probes of an encoder
  subprocess_runs.run_here(folder, lambda: verb(section, folder, adopt=False))
