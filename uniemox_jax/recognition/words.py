"""The words in which a CLIP is asked: classes, the poles of valence and arousal, and own texts, all embedded once."""

from collections.abc import Sequence
import os
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data_pipelines.errors import UserError
from data_pipelines.plain_text import check_labels, first_double
from data_pipelines.records.label_sets import NAMED_LABELS
from data_pipelines.source_files.text_files import read_text
from data_pipelines.storage import exists
from uniemox_jax.teacher import prompts
from uniemox_jax.teacher.frozen_clip import Clip

POLES = {
    'valence': (('pleasure', 'happiness', 'contentment'), ('displeasure', 'unhappiness', 'distress')),
    'arousal': (('excitement', 'alarm', 'agitation'), ('calm', 'boredom', 'sleepiness'))}
"""Words at the high and the low end of a dimension, from the axes of Russell's circumplex (1980)."""
_NAMES = {*NAMED_LABELS, 'valence'}
"""The names that stand for several classes, or for the dimensions."""


class Words(NamedTuple):
  """What a CLIP is asked. classes: names, in order. dimensions: keys of `POLES`. texts: whole texts, whose similarity
  is wanted. templates: texts with {} for a class or a pole."""

  classes: tuple[str, ...]
  dimensions: tuple[str, ...]
  texts: tuple[str, ...]
  templates: tuple[str, ...]

  def embed(self, clip: Clip) -> np.ndarray:
    """Embeds the words: unit-norm float32 (W, E), as `ZeroShotClassifier` takes them.

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


def read_words(
    labels: str | os.PathLike | Sequence[str] | None, prompts_given: str | os.PathLike | Sequence[str] | None,
    texts: str | Sequence[str] = ()) -> Words:
  """Reads what the flags --labels, --prompts and --texts ask for.

  Args:
    labels: names of `NAMED_LABELS`, 'valence' for the dimensions of `POLES`, own classes with commas between them, and
      text files with a class a line, joined by '+'. A list has a name or a class in each place.
    prompts_given: see `prompts.read_templates`; a list has a template in each place; None is `prompts.TEMPLATES`.
    texts: whole texts; a text alone is one.

  Raises:
    UserError: nothing is asked for; there are templates without classes, one class alone, or a class named twice; a
      text cannot be a column's name; or a file cannot be read.
  """
  classes, dimensions = ((), ()) if labels is None else read_labels(labels)
  texts = (texts,) if isinstance(texts, str) else tuple(texts)
  _check_texts(texts)
  if not (classes or dimensions or texts):
    raise UserError(
        f'a CLIP needs words: add --labels={"|".join(NAMED_LABELS)}|valence, --labels=calm,lonely,… or a file with a '
        'class a line')
  if prompts_given is not None and not (classes or dimensions):
    raise UserError(
        '--prompts are templates for classes, and whole texts need none: add --labels, or leave --prompts out')
  return Words(classes, dimensions, texts, _templates(prompts_given))


def _templates(given: str | os.PathLike | Sequence[str] | None) -> tuple[str, ...]:
  if given is None:
    return prompts.TEMPLATES
  if isinstance(given, str | os.PathLike):
    return prompts.read_templates(os.fspath(given))
  if not given:
    raise UserError('the list of prompts is empty: give templates with {} for the class, or leave it out for ours')
  if any(not isinstance(template, str) or '{}' not in template for template in given):
    raise UserError('prompts as a list are templates, each with {} where the class goes')
  return tuple(given)


def read_labels(labels: str | os.PathLike | Sequence[str], shown: str | None = None,
                files: bool = True) -> tuple[tuple[str, ...], tuple[str, ...]]:
  """Reads (classes, dimensions) of every part, each class once, whatever its case.

  Args:
    labels: as for `read_words`.
    shown: what messages call these labels.
    files: whether labels may name a file; words of strangers may not.

  Raises:
    UserError: as `read_words`.
  """
  if not isinstance(labels, str | os.PathLike | Sequence):
    raise UserError(f'labels are {labels!r}, neither a text nor a list of texts: give names and words')
  single = isinstance(labels, str | os.PathLike)
  parts = [os.fspath(labels)] if isinstance(labels, str | os.PathLike) else list(labels)
  shown = shown or f'--labels={parts[0] if single else parts}'
  if any(not isinstance(part, str) for part in parts):
    raise UserError(f'{shown} has a part that is no text: give names and words')
  files = files and single
  if not (files and _is_file(parts[0])):
    parts = [part for given in parts for part in (given.split('+') if _joins_names(given) else [given])]
  own: list[str] = []
  names: list[str] = []
  absent = ', and no file of that name is there' if files else ''
  for part in parts:
    if part.strip().lower() in _NAMES:
      names.append(part.strip().lower())
    elif files and _is_file(part.strip()):
      own += read_text(part.strip(), 'give one class a line').splitlines()
      absent = ''
    else:
      own += part.split(',') if single else [part]
  own = [word.strip() for word in own if word.strip()]
  _check_classes(own, names, shown, absent, files)
  classes: dict[str, str] = {}
  for word in (*(name for set_name in names for name in NAMED_LABELS.get(set_name, ())), *own):
    classes.setdefault(word.lower(), word)
  return tuple(classes.values()), tuple(POLES) if 'valence' in names else ()


def _joins_names(labels: str) -> bool:
  """Whether a '+' joins: one of the parts is a name. It may also be a sign of the user's own word."""
  return any(part.strip().lower() in _NAMES for part in labels.split('+'))


def _is_file(labels: str) -> bool:
  try:
    return exists(labels) and not Path(labels).is_dir()
  except (OSError, ValueError):  # too long for a path, or with what no path has
    return False


def _check_classes(own: Sequence[str], names: Sequence[str], shown: str, absent: str, files: bool) -> None:
  """`absent` is said of one class, which was perhaps meant as a file."""
  check_labels(own, shown)
  a_file = 'a file with a class a line, ' if files else ''
  remedy = f'give two or more with commas, {a_file}or {", ".join(NAMED_LABELS)} or valence, all joined by +'
  for given in (own, names):
    lowered = [name.lower() for name in given]
    if (double := first_double(lowered)) is not None:
      name = given[lowered.index(double)]
      raise UserError(f"{shown} names {'the class ' if given is own else ''}'{name}' twice: {remedy}")
  if mixed := [name for name in own if name.lower() in _NAMES]:
    raise UserError(f"{shown} has '{mixed[0]}' among its words: that is a name of several, join it by +")
  if len(own) < 2 and not set(names) & NAMED_LABELS.keys() and (own or not names):
    raise UserError(
        f'{shown} names {len(own)} class{"es"[:2 * (len(own) != 1)]}{absent if own and not names else ""}: {remedy}')


def _check_texts(texts: Sequence[str]) -> None:
  """Raises UserError for what cannot be a heading of its own: empty, on several lines, or given twice."""
  if any(not isinstance(text, str) or not text.strip() for text in texts):
    raise UserError('--texts has an empty text: give it words, or leave it out')
  check_labels(texts, '--texts')
  if (double := first_double(texts)) is not None:
    raise UserError(f"--texts='{double}' is given twice: leave one out")


def class_embeddings(clip: Clip, labels: Sequence[str], templates: Sequence[str]) -> np.ndarray:
  """Embeds each class, unit-norm float32 (C, E): the mean over the templates' unit-norm embeddings, rescaled.

  Raises:
    UserError: the CLIP has no tokenizer, or a text is longer than its context.
  """
  check_lengths(clip, [text for template in templates for text in prompts.fill(template, labels)])
  mean_CxE = np.mean([clip.encode_text(prompts.fill(template, labels)) for template in templates], axis=0)
  return mean_CxE / np.linalg.norm(mean_CxE, axis=1, keepdims=True)


def check_lengths(clip: Clip, texts: Sequence[str]) -> None:
  """Raises UserError if the CLIP would cut off a text."""
  for text in texts:
    if (tokens := len(clip.tokenizer.encode(text))) > clip.config.context_length:
      raise UserError(f"prompt '{text}' takes {tokens} tokens, the CLIP reads {clip.config.context_length}: shorten it")
