"""Fine-tunes a classifier.

python -m uniemox_jax.finetune --config=configs/finetune.py:emo8 --config.init=PATH --workdir=DIR

The best epoch is chosen on val; test is read once, at the end.
"""

from collections.abc import Iterator, Sequence
import dataclasses
import itertools
from typing import Any

from flax import nnx
import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from ml_collections import ConfigDict
import numpy as np

from data_pipelines.batches import pipeline
from data_pipelines.errors import UserError
from data_pipelines.records import reader
from data_pipelines.records import targets as record_targets
from uniemox_jax.eval.changed_images import changes_of, report_persons
from uniemox_jax.eval.run_evaluation import describe_result, evaluate_on, evaluations
from uniemox_jax.eval.trained_classifier import measure_split, metrics_of, predict_tasks
from uniemox_jax.eval.transfer import open_transfers, read_transfers
from uniemox_jax.models.classifier import STREAMS, Classifier
from uniemox_jax.objectives.tasks import KINDS, Task, choose_tasks, present, score, width
from uniemox_jax.runtime import cli, sharding
from uniemox_jax.runtime.clock import Profile
from uniemox_jax.runtime.run_log import RunLog
from uniemox_jax.train import loop
from uniemox_jax.train.config import FinetuneConfig
from uniemox_jax.train.data_splits import open_splits
from uniemox_jax.train.flops import finetune_work
from uniemox_jax.train.initial_weights import initial_weights, open_source
from uniemox_jax.train.run_folder import settle_dtype
from uniemox_jax.train.schema import parse, refuse_unused
from uniemox_jax.train.setup import step_graph
from uniemox_jax.train.state import TrainState, abstract_model, abstract_params, builder
from uniemox_jax.train.steps import make_finetune_step

RANDAUGMENT_STD = 0.5
"""The standard deviation of RandAugment's magnitude (docs/method.md, Recipes)."""


def _validator(
    config: FinetuneConfig, classifier: nnx.GraphDef, split: reader.Split, tasks: Sequence[Task], mesh: Mesh,
    log: RunLog) -> loop.Evaluate:
  """(step, state) -> the first task's score on val, which chooses the checkpoint that is kept."""
  first = tasks[0]

  def validate(step: int, state: TrainState) -> float:
    found = predict_tasks(
        classifier, state.evaluated, split, tasks, image_size=config.model.image_size, batch_size=config.batch_size,
        mesh=mesh)
    metrics = measure_split(split, tasks, found)
    by_task = {'': metrics} | {f'{name}_': measured for name, measured in metrics.get('tasks', {}).items()}
    log.write(
        step, {
            f'val_{prefix}{name}': value
            for prefix, measured in by_task.items() for name, value in measured.items() if isinstance(value, float)})
    name, of_first = KINDS[first.name].score, metrics_of(metrics, first)
    print(
        f"finetune {step}/{log.total_steps}  val {name} {of_first[name] or 0:.4f}  loss {metrics['loss']:.4f}",
        flush=True)
    return score(first, of_first)

  return validate


def _step_batches(config: FinetuneConfig, split: reader.Split, tasks: Sequence[Task],
                  start: int) -> Iterator[dict[str, np.ndarray]]:
  """What the step takes, from step `start` on."""
  magnitude = config.augment.randaugment
  fields, views = [task.name for task in tasks], STREAMS[config.streams]
  balanced = config.sampling == 'balanced'
  batches = pipeline.train_batches(
      split, batch_size=config.batch_size, seed=config.seed, image_size=config.model.image_size, start_step=start,
      mode='finetune', crop_area=(config.min_crop_area, 1.0), person='person' in views, erase=config.augment.erase,
      randaugment=(magnitude, RANDAUGMENT_STD) if magnitude else None,
      targets=[name for name in fields if name != 'label'], balanced_by=split.label_array() if balanced else None,
      canvas=config.crop_canvas, process_index=jax.process_index(), process_count=jax.process_count())
  unread = {'position', 'label'} - set(fields)
  for batch in batches:
    yield {name: rows for name, rows in batch.items() if name not in unread}


def _choose_tasks(config: FinetuneConfig, train: reader.Split, *measured_on: reader.Split) -> tuple[Task, ...]:
  """The tasks of the run. Prints how many training images lack a target, and so stay out of that task's loss.

  Raises:
    UserError: see `choose_tasks`; a key that only other tasks read; the CCC loss, which is of a whole batch, with
      accumulation; or a task that cannot be measured on one of the splits.
  """
  found = record_targets.read(train)
  columns = {name: record_targets.columns(train, name) for name in KINDS}
  tasks = choose_tasks(config.tasks, columns, found, dataclasses.asdict(config.task_loss))
  names = {task.name for task in tasks}
  read_by_tasks = {key for name in names for key in KINDS[name].options}
  for name in KINDS.keys() - names:
    unread = (name, *(key for key in KINDS[name].options if key not in read_by_tasks))
    refuse_unused(config, tuple(f'task_loss.{key}' for key in unread), f"no task of this run is '{name}'")
  if 'label' not in names:
    refuse_unused(config, ('sampling',), "no task of this run is 'label'")
  for task in tasks:
    missing = int((~present(task.name, found[task.name]).any(axis=-1)).sum())
    if missing:
      print(
          f"task '{task.name}': {missing} of {train.num_examples} training images have none, and do not count",
          flush=True)
    if task.loss == 'ccc' and config.accum_steps > 1:
      raise UserError(
          f'the loss ccc is of a whole batch, and accum_steps is {config.accum_steps}: set '
          '--config.accum_steps=1, or --config.task_loss.vad_form=l2')
    for split in measured_on:
      if not present(task.name, record_targets.read(split)[task.name]).any():
        raise UserError(
            f"no example of split '{split.name}' has a {task.name}, which task '{task.name}' is measured "
            'by: leave it out of --config.tasks, or build the records again')
  return tasks


def finetune(given: ConfigDict, workdir: str, profile: Profile | None = None, *, adopt: bool = True) -> dict[str, Any]:
  """Fine-tunes, or resumes, the run in `workdir` as `pretrain` does, then evaluates its best checkpoint on test.

  It leaves checkpoints/, metrics.jsonl, tensorboard/, config.json, inputs.json, outputs.npz and result.json, and the
  last two for each of `test_changes` and `transfers`, see `evaluations` and `evaluate_on`. It returns result.json's
  content. `adopt`: see `open_source`.

  Raises:
    UserError: the config, the data or the checkpoint to start from has a mistake.
  """
  config = settle_dtype(parse(FinetuneConfig, given), workdir)
  mesh = sharding.make_mesh(config.mesh.data, config.mesh.fsdp)
  sharding.check_batch(config.batch_size, mesh, config.accum_steps)
  train_split, val_split, test_split = open_splits(config)
  changes_of(config.test_changes, test_split)  # Before hours of training, and not after.
  if 'person' in STREAMS[config.streams] and not report_persons(train_split):
    raise UserError(
        'config.streams asks for persons, and no training record has one: find them '
        '(docs/person_boxes.md) and build the records again, or set --config.streams=scene')
  steps_per_epoch = pipeline.steps_per_epoch(train_split, config.batch_size)
  tasks = _choose_tasks(config, train_split, val_split, test_split)
  open_transfers(config.transfers, config.data_dir, tasks)
  source, config = open_source(config, workdir, adopt)
  arguments = dataclasses.asdict(config.model) | {'classes': width(tasks), 'streams': config.streams}
  build = builder(Classifier, dtype=jnp.dtype(config.dtype), **arguments)
  classifier = abstract_model(build)
  graphdef = nnx.graphdef(classifier)
  loaded = initial_weights(source, abstract_params(build), classifier=True) if source else None

  description = {
      'kind': 'classifier', 'model': arguments, 'dataset': config.dataset, 'labels': list(train_split.labels),
      'tasks': [dataclasses.asdict(task) for task in tasks]}
  run = loop.open_run(
      config, workdir, name='finetune', build=build, mesh=mesh, steps_per_epoch=steps_per_epoch,
      description=description, inputs={'data_dir': train_split.contents}, loaded=loaded,
      flops_per_example=finetune_work(classifier).training.flops, profile=profile)
  computed = step_graph(classifier, config.attention, mesh.devices.flat[0])
  step = make_finetune_step(computed, run.optimizer, config.regularisation, tasks)
  loop.train(
      run, step, _step_batches(config, train_split, tasks, run.start),
      every=loop.Every(config.log_every, 0, config.eval_every_epochs * steps_per_epoch),
      evaluate=_validator(config, graphdef, val_split, tasks, mesh, run.log))
  transferred = (
      evaluate_on(workdir, *transfer, data_dir=config.data_dir) for transfer in read_transfers(config.transfers))
  results = []
  for result in itertools.chain(evaluations(workdir, test_changes=config.test_changes), transferred):
    print(describe_result(result), flush=True)
    results.append(result)
  return results[0]


if __name__ == '__main__':
  cli.run(cli.define_training(finetune))
