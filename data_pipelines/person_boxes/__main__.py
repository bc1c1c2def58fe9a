"""Finds the persons in a raw folder's images and writes their boxes (docs/person_boxes.md).

python -m data_pipelines.person_boxes --source=DIR --detector=hog|FILE.onnx|FOLDER_OR_HUB_ID
"""

import pathlib

from absl import flags

from data_pipelines import command
from data_pipelines.person_boxes import box_file, detection, detectors


def main() -> None:
  """Runs the command."""
  command.require_flags('source', 'detector')
  source = pathlib.Path(flags.FLAGS.source)
  path = pathlib.Path(flags.FLAGS.out or source / box_file.FILE_NAME)
  print(detection.detect_folder(source, flags.FLAGS.detector, path))


if __name__ == '__main__':
  command.define_path('source', None, 'Raw folder of a dataset, searched with all folders in it.', remote=False)
  command.define_path(
      'detector', None,
      f"'hog', a YOLOX FILE.onnx, or folder or hub id of a transformers model: {detectors.RECOMMENDED}", remote=False)
  command.define_path(
      'out', None, f'The CSV file to write; by default {box_file.FILE_NAME} in the source folder.', remote=False)
  command.run(main)
