"""Random checkpoints of every kind, to be exported."""

import json
from pathlib import Path
from typing import Any

from flax import nnx
import jax
import numpy as np

from uniemox_jax.models.registry import abstract_student
from uniemox_jax.train.checkpoint import save_weights

TINY = dict(image_size=32, patch_size=8, width=32, depth=2, heads=4)
VIT_B, VIT_L = (
    dict(image_size=224, patch_size=16, width=width, depth=depth, heads=heads)
    for width, depth, heads in ((768, 12, 12), (1024, 24, 16)))
TINY_DECODER = dict(decoder_width=16, decoder_depth=2, decoder_heads=2)
PUBLISHED_DECODER = dict(decoder_width=512, decoder_depth=8, decoder_heads=16)
LABELS = ['amusement', 'awe', 'contentment', 'excitement', 'anger', 'disgust', 'fear', 'sadness']


def random_params(kind: str, model: dict[str, Any]) -> dict[str, Any]:
  """Parameters of which none is zero; every layer keeps the size of what it is given."""
  module = abstract_student(kind, model)
  rng = np.random.default_rng(0)

  def draw(path: tuple[Any, ...], leaf: Any) -> np.ndarray:
    name = path[-1].key
    deviation = leaf.shape[-2]**-0.5 if name == 'kernel' else 0.1
    return rng.standard_normal(leaf.shape, np.float32) * np.float32(deviation) + np.float32(name == 'scale')

  return jax.tree_util.tree_map_with_path(draw, nnx.to_pure_dict(nnx.state(module, nnx.Param)))


def saved(workdir: Path, kind: str, config: dict[str, Any] | None = None, **model: Any) -> dict[str, Any]:
  """Writes a checkpoint, and a run's config where one is given; returns the parameters."""
  params = random_params(kind, model)
  labels = {'labels': LABELS[:model['classes']]} if kind == 'classifier' else {}
  save_weights(str(workdir), params, {'kind': kind, 'model': model, **labels})
  if config:
    (workdir / 'config.json').write_text(json.dumps(config))
  return params


def module_of(kind: str, params: dict[str, Any], **model: Any) -> nnx.Module:
  """The module with these parameters."""
  return nnx.merge(nnx.graphdef(abstract_student(kind, model)), params)


def random_images(image_size: int, count: int = 2) -> np.ndarray:
  """Normalised float32 (count, size, size, 3)."""
  return np.random.default_rng(1).standard_normal((count, image_size, image_size, 3), np.float32)
