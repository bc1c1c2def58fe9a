"""Draws small datasets in the folder layouts of EmoSet-118K and Emo8, so that every command can be tried out.

python -m data_pipelines.synthetic --out=DIR
python -m data_pipelines.synthetic --out=DIR --tasks    # EMOTIC and Emotion6 instead: every kind of target
"""

from absl import flags

from data_pipelines import command
from data_pipelines.synthetic import datasets


def main() -> None:
  """The command."""
  command.require_flags('out')
  if flags.FLAGS.tasks:
    datasets.draw_tasks(flags.FLAGS.out, flags.FLAGS.seed)
  else:
    datasets.draw(flags.FLAGS.out, flags.FLAGS.emoset_examples, flags.FLAGS.seed)


if __name__ == '__main__':
  command.define_path('out', None, 'Where emoset/ and emo8/ are written.', remote=False)
  flags.DEFINE_bool('tasks', False, 'Draw emotic/ and emotion6/ instead, which hold every kind of target.')
  flags.DEFINE_integer('emoset_examples', 2880, 'Images in emoset/, 2400 to 4000, a multiple of 8.')
  flags.DEFINE_integer('seed', 0, 'The same seed gives the same files.', 0)
  command.run(main)
