"""TensorFlow starts without Keras, and whoever wants Keras in the same process still has it."""

import subprocess
import sys

PROGRAM = """
import sys
from data_pipelines.records import reader
assert 'keras' not in sys.modules, 'loaded at the start'
import os
import tensorflow as tf
assert 'TF_USE_LEGACY_KERAS' not in os.environ
from tensorflow.keras import layers
assert tf.keras.layers.Dense is layers.Dense and layers.Dense.__module__.startswith('keras.')
"""


def test_tensorflow_starts_without_keras_which_is_there_when_asked_for() -> None:
  done = subprocess.run([sys.executable, '-c', PROGRAM], capture_output=True, text=True)
  assert done.returncode == 0, done.stderr
