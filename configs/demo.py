"""The whole job in small, on two CPU cores: what `make demo` runs.

python -m uniemox_jax.demo --workdir=runs/demo
python -m uniemox_jax.ablate --config=configs/demo.py --workdir=runs/ablation

One section a verb; the argument picks one, as in
python -m uniemox_jax.pretrain --config=configs/demo.py:pretrain --workdir=runs/demo/uniemox

Hardware: 2 CPU cores. Time: see the README.
"""

from ml_collections import ConfigDict

DATA_DIR = 'runs/demo/data'
ENCODER = {
    'image_size': 96, 'patch_size': 16, 'width': 96, 'depth': 4, 'heads': 4, 'remat': 'none', 'scan': False,
    'norm_eps': 1e-6, 'pre_norm': False, 'activation': 'gelu'
}


def _run(dataset: str, batch_size: int, epochs: int, warmup_epochs: int) -> ConfigDict:
  config = ConfigDict()
  config.seed = 0
  config.data_dir = DATA_DIR
  config.dataset = dataset
  config.batch_size = batch_size
  config.epochs = epochs
  config.warmup_epochs = warmup_epochs
  config.min_crop_area = 0.4
  config.init = 'none'
  config.dtype = 'float32'
  config.mesh = ConfigDict({'data': -1, 'fsdp': 1})
  config.max_gradient_norm = 1e3  # a step above it is skipped, and counted
  config.max_skipped_steps = 10  # in a row; then the run stops
  config.log_every = 20
  return config


def _clip() -> ConfigDict:
  config = _run('emoset', batch_size=64, epochs=8, warmup_epochs=1)
  config.split = 'train+val'
  config.emotion_in_caption = True
  config.save_every = 200
  config.optimizer = ConfigDict({'base_lr': 4e-3, 'final_lr': 0.0, 'b1': 0.9, 'b2': 0.98, 'weight_decay': 0.1})
  config.model = ConfigDict({
      'image_size': 96, 'patch_size': 16, 'projection': 64, 'context': 77,
      'vision': {'width': 96, 'depth': 3, 'heads': 4}, 'text': {'width': 64, 'depth': 2, 'heads': 4}
  })
  return config


def _pretrain() -> ConfigDict:
  config = _run('emoset', batch_size=64, epochs=7, warmup_epochs=1)
  config.split = 'train+val'
  config.accum_steps = 1
  config.person_jitter = 0.0
  config.person_view = 'crop'  # 'scene' as the original
  config.teacher_statistics = 'clip'  # 'imagenet' as the original
  config.teacher = 'runs/demo/clip/teacher'
  config.teacher_sharded = False
  config.teacher_shape = ConfigDict({  # `plan` goes by this and opens no weights
      'image_size': 96, 'patch_size': 16, 'width': 96, 'depth': 3, 'heads': 4, 'projection': 64})
  config.emotion_in_caption = True
  config.model = ConfigDict(
      ENCODER | {
          'decoder_width': 64, 'decoder_depth': 2, 'decoder_heads': 4, 'mask_ratio': 0.75, 'fusion': 'additive',
          'fusion_heads': 1, 'decode': 'scene'
      })
  config.loss = ConfigDict({
      'contrastive': 1.0, 'similarity': 1.0, 'reconstruction': 1.0, 'form': 'cosine', 'negatives': 'global',
      'local_batch': 2, 'norm_pix': False
  })
  config.optimizer = ConfigDict({'base_lr': 8e-3, 'final_lr': 0.0, 'b1': 0.9, 'b2': 0.95, 'weight_decay': 0.05})
  config.save_every = 200
  config.images_every = 200
  return config


def _finetune() -> ConfigDict:
  # The best for scratch on val that the demo has time for (docs/demo_recipe.md), frozen for every initialisation.
  config = _run('emo8', batch_size=64, epochs=20, warmup_epochs=1)
  config.accum_steps = 1
  config.fraction = 1.0
  config.model = ConfigDict(ENCODER)
  config.optimizer = ConfigDict(
      {'base_lr': 8e-3, 'final_lr': 1e-6, 'b1': 0.9, 'b2': 0.999, 'weight_decay': 0.05, 'layer_decay': 0.75})
  config.regularisation = ConfigDict({'drop_path': 0.0, 'mixup': 0.0, 'cutmix': 0.0, 'smoothing': 0.1})
  config.augment = ConfigDict({'randaugment': 0.0, 'erase': 0.0})
  config.ema_decay = 0.0
  config.eval_every_epochs = 2
  return config


def get_config(section: str = '') -> ConfigDict:
  """One section (clip, pretrain, finetune), or all with `emoset_examples`, the size of the drawn pretraining set."""
  sections = {'clip': _clip(), 'pretrain': _pretrain(), 'finetune': _finetune()}
  return sections[section] if section else ConfigDict(sections | {'emoset_examples': 4000})
