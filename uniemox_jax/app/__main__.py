"""A page to try any model on: python -m uniemox_jax.app --checkpoint=PATH [--checkpoint=OTHER] (docs/app.md)."""

from absl import flags

from data_pipelines import command
from data_pipelines.errors import UserError
from data_pipelines.storage import checked_path
from uniemox_jax.runtime import cli

WORDS = 'mikels+valence'
"""The words that a CLIP is asked without --labels."""


def main() -> None:
  """Entry point after flags are parsed."""
  command.require_libraries('app', 'starlette', 'uvicorn')
  from data_pipelines.local_page import page_server
  from uniemox_jax.app import answer, server, tried_models
  from uniemox_jax.recognition.words import read_words

  values = flags.FLAGS
  sources = [checked_path(source, '--checkpoint') for source in values.checkpoint]
  names = answer.shown_names(sources)
  words = read_words(values.labels or WORDS, values.prompts)
  limits = server.Limits(values.max_megabytes, values.max_megapixels, values.max_files, values.max_waiting)
  with page_server.bound_socket(values.host, values.port) as listening:
    models = {
        name: tried_models.open_tried(source, values.detector, words, values.labels or WORDS)
        for name, source in zip(names, sources)}
    if values.detector and not any(model.sees_person for model in models.values()):
      raise UserError('--detector is for a model that sees scene and person, and none is given: leave it out')
    if (values.labels or values.prompts) and not any(model.words for model in models.values()):
      raise UserError('--labels and --prompts are for a CLIP, and none is given: leave them out')
    answerer = answer.Answerer(models, limits.megapixels)
    answerer.warm_up()
    page_server.serve(server.trial_page(answerer, limits, values.host), values.host, listening, 'can use it')


if __name__ == '__main__':
  flags.DEFINE_multi_string(
      'checkpoint', None, 'Any model: the --workdir of a run, or weights of another library (file, folder, hub id). '
      'Twice compares two.', required=True)
  flags.DEFINE_string(
      'labels', None,
      f'What a CLIP is asked, as predict takes it; by default {WORDS}. Visitors may ask in other words.')
  cli.define_path('prompts', None, 'A text file for a CLIP, one template a line with {} for the class.', remote=False)
  cli.define_path('detector', None, 'Finds persons: hog, FILE.onnx (YOLOX), or a transformers model.', remote=False)
  flags.DEFINE_string('host', '127.0.0.1', 'Where it listens: by default only this machine reaches it.')
  flags.DEFINE_integer('port', 8000, 'The port; 0 takes a free one.', 0, 65535)
  flags.DEFINE_float('max_megabytes', 20.0, 'Of an image.', 0.001, 1000.0)
  flags.DEFINE_float('max_megapixels', 64.0, 'Of an image; larger ones are not decoded.', 0.01, 178.0)
  flags.DEFINE_integer('max_files', 200, 'Images that a page takes at a time.', 1, 10000)
  flags.DEFINE_integer('max_waiting', 8, 'Images that wait for their turn; more are asked to come again.', 1, 1000)
  cli.run(main)
