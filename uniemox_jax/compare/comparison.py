"""Every initialisation on every dataset under every protocol, over seeds: one table, with its uncertainty.

python -m uniemox_jax.compare --config=configs/compare.py --workdir=runs/compare

A cell (initialisation, dataset, protocol, seed) is a run of its own, see `cells`: a finished one is never run again, an
interrupted one resumes, one that fails is named and the others go on. comparison.md, .csv, .tex, .png and .json are
rewritten after each. docs/compare.md says how to read them.
"""

from dataclasses import dataclass
import itertools
import os
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from data_pipelines.errors import UserError
from uniemox_jax.compare import subprocess_runs, tables
from uniemox_jax.finetune import finetune
from uniemox_jax.probe import probe
from uniemox_jax.runtime import cli
from uniemox_jax.runtime.files import read_json
from uniemox_jax.train import schema
from uniemox_jax.train.config import CONFIGS

VERBS = {'finetune': finetune, 'probe': probe}
"""By the name a protocol gives: what runs a cell."""


@dataclass(frozen=True, kw_only=True)
class CompareConfig:
  """Keys of `compare`."""

  initialisations: tuple = schema.key((), 'names of those to compare, defined in initialisation')
  datasets: tuple = schema.key((), 'names of the datasets, as built')
  protocols: tuple = schema.key((), 'names of the protocols, defined in protocol')
  seeds: int = schema.key(3, 'repetitions of every run', least=1)
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


class Cell(NamedTuple):
  """One run. `name` is also its folder."""

  initialisation: str
  dataset: str
  protocol: str
  seed: int

  @property
  def name(self) -> str:
    """Unique among all cells."""
    return f'{self.initialisation}/{self.dataset}/{self.protocol}/seed{self.seed}'


def check(config: ConfigDict) -> None:
  """Raises UserError for a key that is unknown, missing or of another type, and for a name that is not defined."""
  schema.parse(CompareConfig, config)
  for listed in ('initialisations', 'datasets', 'protocols'):
    if not config[listed] or len(set(config[listed])) < len(config[listed]):
      raise UserError(f"config key '{listed}' is {config[listed]}: give one name or more, each once")
  for names, sections in (('initialisations', 'initialisation'), ('protocols', 'protocol')):
    for name in config[names]:
      if name not in config[sections]:
        raise UserError(
            f"'{name}' of {names} is not defined: add {sections}.{name} to the config, or choose from "
            f"{', '.join(config[sections])}")
  for part, kind in (('initialisation', InitialisationSettings), ('protocol', ProtocolSettings)):
    for name in config[part]:
      settings = schema.parse(kind, config[part][name], f'{part}.{name}.')
      for key, value in vars(settings).items():
        if value == '':
          raise UserError(f"config key '{part}.{name}.{key}' is missing: add it to the config file")
  if config.reference not in config.initialisations:
    raise UserError(
        f"reference '{config.reference}' is none of the initialisations: choose from "
        f"{', '.join(config.initialisations)}")


def cells_of(config: ConfigDict) -> list[Cell]:
  """All cells, seed by seed, so that the table is soon complete in small."""
  return [
      Cell(initialisation, dataset, protocol, seed) for seed, dataset, protocol, initialisation in itertools.product(
          range(config.seeds), config.datasets, config.protocols, config.initialisations)]


def cell_config(config: ConfigDict, cell: Cell) -> ConfigDict:
  """The config of one cell's run: the protocol's recipe and what is changed in it, the same for all initialisations but
  for what an initialisation says of itself.

  Raises:
    UserError: no such recipe, or a change that does not fit it.
  """
  protocol, initialisation = config.protocol[cell.protocol], config.initialisation[cell.initialisation]
  section = cli.load_config(protocol.recipe.replace('{dataset}', cell.dataset))
  for origin, change in (('change', config.change), (f'protocol.{cell.protocol}', protocol.change),
                         (f'initialisation.{cell.initialisation}', initialisation.change)):
    try:
      section.update(change)
    except (TypeError, ValueError, KeyError, AttributeError) as error:
      raise UserError(
          f'{origin} of the config does not fit {protocol.recipe}: {" ".join(str(error).split())}') from error
  section.dataset, section.seed, section.init = cell.dataset, cell.seed, initialisation.init
  schema.parse(CONFIGS[protocol.verb], section)
  return section


def read_results(sections: dict[Cell, ConfigDict], workdir: str) -> dict[tables.Key, dict[str, Any]]:
  """result.json of every finished cell; `sections` has the config of each.

  Raises:
    UserError: a cell was run, or begun, with other values than the config has now.
  """
  results: dict[tables.Key, dict[str, Any]] = {}
  for cell, section in sections.items():
    folder = os.path.join(workdir, cell.name)
    subprocess_runs.check_same(folder, section)
    if os.path.exists(os.path.join(folder, 'result.json')):
      results[cell] = read_json(os.path.join(folder, 'result.json'))
  return results


def update_tables(config: ConfigDict, sections: dict[Cell, ConfigDict],
                  workdir: str) -> dict[tables.Key, dict[str, Any]]:
  """Writes all tables from what is finished; returns that."""
  results = read_results(sections, workdir)
  failures: dict[tables.Key, str] = {
      cell: said
      for cell in sections
      if cell not in results and (said := subprocess_runs.why_failed(os.path.join(workdir, cell.name)))}
  tables.write(
      tables.Table(
          tuple(config.initialisations), tuple(config.datasets), tuple(config.protocols), config.seeds,
          config.reference, results, failures), workdir)
  return results


def compare(config: ConfigDict, workdir: str) -> None:
  """Runs what is not finished, and keeps the tables up to date.

  Raises:
    UserError: a mistake in the config; or cells that failed, named, when all others are finished.
  """
  check(config)
  subprocess_runs.check_workdir(workdir)
  sections = {cell: cell_config(config, cell) for cell in cells_of(config)}
  finished = update_tables(config, sections, workdir)
  by_name = {cell.name: cell for cell in sections}

  def after(name: str) -> str | None:
    result = update_tables(config, sections, workdir).get(by_name[name])
    if result is None:
      return None
    metric, value = tables.headline(result)
    return f'{metric} undefined' if value is None else f'{metric} {value:.4f}'

  print(f'{len(sections)} cells, {len(finished)} of them finished before', flush=True)
  try:
    subprocess_runs.run_cells(
        'uniemox_jax.compare', [cell.name for cell in sections if cell not in finished],
        lambda name: os.path.join(workdir, name), after)
  finally:
    with open(os.path.join(workdir, 'comparison.md'), encoding='utf-8') as table:
      print(table.read(), flush=True)


def run_cell(config: ConfigDict, workdir: str, name: str) -> None:
  """Runs one cell, or goes on with it.

  Raises:
    UserError: no such cell; or what its verb raises.
  """
  check(config)
  found = [cell for cell in cells_of(config) if cell.name == name]
  if not found:
    raise UserError(f"--cell='{name}' is no cell of this config: give INITIALISATION/DATASET/PROTOCOL/seedN")
  verb, section = VERBS[config.protocol[found[0].protocol].verb], cell_config(config, found[0])
  if section.get('features_dir') == '':
    section.features_dir = os.path.join(workdir, 'features')  # extracted once for all probes of an encoder
  folder = os.path.join(workdir, name)
  subprocess_runs.run_here(folder, lambda: verb(section, folder))
