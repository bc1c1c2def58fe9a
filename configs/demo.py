"""From drawn records to fine-tuned models at a small size, on two CPU cores: what `make demo` runs.

python -m uniemox_jax.demo --workdir=runs/demo
python -m uniemox_jax.ablate --config=configs/demo.py --workdir=runs/ablation

One section a verb; the argument picks one, as in
python -m uniemox_jax.pretrain --config=configs/demo.py:pretrain --workdir=runs/demo/uniemox

Hardware: 2 CPU cores. Time: see the README.
"""

from ml_collections import ConfigDict

from uniemox_jax.train.config import FinetuneConfig, PretrainConfig, TrainClipConfig, TrainConfig
from uniemox_jax.train.schema import config_dict

ENCODER = {'image_size': 96, 'patch_size': 16, 'width': 96, 'depth': 4, 'heads': 4, 'remat': 'none', 'scan': False}
TOWER = {'width': 96, 'depth': 3, 'heads': 4}


def _base(kind: type[TrainConfig], dataset: str, epochs: int, base_lr: float) -> ConfigDict:
  config = config_dict(kind)
  config.update(data_dir='runs/demo/data', dataset=dataset, dtype='float32')
  config.update(batch_size=64, epochs=epochs, warmup_epochs=1, min_crop_area=0.4)
  config.optimizer.base_lr = base_lr
  return config


def _clip() -> ConfigDict:
  config = _base(TrainClipConfig, 'emoset', epochs=8, base_lr=4e-3)
  config.save_every = 200
  config.model.update(image_size=96, projection=64)
  config.model.vision.update(TOWER)
  config.model.text.update(width=64, depth=2, heads=4)
  return config


def _pretrain() -> ConfigDict:
  config = _base(PretrainConfig, 'emoset', epochs=7, base_lr=8e-3)
  config.teacher = 'runs/demo/clip/teacher'
  config.teacher_shape.update(TOWER, image_size=96, projection=64)
  config.model.update(ENCODER, decoder_width=64, decoder_depth=2, decoder_heads=4, mask_ratio=0.75)
  config.save_every = 200
  config.images_every = 200
  return config


def _finetune() -> ConfigDict:
  # The best for scratch on val that the demo has time for (docs/demo_recipe.md), frozen for every initialisation.
  config = _base(FinetuneConfig, 'emo8', epochs=20, base_lr=8e-3)
  config.model.update(ENCODER)
  config.regularisation.update(drop_path=0.0, mixup=0.0, cutmix=0.0)
  config.augment.update(randaugment=0.0, erase=0.0)
  config.eval_every_epochs = 2
  return config


def get_config(section: str = '') -> ConfigDict:
  """One section (clip, pretrain, finetune), or all with `emoset_examples`, the size of the drawn pretraining set."""
  sections = {'clip': _clip(), 'pretrain': _pretrain(), 'finetune': _finetune()}
  return sections[section] if section else ConfigDict(sections | {'emoset_examples': 4000})
