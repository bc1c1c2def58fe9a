"""The command `python -m uniemox_jax.predict`: its flags."""

from absl import flags

from data_pipelines.errors import UserError
from data_pipelines.images import MAX_MEGAPIXELS
from uniemox_jax.predict import table_writer
from uniemox_jax.predict.prediction import predict_images
from uniemox_jax.predict.ranking import Ranking
from uniemox_jax.predict.shards import FileShard
from uniemox_jax.recognition.recogniser import ModelSource
from uniemox_jax.runtime import cli

MOST_ROWS = 16_384
"""The most rows of a batch: 2.5 GB of views of 224 x 224."""


def main(*arguments: str) -> None:
  """Entry point after flags are parsed."""
  values = flags.FLAGS
  out = None if values.out == '-' else values.out
  if values['top'].present and not values.contact_sheet:
    raise UserError('--top is for a sheet: add --contact_sheet=FILE, or leave it out')
  by_beam = bool(values.beam_runner or values.beam_options)
  settings = {
      'file_format': values.format, 'batch_size': values.batch_size, 'per_second': values.fps,
      'max_megapixels': values.max_megapixels, 'boxes': values.boxes, 'detector': values.detector,
      'ranking': Ranking(values.sort, values.contact_sheet, values.top)}
  model = ModelSource(values.checkpoint, values.labels, values.prompts, tuple(values.texts))
  shard = None if values.shard is None else FileShard.parse(values.shard)
  try:
    if not by_beam:
      predict_images(model, arguments, out, append=values.append, shard=shard, **settings)
    elif values.append or shard:
      raise UserError('a Beam run makes all parts, and goes on by itself: leave --append and --shard out')
    else:
      from uniemox_jax.predict.beam_shards import predict_by_beam

      predict_by_beam(model, arguments, out, runner=values.beam_runner, options=values.beam_options, **settings)
  except KeyboardInterrupt as error:
    again = 'run the same command' + (' with --append' if not by_beam else '') + ' to go on'
    raise UserError(f'interrupted: {again if out else "with --out=FILE, --append could go on here"}') from error


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
  flags.DEFINE_integer('batch_size', None, 'Images in a batch; found automatically by default.', 1, MOST_ROWS)
  flags.DEFINE_float('fps', 1.0, 'Frames that are taken of a second of a video or an animated image.', lower_bound=1e-6)
  flags.DEFINE_float('max_megapixels', MAX_MEGAPIXELS, 'Larger images are rejected.', 0, 178)
  cli.define_path('boxes', None, 'CSV of person boxes, or the raw folder that holds person_boxes.csv.', remote=False)
  cli.define_path('detector', None, 'Finds persons: hog, FILE.onnx (YOLOX), or a transformers model.', remote=False)
  flags.DEFINE_string('sort', None, 'Class or column: the rows, highest first, in OUT.sorted_by_NAME.csv.')
  cli.define_path(
      'contact_sheet', None, 'JPG, PNG or HTML: the images of the highest values of each class.', remote=False)
  flags.DEFINE_integer('top', 8, 'Images of each class on --contact_sheet.', 1, 1000)
  flags.DEFINE_string('shard', None, 'I/N: only part I of N; the tables, one after the other, are that of one run.')
  flags.DEFINE_string('beam_runner', None, 'Apache Beam runner whose workers make the parts, such as DirectRunner.')
  flags.DEFINE_list('beam_options', [], 'Beam pipeline options, such as project=NAME,region=NAME.')
  cli.run(main, 'IMAGE_OR_FOLDER...')
