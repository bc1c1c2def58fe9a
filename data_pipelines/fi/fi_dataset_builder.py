"""Builds FI: `<class>/*`, split 80/5/15 by this package."""

import tensorflow_datasets as tfds

from data_pipelines.building import class_folders
from data_pipelines.records.label_sets import EMOTIONS


class Builder(class_folders.SeededClassFolderBuilder):
  """FI (You et al., Building a Large Scale Dataset for Image Emotion Recognition, AAAI 2016): eight emotions."""

  VERSION = tfds.core.Version('1.0.0')
  LABELS = EMOTIONS
  PERCENT = {'train': 80, 'val': 5, 'test': 15}
  MANUAL_DOWNLOAD_INSTRUCTIONS = (
      f'FI holds <emotion>/* with the folders {", ".join(EMOTIONS)}; ask its authors for it, '
      'see https://arxiv.org/abs/1605.02677')
