"""Pretrain ViT-L/16 on EmoSet-118K with person crops, CLIP ViT-B/16 as teacher: the published recipe.

python -m uniemox_jax.pretrain --config=configs/pretrain_emoset_vitl16.py --workdir=gs://BUCKET/uniemox-l16

Data: python -m data_pipelines.build --dataset=emoset --source=EmoSet-118K --data_dir=data
Hardware: meant for v5e:16x16 at this batch. Time: not measured yet.
The emotion word is in the captions, as published, so this is label-supervised: --config.emotion_in_caption=False.
Every key, its default and its meaning: docs/config.md.
"""

from ml_collections import ConfigDict

from uniemox_jax.train.config import PretrainConfig
from uniemox_jax.train.schema import config_dict


def get_config() -> ConfigDict:
  """The published pretraining recipe (docs/method.md, Recipes): the default of every other key."""
  config = config_dict(PretrainConfig)
  config.caption_style = 'original'
  config.optimizer.decay_tokens = True
  return config
