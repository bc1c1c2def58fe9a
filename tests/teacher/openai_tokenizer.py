"""What OpenAI's tokenizer does to a text, by its published algorithm (openai/CLIP), without a tokenizer library.

Merges are tried pair by pair, in the order of the published list: slow, and plain to read.
"""

import gzip
import html
from importlib import resources

import ftfy
import regex

SYMBOLS = [*range(33, 127), *range(161, 173), *range(174, 256)]
SYMBOLS += [byte for byte in range(256) if byte not in SYMBOLS]
CHARACTERS = {
    byte: chr(byte if 33 <= byte < 127 or 161 <= byte < 173 or 174 <= byte < 256 else 256 + place - 188)
    for place, byte in enumerate(SYMBOLS)}
SPECIAL = ('<|startoftext|>', '<|endoftext|>')
PATTERN = regex.compile(
    '|'.join([*map(regex.escape, SPECIAL), "'(?:s|t|re|ve|m|ll|d)", r'\p{L}+', r'\p{N}', r'[^\s\p{L}\p{N}]+']), regex.I)


class OpenAiTokenizer:

  def __init__(self) -> None:
    file = resources.files('uniemox_jax') / 'assets' / 'clip' / 'bpe_simple_vocab_16e6.txt.gz'
    lines = gzip.decompress(file.read_bytes()).decode().splitlines()
    pairs = [tuple(line.split()) for line in lines[1:49152 - 256 - 1]]
    single = [CHARACTERS[byte] for byte in SYMBOLS]
    names = [*single, *(one + '</w>' for one in single), *map(''.join, pairs), *SPECIAL]
    self.number = {name: place for place, name in enumerate(names)}
    self.rank = {pair: place for place, pair in enumerate(pairs)}

  def encode(self, text: str) -> list[int]:
    text = html.unescape(html.unescape(ftfy.fix_text(text))).strip()
    text = regex.sub(r'\s+', ' ', text).strip().lower()
    return [self.number[part] for word in PATTERN.findall(text) for part in self.parts(word)]

  def parts(self, word: str) -> list[str]:
    if word in SPECIAL:
      return [word]
    parts = [CHARACTERS[byte] for byte in word.encode()]
    parts[-1] += '</w>'
    while len(parts) > 1:
      best = min(zip(parts, parts[1:]), key=lambda pair: self.rank.get(pair, len(self.rank)))
      if best not in self.rank:
        break
      merged = []
      while parts:
        if tuple(parts[:2]) == best:
          merged.append(parts.pop(0) + parts.pop(0))
        else:
          merged.append(parts.pop(0))
      parts = merged
    return parts
