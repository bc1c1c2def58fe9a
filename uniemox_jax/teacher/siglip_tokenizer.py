"""The tokenizers of SigLIP and SigLIP 2, which transformers computes."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data_pipelines import storage
from data_pipelines.errors import UserError

PIECES, GEMMA = 'spiece.model', 'tokenizer.json'
"""The files of vocabularies: SigLIP's is a model of SentencePiece, SigLIP 2 has Gemma's."""
MAX_VOCABULARY = 128 << 20
"""The largest file that is read, in bytes; Gemma's has 34 million."""


class SiglipTokenizer:
  """Turns texts into token ids, as SigLIP was trained with them.

  SigLIP's texts are in lower case and without punctuation. Those of SigLIP 2 are in lower case, also where the folder
  names Gemma's own tokenizer, which would keep capitals.

  Args:
    folder: a folder that holds spiece.model, or SigLIP 2's tokenizer.json.

  Raises:
    UserError: the folder lacks them, or they are damaged.
  """

  def __init__(self, folder: Path):
    names = [name for name in (PIECES, GEMMA) if (folder / name).is_file()]
    if not names:
      raise UserError(f"{folder} has no tokenizer: put its {PIECES}, or SigLIP 2's {GEMMA}, there, or give int32 ids")
    settings = [name for name in ('tokenizer_config.json', 'special_tokens_map.json') if (folder / name).is_file()]
    limits = dict.fromkeys(settings, storage.MAX_JSON) | {names[0]: MAX_VOCABULARY}
    if large := [name for name, limit in limits.items() if storage.size(folder / name) > limit]:
      raise UserError(f'{folder / large[0]} is too large for a file of a tokenizer: fetch it again')
    self._files = f'{folder}/{", ".join([names[0], *settings])}'
    import transformers  # imports torch where that is installed, which takes seconds
    kind = transformers.SiglipTokenizer if names[0] == PIECES else transformers.Siglip2Tokenizer
    with storage.parsing(self._files):
      self._plain: Any = kind.from_pretrained(folder, trust_remote_code=False)

  def __len__(self) -> int:
    """Tokens of the vocabulary."""
    return len(self._plain)

  def encode(self, text: str) -> list[int]:
    """The ids of the whole text, the end's included."""
    with storage.parsing(self._files):
      return [int(number) for number in self._plain(_valid(text), verbose=False)['input_ids']]

  def encode_batch(self, texts: Sequence[str], context: int) -> np.ndarray:
    """The texts' ids (B, context), cut so that the end stays. They are padded: the model saw no shorter texts."""
    if not texts:
      return np.zeros((0, context), np.int64)
    with storage.parsing(self._files):
      rows = self._plain(
          list(map(_valid, texts)), padding='max_length', truncation=True, max_length=context, verbose=False)
      return np.array(rows['input_ids'], np.int64).reshape(len(texts), context)

  def is_cleaned(self, text: str) -> bool:
    """Always False: every version here has read texts alike. See `tokenizer.Tokenizer.is_cleaned`."""
    del text
    return False


def _valid(text: str) -> str:
  """Removes halves of surrogate pairs, which have no bytes."""
  return text.encode(errors='replace').decode()
