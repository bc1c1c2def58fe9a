"""The command `python -m data_pipelines.person_boxes`: its flags."""

import pathlib

from absl import flags

from data_pipelines import command
from data_pipelines.errors import UserError
from data_pipelines.person_boxes.box_file import FILE_NAME, define_flags, detect_folder, summary


def main(argv: list[str]) -> None:
  """The command."""
  del argv
  for name in ('source', 'detector'):
    if not flags.FLAGS[name].value:
      raise UserError(f'--{name} is missing (--help lists the options)')
  source = pathlib.Path(flags.FLAGS.source)
  path = pathlib.Path(flags.FLAGS.out or source / FILE_NAME)
  print(summary(detect_folder(source, flags.FLAGS.detector, path), path))


if __name__ == '__main__':
  define_flags()
  command.run(main)
