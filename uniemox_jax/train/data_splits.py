"""The records that a fine-tuning or probing config trains on, chooses on and is measured on."""

from collections.abc import Iterable, Mapping
import functools
from typing import Any

from data_pipelines.errors import UserError
from data_pipelines.records import folds, reader
from uniemox_jax.train.config import MeasuredConfig

_WITHOUT = {
    'val':
        'choices are made on val: move some images of train there, and build the records again; or set '
        '--config.folds, which deals all images anew',
    'test': '--config.test_split=val takes val in its place, and --config.folds deals all images anew'}
"""What to do about a split that is missing."""


def open_splits(config: MeasuredConfig) -> tuple[reader.Split, reader.Split, reader.Split]:
  """Opens train, or the share of it that `fraction` asks for, then val, and the split of the result.

  With `left_out_domain`, train and val leave that domain out, and the split of the result holds it alone.

  Raises:
    UserError: no such records, or no such share, domain or fold.
  """
  splits = _opened(vars(config), dict.fromkeys(('train', 'val', config.test_split)))
  if config.test_split == 'val':
    print('the result will be of val, on which choices are made too: expect less on other images', flush=True)
  train, val, test = (
      _of_domain(vars(config), splits[name], tested)
      for name, tested in (('train', False), ('val', False), (config.test_split, True)))
  if config.left_out_domain:
    print(f'left out: {config.left_out_domain}, of which test has {test.num_examples} images', flush=True)
  if config.folds:
    print(
        f'fold {config.fold} of {config.folds}: {train.num_examples} images to train on, {val.num_examples} of val, '
        f'{test.num_examples} to test', flush=True)
  if config.fraction != 1:
    train = train.fraction(config.fraction, config.seed)
    print(f'few-shot: {train.num_examples} images of {train.name}', flush=True)
  return train, val, test


def count_train(config: MeasuredConfig) -> int:
  """Counts the images that `open_splits` gives to train on. Raises UserError as it does."""
  return _count_train(
      config.data_dir, config.dataset, config.left_out_domain, config.folds, config.fold, config.fold_seed,
      config.fraction, config.seed if config.fraction != 1 else 0)


@functools.cache
def _count_train(
    data_dir: str, dataset: str, domain: str, folds_: int, fold: int, fold_seed: int, fraction: float,
    seed: int) -> int:
  """Counts as `count_train` does: runs that differ in their initialisation alone have as many."""
  train = open_part({
      'data_dir': data_dir, 'dataset': dataset, 'left_out_domain': domain, 'folds': folds_, 'fold': fold, 'fold_seed':
          fold_seed}, 'train', tested=False)
  return train.fraction(fraction, seed).num_examples


def open_part(config: Mapping[str, Any], name: str, tested: bool) -> reader.Split:
  """Opens train, val or test of a run, without taking a fraction.

  Args:
    config: the run's config.json; a key that it leaves out has its default.
    name: the split's name.
    tested: whether the result is measured on it; if a domain is left out, it then holds that domain alone.

  Raises:
    UserError: as for `open_splits`.
  """
  return _of_domain(config, _opened(config, [name])[name], tested)


def _opened(config: Mapping[str, Any], names: Iterable[str]) -> dict[str, reader.Split]:
  if config.get('folds'):
    found = folds.open_fold(
        config['data_dir'], config['dataset'], config['folds'], config.get('fold', 0), config.get('fold_seed', 0))
    return {name: found[name] for name in names}
  splits = {}
  for name in names:
    try:
      splits[name] = reader.open_split(config['data_dir'], config['dataset'], name)
    except reader.NoSuchSplit as error:
      raise UserError(f'{error}; {_WITHOUT[name]}' if name in _WITHOUT else str(error)) from error
  return splits


def _of_domain(config: Mapping[str, Any], split: reader.Split, tested: bool) -> reader.Split:
  domain = config.get('left_out_domain')
  return split.domain(domain, inside=tested) if domain else split


def fold_of(config: Mapping[str, Any]) -> dict[str, Any]:
  """The entry of result.json about the fold that was tested; {} without folds."""
  if not config.get('folds'):
    return {}
  return {'fold': {'tested': config.get('fold', 0), 'of': config['folds'], 'seed': config.get('fold_seed', 0)}}
