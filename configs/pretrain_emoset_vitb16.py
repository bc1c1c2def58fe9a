"""Pretrain ViT-B/16 on EmoSet-118K with person crops, CLIP ViT-B/16 as teacher.

python -m uniemox_jax.pretrain --config=configs/pretrain_emoset_vitb16.py --workdir=gs://BUCKET/uniemox-b16

Data: python -m data_pipelines.build --dataset=emoset --source=EmoSet-118K --data_dir=data
Hardware: meant for v5e:8x8 at this batch. Time: not measured yet.
The emotion word is in the captions, as published, so this is label-supervised: --config.emotion_in_caption=False.
"""

from ml_collections import ConfigDict

from configs import pretrain_emoset_vitl16


def get_config() -> ConfigDict:
  """The published recipe with the smaller encoder."""
  config = pretrain_emoset_vitl16.get_config()
  config.model.update(width=768, depth=12, heads=12)
  return config
