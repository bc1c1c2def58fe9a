"""Probe frozen features of ViT-L/16 on one dataset: a linear classifier, or nearest neighbours (docs/protocols.md).

python -m uniemox_jax.probe --config=configs/probe.py:emo8 --config.init=PATH --config.protocol=linear --workdir=DIR

The argument is the name of a dataset that is built (docs/datasets.md), such as emo8 or folder. `--config.protocol=knn`;
`--config.init=none` is a random encoder, the honest baseline. The encoder is PATH's; another random one, ViT-B/16:
--config.model.width=768 --config.model.depth=12 --config.model.heads=12
Few-shot: --config.fraction=0.1 takes a tenth of every class; `seed` says which.
Runs that share --config.features_dir=DIR extract the same features once.
Hardware: any. Time: one forward pass of every image, then minutes.
Every key, its default and its meaning: docs/config.md.
"""

from ml_collections import ConfigDict

from uniemox_jax.train.config import ProbeConfig
from uniemox_jax.train.schema import config_dict


def get_config(dataset: str = 'emo8') -> ConfigDict:
  """The protocol of Radford et al. (2021) for `dataset`; knn is that of Caron et al. (2021)."""
  config = config_dict(ProbeConfig)
  config.dataset = dataset
  return config
