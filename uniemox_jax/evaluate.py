"""Evaluates what a fine-tuning run left: python -m uniemox_jax.evaluate --workdir=DIR [--split=test].

It also measures on changed images: --test_changes=blur_3+person_removed (docs/protocols.md).
And on another dataset, by a label map: --dataset=OTHER --label_map=NAME_OR_FILE (docs/protocols.md).
"""

from absl import flags

from data_pipelines.errors import UserError
from uniemox_jax.eval.run_evaluation import describe_domains, describe_result, evaluate_on, evaluations
from uniemox_jax.runtime import cli


def main() -> None:
  """Entry point after flags are parsed."""
  values = flags.FLAGS
  if values.dataset is None:
    if values.label_map is not None:
      raise UserError('--label_map is for another dataset: add --dataset=NAME')
    results = evaluations(values.workdir, values.split, values.data_dir, values.test_changes)
  else:
    if values.test_changes:
      raise UserError('--test_changes is for the dataset of the run: leave out --dataset, or --test_changes')
    results = iter([
        evaluate_on(values.workdir, values.dataset, values.label_map, values.split or 'test', values.data_dir)])
  for result in results:
    print('\n'.join(filter(None, [describe_result(result), describe_domains(result)])), flush=True)


if __name__ == '__main__':
  cli.define_workdir()
  cli.define_multihost()
  flags.DEFINE_enum('split', None, ['train', 'val', 'test'], 'Which split, if not test, or what the run takes as test.')
  cli.define_path('data_dir', None, 'Folder of the records, if not the one the run was trained from.')
  flags.DEFINE_string('test_changes', '', 'Changes of the images to evaluate on, too, such as blur_3+person_removed.')
  flags.DEFINE_string('dataset', None, "Another dataset than the run's own.")
  cli.define_path('label_map', None, 'Of labels to those of --dataset: the name of a shipped map, or FILE.json.')
  cli.run(main)
