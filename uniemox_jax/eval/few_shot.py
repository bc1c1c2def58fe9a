"""The splits of a dataset, with only a share of the training examples where the protocol asks for it."""

from ml_collections import ConfigDict

from data_pipelines.records import reader


def open_splits(config: ConfigDict) -> dict[str, reader.Split]:
  """'train', reduced to the config's `fraction` of each class, 'val' and 'test' (docs/protocols.md, Few-shot).

  Raises:
    UserError: no such records, or no such share.
  """
  splits = {name: reader.open_split(config.data_dir, config.dataset, name) for name in ('train', 'val', 'test')}
  if config.fraction != 1:
    splits['train'] = splits['train'].fraction(config.fraction, config.seed)
    print(f"few-shot: {splits['train'].num_examples} images of {splits['train'].name}", flush=True)
  return splits
