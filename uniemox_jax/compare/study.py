"""The config of a comparison: its initialisations, datasets, protocols, seeds and folds; and the config of each job."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
import functools
import itertools
import os
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from data_pipelines.batches.image_changes import read_changes
from data_pipelines.errors import UserError
from uniemox_jax.compare.comparison_results import ComparisonJob, ProtocolVariant
from uniemox_jax.eval.transfer import Transfer, read_transfers
from uniemox_jax.finetune import finetune
from uniemox_jax.pretrain import pretrain
from uniemox_jax.probe import probe
from uniemox_jax.runtime import cli
from uniemox_jax.train import schema
from uniemox_jax.train.config import FinetuneConfig, MeasuredConfig, ProbeConfig
from uniemox_jax.train.data_splits import count_train
from uniemox_jax.zero_shot import zero_shot_by_config


class _Verb(NamedTuple):
  """What runs a job, and its keys. draws: whether its result depends on the seed."""

  run: Callable[..., dict[str, Any]]
  keys: type[MeasuredConfig]
  draws: bool = True


VERBS = {
    'finetune': _Verb(functools.partial(finetune, adopt=False),
                      FinetuneConfig), 'probe': _Verb(functools.partial(probe, adopt=False), ProbeConfig),
    'zero_shot': _Verb(zero_shot_by_config, ProbeConfig, draws=False)}
"""The verbs that run jobs, by the name that a protocol gives. They take no settings from `init`, see `open_source`."""
PRETRAINING: dict[str, Callable[..., Any]] = {'pretrain': pretrain, 'finetune': finetune}
"""The verbs that may make an initialisation."""


@dataclass(frozen=True, kw_only=True)
class CompareConfig:
  """Keys of `compare`."""

  initialisations: tuple = schema.key((), 'names of those to compare, defined in initialisation')
  datasets: tuple = schema.key((), 'names of the datasets, as built')
  protocols: tuple = schema.key((), 'names of the protocols, defined in protocol')
  seeds: int = schema.key(3, 'repetitions of every run', least=1)
  first_seed: int = schema.key(0, 'the seed of the first: another one repeats a study with draws of its own', least=0)
  folds: int = schema.key(
      0, 'parts that all labelled images are dealt to, anew for each seed, and tested in turn; 0 takes the splits as '
      'they are', least=0)
  left_out_domains: tuple = schema.key(
      (), 'domains, each of which every protocol leaves out of training, and is tested on alone')
  fractions: tuple = schema.key((), 'shares of the training labels, at each of which every protocol is run')
  test_changes: tuple = schema.key(
      (), 'changes of the test images, such as blur_3, under each of which every run is measured, too')
  transfers: tuple = schema.key(
      (), "other datasets that every run of a label is measured on, too: 'fi', or 'emotion6:mikels_to_emotion6' with "
      'a label map; never on its own')
  group_column: str = schema.key(
      '', 'heading of a column in groups by which the test images are measured in groups, too; without groups, of what '
      'the records say, such as domain')
  groups: str = schema.key('', 'table that names the images of {dataset} and their groups', path=True)
  reference: str = schema.key('scratch', 'the initialisation that the others are compared with')
  vad_score: str = schema.key(
      'ccc', 'what results of valence, arousal and dominance are compared by', choices=('ccc', 'pearson'))
  detect: float = schema.key(0.02, 'the difference that enough seeds are to find', above=0)
  spread: float = schema.key(
      0.0, 'known standard deviation over seeds of a difference from the reference; 0 takes that of earlier results',
      least=0)
  initialisation: ConfigDict = schema.section(ConfigDict)
  protocol: ConfigDict = schema.section(ConfigDict)
  change: ConfigDict = schema.section(ConfigDict)


@dataclass(frozen=True, kw_only=True)
class InitialisationSettings:
  """Keys of one initialisation."""

  init: str = schema.key('', 'checkpoint, file, folder or hub id; none is a random initialisation')
  pretrain: ConfigDict = schema.section(ConfigDict)
  change: ConfigDict = schema.section(ConfigDict)
  probe_change: ConfigDict = schema.section(ConfigDict)


@dataclass(frozen=True, kw_only=True)
class PretrainingSettings:
  """Keys of `initialisation.NAME.pretrain`."""

  verb: str = schema.key(
      'pretrain', 'what makes it: pretrain, or finetune for labels as targets', choices=tuple(PRETRAINING))
  recipe: str = schema.key('', 'its config')
  change: ConfigDict = schema.section(ConfigDict)


@dataclass(frozen=True, kw_only=True)
class ProtocolSettings:
  """Keys of one protocol."""

  verb: str = schema.key('finetune', 'what runs it', choices=tuple(VERBS))
  recipe: str = schema.key('', 'its config')
  only: tuple = schema.key((), 'initialisations that it is run for; () is all')
  change: ConfigDict = schema.section(ConfigDict)


def check(config: ConfigDict) -> None:
  """Raises UserError if a key is unknown, missing or of another type, or if a name is not defined."""
  values = schema.parse(CompareConfig, config)
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
      _check_section(kind, config[section][name], f'{section}.{name}.')
  if config.reference not in config.initialisations:
    raise UserError(
        f"reference '{config.reference}' is none of the initialisations: choose from "
        f"{', '.join(config.initialisations)}")
  for name in config.protocols:
    if not _run_for(config, name):
      raise UserError(
          f"protocol '{name}' is run only for {', '.join(config.protocol[name].only)}, of which none is compared: add "
          f'one to initialisations, or leave {name} out')
  if values.folds == 1:
    raise UserError("config key 'folds' is 1: choose 2 or more, or 0 for the splits as they are")
  for fraction in values.fractions:
    if not (isinstance(fraction, int | float) and 0 < fraction <= 1) or values.fractions.count(fraction) > 1:
      raise UserError(f"config key 'fractions' is {values.fractions}: give shares above 0 and at most 1, each once")
  read_changes('+'.join(values.test_changes))
  if transfers_of(config) and values.folds:
    raise UserError(
        'transfers are measured on whole datasets, of which every fold has the same images: leave folds or transfers '
        'out')
  if values.groups and not values.group_column:
    raise UserError(f"config key 'groups' is {values.groups}: say which of its columns with --config.group_column")


def _check_section(kind: type, section: ConfigDict, prefix: str) -> None:
  values = dict(vars(schema.parse(kind, section, prefix)))
  if pretraining := values.get('pretrain'):
    if values['init']:
      raise UserError(f'{prefix}init and {prefix}pretrain are both given: leave one out')
    del values['init']
    _check_section(PretrainingSettings, pretraining, f'{prefix}pretrain.')
  for key, value in values.items():
    if value == '':
      raise UserError(f"config key '{prefix}{key}' is missing: add it to the config file")


def _run_for(config: ConfigDict, protocol: str) -> list[str]:
  """The initialisations that a protocol of the config is run for."""
  only = config.protocol[protocol].get('only', ())
  return [name for name in config.initialisations if not only or name in only]


def variants_of(config: ConfigDict) -> dict[str, ProtocolVariant]:
  """The protocols as they are run: for each domain that is left out, and for each fraction of the labels."""
  found = [
      ProtocolVariant(name, domain, fraction)
      for name in config.protocols
      for domain in config.get('left_out_domains') or ('',)
      for fraction in config.get('fractions') or (None,)]
  return {variant.name: variant for variant in found}


def transfers_of(config: ConfigDict, dataset: str = '') -> tuple[Transfer, ...]:
  """The transfers that were asked for, without that of a dataset to itself."""
  found = read_transfers('+'.join(config.get('transfers', ())))
  return tuple(transfer for transfer in found if transfer != Transfer(dataset))


def jobs_of(config: ConfigDict, seeds: int | None = None) -> list[ComparisonJob]:
  """All jobs, with so many seeds, else the config's number. They go seed by seed, so every row soon has a result."""
  folds: list[int | None] = list(range(config.get('folds', 0))) or [None]
  first = config.get('first_seed', 0)
  repeats = itertools.product(range(first, first + (config.seeds if seeds is None else seeds)), folds)
  variants = variants_of(config)
  return [
      ComparisonJob(initialisation, dataset, protocol, seed, fold)
      for seed, fold in repeats
      for dataset, (protocol, variant) in itertools.product(config.datasets, variants.items())
      for initialisation in _run_for(config, variant.protocol)
      if seed == first or fold is not None or VERBS[config.protocol[variant.protocol].verb].draws]


def pretraining_folder(job: ComparisonJob, workdir: str) -> str:
  """The folder of the run that a job starts from, if the comparison makes it."""
  return os.path.join(workdir, job.initialisation, 'pretrain', f'seed{job.seed}')


def pretraining_config(config: ConfigDict, job: ComparisonJob) -> ConfigDict | None:
  """The config of the run that a job starts from, with the job's seed; None if the comparison makes none.

  Raises:
    UserError: there is no such recipe, or a change does not fit it.
  """
  pretraining = config.initialisation[job.initialisation].get('pretrain')
  if not pretraining:
    return None
  section = _changed(pretraining.recipe, {f'initialisation.{job.initialisation}.pretrain': pretraining.change})
  section.seed = job.seed
  return section


def job_config(config: ConfigDict, job: ComparisonJob, workdir: str = '') -> ConfigDict:
  """The config of a job's run: the protocol's recipe with the changes that `config` makes to it.

  It is the same for all initialisations, except `init` and the changes of an initialisation itself.

  Raises:
    UserError: there is no such recipe, a change does not fit it, or the records of a fraction are missing.
  """
  variant, initialisation = variants_of(config)[job.protocol], config.initialisation[job.initialisation]
  protocol = config.protocol[variant.protocol]
  verb, owner = VERBS[protocol.verb], f'initialisation.{job.initialisation}'
  of_probes = {f'probes, {owner}': initialisation.get('probe_change', {})} if verb.keys is ProbeConfig else {}
  section = _changed(
      protocol.recipe.replace('{dataset}', job.dataset),
      {'the config': config.change, f'protocol.{variant.protocol}': protocol.change, owner: initialisation.change} |
      of_probes)
  section.dataset, section.seed = job.dataset, job.seed
  section.init = pretraining_folder(job, workdir) if initialisation.get('pretrain') else initialisation.init
  section.test_changes = '+'.join(config.get('test_changes', ()))
  section.transfers = '+'.join(transfer.text for transfer in transfers_of(config, job.dataset))
  if variant.domain:
    section.left_out_domain = variant.domain
  if job.fold is not None:
    section.folds, section.fold, section.fold_seed = config.folds, job.fold, job.seed
  if variant.fraction is not None:
    section.fraction = float(variant.fraction)
    if verb.keys is FinetuneConfig:  # the others take a batch of any size
      section.batch_size = _batch_that_fits(schema.parse(verb.keys, section))
  schema.parse(verb.keys, section)
  return section


def _changed(recipe: str, changes: Mapping[str, Mapping[str, Any]]) -> ConfigDict:
  """The config `recipe` with each of these changes, by what messages call them."""
  section = cli.load_config(recipe)
  for origin, change in changes.items():
    try:
      section.update({name: value for name, value in change.items() if value is not None})
    except (TypeError, ValueError, KeyError, AttributeError) as error:
      raise UserError(f'change of {origin} does not fit {recipe}: {" ".join(str(error).split())}') from error
  return section


def _batch_that_fits(values: MeasuredConfig) -> int:
  """The recipe's batch; where it is more than the training images, the largest power of two that is not."""
  examples = count_train(values)
  return values.batch_size if values.batch_size <= examples else 1 << examples.bit_length() - 1
