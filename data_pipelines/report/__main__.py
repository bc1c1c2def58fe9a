"""Writes a page about a data set: counts, sizes, duplicates, captions, agreement, images, and what is wrong with it.

python -m data_pipelines.report --data_dir=DIR --dataset=mine --out=report.html
"""

from absl import flags, logging

from data_pipelines import command
from data_pipelines.report.dataset_report import write_dataset_report


def main() -> None:
  """Runs the command."""
  logging.set_verbosity(logging.WARNING)
  command.require_flags('data_dir', 'dataset')
  values = flags.FLAGS
  lines = write_dataset_report(
      values.data_dir, values.dataset, values.out, values.duplicates, values.votes, values.tokenizer)
  print('\n'.join(lines))


if __name__ == '__main__':
  command.define_path('data_dir', None, 'Folder that holds DATASET/VERSION/.')
  flags.DEFINE_string('dataset', None, 'Name of the dataset, such as emoset.')
  command.define_path('out', 'report.html', 'The page that is written; beside it, the same facts as JSON.')
  command.define_path('duplicates', None, 'Table of near-duplicates, as `duplicates` writes it.', remote=False)
  command.define_path('votes', None, 'CSV of image,annotator,label: how far annotators agree.', remote=False)
  command.define_path('tokenizer', None, 'Folder of a CLIP: how many captions are longer than it reads.', remote=False)
  command.run(main)
