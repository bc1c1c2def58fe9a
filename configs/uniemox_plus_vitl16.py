"""Pretrain ViT-L/16 on EmoSet-118K by UniEmoX+, our own recipe, CLIP ViT-B/16 as teacher.

python -m uniemox_jax.pretrain --config=configs/uniemox_plus_vitl16.py --workdir=gs://BUCKET/uniemox-plus-l16

Data and what differs: configs/uniemox_plus_vitb16.py.
Hardware: meant for v5e:16x16 at this batch. Time: not measured yet.
"""

from ml_collections import ConfigDict

from configs import pretrain_emoset_vitl16, uniemox_plus_vitb16


def get_config() -> ConfigDict:
  """The published recipe, and what UniEmoX+ changes."""
  return uniemox_plus_vitb16.add_plus(pretrain_emoset_vitl16.get_config())
