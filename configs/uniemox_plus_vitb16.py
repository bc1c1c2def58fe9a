"""Pretrain ViT-B/16 on EmoSet-118K by UniEmoX+, our own recipe, CLIP ViT-B/16 as teacher.

python -m uniemox_jax.pretrain --config=configs/uniemox_plus_vitb16.py --workdir=gs://BUCKET/uniemox-plus-b16
python -m uniemox_jax.pretrain --config=configs/uniemox_plus_vitb16.py:one_gpu --workdir=runs/plus_b16

Data: python -m data_pipelines.build --dataset=emoset --source=EmoSet-118K --data_dir=data
Hardware: meant for v5e:8x8 at this batch. Time: not measured yet. `:one_gpu` and `:one_gpu_l` are for one GPU, as in
configs/pretrain_emoset_vitb16.py.
What differs from the published recipe, and what it brought on drawings: docs/uniemox_plus.md. On photographs: not yet.
"""

from ml_collections import ConfigDict

from configs import pretrain_emoset_vitb16


def add_plus(config: ConfigDict) -> ConfigDict:
  """The pretraining config with what UniEmoX+ changes."""
  config.model.embedding = 'mean'
  return config


def get_config(place: str = 'slice') -> ConfigDict:
  """The published recipe with the smaller encoder, for a TPU slice or for one GPU, and what UniEmoX+ changes."""
  return add_plus(pretrain_emoset_vitb16.get_config(place))
