"""UniEmoX in JAX: pretraining, fine-tuning and use of emotion models for whole scenes.

Importing this is quick: jax and everything else load when one of the functions is first named.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
  from uniemox_jax.api import load_classifier, load_encoder
  from uniemox_jax.teacher.frozen_clip import load_clip

__version__ = '0.1.0'
__all__ = ['load_classifier', 'load_clip', 'load_encoder']
_HOMES = {'load_classifier': 'api', 'load_clip': 'teacher.frozen_clip', 'load_encoder': 'api'}


def __getattr__(name: str) -> Any:
  if name not in _HOMES:
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
  return getattr(importlib.import_module(f'{__name__}.{_HOMES[name]}'), name)
