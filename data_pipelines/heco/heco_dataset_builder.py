"""Builds HECO: `<Class>/*`, split 70/10/20 by this package."""

import tensorflow_datasets as tfds

from data_pipelines.building import class_folders


class Builder(class_folders.SeededClassFolderBuilder):
  """HECO (Yang et al., Emotion Recognition for Multiple Context Awareness, ECCV 2022): persons in eight emotions."""

  VERSION = tfds.core.Version('1.0.0')
  LABELS = ('Surprise', 'Excitement', 'Happiness', 'Peace', 'Disgust', 'Anger', 'Fear', 'Sadness')
  PERCENT = {'train': 70, 'val': 10, 'test': 20}
  MANUAL_DOWNLOAD_INSTRUCTIONS = (
      'HECO holds <Class>/* with the folders Surprise, Excitement, Happiness, Peace, Disgust, Anger, Fear and Sadness; '
      'ask its authors for it, see https://heco2022.github.io')
