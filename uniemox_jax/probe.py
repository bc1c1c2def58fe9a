"""How good frozen features are, without fine-tuning: a linear probe, or nearest neighbours (docs/protocols.md).

python -m uniemox_jax.probe --config=configs/probe.py:emo8 --config.init=PATH --config.protocol=linear --workdir=DIR

What the protocol leaves open is chosen on val; test is read once, at the end.
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
from uniemox_jax.eval.features import Features, load_frozen, split_features
from uniemox_jax.eval.knn import probe_knn
from uniemox_jax.eval.linear_probe import probe_linear
from uniemox_jax.objectives.tasks import Task, measure, single_label
from uniemox_jax.runtime import cli, sharding
from uniemox_jax.runtime.distributed import is_primary
from uniemox_jax.runtime.files import write_json
from uniemox_jax.train import loop
from uniemox_jax.train.config import ProbeConfig
from uniemox_jax.train.data_splits import open_splits
from uniemox_jax.train.kept_config import config_hash, keep_config
from uniemox_jax.train.schema import parse

FEATURES = 'features'
"""Folder of the cached features in the workdir, unless the config names another."""


def _labelled_splits(config: ProbeConfig) -> dict[str, reader.Split]:
  """Train, val and test.

  Raises:
    UserError: no such records, or none with a single label.
  """
  splits = dict(zip(('train', 'val', 'test'), open_splits(config)))
  for name, split in splits.items():
    if all(annotation.label < 0 for annotation in split.annotations()):
      raise UserError(
          f'no {name} picture of {config.dataset} has a single label, which a probe needs: fine-tune '
          '(python -m uniemox_jax.finetune), which learns other targets too')
  return splits


def _labelled(found: Features, split: reader.Split) -> Features:
  """Those with a label; says how many have none."""
  has_N = found.label_N >= 0
  if not has_N.all():
    print(f'{split.name}: {(~has_N).sum()} of {len(has_N)} pictures have no single label, and do not count', flush=True)
  return Features(found.features_NxD[has_N], found.label_N[has_N])


def _predict(protocol: str, found: dict[str, Features], task: Task, mesh: Mesh) -> tuple[np.ndarray, dict[str, Any]]:
  """Logits of test, and what was chosen on val."""
  train, val, test = (found[name] for name in ('train', 'val', 'test'))

  def val_top1(logits_NxC: np.ndarray) -> float:
    return float(np.mean(logits_NxC.argmax(axis=1) == val.label_N))

  fitted: Callable[[np.ndarray], np.ndarray]
  if protocol == 'linear':
    fitted, chosen = probe_linear(train, task.outputs, lambda probe: val_top1(probe(val.features_NxD)))
  else:
    fitted, chosen = probe_knn(train, len(task.outputs), mesh, val.features_NxD, val_top1)
  return fitted(test.features_NxD), chosen


def probe(given: ConfigDict, workdir: str) -> dict[str, Any]:
  """Extracts features, or reads those that a run before left, and evaluates the protocol on test.

  Leaves features/, config.json and result.json, whose content it returns: what `evaluate` gives of a single label, and
  protocol, train_examples and what was chosen on val.

  Raises:
    UserError: a mistake in the config, the data or the checkpoint to start from.
  """
  config = parse(ProbeConfig, given)
  mesh, splits = sharding.make_mesh(config.mesh.data, config.mesh.fsdp), _labelled_splits(config)
  model, dtype = dataclasses.asdict(config.model), jnp.dtype(config.dtype)
  frozen = load_frozen(config.init, model, dtype=dtype, seed=config.seed)
  loop.use_compilation_cache()
  kept = keep_config(config, workdir)
  extract = functools.partial(
      split_features, frozen, cache_dir=config.features_dir or os.path.join(workdir, FEATURES),
      image_size=config.model.image_size, batch_size=config.batch_size, mesh=mesh)
  found = {name: _labelled(extract(split), split) for name, split in splits.items()}
  task = single_label(splits['train'].labels)
  logits_NxC, chosen = _predict(config.protocol, found, task, mesh)
  result = {
      'dataset': config.dataset, 'split': 'test', 'init': config.init, 'checkpoint_step': frozen.step,
      'config_hash': config_hash(kept),
      **measure(task, logits_NxC.astype(np.float32), found['test'].label_N), 'protocol': config.protocol,
      'train_examples': len(found['train'].label_N), 'chosen': chosen
  }
  if is_primary():
    write_json(os.path.join(workdir, 'result.json'), result)
  print(_describe(result), flush=True)
  return result


def _describe(result: dict[str, Any]) -> str:
  key = 'l2' if result['protocol'] == 'linear' else 'k'
  return (
      f"{result['dataset']} test, {result['protocol']} on {result['train_examples']} training pictures "
      f"({key} {result['chosen'][key]:.3g}): top-1 {result['top1']:.4f}, macro-F1 {result['macro_f1']:.4f} over "
      f"{result['examples']} examples")


def main() -> None:
  """Entry point after flags are parsed."""
  probe(flags.FLAGS.config, flags.FLAGS.workdir)


if __name__ == '__main__':
  cli.define_config()
  cli.define_workdir()
  cli.define_multihost()
  cli.run(main)
