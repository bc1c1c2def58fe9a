"""Fine-tune ViT-L/16 on one dataset, from any checkpoint or from scratch: one recipe for all.

python -m uniemox_jax.finetune --config=configs/finetune.py:emo8 --config.init=CHECKPOINT --workdir=DIR

The argument is the dataset: emoset, emo8, fi, emotion6, unbiasedemo, caers, heco, emotic or folder.
`--config.init=none` trains from scratch under the same recipe. `--config.tasks=label+vad` learns these alone, auto all
that the records have (docs/tasks.md). Another encoder, such as ViT-B/16:
--config.model.width=768 --config.model.depth=12 --config.model.heads=12
`--config.streams=scene+person` sees the person too (docs/two_streams.md); as published, the scene alone.
Few-shot: --config.fraction=0.1 trains on a tenth of every class; 0.05 on half of those.
Hardware: any TPU slice; with 16 examples a device, scale batch_size with the slice. Time: not measured yet.
"""

from ml_collections import ConfigDict


def get_config(dataset: str = 'emo8') -> ConfigDict:
  """The published fine-tuning recipe (docs/method.md, Recipes) for `dataset`."""
  config = ConfigDict()
  config.seed = 0
  config.data_dir = 'data'
  config.dataset = dataset
  config.fraction = 1.0
  config.batch_size = 128
  config.epochs = 100
  config.warmup_epochs = 5
  config.accum_steps = 1
  config.min_crop_area = 0.2
  config.init = 'none'
  config.streams = 'scene'
  config.dtype = 'bfloat16'
  config.mesh = ConfigDict({'data': -1, 'fsdp': 1})
  config.model = ConfigDict({
      'image_size': 224, 'patch_size': 16, 'width': 1024, 'depth': 24, 'heads': 16, 'remat': 'dots', 'scan': True,
      'norm_eps': 1e-6, 'pre_norm': False, 'activation': 'gelu'
  })
  config.optimizer = ConfigDict(
      {'base_lr': 1e-3, 'final_lr': 1e-6, 'b1': 0.9, 'b2': 0.999, 'weight_decay': 0.05, 'layer_decay': 0.75})
  config.regularisation = ConfigDict({'drop_path': 0.2, 'mixup': 0.8, 'cutmix': 1.0, 'smoothing': 0.1})
  config.augment = ConfigDict({'randaugment': 9.0, 'erase': 0.25})
  config.ema_decay = 0.0  # above 0, such as 0.9999: evaluates and keeps averaged weights (docs/runs.md)
  config.max_gradient_norm = 1e3  # a step above it is skipped, and counted
  config.max_skipped_steps = 10  # in a row; then the run stops
  config.tasks = 'auto'
  config.task_loss = ConfigDict({
      'label': 1.0, 'labels': 1.0, 'distribution': 1.0, 'vad': 1.0, 'labels_form': 'bce', 'class_weights': 'none',
      'vad_form': 'l2'
  })
  config.log_every = 20
  config.eval_every_epochs = 1
  return config
