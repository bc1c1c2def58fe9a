"""The command `python -m uniemox_jax.predict`: its flags."""

from absl import flags

from data_pipelines.errors import UserError
from uniemox_jax.predict import table_writer
from uniemox_jax.predict.prediction import predict_images
from uniemox_jax.runtime import cli


def main(*arguments: str) -> None:
  """Entry point after flags are parsed."""
  values = flags.FLAGS
  out = None if values.out == '-' else values.out
  try:
    predict_images(
        values.checkpoint, arguments, out, file_format=values.format, append=values.append,
        batch_size=values.batch_size, per_second=values.fps, boxes=values.boxes, detector=values.detector,
        labels=values.labels, prompts=values.prompts, texts=values.texts)
  except KeyboardInterrupt as error:
    remedy = 'run the same command with --append to go on' if out else 'with --out=FILE, --append could go on here'
    raise UserError(f'interrupted: {remedy}') from error


if __name__ == '__main__':
  cli.define_path(
      'checkpoint', None,
      'Any model: the --workdir of a run, an exported .onnx, or weights of another library (file, folder, hub id).',
      required=True)
  flags.DEFINE_string(
      'labels', None,
      'What a CLIP is asked: mikels, ekman, emotic, valence, joined by +; own classes with commas; or a '
      'file with a class a line.')
  cli.define_path('prompts', None, 'A text file for a CLIP, one template a line with {} for the class.', remote=False)
  flags.DEFINE_multi_string('texts', [], 'A text; the table gets its similarity to each image, by a CLIP. Repeatable.')
  cli.define_path('out', '-', 'The table to write; - is standard output.', remote=False)
  flags.DEFINE_enum(
      'format', None, table_writer.FORMATS, 'Format of the table; by default that of the ending of --out.')
  flags.DEFINE_bool('append', False, 'Continue --out after its rows.')
  flags.DEFINE_integer('batch_size', None, 'Images in a batch; found automatically by default.', lower_bound=1)
  flags.DEFINE_float('fps', 1.0, 'Frames that are taken of a second of video.', lower_bound=1e-6)
  cli.define_path('boxes', None, 'CSV of person boxes, or the raw folder that holds person_boxes.csv.', remote=False)
  cli.define_path('detector', None, 'Finds persons: hog, FILE.onnx (YOLOX), or a transformers model.', remote=False)
  cli.run(main, 'IMAGE_OR_FOLDER...')
