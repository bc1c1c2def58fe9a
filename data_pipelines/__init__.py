"""From raw dataset folders to checked TFRecord shards to batches, with tensorflow and without jax."""

import os

# TensorFlow logs to standard error, where users look for the one line about their mistake.
os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')
os.environ.setdefault('TF_ENABLE_ONEDNN_OPTS', '0')
