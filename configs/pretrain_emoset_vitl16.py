"""Pretrain ViT-L/16 on EmoSet-118K with person crops, CLIP ViT-B/16 as teacher: the published recipe.

python -m uniemox_jax.pretrain --config=configs/pretrain_emoset_vitl16.py --workdir=gs://BUCKET/uniemox-l16

Data: python -m data_pipelines.build --dataset=emoset --source=EmoSet-118K --data_dir=data
Hardware: meant for v5e:16x16 at this batch. Time: not measured yet.
The emotion word is in the captions, as published, so this is label-supervised: --config.emotion_in_caption=False.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
  """The published pretraining recipe (docs/method.md, Recipes)."""
  config = ConfigDict()
  config.seed = 0
  config.data_dir = 'data'
  config.dataset = 'emoset'
  config.split = 'train+val'
  config.batch_size = 4096
  config.epochs = 800
  config.warmup_epochs = 40
  config.accum_steps = 1
  config.min_crop_area = 0.2
  config.person_jitter = 0.0
  config.person_view = 'crop'  # 'scene' as the original
  config.teacher_statistics = 'clip'  # 'imagenet' as the original
  config.init = 'none'
  config.teacher = 'openai/clip-vit-base-patch16'
  config.teacher_sharded = False
  config.teacher_shape = ConfigDict({  # `plan` goes by this and opens no weights
      'image_size': 224, 'patch_size': 16, 'width': 768, 'depth': 12, 'heads': 12, 'projection': 512})
  config.emotion_in_caption = True
  config.dtype = 'bfloat16'
  config.mesh = ConfigDict({'data': -1, 'fsdp': 1})
  config.model = ConfigDict({
      'image_size': 224, 'patch_size': 16, 'width': 1024, 'depth': 24, 'heads': 16, 'decoder_width': 512,
      'decoder_depth': 8, 'decoder_heads': 16, 'mask_ratio': 0.9, 'fusion': 'additive', 'fusion_heads': 1,
      'decode': 'scene', 'remat': 'dots', 'scan': True, 'norm_eps': 1e-6, 'pre_norm': False, 'activation': 'gelu'
  })
  config.loss = ConfigDict({
      'contrastive': 1.0, 'similarity': 1.0, 'reconstruction': 1.0, 'form': 'cosine', 'negatives': 'global',
      'local_batch': 2, 'norm_pix': False
  })
  config.optimizer = ConfigDict({'base_lr': 1e-3, 'final_lr': 0.0, 'b1': 0.9, 'b2': 0.95, 'weight_decay': 0.05})
  config.max_gradient_norm = 1e3  # a step above it is skipped, and counted
  config.max_skipped_steps = 10  # in a row; then the run stops
  config.log_every = 20
  config.save_every = 500
  config.images_every = 2000
  return config
