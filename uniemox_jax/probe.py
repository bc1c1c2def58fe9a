"""Measures frozen features without fine-tuning: by a linear probe, or by nearest neighbours (docs/protocols.md).

python -m uniemox_jax.probe --config=configs/probe.py:emo8 --config.init=PATH --config.protocol=linear --workdir=DIR

The L2 strength, or the number of neighbours, is chosen on val. Test is read once, at the end.
"""

from collections.abc import Callable
import dataclasses
import functools
import os
from typing import Any

from absl import flags
import jax.numpy as jnp
from jax.sharding import Mesh
from ml_collections import ConfigDict
import numpy as np

from data_pipelines.errors import UserError
from data_pipelines.records import reader
from uniemox_jax.eval.ambiguity import measure_ambiguity, read_truths
from uniemox_jax.eval.changed_images import changes_of, describe_change, report_persons
from uniemox_jax.eval.features import Features, load_frozen, load_fused, split_features
from uniemox_jax.eval.kept_outputs import example_keys, keep_outputs
from uniemox_jax.eval.knn import probe_knn
from uniemox_jax.eval.linear_probe import probe_linear
from uniemox_jax.eval.result_file import result_path, write_result
from uniemox_jax.objectives.tasks import Task, measure, single_label_task
from uniemox_jax.runtime import cli, sharding
from uniemox_jax.train import loop
from uniemox_jax.train.config import ProbeConfig
from uniemox_jax.train.data_splits import fold_of, open_splits
from uniemox_jax.train.initial_weights import open_source
from uniemox_jax.train.kept_config import config_hash, keep_config, settle_dtype
from uniemox_jax.train.schema import parse

FEATURES = 'features'
"""Folder of the cached features in the workdir, unless the config names another folder."""


def _labelled(extract: Callable[[reader.Split], Features], split: reader.Split) -> tuple[Features, reader.Split]:
  """The features of the records with a label, and these records; prints how many have none."""
  has_N = split.label_array() >= 0
  if not has_N.all():
    print(f'{split.name}: {(~has_N).sum()} of {len(has_N)} images have no single label and are left out', flush=True)
  features = extract(split)
  kept = Features(features.features_NxD[has_N], features.label_N[has_N])
  return kept, split.selected(np.flatnonzero(has_N), split.name)


def _extract_whole(extract: Callable[..., Features], split: reader.Split, **options: Any) -> Features:
  """The features of a fold's records, from those of the whole data set, which all folds and seeds share."""
  return Features(*(values[split.positions] for values in extract(split.whole, **options)))


def _fit(protocol: str, train: Features, val: Features, task: Task,
         mesh: Mesh) -> tuple[Callable[[np.ndarray], np.ndarray], dict[str, Any]]:
  """From features (N, D) to logits (N, C); and what was chosen on val."""

  def val_top1(logits_NxC: np.ndarray) -> float:
    return float(np.mean(logits_NxC.argmax(axis=1) == val.label_N))

  if protocol == 'linear':
    fitted, chosen = probe_linear(train, task.outputs, lambda probe: val_top1(probe(val.features_NxD)))
    return fitted.__call__, chosen
  return probe_knn(train, len(task.outputs), mesh, val.features_NxD, val_top1)


def probe(given: ConfigDict, workdir: str, *, adopt: bool = True) -> dict[str, Any]:
  """Extracts features, or reads those of an earlier run, and evaluates the protocol on test.

  Leaves features/, config.json, outputs.npz and result.json, whose content it returns: what `evaluate` returns for a
  single label, and protocol, train_examples and what was chosen on val. For each of `test_changes` it also leaves
  outputs_CHANGE.npz and result_CHANGE.json, with what `describe_change` says. `adopt`: see `open_source`.

  Raises:
    UserError: a mistake in the config, the data or the checkpoint to start from.
  """
  config = settle_dtype(parse(ProbeConfig, given), workdir)
  mesh = sharding.make_mesh(config.mesh.data, config.mesh.fsdp)
  splits = dict(zip(('train', 'val', 'test'), open_splits(config)))
  for name, split in splits.items():
    if (split.label_array() < 0).all():
      raise UserError(
          f'no {name} image of {config.dataset} has a single label, which a probe needs: fine-tune '
          '(python -m uniemox_jax.finetune), which learns other targets too')
  changes = changes_of(config.test_changes, splits['test'])
  source, config = open_source(config, workdir, adopt)
  model, dtype = dataclasses.asdict(config.model), jnp.dtype(config.dtype)
  frozen = load_fused(source, model, dtype=dtype) if config.features == 'fused' else load_frozen(
      source, model, dtype=dtype, seed=config.seed)
  if frozen.person:
    report_persons(splits['test'])
  loop.use_compilation_cache()
  kept = keep_config(config, workdir)
  extract = functools.partial(
      split_features, frozen, cache_dir=config.features_dir or os.path.join(workdir, FEATURES),
      image_size=config.model.image_size, batch_size=config.batch_size, mesh=mesh)
  of_whole = functools.partial(_extract_whole, extract) if config.folds else extract
  labelled = {name: _labelled(of_whole, split) for name, split in splits.items()}
  train, val = (labelled[name][0] for name in ('train', 'val'))
  task = single_label_task(splits['train'].labels)
  classify, chosen = _fit(config.protocol, train, val, task, mesh)
  truths, results = read_truths(labelled['test'][1]), []
  for change in ('', *changes):
    said = describe_change(change, splits['test'])
    (features_NxD, label_N), test = (
        _labelled(functools.partial(of_whole, change=change), splits['test']) if change else labelled['test'])
    logits_NxC = classify(features_NxD)
    found = {'outputs': logits_NxC, 'label': label_N}
    keep_outputs(workdir, config_hash(kept), example_keys(test), [task], found, truths, change)
    results.append(
        write_result(
            result_path(workdir, 'test', change=change), dataset=config.dataset, split=config.test_split,
            init=config.init, checkpoint_step=frozen.step, config_hash=config_hash(kept),
            **measure(task, logits_NxC.astype(np.float32), label_N),
            **measure_ambiguity([task], logits_NxC, truths).get('label', {}), protocol=config.protocol,
            train_examples=len(train.label_N), chosen=chosen, **fold_of(kept), **said))
    _print(results[-1])
  return results[0]


def _print(result: dict[str, Any]) -> None:
  key = 'l2' if result['protocol'] == 'linear' else 'k'
  change = f", {result['test_change']}" if 'test_change' in result else ''
  print(
      f"{result['dataset']} {result['split']}{change}, {result['protocol']} on {result['train_examples']} training "
      f"images ({key} {result['chosen'][key]:.3g}): top-1 {result['top1']:.4f}, macro-F1 {result['macro_f1']:.4f} over "
      f"{result['examples']} examples", flush=True)


if __name__ == '__main__':
  cli.define_config()
  cli.define_workdir()
  cli.define_multihost()
  cli.run(lambda: probe(flags.FLAGS.config, flags.FLAGS.workdir))
