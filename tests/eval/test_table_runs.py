"""Tables in the forms that people have are built, trained on with every task, evaluated and predicted."""

from pathlib import Path

import pytest

from configs import demo
from configs import probe as probe_configs
from data_pipelines.build import build
from data_pipelines.errors import UserError
from tests.support import small_runs, tables
from uniemox_jax.eval.run_evaluation import describe_domains, evaluate
from uniemox_jax.finetune import finetune
from uniemox_jax.predict.prediction import predict_images
from uniemox_jax.probe import probe
from uniemox_jax.train.config import ProbeConfig
from uniemox_jax.train.data_splits import open_splits
from uniemox_jax.train.schema import parse

MODEL = {'image_size': 16, 'patch_size': 8, 'width': 16, 'depth': 1, 'heads': 2}
TASKS = {
    'CSV': 'label', 'JSON lines': 'labels', 'Parquet of bytes': 'distribution', 'Parquet of datasets': 'vad',
    'save_to_disk': 'label+labels+distribution+vad'}


@pytest.mark.parametrize(
    'form', [form if form == 'save_to_disk' else pytest.param(form, marks=pytest.mark.slow) for form in TASKS])
def test_a_table_is_trained_on_evaluated_and_predicted(form: str, tmp_path: Path):
  source = tables.FORMS[form](tmp_path / 'raw')
  build('table', source, tmp_path / 'records', name='mine')
  config = demo.get_config('finetune')
  config.data_dir, config.dataset, config.tasks = str(tmp_path / 'records'), 'mine', TASKS[form]
  config.batch_size, config.epochs = 8, 1
  config.model.update(MODEL)
  finetune(config, str(tmp_path / 'run'))
  result = evaluate(str(tmp_path / 'run'))
  names = TASKS[form].split('+')
  assert result['examples'] == 6 and (list(result['tasks']) if len(names) > 1 or names != ['label'] else names) == names
  assert {name: row['examples'] for name, row in result['domains'].items()} == {'cartoon': 3, 'natural': 3}
  assert len(describe_domains(result).splitlines()) == 2
  tables.draw_images(tmp_path / 'new', 3)
  out = tmp_path / 'predictions.csv'
  predict_images(str(tmp_path / 'run'), [str(tmp_path / 'new')], str(out))
  assert len(out.read_text().splitlines()) == 4


def test_a_domain_that_is_left_out_is_neither_trained_nor_chosen_on(tmp_path: Path):
  build('table', tables.FORMS['CSV'](tmp_path / 'raw'), tmp_path / 'records', name='mine')
  config = probe_configs.get_config('emo8')
  config.data_dir, config.dataset, config.left_out_domain = str(tmp_path / 'records'), 'mine', 'cartoon'
  config.batch_size, config.protocol = 8, 'knn'
  config.model.update(MODEL)
  opened = open_splits(parse(ProbeConfig, config))
  assert [set(split.domains().tolist()) for split in opened] == [{'natural'}, {'natural'}, {'cartoon'}]
  result = probe(config, str(tmp_path / 'run'))
  assert result['examples'] == opened[2].num_examples == 3
  config.left_out_domain = 'oil'
  with pytest.raises(UserError, match="domain 'oil': choose one of cartoon, natural"):
    open_splits(parse(ProbeConfig, config))


@pytest.mark.slow
def test_photographs_and_their_ratings_need_nothing_else(tmp_path: Path):
  rows = [
      'Theme;Valence_mean;Arousal_mean',
      *(f'{number:03d} ä;{1 + number % 13 / 2:.2f};{7 - number % 7:.1f}'.replace('.', ',') for number in range(60))
  ]  # fmt: skip
  tables.draw_images(tmp_path / 'raw', 60)
  (tmp_path / 'raw' / 'ratings.csv').write_text('\r'.join(rows))  # as OASIS has it
  commands = [[
      'data_pipelines.build', '--dataset=table', f'--source={tmp_path}/raw/ratings.csv', f'--data_dir={tmp_path}/data',
      '--name=oasis', '--vad_scale=1,7'],
              [
                  'uniemox_jax.finetune', '--config=configs/demo.py:finetune', '--config.tasks=vad',
                  '--config.model.image_size=32', '--config.model.width=16', '--config.model.depth=1',
                  '--config.model.heads=2', f'--config.data_dir={tmp_path}/data', '--config.dataset=oasis',
                  '--config.epochs=1', '--config.batch_size=8', f'--workdir={tmp_path}/run'],
              ['uniemox_jax.evaluate', f'--workdir={tmp_path}/run']]  # fmt: skip
  for command in commands:
    said = small_runs.finish(small_runs.start(['-m', *command]))
  assert 'ccc' in said[0]
