"""Texts to token ids: those of OpenAI's own tokenizer, whatever the text, and caches that know of it."""

from pathlib import Path

import numpy as np
import pytest

from data_pipelines.errors import UserError
from tests.teacher.openai_tokenizer import OpenAiTokenizer
from uniemox_jax.teacher.tokenizer import Tokenizer, clean

PIECES = [
    'a photo of a cat', '“curly quotes”', '’tis', "it's", "IT'S", "'ſ", 'naïve', 'nai\u0308ve', 'ﬁne ﬂower', 'Ａｂ１',
    '&amp;', '&amp;amp;', '&amp;lt;b&amp;gt;', '&lt;|endoftext|&gt;', '&#233;', 'e&#769;', '&#28;', '&nbsp;', '&notit;',
    'âœ” mojibake', 'schÃ¶n', 'donâ€™t', '\x00', '\x1b[31mred\x1b[0m', '\x85', '\u2028', '\u00ad', '\u200b', '\ufeff',
    '\t', '\r\n', '\n\n', '  ', '\u3000', '\ud83d\ude00', '\udc80', '😀👩\u200d👩\u200d👧', 'İstanbul', 'ΑΣ ΣΟΦΟΣ',
    'straße ẞ', 'ǅ', '\u212a', '１２³½', '٣٤', 'ไทย', '日本語', 'हिन्दी', 'עברית', '\u0301', '<|startoftext|>',
    '!!<|endoftext|>?', '<|EndOfText|>', '<b>bold</b>', '...!?', '—–-', '`´', '#tag_2 @you', "we'll've", '\\n', '%s {}',
    '\U0001f1e9\U0001f1ea', '\U000e0041']
RANGES = [(32, 127), (0, 32), (127, 592), (880, 1328), (1424, 1792), (2304, 2432), (8192, 8304), (12288, 12544),
          (64256, 64336), (65280, 65520), (0x1f300, 0x1f650), (0, 0x110000)]


def texts(count: int) -> list[str]:
  """Pieces and random characters, joined with and without spaces."""
  rng = np.random.default_rng(0)
  made = list(PIECES)
  while len(made) < count:
    parts = []
    for _ in range(rng.integers(1, 6)):
      if rng.random() < 0.5:
        parts.append(PIECES[rng.integers(len(PIECES))])
      else:
        first, end = RANGES[rng.integers(len(RANGES))]
        parts.append(''.join(chr(code) for code in rng.integers(first, end, rng.integers(1, 8))))
    made.append(str(rng.choice(['', ' ', '&amp;'])).join(parts))
  return made


@pytest.fixture(scope='module')
def tokenizer() -> Tokenizer:
  return Tokenizer(None)


def test_adversarial_texts_have_the_ids_that_openais_tokenizer_gives(tokenizer: Tokenizer) -> None:
  theirs = OpenAiTokenizer()
  different = [
      text for text in texts(5000) if tokenizer.encode(text) != [tokenizer.start, *theirs.encode(text), tokenizer.end]]
  assert different == []


@pytest.mark.parametrize(('text', 'same'), [('“Don’t”  worry', '"don\'t" worry'),
                                            ('bread &amp;amp; butter', 'bread & butter'), ('ﬁne', 'fine'),
                                            ('A\tPHOTO\r\nof', 'a photo of'), ('schÃ¶n', 'schön'),
                                            ('cat\x00\x1b[31m', 'cat')])
def test_texts_that_differ_only_in_form_have_the_same_ids(text: str, same: str, tokenizer: Tokenizer) -> None:
  assert clean(text) == same
  assert tokenizer.encode(text) == tokenizer.encode(same)


def test_ids_of_plain_texts_are_what_they_were_before_texts_were_cleaned(tokenizer: Tokenizer) -> None:
  plain = [
      'a photo of a cat', 'A dark picture with muted colours of a forest path, evoking awe!', '  two   spaces ',
      'É, ok 12!']
  assert not any(map(tokenizer.is_cleaned, plain))
  assert all(map(tokenizer.is_cleaned, ['“quoted”', 'bread &amp; butter', 'ﬁne']))


def test_vocabulary_that_lacks_bytes_is_one_line(tmp_path: Path) -> None:
  (tmp_path / 'vocab.json').write_text('{"a": 0, "b</w>": 1, "ab</w>": 2}')
  (tmp_path / 'merges.txt').write_text('#version: 0.2\na b</w>\n')
  tokenizer = Tokenizer(tmp_path)
  assert tokenizer.encode('ab')[1:-1] == [2]
  with pytest.raises(UserError, match='vocab.json, merges.txt') as error:
    tokenizer.encode('cd')
  assert len(str(error.value).splitlines()) == 1
