"""What a CLIP is asked in words: classes, the poles of valence and arousal, and own texts, all embedded once."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from data_pipelines.errors import UserError
from data_pipelines.plain_text import check_labels
from data_pipelines.records.label_sets import NAMED_LABELS
from data_pipelines.source_files.text_files import read_text
from data_pipelines.storage import exists
from uniemox_jax.teacher import prompts
from uniemox_jax.teacher.frozen_clip import Clip

POLES = {
    'valence': (('pleasure', 'happiness', 'contentment'), ('displeasure', 'unhappiness', 'distress')),
    'arousal': (('excitement', 'alarm', 'agitation'), ('calm', 'boredom', 'sleepiness'))}
"""Words at the high and the low end of a dimension, from the axes of Russell's circumplex (1980)."""


class Words(NamedTuple):
  """classes: names, in order. dimensions: of `POLES`. texts: whole texts, whose similarity is wanted.
  templates: with {} for a class or a pole."""

  classes: tuple[str, ...]
  dimensions: tuple[str, ...]
  texts: tuple[str, ...]
  templates: tuple[str, ...]

  def embed(self, clip: Clip) -> np.ndarray:
    """Unit-norm float32 (W, E), as `ZeroShotClassifier` takes them.

    Raises:
      UserError: the CLIP has no tokenizer, or a text is longer than its context.
    """
    check_lengths(clip, self.texts)
    rows = [class_embeddings(clip, self.classes, self.templates)] if self.classes else []
    for dimension in self.dimensions:
      for pole in POLES[dimension]:
        mean_E = class_embeddings(clip, pole, self.templates).mean(axis=0)
        rows.append((mean_E / np.linalg.norm(mean_E))[None])
    return np.concatenate([*rows, clip.encode_text(list(self.texts))] if self.texts else rows)


def read_words(labels: str | None, prompts_file: str | None, texts: Sequence[str] = ()) -> Words:
  """What the flags --labels, --prompts and --texts ask for.

  Args:
    labels: names of `NAMED_LABELS`, 'valence' for the dimensions of `POLES`, both joined by '+'; or classes with commas
      between them; or a text file, a class a line.
    prompts_file: see `prompts.read_templates`; None is `prompts.TEMPLATES`.
    texts: whole texts.

  Raises:
    UserError: nothing is asked for, one class alone, one that is named twice, or a file that cannot be read.
  """
  templates = prompts.TEMPLATES if prompts_file is None else prompts.read_templates(prompts_file)
  asked = labels.split('+') if labels and ',' not in labels and not exists(labels) else []
  classes: list[str] = []
  dimensions: tuple[str, ...] = ()
  if asked and {name.strip().lower() for name in asked} <= {*NAMED_LABELS, 'valence'}:
    for name in (name.strip().lower() for name in asked):
      classes += NAMED_LABELS.get(name, ())
      dimensions = tuple(POLES) if name == 'valence' else dimensions
  elif labels:
    given = read_text(labels, 'give one class a line').splitlines() if exists(labels) else labels.split(',')
    classes = [name.strip() for name in given if name.strip()]
    _check_classes(classes, labels)
  if not (classes or dimensions or texts):
    raise UserError(
        f'a CLIP needs words: add --labels={"|".join(NAMED_LABELS)}|valence, --labels=calm,lonely,… or a file with a '
        'class a line')
  return Words(tuple(dict.fromkeys(classes)), dimensions, tuple(texts), templates)


def _check_classes(classes: Sequence[str], labels: str) -> None:
  check_labels(classes, f'--labels={labels}')
  doubled = [name for name in classes if [other.lower() for other in classes].count(name.lower()) > 1]
  if len(classes) < 2 or doubled:
    wrong = f"the class '{doubled[0]}' twice" if doubled else f'{len(classes)} class'
    raise UserError(
        f'--labels={labels} names {wrong}: give two or more with commas, a file with a class a line, or '
        f'{", ".join(NAMED_LABELS)} or valence, joined by +')


def class_embeddings(clip: Clip, labels: Sequence[str], templates: Sequence[str]) -> np.ndarray:
  """A text embedding per class, unit-norm float32 (C, E): the mean over the templates' unit-norm embeddings, rescaled.

  Raises:
    UserError: the CLIP has no tokenizer, or a text is longer than its context.
  """
  check_lengths(clip, [text for template in templates for text in prompts.fill(template, labels)])
  mean_CxE = np.mean([clip.encode_text(prompts.fill(template, labels)) for template in templates], axis=0)
  return mean_CxE / np.linalg.norm(mean_CxE, axis=1, keepdims=True)


def check_lengths(clip: Clip, texts: Sequence[str]) -> None:
  """Raises UserError for a text that the CLIP would cut off."""
  for text in texts:
    if (tokens := len(clip.tokenizer.encode(text))) > clip.config.context_length:
      raise UserError(f"prompt '{text}' takes {tokens} tokens, the CLIP reads {clip.config.context_length}: shorten it")
