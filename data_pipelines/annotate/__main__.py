"""Lets several people label images on a local page, by keys (docs/annotate.md).

python -m data_pipelines.annotate --source=DIR --out=DIR --labels=mikels
python -m data_pipelines.annotate --out=DIR --tally    # only writes the tables again
"""

from absl import flags

from data_pipelines import command
from data_pipelines.annotate import questions, session
from data_pipelines.ownership import disown, owned


def main() -> None:
  """Runs the command."""
  values = flags.FLAGS
  command.require_flags('out')
  if not values.tally:
    command.require_flags('source')
    asked = questions.read_questions(values.labels, values.styles, values.vad, values.dominance, values.scale)
    command.require_libraries('annotate', 'starlette', 'uvicorn')
  command.require_libraries('annotate', 'krippendorff')
  session.check_places(values.out, None if values.tally else values.source)
  if values.steal:
    disown(values.out)
  with owned(values.out):
    if values.tally:
      with session.reopened(values.out, print) as opened:
        print(f'{values.out}: {opened.write_tables()}')
    else:
      _serve(asked)


def _serve(asked: questions.Questions) -> None:
  from data_pipelines.annotate import page
  from data_pipelines.local_page import page_server

  values = flags.FLAGS
  with page_server.bound_socket(values.host, values.port) as listening, session.begun(values.source, values.out, asked,
                                                                                      print) as opened:
    print(f'{values.out}: {opened.write_tables()}')
    page_server.serve(
        page.make_app(opened, values.host), values.host, listening, 'sees all the images, can vote under any name')
    print(f'{values.out}: {opened.write_tables()}')


if __name__ == '__main__':
  command.define_path('source', None, 'A folder of images, or a CSV table with a column image.', remote=False)
  command.define_path('out', None, 'The folder of votes and tables; the same again goes on.', remote=False)
  flags.DEFINE_list('labels', [], 'The classes, separated by commas; or mikels, or ekman.')
  flags.DEFINE_list('styles', [], 'Asks for the style, too: these, separated by commas.')
  flags.DEFINE_bool('vad', False, 'Asks for valence and arousal.')
  flags.DEFINE_bool('dominance', False, 'With --vad: asks for dominance, too.')
  flags.DEFINE_list('scale', ['1', '9'], 'The ends of the scale of --vad, whole numbers.')
  flags.DEFINE_string('host', '127.0.0.1', 'Where it listens: by default only this machine reaches it.')
  flags.DEFINE_integer('port', 8000, 'The port; 0 takes a free one.', 0, 65535)
  flags.DEFINE_bool('tally', False, 'Only writes the tables from the votes in --out, without a page.')
  flags.DEFINE_bool('steal', False, 'Take --out from its owner: only after that process has died.')
  command.run(main)
