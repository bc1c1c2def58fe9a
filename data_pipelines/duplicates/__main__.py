"""Finds near-duplicates within a dataset, and between it and others: resized, re-encoded, mirrored or slightly cropped.

python -m data_pipelines.duplicates --data_dir=DIR --dataset=mine --out=near.csv
python -m data_pipelines.duplicates --data_dir=DIR --dataset=emoset --against=DIR/emo8:test --out=near.csv
"""

from absl import flags, logging

from data_pipelines import command, storage
from data_pipelines.duplicates.finding import DISTANCE, find_duplicates


def main() -> None:
  """Runs the command."""
  logging.set_verbosity(logging.WARNING)
  command.require_flags('data_dir', 'dataset', 'out')
  values = flags.FLAGS
  against = [storage.checked_path(given, '--against') for given in values.against]
  print('\n'.join(find_duplicates(values.data_dir, values.dataset, values.out, against, values.distance)))


if __name__ == '__main__':
  command.define_path('data_dir', None, 'Folder that holds DATASET/VERSION/.')
  flags.DEFINE_string('dataset', None, 'Name of the dataset, such as emoset.')
  flags.DEFINE_multi_string('against', [], 'Other records to compare with: DATA_DIR/OTHER, or DATA_DIR/OTHER:SPLIT.')
  flags.DEFINE_integer('distance', DISTANCE, 'Most bits, of 64, in which near-duplicates differ.', 0, 16)
  command.define_path('out', None, 'The CSV that is written; beside it, _groups.csv and _exclude.csv.')
  command.run(main)
