"""Classifies emotions with a CLIP or SigLIP that was not trained for it, by prompts (docs/protocols.md).

python -m uniemox_jax.zero_shot --teacher=CLIP_PATH --data_dir=DIR --dataset=NAME [--prompts=FILE] --workdir=DIR
"""

from collections.abc import Mapping, Sequence
import functools
from typing import Any

from absl import flags
from flax import nnx
import jax
from jax.sharding import PartitionSpec as P
from ml_collections import ConfigDict
import numpy as np

from data_pipelines.batches import augment
from data_pipelines.errors import UserError
from data_pipelines.records import reader
from data_pipelines.storage import exists, read_json_object
from uniemox_jax.eval.ambiguity import measure_ambiguity, read_truths
from uniemox_jax.eval.changed_images import changes_of, describe_change
from uniemox_jax.eval.kept_outputs import example_keys, keep_outputs
from uniemox_jax.eval.result_file import result_path, write_result
from uniemox_jax.eval.split_outputs import Fields, split_outputs
from uniemox_jax.eval.transfer import measure_transfer, open_transfers
from uniemox_jax.models.preprocess import normalise
from uniemox_jax.models.view import View
from uniemox_jax.objectives.tasks import measure, single_label_task
from uniemox_jax.recognition.words import class_embeddings
from uniemox_jax.runtime import cli, sharding
from uniemox_jax.teacher import prompts
from uniemox_jax.teacher.frozen_clip import Clip, load_clip
from uniemox_jax.train.config import ProbeConfig
from uniemox_jax.train.data_splits import fold_of, open_part
from uniemox_jax.train.run_folder import config_hash
from uniemox_jax.train.schema import parse

BATCH_SIZE = 256


@functools.partial(jax.jit, static_argnums=(0, 1))
def _embed(graphdef: nnx.GraphDef, view: View, params: dict[str, Any], views: Fields, fields: Fields) -> Fields:
  embedded_BxE = nnx.merge(graphdef, params).image(normalise(views['image'], view.mean, view.std))
  return jax.lax.with_sharding_constraint({'outputs': embedded_BxE, **fields}, P())


def image_embeddings(clip: Clip, split: reader.Split, batch_size: int,
                     change: str = '') -> tuple[np.ndarray, np.ndarray]:
  """Embeds every record under the CLIP's own view: unit-norm float32 (N, E), and labels int32 (N,), -1 for none.

  `change` is the change of the images, see `pipeline.eval_batches`.

  Raises:
    UserError: a shard is damaged.
    Preempted: SIGTERM came.
  """
  mesh, view = sharding.make_mesh(), clip.view
  found = split_outputs(
      functools.partial(_embed, clip.graphdef, view, sharding.replicate(clip.params, mesh)), split, ['label'],
      image_size=view.size, batch_size=batch_size, mesh=mesh, progress=f'zero-shot {split.name}', change=change,
      view=functools.partial(augment.centre_view, **view.centre))
  return found['outputs'], found['label']


def _open_labelled(records: Mapping[str, Any], split_name: str) -> reader.Split:
  split = open_part(records, split_name, tested=True)
  if (split.label_array() < 0).all():
    raise UserError(
        f"no image of split {split_name!r} of {records['dataset']} has a single label, by which zero-shot is measured: "
        'choose another split or dataset')
  return split


def zero_shot(
    teacher: str, data_dir: str, dataset: str, workdir: str, split_name: str = 'test',
    templates: Sequence[str] = prompts.TEMPLATES, batch_size: int = BATCH_SIZE, *,
    part: Mapping[str, Any] | None = None, test_changes: str = '', transfers: str = '') -> dict[str, Any]:
  """Classifies a split by the nearest class embedding and writes result.json (result_val.json for val).

  Args:
    teacher: a CLIP or SigLIP, as `load_clip` reads it.
    data_dir, dataset, split_name: the records.
    workdir: the folder of the result.
    templates: texts with {} for the class.
    batch_size: the number of images at a time, over all devices.
    part: keys of a `MeasuredConfig` that say which images are tested, such as a fold; None for the whole split.
      With it, the file is result.json for any split.
    test_changes: changes of the images. Each is measured too, in result_CHANGE.json, see `image_changes.read_changes`.
    transfers: other datasets, see `read_transfers`. Their images are asked for the classes of `dataset`.

  Returns:
    The content of the file: what `evaluate` returns for a single label, and protocol, templates, and under 'plain' the
    metrics of the single template `prompts.PLAIN`.

  Raises:
    UserError: there is no such CLIP, records or split; there is no single label; a text is longer than the context; or
      the workdir holds another run's result.
  """
  final = 'test' if part is None else split_name  # whose result is result.json
  part = dict(part or {})
  split = _open_labelled({**part, 'data_dir': data_dir, 'dataset': dataset}, split_name)
  asked = {'teacher': teacher, 'dataset': dataset, 'split': split_name, 'templates': list(templates), **part}
  path = result_path(workdir, split_name, final=final)
  if exists(path) and read_json_object(path).get('config_hash') != config_hash(asked):
    raise UserError(f'{path} is of another run: choose another --workdir')
  changes = changes_of(test_changes, split)
  task = single_label_task(split.labels)
  others = open_transfers(transfers, data_dir, [task])
  clip = load_clip(teacher)
  ensemble_CxE = class_embeddings(clip, split.labels, templates)
  plain_CxE = class_embeddings(clip, split.labels, [prompts.PLAIN])
  truths, results = read_truths(split), []
  of_run: dict[str, Any] = {
      'init': teacher, 'checkpoint_step': None, 'config_hash': config_hash(asked), 'protocol': 'zero_shot',
      'templates': list(templates)}
  for change in ('', *changes):
    said = describe_change(change, split)
    image_NxE, label_N = image_embeddings(clip, split, batch_size, change)
    logits_NxC, plain_NxC = (clip.scale * image_NxE @ text_CxE.T for text_CxE in (ensemble_CxE, plain_CxE))
    ensemble, plain = measure(task, logits_NxC, label_N), measure(task, plain_NxC, label_N)
    ensemble |= measure_ambiguity([task], logits_NxC, truths).get('label', {})
    if split_name == final:
      found = {'outputs': logits_NxC, 'label': label_N}
      keep_outputs(workdir, config_hash(asked), example_keys(split), [task], found, truths, change)
    results.append(
        write_result(
            result_path(workdir, split_name, final=final, change=change), dataset=dataset, split=split_name, **ensemble,
            **of_run, plain={'template': prompts.PLAIN, **plain}, **fold_of(part), **said))
  for opened in others:
    image_NxE, label_N = image_embeddings(clip, opened.split, batch_size)
    logits_NxC = clip.scale * image_NxE @ ensemble_CxE.T
    measure_transfer(opened, logits_NxC, label_N, workdir, trained_on=dataset, **of_run)
  return results[0]


def zero_shot_by_config(given: ConfigDict, workdir: str) -> dict[str, Any]:
  """Runs `zero_shot` with the CLIP from which a probe's config starts, on the images on which it would be tested."""
  config = parse(ProbeConfig, given)
  part = {name: getattr(config, name) for name in ('left_out_domain', 'folds', 'fold', 'fold_seed')}
  return zero_shot(
      config.init, config.data_dir, config.dataset, workdir, config.test_split, batch_size=config.batch_size,
      part={name: value for name, value in part.items() if value}, test_changes=config.test_changes,
      transfers=config.transfers)


def main() -> None:
  """Entry point after flags are parsed."""
  values = flags.FLAGS
  templates = prompts.TEMPLATES if values.prompts is None else prompts.read_templates(values.prompts)
  result = zero_shot(
      values.teacher, values.data_dir, values.dataset, values.workdir, values.split, templates, values.batch_size)
  print(
      f"{result['dataset']} {result['split']}, zero-shot: top-1 {result['top1']:.4f} with "
      f"{len(result['templates'])} templates, {result['plain']['top1']:.4f} with one, over {result['examples']} "
      'examples', flush=True)


if __name__ == '__main__':
  cli.define_workdir()
  cli.define_multihost()
  cli.define_path('teacher', None, 'A CLIP or SigLIP: folder, file or hub id.', required=True)
  cli.define_path('data_dir', 'data', 'Folder of the records.')
  flags.DEFINE_string('dataset', None, 'Dataset of the records.', required=True)
  flags.DEFINE_enum('split', 'test', ['train', 'val', 'test'], 'Which split.')
  cli.define_path('prompts', None, 'A text file, one template a line with {} for the class.')
  flags.DEFINE_integer('batch_size', BATCH_SIZE, 'Images at a time, over all devices.', lower_bound=1)
  cli.run(main)
