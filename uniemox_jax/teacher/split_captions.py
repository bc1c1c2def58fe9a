"""The captions of a split, shortened to the teacher's context, and their cached embeddings (method section 4)."""

import os
from typing import Any

import numpy as np

from data_pipelines.records import caption_text as captions_lib
from uniemox_jax.teacher.caption_cache import embed_captions
from uniemox_jax.teacher.frozen_clip import Clip


def split_captions(split: Any, clip: Clip, emotion_in_caption: bool) -> list[str]:
  """One caption for each position of a `data_pipelines.records.reader.Split`.

  Args:
    split: supplies labels and attributes.
    clip: its tokenizer counts tokens; captions over its context length lose objects from the end.
    emotion_in_caption: whether the emotion word is in the text, which makes pretraining label-supervised.
  """

  def count_tokens(text: str) -> int:
    return len(clip.tokenizer(text)['input_ids'])

  return [
      captions_lib.fitting_caption(
          attributes, split.labels[label] if emotion_in_caption and label >= 0 else None, count_tokens,
          clip.config.context_length) for _, label, attributes in split.annotations()
  ]


def embedded_captions(clip: Clip, split: Any, emotion_in_caption: bool, data_dir: str) -> np.ndarray:
  """Lambda for every position: unit-norm float32 (N, E), computed once and cached under `data_dir`/caption_cache."""
  return embed_captions(clip, split_captions(split, clip, emotion_in_caption), os.path.join(data_dir, 'caption_cache'))
