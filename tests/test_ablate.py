"""Every row of the ablation changes the one thing its name says; the table says what the cells say."""

import json

import pytest

from configs import demo
from uniemox_jax.ablate import LABELS_IN_PRETRAINING, pretrain_config, read_scores, supervised_config, write_table

TEACHERS = {True: 'teacher', False: 'teacher_without'}
CHANGES = {
    'full': {},
    'no_emotion_word': {'emotion_in_caption': False, 'teacher': 'teacher_without'},
    'no_contrastive': {'loss.contrastive': 0.0},
    'no_similarity': {'loss.similarity': 0.0},
    'no_reconstruction': {'loss.reconstruction': 0.0},
    'no_fusion': {'model.fusion': 'none'},
    'mae_only': {'loss.contrastive': 0.0, 'loss.similarity': 0.0},
}


def test_every_row_is_covered():
  assert set(LABELS_IN_PRETRAINING) == set(CHANGES) | {'supervised', 'scratch'}


@pytest.mark.parametrize('row', CHANGES)
def test_row_changes_what_its_name_says_and_nothing_else(row):
  config = demo.get_config()
  expected = config.pretrain.copy_and_resolve_references()
  expected.teacher = 'teacher'
  expected.update_from_flattened_dict(CHANGES[row])
  assert pretrain_config(row, config, TEACHERS) == expected


def test_supervised_row_trains_as_long_on_the_same_pictures():
  config = demo.get_config()
  section = supervised_config(config)
  assert section.dataset == 'emoset'
  assert (section.epochs, section.batch_size) == (config.pretrain.epochs, config.pretrain.batch_size)


def test_table_tells_mean_spread_and_runs(tmp_path):
  cells = [(row, seed) for row in ('full', 'scratch') for seed in range(2)]
  for (row, seed), top1 in zip(cells[:3], (0.6, 0.7, 0.5), strict=True):
    folder = tmp_path / row / f'seed{seed}' / 'finetune'
    folder.mkdir(parents=True)
    (folder / 'result.json').write_text(json.dumps({'top1': top1}))
  write_table(read_scores(str(tmp_path), cells), str(tmp_path))
  table = (tmp_path / 'ablation.md').read_text()
  assert '| full | in captions | 0.6500 | 0.0707 | +0.1500 | 2 |' in table
  assert '| scratch | - | 0.5000 | - | +0.0000 | 1 |' in table
  assert json.loads((tmp_path / 'ablation.json').read_text())['rows'][0]['top1_by_seed'] == {'0': 0.6, '1': 0.7}
