"""A model card says what the run knows, and that the rest is not known."""

from importlib import resources
import json
import re

import pytest

from tests.support.exported import LABELS, TINY, TINY_DECODER, saved
from uniemox_jax.export_torch import TARGETS, export_torch

PRETRAINED = {
    'epochs': 9, 'dataset': 'emoset', 'teacher': '/home/somebody/clip', 'emotion_in_caption': True,
    'loss': {'contrastive': 1.0, 'norm_pix': False}, 'data_dir': '/home/somebody/data', 'init': 'org/mae'}
FINE_TUNED = {'epochs': 20, 'dataset': 'emo8', 'regularisation': {'mixup': 0.8}, 'data_dir': '/home/somebody/data'}
RESULT = {
    'dataset': 'emo8', 'split': 'test', 'init': '/home/somebody/b16', 'checkpoint_step': 0, 'examples': 480,
    'top1': 0.65208, 'per_class': [{'label': 'awe', 'examples': 60, 'precision': 0.25, 'recall': 0.5,
                                    'f1': 1 / 3}], 'confusion': [[1, 2]]}


@pytest.fixture
def classifier(tmp_path):
  """A fine-tuned run with a pretraining before it."""
  saved(tmp_path / 'b16', 'uniemox', PRETRAINED, **TINY, **TINY_DECODER)
  saved(tmp_path / 'emo8', 'classifier', FINE_TUNED | {'init': str(tmp_path / 'b16')}, **TINY, classes=8)
  return tmp_path / 'emo8'


def card_of(run, out, target='timm'):
  export_torch(str(run), target, str(out))
  return (out / 'README.md').read_text()


def test_card_tells_data_recipe_and_what_was_measured(classifier, tmp_path):
  (classifier / 'result.json').write_text(json.dumps(RESULT))
  card = card_of(classifier, tmp_path / 'out')
  assert '# UniEmoX emotion classifier, fine-tuned on emo8' in card
  assert 'Started from: `org/mae`' in card
  assert '1. Pretraining on `emoset`. The captions held the emotion word' in card
  assert '2. Fine-tuning on `emo8`.\n' in card and '"mixup": 0.8' in card
  assert '| top1 | 0.6521 |' in card and '| examples | 480 |' in card
  assert '| awe | 60 | 0.2500 | 0.5000 | 0.3333 |' in card
  assert f'in the order of the output: {", ".join(LABELS)}' in card
  assert 'resized to 37 pixels' in card and 'mean 0.485, 0.456, 0.406' in card
  assert 'title   = {{UniEmoX}: Cross-modal' in card
  assert 'pipeline_tag: image-classification' in card and 'library_name: timm' in card
  assert '/home/somebody' not in card and str(tmp_path) not in card
  assert '\n\n\n' not in card and not re.search(r'\{%|%\}|\bNone\b', card)


@pytest.mark.parametrize('result', [None, RESULT | {'checkpoint_step': 7}], ids=['none', 'of another step'])
def test_card_claims_no_measurement_that_was_not_made(result, classifier, tmp_path):
  if result:
    (classifier / 'result.json').write_text(json.dumps(result))
  assert 'Nothing is known to have been measured' in card_of(classifier, tmp_path / 'out')


def test_the_card_says_of_every_target_how_it_is_loaded():
  template = resources.files('uniemox_jax.report').joinpath('model_card.md.j2').read_text()
  use = template[template.index('```python'):template.index('Preprocessing:')]
  assert [target for target in TARGETS if f"if target == '{target}'" not in use] == []


@pytest.mark.parametrize('target', ['timm', 'vit-mae', 'mae'])
def test_card_of_a_checkpoint_without_a_run_says_so(target, tmp_path):
  saved(tmp_path / 'run', 'uniemox', **TINY, **TINY_DECODER)
  card = card_of(tmp_path / 'run', tmp_path / 'out', target)
  assert 'Not known: the checkpoint says nothing about the run' in card
  assert ('Left behind: fusion.' in card) == (target == 'vit-mae')
  assert card.startswith('---\nlicense: unknown\n') and '\n## Licence\n\nNot known' in card
