"""Builds EmoVerse from its JSON records and images, or from the Parquet files of the hub."""

import tensorflow_datasets as tfds

from data_pipelines.records.label_sets import EMOTIONS
from data_pipelines.table import table_dataset_builder as table
from data_pipelines.table.columns import ROLES


class Builder(table.Builder):
  """EmoVerse (2025, arXiv 2511.12554): Mikels' eight emotions, a description, a confidence, the subject and its box."""

  VERSION = tfds.core.Version('1.0.0')
  LABELS = EMOTIONS
  CLASSES = EMOTIONS
  # Every box is of the emotion's subject: it counts as a person's where the subject is one.
  HEADINGS = {**ROLES, 'subject': ('subject',)}
  pkg_dir_path = None  # TFDS finds the card's folder by the class, and would take the parent's.
  MANUAL_DOWNLOAD_INSTRUCTIONS = (
      'EmoVerse holds JSON records with id, image_path, description, emotion, confidence, subject and bbox beside '
      'images/<emotion>/*.jpg, or the Parquet files of the hub; see https://arxiv.org/abs/2511.12554')
