"""Pretrain ViT-B/16 on EmoSet-118K with person crops, CLIP ViT-B/16 as teacher.

python -m uniemox_jax.pretrain --config=configs/pretrain_emoset_vitb16.py --workdir=gs://BUCKET/uniemox-b16
python -m uniemox_jax.pretrain --config=configs/pretrain_emoset_vitb16.py:one_gpu --workdir=runs/b16

Data: python -m data_pipelines.build --dataset=emoset --source=EmoSet-118K --data_dir=data
Hardware: meant for v5e:8x8 at this batch. Time: not measured yet.
`:one_gpu` is for one GPU of 24 GB, and `:one_gpu_l` the same for ViT-L/16: the published batch in 16 or 32 parts, the
teacher paid once, 300 epochs in place of 800. Hours by FLOPs: docs/gpu.md, One GPU, one night.
The emotion word is in the captions, as published, so this is label-supervised: --config.emotion_in_caption=False.
"""

from ml_collections import ConfigDict

from configs import pretrain_emoset_vitl16

PARTS = {'slice': 1, 'one_gpu': 16, 'one_gpu_l': 32}
"""Of a batch, one after the other."""


def get_config(place: str = 'slice') -> ConfigDict:
  """The published recipe with the smaller encoder, for a TPU slice or for one GPU."""
  config = pretrain_emoset_vitl16.get_config()
  config.accum_steps = PARTS[place]
  if place != 'one_gpu_l':
    config.model.update(width=768, depth=12, heads=12)
  if place != 'slice':
    config.update(teacher_views=10, epochs=300, warmup_epochs=15, dtype='auto')
  return config
