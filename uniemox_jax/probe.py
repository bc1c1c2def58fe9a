"""Measures frozen features without fine-tuning: by a linear probe, or by nearest neighbours (docs/protocols.md).

python -m uniemox_jax.probe --config=configs/probe.py:emo8 --config.init=PATH --config.protocol=linear --workdir=DIR

The L2 strength, or the number of neighbours, is chosen on val. Test is read once, at the end.
"""

from collections.abc import Callable, Mapping
import dataclasses
import functools
import os
from typing import Any, NamedTuple

from absl import flags
import jax.numpy as jnp
from jax.sharding import Mesh
from ml_collections import ConfigDict
import numpy as np

from data_pipelines.errors import UserError
from data_pipelines.records import reader, targets
from uniemox_jax.eval.ambiguity import measure_ambiguity, read_truths
from uniemox_jax.eval.changed_images import changes_of, describe_change, report_persons
from uniemox_jax.eval.features import (
    Features,
    FrozenEncoder,
    load_embedding,
    load_frozen,
    load_fused,
    split_features,
)
from uniemox_jax.eval.kept_outputs import example_keys, keep_outputs
from uniemox_jax.eval.knn import probe_knn
from uniemox_jax.eval.linear_probe import probe_linear
from uniemox_jax.eval.result_file import result_path, write_result
from uniemox_jax.eval.ridge_probe import probe_ridge
from uniemox_jax.eval.transfer import measure_transfer, open_transfers
from uniemox_jax.objectives.tasks import (
    KINDS,
    Task,
    choose_tasks,
    dimensions,
    measure,
    present,
    score,
    single_label_task,
)
from uniemox_jax.runtime import cli, sharding
from uniemox_jax.train import loop
from uniemox_jax.train.config import ProbeConfig
from uniemox_jax.train.data_splits import fold_of, open_splits
from uniemox_jax.train.initial_weights import open_source
from uniemox_jax.train.run_folder import config_hash, keep_config, settle_dtype
from uniemox_jax.train.schema import parse
from uniemox_jax.train.settings import TaskLossSettings

FEATURES = 'features'
"""The folder of the cached features in the workdir, unless the config names another."""
_SAID = {'label': 'a single label', 'vad': 'a rating of valence, arousal or dominance'}


class _Known(NamedTuple):
  """The records of a split that have the target. target: 'label' int32 (N,), or 'vad' float32 (N, 3)."""

  features_NxD: np.ndarray
  target: np.ndarray
  split: reader.Split


def _task(config: ProbeConfig, splits: Mapping[str, reader.Split]) -> Task:
  """What is probed: the single label, or ratings, as `config.tasks` says.

  Raises:
    UserError: a split has no such target.
  """
  train, name = splits['train'], config.tasks
  if name == 'auto':
    name = 'vad' if (train.label_array() < 0).all() and present('vad', _target('vad', train)).any() else 'label'
  for part, split in splits.items():
    if not np.any(present(name, _target(name, split))):
      raise UserError(
          f'no {part} image of {config.dataset} has {_SAID[name]}, which a probe of it needs: fine-tune '
          '(python -m uniemox_jax.finetune), which learns other targets too')
  if name == 'label':
    return single_label_task(train.labels)
  columns = {kind: targets.columns(train, kind) for kind in KINDS}
  [task] = choose_tasks('vad', columns, targets.read(train), dataclasses.asdict(TaskLossSettings()))
  return task


def _target(name: str, split: reader.Split) -> np.ndarray:
  return split.label_array() if name == 'label' else targets.read(split)[name]


def _known(name: str, extract: Callable[[reader.Split], Features], split: reader.Split) -> _Known:
  """The features of the records with the target, and these records; prints how many have none."""
  target = _target(name, split)
  has_N = np.asarray(present(name, target).any(axis=-1))
  if not has_N.all():
    said = f'{(~has_N).sum()} of {len(has_N)} images do not have {_SAID[name]} and are left out'
    print(f'{split.name}: {said}', flush=True)
  return _Known(extract(split).features_NxD[has_N], target[has_N], split.selected(np.flatnonzero(has_N), split.name))


def _extract_whole(extract: Callable[..., Features], split: reader.Split, **options: Any) -> Features:
  """The features of a fold's records, from those of the whole data set, which all folds and seeds share."""
  return Features(*(values[split.positions] for values in extract(split.whole, **options)))


def _fit(protocol: str, train: _Known, val: _Known, task: Task,
         mesh: Mesh) -> tuple[Callable[[np.ndarray], np.ndarray], dict[str, Any]]:
  """Fits a probe: a function from features (N, D) to the task's outputs (N, C); and what was chosen on val.

  Raises:
    UserError: neighbours of ratings.
  """

  def val_top1(logits_NxC: np.ndarray) -> float:
    return float(np.mean(logits_NxC.argmax(axis=1) == val.target))

  if task.name == 'vad':

    def val_ccc(outputs_NxK: np.ndarray) -> float:
      return score(task, measure(task, outputs_NxK.astype(np.float32), val.target))

    if protocol != 'linear':
      raise UserError('protocol knn needs images with a single label, and these have ratings: --config.protocol=linear')
    standard_NxK = (train.target[:, dimensions(task)] - np.array(task.mean)) / np.array(task.std)
    ridge, chosen = probe_ridge(train.features_NxD, standard_NxK, lambda probe: val_ccc(probe(val.features_NxD)))
    return ridge.__call__, chosen
  labelled = train.features_NxD, train.target
  if protocol == 'linear':
    fitted, chosen = probe_linear(labelled, task.outputs, lambda probe: val_top1(probe(val.features_NxD)))
    return fitted.__call__, chosen
  return probe_knn(Features(*labelled), len(task.outputs), mesh, val.features_NxD, val_top1)


def _load(config: ProbeConfig, workdir: str, adopt: bool) -> tuple[FrozenEncoder, ProbeConfig]:
  """Loads what is probed, and returns it with the config that has its architecture."""
  dtype = jnp.dtype(config.dtype)
  if config.features == 'embedding':
    return load_embedding(config.init, dtype=dtype), config
  source, config = open_source(config, workdir, adopt)
  model = dataclasses.asdict(config.model)
  if config.features == 'fused':
    return load_fused(source, model, dtype=dtype), config
  return load_frozen(source, model, dtype=dtype, seed=config.seed), config


def probe(given: ConfigDict, workdir: str, *, adopt: bool = True) -> dict[str, Any]:
  """Computes features, or reads those of an earlier run, and evaluates the protocol on test.

  It leaves features/, config.json, outputs.npz and result.json, whose content it returns: what `evaluate` returns, and
  protocol, train_examples and what was chosen on val. For each of `test_changes` it also leaves outputs_CHANGE.npz and
  result_CHANGE.json, with what `describe_change` says, and for each of `transfers` what `measure_transfer` does.
  `adopt`: see `open_source`.

  Raises:
    UserError: the config, the data or the checkpoint to start from has a mistake.
  """
  config = settle_dtype(parse(ProbeConfig, given), workdir)
  mesh = sharding.make_mesh(config.mesh.data, config.mesh.fsdp)
  splits = dict(zip(('train', 'val', 'test'), open_splits(config)))
  task = _task(config, splits)
  changes = changes_of(config.test_changes, splits['test'])
  transfers = open_transfers(config.transfers, config.data_dir, [task])
  frozen, config = _load(config, workdir, adopt)
  if frozen.person:
    report_persons(splits['test'])
  loop.use_compilation_cache()
  kept = keep_config(config, workdir)
  extract = functools.partial(
      split_features, frozen, cache_dir=config.features_dir or os.path.join(workdir, FEATURES),
      image_size=config.model.image_size, batch_size=config.batch_size, mesh=mesh)
  of_whole = functools.partial(_extract_whole, extract) if config.folds else extract
  known = {name: _known(task.name, of_whole, split) for name, split in splits.items()}
  classify, chosen = _fit(config.protocol, known['train'], known['val'], task, mesh)
  truths, results = read_truths(known['test'].split), []
  of_run: dict[str, Any] = {
      'init': config.init, 'checkpoint_step': frozen.step, 'config_hash': config_hash(kept),
      'protocol': config.protocol, 'train_examples': len(known['train'].target), 'chosen': chosen}
  for change in ('', *changes):
    said = describe_change(change, splits['test'])
    test = _known(task.name, functools.partial(of_whole, change=change), splits['test']) if change else known['test']
    outputs_NxC = classify(test.features_NxD)
    found = {'outputs': outputs_NxC, task.name: test.target}
    keep_outputs(workdir, config_hash(kept), example_keys(test.split), [task], found, truths, change)
    measured = measure(task, outputs_NxC.astype(np.float32), test.target)
    measured |= measure_ambiguity([task], outputs_NxC, truths).get(task.name, {})
    results.append(
        write_result(
            result_path(workdir, 'test', change=change), dataset=config.dataset, split=config.test_split,
            **(measured if task.name == 'label' else {'examples': len(test.target), 'tasks': {task.name: measured}}),
            **of_run, **fold_of(kept), **said))
    _print(results[-1])
  for opened in transfers:
    features = extract(opened.split)
    logits_NxC = classify(features.features_NxD)
    _print(measure_transfer(opened, logits_NxC, features.label_N, workdir, trained_on=config.dataset, **of_run))
  return results[0]


def _print(result: dict[str, Any]) -> None:
  key = 'l2' if result['protocol'] == 'linear' else 'k'
  change = f", {result['test_change']}" if 'test_change' in result else ''
  of_vad = result.get('tasks', {}).get('vad')
  said = (
      ', '.join(
          f"{name} {'undefined' if of_vad[name] is None else format(of_vad[name], '.4f')}"
          for name in ('ccc', 'pearson',
                       'mae')) if of_vad else f"top-1 {result['top1']:.4f}, macro-F1 {result['macro_f1']:.4f}")
  print(
      f"{result['dataset']} {result['split']}{change}, {result['protocol']} on {result['train_examples']} training "
      f"images ({key} {result['chosen'][key]:.3g}): {said} over {result['examples']} examples", flush=True)


if __name__ == '__main__':
  cli.define_config()
  cli.define_workdir()
  cli.define_multihost()
  cli.run(lambda: probe(flags.FLAGS.config, flags.FLAGS.workdir))
