"""Draws data sets, so that every command can be tried out, in the folder layouts of EmoSet-118K and Emo8 or as tables.

python -m data_pipelines.synthetic --out=DIR
python -m data_pipelines.synthetic --out=DIR --tasks    # EMOTIC and Emotion6 instead: every kind of target
python -m data_pipelines.synthetic --out=DIR --world=hard    # two tables, large and harder (docs/experiments.md)
"""

from absl import flags

from data_pipelines import command
from data_pipelines.errors import UserError
from data_pipelines.synthetic import datasets, hard_tables

_OF_WORLD = {'demo': ('tasks', 'emoset_examples'), 'hard': (*hard_tables.SIZES, 'workers')}
"""Flags that the other world has no use for."""


def main() -> None:
  """Runs the command."""
  values = flags.FLAGS
  command.require_flags('out')
  for world, names in _OF_WORLD.items():
    if world != values.world and (given := [name for name in names if values[name].present]):
      raise UserError(f'--{given[0]} would change nothing: it is for --world={world}; leave it out')
  if values.world == 'hard':
    sizes = {part: getattr(values, part) for part in hard_tables.SIZES}
    hard_tables.draw_hard(values.out, sizes, values.seed, values.workers)
  elif values.tasks:
    datasets.draw_tasks(values.out, values.seed)
  else:
    datasets.draw(values.out, values.emoset_examples, values.seed)


if __name__ == '__main__':
  command.define_path(
      'out', None, 'Where emoset/ and emo8/ are written; of the hard world, unlabelled/ and labelled/.', remote=False)
  flags.DEFINE_enum('world', 'demo', list(_OF_WORLD), 'The small world of the demo, or the large and harder one.')
  flags.DEFINE_bool('tasks', False, 'Draw emotic/ and emotion6/ instead, which hold every kind of target.')
  flags.DEFINE_integer('emoset_examples', 2880, 'Images in emoset/, 2400 to 4000, a multiple of 8.')
  flags.DEFINE_integer('seed', 0, 'The same seed gives the same files.', 0)
  # One by one and by name, as the shell's completion finds them.
  sizes = hard_tables.SIZES
  flags.DEFINE_integer('unlabelled', sizes['unlabelled'], 'Images of the hard world to pretrain on.', 20)
  flags.DEFINE_integer('train', sizes['train'], 'Labelled images of the hard world to train on.', 20)
  flags.DEFINE_integer('val', sizes['val'], 'Labelled images of the hard world for choices.', 20)
  flags.DEFINE_integer('test', sizes['test'], 'Labelled images of the hard world to test on.', 20)
  flags.DEFINE_integer('workers', None, 'Processes that draw the hard world; by default one a CPU core.', 1)
  command.run(main)
