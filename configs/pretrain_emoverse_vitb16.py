"""Pretrain ViT-B/16 on EmoVerse with the crops of its persons, CLIP ViT-B/16 as teacher.

python -m uniemox_jax.pretrain --config=configs/pretrain_emoverse_vitb16.py --workdir=gs://BUCKET/uniemox-emoverse-b16

Data: python -m data_pipelines.build --dataset=emoverse --source=EmoVerse --data_dir=data
Hardware: meant for v5e:8x8 at this batch. Time: not measured yet; twice the steps of EmoSet.
The captions are EmoVerse's descriptions. It holds images of EmoSet and of others: leave the test images of benchmarks
out first (docs/datasets.md).
"""

from ml_collections import ConfigDict

from configs import pretrain_emoset_vitb16


def get_config() -> ConfigDict:
  """The published recipe, on other images and with their own captions."""
  config = pretrain_emoset_vitb16.get_config()
  config.dataset = 'emoverse'
  return config
