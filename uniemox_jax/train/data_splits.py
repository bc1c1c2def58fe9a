"""The splits that a fine-tuning or probing config names."""

from data_pipelines.errors import UserError
from data_pipelines.records import reader
from uniemox_jax.train.config import FinetuneConfig, ProbeConfig

_WITHOUT = {
    'val': 'choices are made on val: move some images of train there, and build the records again',
    'test': '--config.test_split=val takes val in its place'}
"""What to do about a split that is missing."""


def open_splits(config: FinetuneConfig | ProbeConfig) -> tuple[reader.Split, reader.Split, reader.Split]:
  """Train, or the share of it that `fraction` asks for, val, and the split of the result.

  With `left_out_domain`, the first two are without it, and the last is of it alone.

  Raises:
    UserError: no such records, or no such share or domain.
  """
  splits = {}
  for name in dict.fromkeys(('train', 'val', config.test_split)):
    try:
      splits[name] = reader.open_split(config.data_dir, config.dataset, name)
    except reader.NoSuchSplit as error:
      raise UserError(f'{error}; {_WITHOUT[name]}' if name in _WITHOUT else str(error)) from error
  if config.test_split == 'val':
    print('the result will be of val, on which choices are made too: expect less on other images', flush=True)
  train, val, test = (splits[name] for name in ('train', 'val', config.test_split))
  if domain := config.left_out_domain:
    train, val, test = train.domain(domain, False), val.domain(domain, False), test.domain(domain, True)
    print(f'left out: {domain}, of which test has {test.num_examples} images', flush=True)
  if config.fraction != 1:
    train = train.fraction(config.fraction, config.seed)
    print(f'few-shot: {train.num_examples} images of {train.name}', flush=True)
  return train, val, test
