"""From raw dataset folders to checked TFRecord shards to batches. tensorflow lives here; jax does not."""

import os

# TensorFlow greets on standard error, where users look for the one line that is about their mistake.
os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')
os.environ.setdefault('TF_ENABLE_ONEDNN_OPTS', '0')
