"""CLIP's tokenizer: OpenAI's cleaning of a text, its division into words, and the byte pairs of a vocabulary.

Source: the published algorithm of openai/CLIP, clip/simple_tokenizer.py, which open_clip shares.
"""

from collections.abc import Sequence
import html
from pathlib import Path
from typing import Any

import ftfy
import numpy as np
import regex

from data_pipelines import storage
from data_pipelines.errors import UserError
from uniemox_jax.convert.formats import vocabulary

VOCABULARY_FILES = ('vocab.json', 'merges.txt', 'tokenizer.json')
TOKENIZER_FILES = (*VOCABULARY_FILES, 'tokenizer_config.json', 'special_tokens_map.json')
LENGTH_STEP = 8
"""Token ids are padded to a multiple of this, so that few lengths are ever compiled."""
_WORDS = regex.compile(
    r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+", regex.IGNORECASE)
_MAX_WORDS = 2**17
"""Words whose ids are kept."""


def has_tokenizer(folder: Path) -> bool:
  """Whether a folder holds the files of a vocabulary, or some of them."""
  return any((folder / name).is_file() for name in VOCABULARY_FILES)


def clean(text: str) -> str:
  """The text as CLIP was trained on it: broken encodings corrected, HTML entities resolved, one space between words,
  lower case."""
  return regex.sub(r'\s+', ' ', html.unescape(html.unescape(ftfy.fix_text(text))).strip()).strip().lower()


class Tokenizer:
  """Turns texts into token ids, as OpenAI's own tokenizer does.

  transformers reads the files and merges the byte pairs. It would not clean texts, and divides some otherwise.

  Args:
    folder: a folder that holds vocab.json and merges.txt, or tokenizer.json; None is OpenAI's vocabulary.

  Raises:
    UserError: the folder lacks them, or they are damaged.
  """

  def __init__(self, folder: Path | None):
    if folder is not None:
      has = {name for name in TOKENIZER_FILES if (folder / name).is_file()}
      if large := [name for name in sorted(has) if storage.size(folder / name) > storage.MAX_JSON]:
        raise UserError(f'{folder / large[0]} is too large for a file of a tokenizer: fetch it again')
      if not ({'vocab.json', 'merges.txt'} <= has or 'tokenizer.json' in has):
        raise UserError(f'{folder} has no tokenizer: put its vocab.json and merges.txt there, or give int32 ids')
    from transformers import CLIPTokenizer  # imports torch where that is installed, which takes seconds
    with storage.temporary_folder() as openai:
      if folder is None:
        vocabulary.write_openai_vocabulary(Path(openai))
      self._files = f'{folder or openai}/{", ".join(TOKENIZER_FILES)}'
      with storage.parsing(self._files):
        self._plain: Any = CLIPTokenizer.from_pretrained(folder or Path(openai), trust_remote_code=False)
        self.start, self.end = int(self._plain.bos_token_id), int(self._plain.eos_token_id)
    self._pairs = self._plain.backend_tokenizer.model
    self._symbols = vocabulary.byte_symbols()
    self._ids = {vocabulary.START: [self.start], vocabulary.END: [self.end]}

  def __len__(self) -> int:
    """Tokens of the vocabulary."""
    return len(self._plain)

  def encode(self, text: str) -> list[int]:
    """The ids of the whole text, between the ids of its start and its end.

    Raises:
      UserError: the vocabulary lacks a byte of it.
    """
    return [self.start, *(number for word in _WORDS.findall(clean(text)) for number in self._word(word)), self.end]

  def encode_batch(self, texts: Sequence[str], context: int) -> np.ndarray:
    """The texts' ids (B, T), cut at `context`, and padded after the end of text to a common multiple of `LENGTH_STEP`.

    Raises:
      UserError: the vocabulary lacks a byte.
    """
    rows = [ids if len(ids) <= context else [*ids[:context - 1], self.end] for ids in map(self.encode, texts)]
    longest = max((len(row) for row in rows), default=1)
    ids_BxT = np.full((len(rows), min(-(-longest // LENGTH_STEP) * LENGTH_STEP, context)), self.end, np.int64)
    for row, ids in zip(ids_BxT, rows):
      row[:len(ids)] = ids
    return ids_BxT

  def _word(self, word: str) -> list[int]:
    ids = self._ids.get(word)
    if ids is None:
      symbols = ''.join(self._symbols[byte] for byte in word.encode())
      with storage.parsing(self._files):  # a vocabulary may lack some bytes
        ids = [token.id for token in self._pairs.tokenize(symbols)]
      if len(self._ids) < _MAX_WORDS:
        self._ids[word] = ids
    return ids

  def is_cleaned(self, text: str) -> bool:
    """Whether cleaning changes the text's ids. Earlier versions did not clean texts."""
    if text.isascii() and text.isprintable() and not {'&', '<'} & set(text):
      return False
    try:
      return self._plain(text, verbose=False)['input_ids'] != self.encode(text)
    except TypeError:  # half of a surrogate pair, which only cleaned texts may hold
      return True
