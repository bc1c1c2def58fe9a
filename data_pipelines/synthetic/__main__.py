"""The command `python -m data_pipelines.synthetic`: its flags."""

from absl import flags

from data_pipelines import command
from data_pipelines.errors import UserError
from data_pipelines.synthetic.datasets import define_flags, draw, draw_tasks


def main(argv: list[str]) -> None:
  """The command."""
  del argv
  if not flags.FLAGS.out:
    raise UserError('--out is missing (--help lists the options)')
  if flags.FLAGS.tasks:
    draw_tasks(flags.FLAGS.out, flags.FLAGS.seed)
  else:
    draw(flags.FLAGS.out, flags.FLAGS.emoset_examples, flags.FLAGS.seed)


if __name__ == '__main__':
  define_flags()
  command.run(main)
