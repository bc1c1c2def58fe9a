"""Makes of OpenAI's list of merges (MIT, in assets/clip) the files of CLIP's vocabulary that CLIPTokenizer reads."""

import gzip
from importlib import resources
import json
from pathlib import Path

MERGES = 49152 - 256 - 2
"""The number of lines of the list that OpenAI uses; the special tokens follow."""
START, END = '<|startoftext|>', '<|endoftext|>'
SIZE = 49408


def byte_symbols() -> dict[int, str]:
  """A printable character for each byte, in the vocabulary's order: printable bytes first, then the others."""
  printable = [*range(ord('!'), ord('~') + 1), *range(ord('¡'), ord('¬') + 1), *range(ord('®'), ord('ÿ') + 1)]
  others = [byte for byte in range(256) if byte not in printable]
  return {byte: chr(byte) for byte in printable} | {byte: chr(256 + i) for i, byte in enumerate(others)}


def write_openai_vocabulary(folder: Path) -> None:
  """Writes the vocabulary of every OpenAI CLIP (49,408 tokens) for CLIPTokenizer.

  The files are vocab.json, merges.txt, special_tokens_map.json and tokenizer_config.json.
  """
  packed = resources.files('uniemox_jax') / 'assets' / 'clip' / 'bpe_simple_vocab_16e6.txt.gz'
  merges = gzip.decompress(packed.read_bytes()).decode().split('\n')[1:1 + MERGES]  # the first line is a version
  symbols = list(byte_symbols().values())
  merged = [merge.replace(' ', '') for merge in merges]
  names = [*symbols, *(f'{symbol}</w>' for symbol in symbols), *merged, START, END]
  tokens = {token: i for i, token in enumerate(names)}
  special = {'bos_token': START, 'eos_token': END, 'unk_token': END, 'pad_token': END}
  (folder / 'vocab.json').write_text(json.dumps(tokens, ensure_ascii=False), encoding='utf-8')
  (folder / 'merges.txt').write_text('\n'.join(['#version: 0.2', *merges]) + '\n', encoding='utf-8')
  (folder / 'special_tokens_map.json').write_text(json.dumps(special, indent=2))
  (folder / 'tokenizer_config.json').write_text(
      json.dumps(special | {'tokenizer_class': 'CLIPTokenizer', 'model_max_length': 77}, indent=2))
