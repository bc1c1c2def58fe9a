"""Evaluates what a fine-tuning run left: python -m uniemox_jax.evaluate --workdir=DIR [--split=test]."""

import functools
import os
from typing import Any

from absl import flags
from flax import nnx
import jax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
import numpy as np

from data_pipelines import pipeline, records
from data_pipelines.errors import UserError
from uniemox_jax import cli, preemption, sharding
from uniemox_jax.checkpoint import Checkpoint, load_checkpoint
from uniemox_jax.config import config_hash
from uniemox_jax.distributed import is_primary
from uniemox_jax.files import exists, read_json, write_json
from uniemox_jax.metrics import classification_summary, classification_sums
from uniemox_jax.models.classifier import Classifier
from uniemox_jax.preprocess import normalise
from uniemox_jax.train_state import builder, graphdef_of


@functools.partial(jax.jit, static_argnums=(0, 1))
def _batch_sums(classifier: nnx.GraphDef, whole: NamedSharding, params: dict[str, Any], batch: dict[str, jax.Array]
                ) -> dict[str, jax.Array]:
  """What one batch adds, `whole` on every host."""
  logits = nnx.merge(classifier, params)(normalise(batch['image']))
  sums = classification_sums(logits, batch['label'], batch['mask'])
  return jax.lax.with_sharding_constraint(sums, whole)


def evaluate_params(classifier: nnx.GraphDef, params: dict[str, Any], split: records.Split, *, image_size: int,
                    batch_size: int, mesh: Mesh) -> dict[str, Any]:
  """Metrics of a classifier over a whole split, every example counted exactly once (see `metrics`).

  Raises:
    Preempted: SIGTERM came.
  """
  batch_size = -(-batch_size // mesh.size) * mesh.size
  sums = None
  with jax.set_mesh(mesh):
    for batch in pipeline.eval_batches(split, batch_size=batch_size, image_size=image_size,
                                       process_index=jax.process_index(), process_count=jax.process_count()):
      preemption.check()
      rows = sharding.global_batch({name: batch[name] for name in ('image', 'label', 'mask')}, mesh)
      new = _batch_sums(classifier, NamedSharding(mesh, P()), params, rows)
      sums = new if sums is None else jax.tree.map(np.add, sums, jax.device_get(new))
  return classification_summary(jax.device_get(sums), split.labels)


def load_trained(path: str) -> tuple[Checkpoint, nnx.GraphDef]:
  """A fine-tuned checkpoint and its classifier.

  Raises:
    UserError: not a checkpoint, or one without a classifier.
  """
  checkpoint = load_checkpoint(path)
  if checkpoint.description['kind'] != 'classifier':
    raise UserError(f'{path} holds a pretrained encoder without a classifier: fine-tune it first '
                    f'(python -m uniemox_jax.finetune --config.init={path} …)')
  return checkpoint, graphdef_of(builder(Classifier, **checkpoint.description['model']))


def evaluate(workdir: str, split_name: str = 'test', data_dir: str | None = None) -> dict[str, Any]:
  """Evaluates the best checkpoint of a fine-tuning run and writes result.json (result_val.json for val).

  Args:
    workdir: of the run.
    split_name: 'test', 'val' or 'train'.
    data_dir: where the records lie, if no longer where the run read them.

  Returns:
    What result.json holds: dataset, split, every metric, checkpoint_step, config_hash. Nothing depends on the clock.

  Raises:
    UserError: no such run, records or split.
  """
  checkpoint, classifier = load_trained(workdir)
  path = os.path.join(workdir, 'config.json')
  if not exists(path):
    raise UserError(f'{workdir} has no config.json: give the --workdir of a fine-tuning run, not a step folder')
  config = read_json(path)
  split = records.open_split(data_dir or config['data_dir'], config['dataset'], split_name)
  if list(split.labels) != checkpoint.description['labels']:
    raise UserError(f"{config['dataset']} has the labels {', '.join(split.labels)}; the checkpoint was trained with "
                    f"{', '.join(checkpoint.description['labels'])}: evaluate it on its own dataset")
  mesh = sharding.make_mesh(**config['mesh'])
  metrics = evaluate_params(classifier, sharding.replicate(checkpoint.params, mesh), split,
                            image_size=config['model']['image_size'], batch_size=config['batch_size'], mesh=mesh)
  result = {'dataset': config['dataset'], 'split': split_name, 'init': config['init'],
            'checkpoint_step': checkpoint.step, 'config_hash': config_hash(config), **metrics}
  if is_primary():
    name = 'result.json' if split_name == 'test' else f'result_{split_name}.json'
    write_json(os.path.join(workdir, name), result)
  return result


def describe(result: dict[str, Any]) -> str:
  """One line for people."""
  return (f"{result['dataset']} {result['split']}: top-1 {result['top1']:.4f}, top-3 {result['top3']:.4f}, macro-F1 "
          f"{result['macro_f1']:.4f} over {result['examples']} examples (step {result['checkpoint_step']})")


def main() -> None:
  """Entry point after flags are parsed."""
  values = flags.FLAGS
  print(describe(evaluate(values.workdir, values.split, values.data_dir)), flush=True)


if __name__ == '__main__':
  cli.define_workdir()
  cli.define_multihost()
  flags.DEFINE_enum('split', 'test', ['train', 'val', 'test'], 'Which split.')
  flags.DEFINE_string('data_dir', None, 'Folder of the records, if not the one the run was trained from.')
  cli.run(main)
