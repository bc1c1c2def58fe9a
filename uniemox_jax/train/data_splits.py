"""The splits that a fine-tuning or probing config names."""

from data_pipelines.records import reader
from uniemox_jax.train.config import FinetuneConfig, ProbeConfig


def open_splits(config: FinetuneConfig | ProbeConfig) -> tuple[reader.Split, reader.Split, reader.Split]:
  """Train, or the share of it that `fraction` asks for, val and test.

  Raises:
    UserError: no such records, or no such share.
  """
  train, val, test = (reader.open_split(config.data_dir, config.dataset, name) for name in ('train', 'val', 'test'))
  if config.fraction != 1:
    train = train.fraction(config.fraction, config.seed)
    print(f'few-shot: {train.num_examples} images of {train.name}', flush=True)
  return train, val, test
