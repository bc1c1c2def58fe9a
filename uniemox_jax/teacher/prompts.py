"""The words in which a CLIP is asked which emotion an image evokes (docs/protocols.md)."""

from collections.abc import Sequence

from data_pipelines.errors import UserError
from data_pipelines.source_files.text_files import read_text

PLAIN = 'a photo of {}.'
"""The single template that the ensemble is compared with."""
TEMPLATES = (
    PLAIN, 'a picture that makes people feel {}.', 'a photo that evokes {}.', 'a scene full of {}.',
    'an image that expresses {}.', 'people in a moment of {}.', 'a person showing {}.', 'a face that shows {}.',
    'the mood of this photo is {}.', 'an atmosphere of {}.', 'a place that fills visitors with {}.',
    'a painting about {}.', 'a drawing of {}.', 'whoever looks at this picture feels {}.',
    'the emotion in this image is {}.', 'a feeling of {}.')
"""The prompts of the ensemble; {} stands for the class, as a noun."""
NOUNS = {'happy': 'happiness', 'sad': 'sadness', 'neutral': 'neutrality'}
"""The nouns of labels that are adjectives (CAER-S)."""


def class_word(label: str) -> str:
  """The word by which a text names a class: a noun in lower case, without underscores."""
  word = ' '.join(label.replace('_', ' ').lower().split())
  return NOUNS.get(word, word)


def read_templates(path: str) -> tuple[str, ...]:
  """Reads a file with one template a line; empty lines do not count.

  Raises:
    UserError: there is no such file, it has no template, or a template has no {}.
  """
  lines = read_text(path, 'give a text file as --prompts, one template a line').splitlines()
  if bad := [f'line {number}, {line.strip()!r},' for number, line in enumerate(lines, start=1)
             if line.strip() and '{}' not in line]:
    raise UserError(f'--prompts={path}: {bad[0]} has no {{}} where the class goes: add it')
  templates = tuple(line.strip() for line in lines if line.strip())
  if not templates:
    raise UserError(f'--prompts={path} holds no template: write one a line, with {{}} where the class goes')
  return templates


def fill(template: str, labels: Sequence[str]) -> list[str]:
  """The texts that the template gives, one for each class."""
  return [template.replace('{}', class_word(label)) for label in labels]
