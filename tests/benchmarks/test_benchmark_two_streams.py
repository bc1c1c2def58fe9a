"""The comparison of one stream and two: every cell has its config, differences are of runs with the same seed."""

import json

from benchmarks import two_streams
from configs import demo
from data_pipelines.storage import write_json
from uniemox_jax.train.config import FinetuneConfig
from uniemox_jax.train.schema import parse


def test_cells_differ_in_nothing_but_their_streams():
  one, two = (two_streams.cell_config('x', 'figure', streams, 2).to_dict() for streams in ('scene', 'scene+person'))
  assert one | {'streams': 'scene+person'} == two
  parse(FinetuneConfig, two_streams.cell_config('x', 'figure', 'scene', 0))
  assert one['optimizer'] == demo.get_config('finetune').optimizer.to_dict()


def test_differences_are_of_runs_with_the_same_seed(tmp_path):
  top1 = {('scene', 0): 0.5, ('scene', 1): 0.25, ('scene+person', 0): 0.625, ('scene+person', 1): 0.5,
          ('scene', 2): 1.0}
  for (streams, seed), value in top1.items():
    folder = tmp_path / 'figure' / streams / f'seed{seed}'
    folder.mkdir(parents=True)
    write_json(str(folder / 'result.json'), {'top1': value})
  table = two_streams.write_table(str(tmp_path), 3)
  rows = [[cell.strip() for cell in line.split('|')[1:-1]] for line in table.splitlines()[2:]]
  assert [row[0] for row in rows] == ['both', 'figure', 'scene']
  assert rows[1][1:] == ['0.5833', '0.3819', '0.5625', '0.0884', '+0.1875', '0.0884', '3 + 2']
  assert rows[2][1:] == ['-'] * 6 + ['0 + 0']
  assert json.loads((tmp_path / 'two_streams.json').read_text())['top1']['figure']['scene']['2'] == 1.0
