"""From a table of images and ratings to Pearson's r, as docs/photographs.md has it: folds, a probe, an interval."""

import csv
import json
from pathlib import Path

from ml_collections import ConfigDict
import numpy as np
from PIL import Image
import pytest

from configs import compare as shipped
from data_pipelines.build import build
from data_pipelines.table.options import TableOptions
from uniemox_jax.compare import tables
from uniemox_jax.compare.comparison import VERBS, read_comparison
from uniemox_jax.compare.study import check, job_config, jobs_of

IMAGES = 48


def write_ratings(folder: Path) -> Path:
  """Grey images; how pleasant one is follows from how bright it is, how arousing from nothing that is shown."""
  rng = np.random.default_rng(0)
  folder.mkdir()
  with (folder / 'ratings.csv').open('w', newline='') as file:
    writer = csv.writer(file)
    writer.writerow(('image', 'valence', 'arousal'))
    for number, valence in enumerate(rng.uniform(1, 7, IMAGES)):
      Image.new('RGB', (24, 24), (int(20 + 30 * valence),) * 3).save(folder / f'{number}.png')
      writer.writerow((f'{number}.png', f'{valence:.2f}', f'{rng.uniform(1, 7):.2f}'))
  return folder / 'ratings.csv'


@pytest.mark.usefixtures('one_device')
def test_ratings_of_images_end_in_pearsons_r_with_its_interval(tmp_path):
  build('table', write_ratings(tmp_path / 'raw'), tmp_path / 'records', table=TableOptions(scale=(1.0, 7.0)))
  config = shipped.get_config('demo')
  config.initialisation = ConfigDict({'scratch': {'init': 'none', 'change': {}}})
  config.initialisations, config.datasets, config.protocols = ('scratch',), ('table',), ('linear',)
  config.protocol.linear.recipe = 'configs/probe.py:emo8'
  config.seeds, config.folds, config.vad_score = 1, 3, 'pearson'
  model = {'image_size': 16, 'patch_size': 8, 'width': 16, 'depth': 1, 'heads': 2}
  config.change = ConfigDict({'data_dir': str(tmp_path / 'records'), 'batch_size': 8, 'model': model})
  check(config)
  workdir = str(tmp_path / 'compare')
  sections = {job: job_config(config, job) for job in jobs_of(config)}
  results = [VERBS['probe'].run(section, job.folder(workdir)) for job, section in sections.items()]
  assert sum(result['examples'] for result in results) == IMAGES  # each is tested once
  by_dimension = [
      {row['dimension']: row['pearson'] for row in result['tasks']['vad']['per_dimension']} for result in results]
  assert min(found['valence'] for found in by_dimension) > 0.95 > max(found['arousal'] for found in by_dimension)
  tables.write(read_comparison(config, sections, workdir), workdir)
  page = Path(workdir, 'comparison.md').read_text()
  assert 'table (3 folds), vad pearson' in page and '95 % interval' in page
  [row] = json.loads(Path(workdir, 'comparison.json').read_text())['summaries']
  assert row['mean'] == pytest.approx(np.mean([result['tasks']['vad']['pearson'] for result in results]))
  assert row['interval'][0] < row['mean'] < row['interval'][1]
