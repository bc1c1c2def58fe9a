"""The command `python -m uniemox_jax.look`: its flags."""

import os

from absl import flags

from uniemox_jax.look.inspection import look
from uniemox_jax.report import look_page
from uniemox_jax.runtime import cli


def main() -> None:
  """Entry point after flags are parsed."""
  values = flags.FLAGS
  result = look(
      values.checkpoint, values.data_dir, values.dataset, values.workdir, split_name=values.split,
      examples=values.examples, points=values.points, labels=values.labels, prompts=values.prompts)
  for figure in result['pictures'].values():
    print(f"{os.path.join(values.workdir, figure['file'])}: {figure['note']}")
    for part, reason in figure.get('without', {}).items():
      print(f'  without {part}: {reason}')
  for name, reason in result['skipped'].items():
    print(f'skipped {name}: {reason}')
  print(f'all of it: {os.path.join(values.workdir, look_page.PAGE)}', flush=True)


if __name__ == '__main__':
  cli.define_path(
      'checkpoint', None,
      'Any model with images as input: the --workdir of a run, a shared model, or weights of another library (file, '
      'folder, hub id).', required=True)
  cli.define_path('data_dir', None, 'Folder that holds DATASET/VERSION/.', required=True)
  flags.DEFINE_string('dataset', None, 'Name of the dataset, such as emo8.', required=True)
  flags.DEFINE_string('split', 'test', 'One split, or several joined as train+val.')
  flags.DEFINE_string(
      'labels', None, 'What a CLIP or SigLIP is asked, as predict takes it: mikels, ekman, own classes with commas, …')
  cli.define_path('prompts', None, 'Templates for a CLIP or SigLIP, as predict takes them.', remote=False)
  flags.DEFINE_integer('examples', 16, 'Rows of the sheets, and mistakes shown.', 1, 256)
  flags.DEFINE_integer('points', 1000, 'Embeddings that are mapped.', 1, 20000)
  cli.define_path('workdir', None, 'Folder that gets the figures.', required=True)
  cli.run(main)
