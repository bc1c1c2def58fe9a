"""TensorFlow without the Keras that it loads at its start, and that nothing here uses: 1.6 s and 170 MB a process.

Who uses `tf.keras` in the same process has it as ever: TensorFlow loads it at its first use.
"""

import importlib.util
import os

_OLD_KERAS = 'TF_USE_LEGACY_KERAS'

if _OLD_KERAS in os.environ or importlib.util.find_spec('tf_keras'):
  import tensorflow as tf
else:
  # TensorFlow loads one of two packages. Asked for the one that is not installed, it starts without either.
  os.environ[_OLD_KERAS] = '1'
  try:
    import tensorflow as tf
  finally:
    del os.environ[_OLD_KERAS]

__all__ = ['tf']
