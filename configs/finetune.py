"""Fine-tune ViT-L/16 on one dataset, from any checkpoint or from scratch: one recipe for all.

python -m uniemox_jax.finetune --config=configs/finetune.py:emo8 --config.init=CHECKPOINT --workdir=DIR

The argument is the name of a dataset that is built (docs/datasets.md), such as emoset, emotic or folder.
`--config.init=none` trains from scratch under the same recipe. `--config.tasks=label+vad` learns these alone, auto all
that the records have (docs/tasks.md). The encoder is that of CHECKPOINT; from scratch another, such as ViT-B/16, by
--config.model.width=768 --config.model.depth=12 --config.model.heads=12
`--config.streams=scene+person` sees the person too (docs/two_streams.md); as published, the scene alone.
Few-shot: --config.fraction=0.1 trains on a tenth of every class; 0.05 on half of those.
Hardware: any TPU slice; with 16 examples a device, scale batch_size with the slice. Time: not measured yet.
Every key, its default and its meaning: docs/config.md.
"""

from ml_collections import ConfigDict

from uniemox_jax.train.config import FinetuneConfig
from uniemox_jax.train.schema import config_dict


def get_config(dataset: str = 'emo8') -> ConfigDict:
  """The published fine-tuning recipe (docs/method.md, Recipes) for `dataset`, on all that its records hold."""
  config = config_dict(FinetuneConfig)
  config.dataset = dataset
  config.tasks = 'auto'
  return config
