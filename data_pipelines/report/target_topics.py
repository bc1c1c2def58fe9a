"""Describes what the records of a data set say: captions, votes, valence and arousal. Topics as in `record_topics`."""

from array import array
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
import hashlib
import math
import os
import pathlib
from typing import Any

import numpy as np

from data_pipelines import checksums, storage
from data_pipelines.errors import UserError
from data_pipelines.records import caption_text
from data_pipelines.records.label_sets import VAD
from data_pipelines.report.record_topics import StoredRecord

_CONTEXT = 77
"""Tokens that CLIP reads, where a tokenizer does not say it."""


class Captions:
  """The captions that pretraining makes of the records, with the emotion: their lengths, how many differ or are cut."""

  def __init__(self, tokenizer: str | os.PathLike | None):
    self._count_tokens: Callable[[str], int] | None = None
    self._limit = 0
    if tokenizer is not None:
      self._count_tokens, self._limit = _token_counter(tokenizer)
    self.lengths: Counter[int] = Counter()
    self._times: Counter[bytes] = Counter()
    self._own: Counter[bytes] = Counter()
    self._cut = 0

  def add(self, record: StoredRecord) -> None:
    """Makes the caption of a record and measures it."""
    text = caption_text.caption(record.attributes, record.label)
    self.lengths[len(text.split())] += 1
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    self._times[digest] += 1
    self._own[digest] += caption_text.is_own(record.attributes)
    self._cut += self._count_tokens is not None and self._count_tokens(text) > self._limit

  def summary(self) -> dict[str, Any]:
    """Returns 'words': least, median, greatest; 'own', the texts that records have; 'shared', those of them that
    several have; how many captions are 'different', how often the 'commonest' occurs, and how many are 'cut'."""
    in_order = np.repeat(*np.array(sorted(self.lengths.items())).T)
    return {
        'words': {'least': int(in_order[0]), 'median': float(np.median(in_order)),
                  'greatest': int(in_order[-1])}, 'own': self._own.total(), 'different': len(self._times),
        'commonest': max(self._times.values()), 'shared': sum(times for times in self._own.values() if times > 1),
        'token_limit': self._limit or None, 'cut': self._cut if self._limit else None}


def _token_counter(folder: str | os.PathLike) -> tuple[Callable[[str], int], int]:
  """Counts the tokens of a text by the tokenizer of a CLIP folder; and how many its model reads."""
  checksums.compare_checksums(pathlib.Path(folder, checksums.FOLDER))
  files = {path.name for path in pathlib.Path(folder).glob('*')}
  if not files >= {'vocab.json', 'merges.txt'} and 'tokenizer.json' not in files:
    raise UserError(
        f'--tokenizer={folder} has no tokenizer: give the folder of a CLIP, with its vocab.json and merges.txt')
  from transformers import CLIPTokenizer  # Takes seconds.
  with storage.parsing(folder, 'give a folder with the vocab.json and merges.txt of a CLIP, or tokenizer.json'):
    tokenizer = CLIPTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    limit = min(int(tokenizer.model_max_length), _CONTEXT)
  return lambda text: len(tokenizer(text).input_ids), limit


class Shares:
  """How far the votes on an image agree, by the class with the most of them."""

  def __init__(self, names: Sequence[str]):
    self._names = names
    self._sums: dict[str, np.ndarray] = {name: np.zeros(3) for name in names}  # Images, majority shares, entropies.
    self._ties = 0

  def add(self, record: StoredRecord) -> None:
    """Takes the shares of votes of a record, if it has some."""
    total = sum(record.distribution)
    if not total > 0:
      return
    shares_D = np.array(record.distribution, np.float64) / total
    majority = float(shares_D.max())
    self._ties += int((shares_D == majority).sum() > 1)
    entropy = float(-(shares_D * np.log(np.where(shares_D > 0, shares_D, 1))).sum())
    self._sums[self._names[int(shares_D.argmax())]] += (1, majority, entropy / math.log(max(len(self._names), 2)))

  def summary(self) -> dict[str, Any] | None:
    """Returns by class the images, the mean share of the majority, and the mean entropy, 0 to 1; None without votes."""
    sums_4 = sum(self._sums.values(), np.zeros(3))
    if not sums_4[0]:
      return None
    return {
        'images': int(sums_4[0]), 'ties': self._ties, **_means(sums_4), 'per_class': {
            name: {'images': int(sums[0]), **_means(sums)} for name, sums in self._sums.items()}}


def _means(sums_3: np.ndarray) -> dict[str, float | None]:
  mean = [round(float(value / sums_3[0]), 4) if sums_3[0] else None for value in sums_3[1:]]
  return {'majority': mean[0], 'entropy': mean[1]}


class Ratings:
  """The ratings of valence, arousal and dominance."""

  def __init__(self) -> None:
    self._values = array('f')

  def add(self, record: StoredRecord) -> None:
    """Takes the ratings of a record, if it has some."""
    if not all(map(math.isnan, record.vad)):
      self._values.extend(record.vad)

  def values(self) -> np.ndarray:
    """The ratings, float32 (N, 3), NaN if not annotated."""
    return np.asarray(self._values, np.float32).reshape(-1, len(VAD))

  def summary(self, scales: Mapping[str, Sequence[float]]) -> dict[str, Any] | None:
    """Returns for each dimension count, scale, least, mean, greatest and deviation; None without ratings."""
    if not len(self._values):
      return None
    found: dict[str, Any] = {}
    for name, column_N in zip(VAD, self.values().T):
      known = column_N[~np.isnan(column_N)].astype(np.float64)
      if len(known):
        numbers = {'least': known.min(), 'mean': known.mean(), 'greatest': known.max(), 'deviation': known.std()}
        found[name] = {
            'images': len(known), 'scale': scales.get(name),
            **{key: round(float(value), 4) for key, value in numbers.items()}}
    return found
