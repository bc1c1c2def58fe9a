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
from uniemox_jax.eval.features import Features, load_frozen, split_features
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


def _extract_whole(extract: Callable[[reader.Split], Features], split: reader.Split) -> Features:
  """The features of a fold's records, from those of the whole data set, which all folds and seeds share."""
  return Features(*(values[split.positions] for values in extract(split.whole)))


def _predict(protocol: str, found: dict[str, Features], task: Task, mesh: Mesh) -> tuple[np.ndarray, dict[str, Any]]:
  """Logits of test, and what was chosen on val."""
  train, val, test = (found[name] for name in ('train', 'val', 'test'))

  def val_top1(logits_NxC: np.ndarray) -> float:
    return float(np.mean(logits_NxC.argmax(axis=1) == val.label_N))

  if protocol == 'linear':
    fitted, chosen = probe_linear(train, task.outputs, lambda probe: val_top1(probe(val.features_NxD)))
    return fitted(test.features_NxD), chosen
  classify, chosen = probe_knn(train, len(task.outputs), mesh, val.features_NxD, val_top1)
  return classify(test.features_NxD), chosen


def probe(given: ConfigDict, workdir: str, *, adopt: bool = True) -> dict[str, Any]:
  """Extracts features, or reads those of an earlier run, and evaluates the protocol on test.

  Leaves features/, config.json, outputs.npz and result.json, whose content it returns: what `evaluate` returns for a
  single label, and protocol, train_examples and what was chosen on val. `adopt`: see `open_source`.

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
  source, config = open_source(config, workdir, adopt)
  frozen = load_frozen(source, dataclasses.asdict(config.model), dtype=jnp.dtype(config.dtype), seed=config.seed)
  loop.use_compilation_cache()
  kept = keep_config(config, workdir)
  extract = functools.partial(
      split_features, frozen, cache_dir=config.features_dir or os.path.join(workdir, FEATURES),
      image_size=config.model.image_size, batch_size=config.batch_size, mesh=mesh)
  of_whole = functools.partial(_extract_whole, extract) if config.folds else extract
  labelled = {name: _labelled(of_whole, split) for name, split in splits.items()}
  found = {name: features for name, (features, _) in labelled.items()}
  task = single_label_task(splits['train'].labels)
  logits_NxC, chosen = _predict(config.protocol, found, task, mesh)
  tested = labelled['test'][1]
  truths = read_truths(tested)
  keep_outputs(
      workdir, config_hash(kept), example_keys(tested), [task], {'outputs': logits_NxC, 'label': found['test'].label_N},
      truths)
  result = write_result(
      result_path(workdir, 'test'), dataset=config.dataset, split=config.test_split, init=config.init,
      checkpoint_step=frozen.step, config_hash=config_hash(kept),
      **measure(task, logits_NxC.astype(np.float32), found['test'].label_N),
      **measure_ambiguity([task], logits_NxC, truths).get('label', {}), protocol=config.protocol,
      train_examples=len(found['train'].label_N), chosen=chosen, **fold_of(kept))
  key = 'l2' if config.protocol == 'linear' else 'k'
  print(
      f"{config.dataset} {config.test_split}, {config.protocol} on {result['train_examples']} training images "
      f"({key} {chosen[key]:.3g}): top-1 {result['top1']:.4f}, macro-F1 {result['macro_f1']:.4f} over "
      f"{result['examples']} examples", flush=True)
  return result


if __name__ == '__main__':
  cli.define_config()
  cli.define_workdir()
  cli.define_multihost()
  cli.run(lambda: probe(flags.FLAGS.config, flags.FLAGS.workdir))
