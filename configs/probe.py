"""Probe frozen features of ViT-L/16 on one dataset: a linear classifier, or nearest neighbours (docs/protocols.md).

python -m uniemox_jax.probe --config=configs/probe.py:emo8 --config.init=PATH --config.protocol=linear --workdir=DIR

The argument is the dataset: emoset, emo8, fi, emotion6, unbiasedemo, caers, heco or folder. `--config.protocol=knn`;
`--config.init=none` is a random encoder, the honest baseline. Another encoder, such as ViT-B/16:
--config.model.width=768 --config.model.depth=12 --config.model.heads=12
Few-shot: --config.fraction=0.1 takes a tenth of every class; `seed` says which.
Runs that share --config.features_dir=DIR extract the same features once.
Hardware: any. Time: one forward pass of every picture, then minutes.
"""

from ml_collections import ConfigDict


def get_config(dataset: str = 'emo8') -> ConfigDict:
  """The protocol of Radford et al. (2021) for `dataset`; knn is that of Caron et al. (2021)."""
  config = ConfigDict()
  config.protocol = 'linear'
  config.seed = 0
  config.data_dir = 'data'
  config.dataset = dataset
  config.fraction = 1.0
  config.batch_size = 256
  config.init = 'none'
  config.features_dir = ''  # WORKDIR/features
  config.dtype = 'float32'
  config.mesh = ConfigDict({'data': -1, 'fsdp': 1})
  config.model = ConfigDict({
      'image_size': 224, 'patch_size': 16, 'width': 1024, 'depth': 24, 'heads': 16, 'remat': 'none', 'scan': True,
      'norm_eps': 1e-6, 'pre_norm': False, 'activation': 'gelu'
  })
  return config
